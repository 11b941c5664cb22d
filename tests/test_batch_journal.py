"""The journal meets what may lie at its place, and lines that nobody of this version wrote."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path

import pytest
from test_batch import restorer, tasks_of
from test_batch_find import write
from test_cli import conservator

from conservator.batch import JOURNAL, Journal, Outcome, run_batch

LINE = json.dumps(asdict(Outcome("a.jpg", "out/a.jpg", "restored", "treated with x", "1" * 64, "2" * 64)))


@pytest.mark.parametrize(
    "line",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b'{"source": "torn',
        b"\xff\xfe\x00",
        b"[" * 50_000,
        b'{"source": ' + b"9" * 5000 + b"}",
        b'{"source": 1, "target": 2, "status": "restored", "message": ""}',
        b'{"source": "a", "target": "b", "status": "sent to the moon", "message": ""}',
        b'{"source": "a", "target": "b", "status": "restored", "message": "", "output_sha256": ["x"]}',
        b'{"source": "a", "target": "b", "status": "restored"}',
        b"x" * 3_000_000,
    ],
)
def test_lines_that_are_none_are_passed_over(tmp_path: Path, line: bytes) -> None:
    path = tmp_path / JOURNAL
    path.write_bytes(line + b"\n" + LINE.encode() + b"\n" + line)
    journal = Journal(path)
    assert [outcome.target for outcome in journal.read().values()] == ["out/a.jpg"]
    journal.append(Outcome("b.jpg", "out/b.jpg", "failed", "why"))  # after a torn line
    assert len(journal.read()) == 2


def test_what_a_later_version_adds_is_passed_over(tmp_path: Path) -> None:
    (tmp_path / JOURNAL).write_text(json.dumps(json.loads(LINE) | {"machine": {"name": "x"}}) + "\n")
    assert [outcome.status for outcome in Journal(tmp_path / JOURNAL).events()] == ["restored"]


def test_what_was_only_begun_does_not_hide_how_it_ended_before(tmp_path: Path) -> None:
    journal = Journal(tmp_path / JOURNAL)
    for status in ("started", "restored", "started"):
        journal.append(Outcome("a.jpg", "out/a.jpg", status, ""))  # type: ignore[arg-type]
    assert [outcome.status for outcome in journal.read().values()] == ["restored"]


def a_folder(path: Path) -> None:
    path.mkdir()


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


@pytest.mark.skipif(os.name != "posix", reason="no such pipes elsewhere")
@pytest.mark.parametrize("lay", [a_folder, a_pipe])
@pytest.mark.parametrize("option", [(), ("--resume",)])
def test_what_is_no_file_at_its_place_is_refused_before_any_work(
    tmp_path: Path, lay: Callable[[Path], None], option: tuple[str, ...]
) -> None:
    write(tmp_path / "in" / "a.jpg")
    (tmp_path / "out").mkdir()
    lay(tmp_path / "out" / JOURNAL)
    result = conservator("restore", "in", "-o", "out", "--policy", "none", *option, cwd=tmp_path)
    assert result.returncode == 2
    assert result.stderr == f"conservator: out/{JOURNAL} is no file, expected the journal of a batch; move it away\n"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [JOURNAL]


def test_a_journal_that_can_no_longer_be_written_stops_nothing_and_is_told(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jpg", tmp_path / "in" / "b.jpg")
    journal = Journal(tmp_path / "out" / JOURNAL)

    def spoil(task: object) -> Callable[[str], None]:
        if journal.path.is_file():
            journal.path.unlink()
            journal.path.mkdir()
        return lambda stage: None

    tasks = tasks_of(tmp_path / "in", output=tmp_path / "out")
    summary = run_batch(tasks, restorer("none"), journal, on_start=spoil)
    assert summary.count("untouched") == 2
    assert summary.trouble == "Is a directory"
    journal.path.rmdir()
    again = run_batch(tasks, restorer("none"), Journal(journal.path), resume=True)  # the records tell
    assert (again.count("skipped"), again.trouble) == (2, "")


def test_many_writers_tear_no_line(tmp_path: Path) -> None:
    def fill(name: str) -> None:
        journal = Journal(tmp_path / JOURNAL)  # each its own, as runs have
        for number in range(20):
            journal.append(Outcome(f"{name}{number}", name * 3000, "failed", ""))

    threads = [threading.Thread(target=fill, args=(name,)) for name in "abc"]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(Journal(tmp_path / JOURNAL).read()) == 60

"""What a batch says at its end: plain sentences of a terminal's width."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from test_batch_find import write
from test_cli import conservator

from conservator.batch import Findings, Outcome, Status, Summary, Task
from conservator.batch.words import duration, ending, one_line, stopping


def ended(**counts: int) -> tuple[Summary, Findings]:
    """A batch with so many outcomes of each status."""
    outcomes = [
        Outcome(f"scans/{status}{number}.jpg", f"out/{status}{number}.jpg", status, "")  # type: ignore[arg-type]
        for status, count in counts.items()
        for number in range(count)
    ]
    tasks = [Task(Path(outcome.source), Path(outcome.target)) for outcome in outcomes]
    return Summary(outcomes, 75.2), Findings(tasks, Path("out"))


def test_all_that_is_to_be_said_in_order() -> None:
    summary, found = ended(restored=2, untouched=1, failed=1, kept=1)
    found.results = [Path("scans/old.jpg")]
    found.unread = [Path("scans/a.psd")]
    summary.left, summary.trouble = 4, "No space left on device"
    assert ending(summary, found, Path("out/conservator.html")) == [
        "5 photos in 1 min 15 s: 2 restored, 1 left untouched, 1 not replaced, 1 failed",
        "4 photos not begun; the same command with --resume goes on",
        "failed:",
        "  scans/failed0.jpg",
        "not replaced:",
        "  scans/kept0.jpg",
        "1 result of earlier runs passed over; name one itself to treat it again",
        "not read: 1 PSD",
        "the journal out/conservator.manifest.jsonl lacks lines (No space left on device)",
        "results in out",
        "look at them in out/conservator.html",
        "the index.html there is not Conservator's, and was left alone",
    ]


def test_ten_failures_are_named_and_the_others_counted() -> None:
    summary, found = ended(failed=22)
    lines = ending(summary, found)
    assert sum(line.startswith("  scans/") for line in lines) == 10
    assert lines[-1] == "  and 12 more"  # and no place of results, since there are none
    assert summary.exit_code == 2


@pytest.mark.parametrize(
    ("counts", "code"),
    [
        ({}, 2),
        ({"restored": 1, "skipped": 3}, 0),
        ({"restored": 1, "kept": 1}, 1),
        ({"kept": 1, "failed": 1}, 2),
        ({"incomplete": 1}, 1),
    ],
)
def test_the_exit_code_says_what_was_done(counts: dict[Status, int], code: int) -> None:
    assert ended(**counts)[0].exit_code == code


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (59.96, "1 min 0 s"), (75.2, "1 min 15 s"), (7500, "2 h 5 min")]
)
def test_durations_are_as_one_says_them(seconds: float, words: str) -> None:
    assert duration(seconds) == words


def test_stopping_says_what_it_waits_for() -> None:
    assert stopping(1) == "finishing 1 photo in work; Ctrl-C again stops at once; --resume goes on"
    assert stopping(0) == "stopping; Ctrl-C again stops at once; --resume goes on"


def test_the_terminal_says_them_in_lines_that_fit(tmp_path: Path) -> None:
    write(tmp_path / "in" / "a.jpg", tmp_path / "in" / "b.jpg")
    (tmp_path / "in" / "link.jpg").symlink_to("a.jpg")
    for suffix in ("psd", "pdf", "svg", "jp2", "jxl", "tga", "exr", "eps", "xcf", "ico", "djvu", "pgm"):
        (tmp_path / "in" / f"c.{suffix}").touch()
    arguments = ("restore", "in", "-o", "in/out", "--policy", "none", "--report")
    assert conservator(*arguments, cwd=tmp_path).returncode == 0
    result = conservator(*arguments, "--resume", cwd=tmp_path)
    assert result.returncode == 0, result.stderr
    lines = result.stdout.splitlines()
    assert lines[0] == "– in/a.jpg: done before"
    assert lines[2].startswith("2 photos in ")
    assert lines[3:] == [
        "2 results of earlier runs passed over; name one itself to treat it again",
        "1 photo met again, by another path or a link: restored once",
        "not read: 1 DJVU, 1 EPS, 1 EXR, 1 ICO, 1 JP2, 1 JXL, 1 PDF, 1 PGM, 1 PSD, 1 SVG,",
        "  1 TGA, 1 XCF",
        "results in in/out",
        "look at them in in/out/index.html",
    ]
    assert max(map(len, lines)) <= 80


def test_notes_are_counted_and_names_stay_on_their_lines() -> None:
    summary, found = ended(restored=3)
    summary.outcomes[0] = replace(summary.outcomes[0], notes=("only the first of 3 pages was read",))
    summary.outcomes[1] = replace(summary.outcomes[1], notes=("the file was copied, byte for byte",))
    summary.outcomes[2] = replace(
        summary.outcomes[2], notes=("only the first of 3 pages was read", "rounded to 8 bits")
    )
    lines = ending(summary, found)
    assert lines[1:4] == ["noted:", "  2 photos: only the first of 3 pages was read", "  1 photo: rounded to 8 bits"]
    assert one_line("a\nb\x1b[2J ü.jpg") == r"a\nb\x1b[2J ü.jpg"


def test_photos_with_suggestions_are_counted() -> None:
    summary, found = ended(restored=2, untouched=1, skipped=1)
    told = "have suggestions, treatments that were not done for their risk: see their"
    assert not [line for line in ending(summary, found) if "suggestion" in line]
    summary.outcomes[0] = replace(summary.outcomes[0], suggestions=("dehaze",))
    assert "1 photo has suggestions, treatments that" in "\n".join(ending(summary, found))
    summary.outcomes[2] = replace(summary.outcomes[2], suggestions=("dehaze", "brighten_mild"))
    assert f"2 photos {told} records, or give --report" in ending(summary, found)
    assert f"2 photos {told} pages" in ending(summary, found, Path("out/index.html"))

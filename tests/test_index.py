"""The page of a folder: all results, worst first, with links that lead somewhere and commands that a shell takes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any
from urllib.parse import unquote_to_bytes

import pytest
from doubting import doubting
from hypothesis import given, settings
from hypothesis import strategies as st
from page_album import NAMES, make_album, restore_album
from page_reader import read_page
from test_cli import conservator

from conservator.batch import JOURNAL, FileRestorer, Journal, Outcome, Summary, find_tasks, run_batch, save_index
from conservator.commands import shell_word
from conservator.kinds import Kind
from conservator.perception import StatisticalPerception
from conservator.request import Request
from conservator.restorer import Restorer


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_album(tmp_path_factory.mktemp("album"))


@pytest.fixture(scope="module")
def results(album: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("results") / "out"
    assert restore_album(album, output) == output / "index.html"
    return output


def photos(page: Path) -> list[dict[str, Any]]:
    """What the page knows, in its order."""
    read_page(page)
    text = page.read_text("utf-8")
    (found,) = re.findall(r'<script type="application/json" id="photos">(.*?)</script>', text, re.DOTALL)
    return list(json.loads(found))


def target(page: Path, address: str) -> Path:
    """Where a link of the page leads, as a browser reads it."""
    assert address.startswith("./")
    assert not set("#?:") & set(address)
    return page.parent / os.fsdecode(unquote_to_bytes(address))


def test_every_photo_is_there_worst_first_and_every_link_leads_somewhere(results: Path) -> None:
    page = results / "index.html"
    found = photos(page)
    assert len(found) == 5
    assert found[0]["status"] == "failed"
    assert "damaged or cut off" in found[0]["told"]
    assert not found[0]["url"]
    assert [photo["status"] for photo in found[1:]].index("untouched") == 3  # what needed nothing comes last
    for photo in found[1:]:
        for link in ("url", "page", "record", "thumbnail"):
            assert target(page, photo[link]).is_file(), (link, photo)
        assert target(page, photo["url"]).name == Path(photo["name"]).name
    assert {Path(photo["name"]).as_posix() for photo in found} == {*NAMES, "sub/a#b?c%20.png", "broken.jpg"}
    noisy = next(photo for photo in found if photo["name"] == NAMES[0])
    assert "noise" in noisy["seen"]
    assert noisy["gain"] > 0
    assert "5 photos: 1 failed, 3 restored, 1 untouched." in read_page(page).open_text


def test_resuming_keeps_the_whole_folder_on_the_page(album: Path, tmp_path: Path) -> None:
    output, more = tmp_path / "out", tmp_path / "more.png"
    restore_album(album, output)
    before = photos(output / "index.html")
    assert restore_album(album, output, resume=True) == output / "index.html"
    assert photos(output / "index.html") == before
    shutil.copy(album / NAMES[2], more)
    with Restorer(Request("none", "classical"), perception=StatisticalPerception.load()) as restorer:
        journal = Journal(output / JOURNAL)
        summary = run_batch(find_tasks([more], output).tasks, FileRestorer(restorer, report=True), journal)
        save_index(output, journal, summary)
    assert {photo["name"] for photo in photos(output / "index.html")} == {"more.png"} | {p["name"] for p in before}


def test_photos_with_suggestions_say_what_is_suggested_and_for_what(album: Path, tmp_path: Path) -> None:
    page = restore_album(album, tmp_path / "out", admission=doubting(0.41, Kind.NOISE))
    assert page is not None
    found = {photo["name"]: photo for photo in photos(page)}
    noisy, sound, torn = (found[name] for name in (NAMES[0], NAMES[1], "broken.jpg"))
    assert (noisy["suggested"], noisy["offers"]) == (["noise"], "wavelet_denoise (harm 41 %)")
    assert (sound["suggested"], sound["offers"]) == (torn["suggested"], torn["offers"]) == ([], "")
    journal = Journal(tmp_path / "out" / JOURNAL)
    told = {Path(o.source).name: o.suggestions for o in journal.read().values()}
    assert (told[NAMES[0]], told[NAMES[1]]) == (("wavelet_denoise",), ())
    again = restore_album(album, tmp_path / "out", resume=True, admission=doubting(0.41, Kind.NOISE))
    assert {p["name"]: p["offers"] for p in photos(again or page)} == {name: p["offers"] for name, p in found.items()}


@pytest.mark.parametrize("theirs", [b"my own page", b"", None])
def test_a_page_of_somebody_else_is_left_alone(results: Path, tmp_path: Path, theirs: bytes | None) -> None:
    output = shutil.copytree(results, tmp_path / "out")
    (output / "index.html").unlink()
    if theirs is None:
        (output / "index.html").symlink_to(tmp_path / "nowhere")
    else:
        (output / "index.html").write_bytes(theirs)
    journal = Journal(output / JOURNAL)
    for _ in range(2):  # the second time our own page is replaced
        assert save_index(output, journal, Summary()) == output / "conservator.html"
    assert (output / "index.html").is_symlink() if theirs is None else (output / "index.html").read_bytes() == theirs
    (output / "conservator.html").write_text("theirs, too")
    assert save_index(output, journal, Summary()) == output / "conservator-2.html"
    assert (output / "conservator.html").read_text() == "theirs, too"


def test_a_single_photo_needs_no_page_of_a_folder(album: Path, tmp_path: Path) -> None:
    only = tmp_path / "one"
    only.mkdir()
    shutil.copy(album / NAMES[0], only)
    assert restore_album(only, tmp_path / "out", policy="none") is None
    assert not (tmp_path / "out" / "index.html").exists()


def test_a_folder_that_was_moved_is_still_found(results: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(results, tmp_path / "elsewhere")
    page = save_index(moved, Journal(moved / JOURNAL), Summary())
    assert page is not None
    found = [photo for photo in photos(page) if photo["status"] != "failed"]
    assert len(found) == 4
    assert all(target(page, photo["url"]).is_file() for photo in found)


def test_a_journal_of_a_stranger_leads_nowhere_else(results: Path, tmp_path: Path) -> None:
    output = shutil.copytree(results, tmp_path / "out")
    secret = tmp_path / "secret.png"
    secret.write_bytes(b"mine")
    journal = Journal(output / JOURNAL)
    for path in ("../secret.png", str(secret), "../../../../etc/passwd", ".."):
        journal.append(Outcome(path, path, "restored", "<b>treated</b>"))
    (output / "theirs.png").write_bytes(b"somebody's picture")
    journal.append(Outcome("theirs.png", str(output / "theirs.png"), "kept", "it exists already"))
    journal.append(Outcome("cut.png", str(output / "cut.png"), "started", ""))
    with journal.path.open("a") as file:
        odd = {"source": "odd.png", "target": str(output / "odd.png"), "status": ["?"], "message": 5, "notes": None}
        file.write(json.dumps(odd) + "\n")
    (output / "sub" / "a#b?c%20.conservator.json").write_text("{")
    page = save_index(output, journal, Summary())
    assert page is not None
    found = photos(page)
    links = [photo[link] for photo in found for link in ("url", "page", "record", "thumbnail") if photo[link]]
    assert all(target(page, link).resolve().is_relative_to(output.resolve()) for link in links)
    theirs = next(photo for photo in found if photo["name"] == "theirs.png")
    assert (theirs["status"], "shell" in theirs, "source" in theirs) == ("not replaced", False, False)
    assert "unfinished" in {photo["status"] for photo in found}
    assert next(photo for photo in found if photo["name"].startswith("sub"))["record"] == ""


def test_what_was_restored_in_place_has_no_original_to_go_back_to(album: Path, tmp_path: Path) -> None:
    place = shutil.copytree(album, tmp_path / "album")
    request = Request("rules", "classical", risk=1)
    with Restorer(request, perception=StatisticalPerception.load()) as restorer:
        journal = Journal(place / JOURNAL)
        files = FileRestorer(restorer, report=True)
        tasks = [replace(task, target=task.source) for task in find_tasks([place], tmp_path / "out").tasks]
        summary = run_batch(tasks, files, journal, overwrite=True)
        page = save_index(place, journal, summary)
    assert page is not None
    assert all(photo["source"] == "" for photo in photos(page) if photo["url"])


def test_the_command_writes_the_page_and_names_it(album: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "index.html").write_text("mine")
    done = conservator("restore", album, "-o", output, "--report", "--policy", "none", "--perception", "statistics")
    assert done.returncode == 1, done.stderr  # one is cut off
    said = f"look at them in {output / 'conservator.html'} the index.html there is not Conservator's, and was left"
    assert said in " ".join(done.stdout.split())
    assert len(photos(output / "conservator.html")) == 5
    assert (output / "index.html").read_text() == "mine"
    again = tmp_path / "plain"
    conservator("restore", album, "-o", again, "--policy", "none", "--perception", "statistics")
    assert not (again / "index.html").exists()


@pytest.mark.skipif(sys.platform == "win32", reason="there is no bash")
@settings(max_examples=60)
@given(st.lists(st.binary(min_size=1, max_size=40).map(lambda raw: raw.replace(b"\0", b"x")), min_size=1, max_size=8))
def test_a_shell_reads_every_name_as_it_is(names: list[bytes]) -> None:
    words = " ".join(shell_word(os.fsdecode(name)) for name in names)
    read = subprocess.run(["bash", "-c", f"printf '%s\\0' {words}"], capture_output=True, check=True).stdout
    assert read == b"".join(name + b"\0" for name in names)
    assert words.isprintable()


@pytest.mark.parametrize(
    "name", ["it's", "two\nlines", "\x1b[31mred", "left\u202etfel", "ü.png", "$HOME", "-n", "*", ""]
)
def test_a_shell_reads_names_that_mean_harm(name: str) -> None:
    word = shell_word(name)
    assert word.isprintable()
    if sys.platform != "win32":
        read = subprocess.run(["bash", "-c", f"printf '%s' {word}"], capture_output=True, check=True).stdout
        assert read == os.fsencode(name)

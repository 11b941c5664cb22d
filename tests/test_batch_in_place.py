"""Photos that are treated where they lie: each once, by whatever name it is met, and each with its own record."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from skimage import data
from test_batch import restorer
from test_batch_disk import tree
from test_batch_find import names
from test_cli import conservator

from conservator.batch import JOURNAL, Job, Journal, Summary, Task, find_tasks, run_batch, save_index
from conservator.batch.find import Findings
from conservator.errors import ConservatorError
from conservator.files import sha256
from conservator.record import load_record

_POSIX = pytest.mark.skipif(os.name != "posix", reason="links need rights elsewhere")
_TREATS = replace(restorer("none"), tools=("tv_denoise",))


def write(*paths: Path) -> None:
    """Small noisy photos that gain by the tool, each with pixels of its own."""
    for path in paths:
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(len(path.name)).normal(0, 25, (48, 48, 3))
        noisy = (data.coffee()[:48, :48] + noise).clip(0, 255).astype(np.uint8)
        PillowImage.fromarray(noisy).save(path, **({"quality": 95} if path.suffix == ".jpg" else {}))


def run(found: Findings, *, resume: bool = False) -> Summary:
    return run_batch(found.tasks, _TREATS, Journal(found.folder / JOURNAL), overwrite=True, resume=resume)


def treat(folder: Path, *, resume: bool = False) -> list[str]:
    """A run in place; the names of the photos that it treated."""
    try:
        summary = run(find_tasks([folder], folder), resume=resume)
    except ConservatorError:  # all are results
        return []
    return sorted(Path(outcome.source).name for outcome in summary.outcomes if outcome.status == "restored")


@_POSIX
@pytest.mark.parametrize("forgotten", [False, True])
def test_a_photo_and_a_link_to_it_are_treated_once(tmp_path: Path, forgotten: bool) -> None:
    write(tmp_path / "real.png")
    (tmp_path / "a_link.png").symlink_to("real.png")
    assert [task.source.name for task in find_tasks([tmp_path], tmp_path).tasks] == ["real.png"]
    found = find_tasks([tmp_path / "a_link.png"], tmp_path)
    assert run(found).count("restored") == 1  # through the link, as it was named
    if forgotten:
        (tmp_path / "a_link.conservator.json").unlink()
    treated = tree(tmp_path)
    assert treat(tmp_path) == []
    assert tree(tmp_path) == treated


@pytest.mark.parametrize("resume", [False, True])
def test_photos_of_one_stem_are_treated_in_place_once_and_keep_their_records(tmp_path: Path, resume: bool) -> None:
    write(tmp_path / "gray.jpg")
    assert treat(tmp_path) == ["gray.jpg"]
    first = (tmp_path / "gray.conservator.json").read_bytes()
    write(tmp_path / "gray.tif", tmp_path / "gray_tif.png", tmp_path / "two.jpg", tmp_path / "two.tif")
    assert treat(tmp_path, resume=resume) == ["gray.tif", "gray_tif.png", "two.jpg", "two.tif"]
    assert (tmp_path / "gray.conservator.json").read_bytes() == first
    done = tree(tmp_path)
    documented = {}
    for name in done:
        if name.endswith(".conservator.json"):
            output = load_record(tmp_path / name).output
            assert output.sha256 == sha256(Path(output.path))
            documented[name.removesuffix(".conservator.json")] = Path(output.path).name
    assert documented == {
        "gray": "gray.jpg",
        "gray_tif": "gray_tif.png",
        "gray_tif_2": "gray.tif",
        "two_jpg": "two.jpg",
        "two_tif": "two.tif",
    }
    assert treat(tmp_path, resume=resume) == []
    page = save_index(tmp_path, Journal(tmp_path / JOURNAL), Summary([], 0.0))
    assert page is not None
    assert all(f"./{name}.conservator.json" in page.read_text() for name in documented)


def test_a_photo_from_a_backup_keeps_the_name_of_its_record(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", tmp_path / "a.tif")
    original = (tmp_path / "a.jpg").read_bytes()
    treat(tmp_path)
    before = set(tree(tmp_path))
    (tmp_path / "a.jpg").write_bytes(original)
    assert names(find_tasks([tmp_path], tmp_path), tmp_path) == {"a.jpg"}
    assert treat(tmp_path) == ["a.jpg"]
    assert set(tree(tmp_path)) == before


def test_overwriting_never_replaces_the_record_of_another_result(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", tmp_path / "a.png")
    out = tmp_path / "out"
    run(find_tasks([tmp_path / "a.jpg"], out))
    before = (out / "a.conservator.json").read_bytes()
    summary = run(find_tasks([tmp_path / "a.png"], out))
    refusal = f"{out / 'a.conservator.json'} is the record of another result"
    assert [outcome.message for outcome in summary.outcomes] == [f"{refusal}; give another --output"]
    task = Task(tmp_path / "a.png", out / "a.png")  # and where it came to lie there only after the batch had begun
    assert _TREATS(Job(task, overwrite=True), lambda stage: None).message == refusal
    assert (out / "a.conservator.json").read_bytes() == before


@pytest.mark.parametrize("in_place", [False, True])
def test_what_another_run_finished_meanwhile_is_done_before(tmp_path: Path, in_place: bool) -> None:
    album = tmp_path / "album"
    write(album / "a.png", album / "b.png")
    found = find_tasks([album], album if in_place else tmp_path / "out")
    journal = Journal(found.folder / JOURNAL)

    def other(task: Task) -> object:  # the other run is ahead of this one by a photo
        if task.source.name == "a.png":
            run_batch(found.tasks[1:], _TREATS, journal, resume=True, overwrite=in_place)
        return lambda stage: None

    summary = run_batch(found.tasks, _TREATS, journal, resume=True, overwrite=in_place, on_start=other)  # type: ignore[arg-type]
    told = [(outcome.status, outcome.message) for outcome in summary.outcomes]
    assert told[0][0] == "restored"
    assert told[1] == ("skipped", "done before")
    assert summary.exit_code == 0


def test_another_format_of_the_same_photo_replaces_its_record_where_that_is_asked_for(tmp_path: Path) -> None:
    PillowImage.fromarray(data.coffee()[:16, :16]).save(tmp_path / "a.jpg")
    arguments = ("restore", tmp_path / "a.jpg", "-o", tmp_path / "out", "--policy", "none", "--overwrite", "--format")
    assert [conservator(*arguments, kind).returncode for kind in ("png", "webp")] == [0, 0]
    assert load_record(tmp_path / "out" / "a.conservator.json").output.path.endswith("a.webp")
    assert (tmp_path / "out" / "a.png").exists()

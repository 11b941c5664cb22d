"""Which files of a folder become tasks, what is passed over and counted, and what results are called."""

from __future__ import annotations

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image as PillowImage
from skimage import data
from test_batch import restorer, tasks_of

from conservator.batch import JOURNAL, Findings, Journal, Task, find_tasks, run_batch
from conservator.batch.words import passed_over
from conservator.errors import ConservatorError
from conservator.photo import find_photos


def write(*paths: Path) -> None:
    """Small photos, each with pixels of its own."""
    for number, path in enumerate(paths):
        path.parent.mkdir(parents=True, exist_ok=True)
        PillowImage.fromarray(data.coffee()[number : number + 24, :32]).save(path)


def run(*paths: Path, output: Path, overwrite: bool = False) -> Findings:
    """A batch that leaves photos as they are."""
    found = find_tasks(paths, output)
    summary = run_batch(found.tasks, restorer("none"), Journal(found.folder / JOURNAL), overwrite=overwrite)
    assert summary.count("untouched") == len(found.tasks)
    return found


def names(found: Findings, folder: Path) -> set[str]:
    return {task.source.relative_to(folder).as_posix() for task in found.tasks}


def targets(found: Findings, output: Path) -> dict[str, str]:
    return {task.source.name: task.target.relative_to(output).as_posix() for task in found.tasks}


def test_results_of_earlier_runs_are_passed_over_wherever_they_lie(tmp_path: Path) -> None:
    album = tmp_path / "album"
    write(album / "a.jpg", album / "sub" / "b.png")
    photos = {"a.jpg", "sub/b.png"}
    run(album, output=album / "one")
    run(album, output=tmp_path / "elsewhere")
    shutil.move(tmp_path / "elsewhere", album / "sub" / "moved")
    shutil.copytree(album / "one", album / "renamed")
    found = find_tasks([album], album / "two")
    assert names(found, album) == photos
    assert len(found.results) == 6
    assert passed_over(found) == ["6 results of earlier runs passed over; name one itself to treat it again"]
    named = album / "one" / "a.jpg"
    assert [task.source for task in find_tasks([named], tmp_path / "out").tasks] == [named]


def test_a_result_without_its_record_is_known_by_the_journal(tmp_path: Path) -> None:
    album = tmp_path / "album"
    write(album / "a.jpg", album / "b.jpg")
    run(album, output=album / "one")
    for record in (album / "one").glob("*.json"):
        record.unlink()
    with (album / "one" / "b.jpg").open("ab") as file:
        file.write(b"edited")
    assert names(find_tasks([album], album / "two"), album) == {"a.jpg", "b.jpg"}
    (album / "one").rename(album / "moved")  # now bytes tell, and those of b.jpg are nobody's
    assert names(find_tasks([album], album / "two"), album) == {"a.jpg", "b.jpg", "moved/b.jpg"}


def test_a_photo_beside_a_record_of_another_name_is_a_photo(tmp_path: Path) -> None:
    album = tmp_path / "album"
    write(album / "a.jpg")
    run(album / "a.jpg", output=album / "b.jpg")
    write(album / "b.png")  # it would have the record of b.jpg
    assert names(find_tasks([album], tmp_path / "out"), album) == {"a.jpg", "b.png"}


@pytest.mark.parametrize(
    "record",
    [
        b"",
        b"[1",
        b"[" * 100_000,
        b'{"input": 3, "output": []}',
        b'{"input": {"path": 1, "sha256": 2}, "output": {"path": "a.jpg"}}',
        b"\xff\xfe",
    ],
)
def test_what_is_no_record_makes_no_result(tmp_path: Path, record: bytes) -> None:
    write(tmp_path / "a.jpg")
    (tmp_path / "a.conservator.json").write_bytes(record)
    assert len(tasks_of(tmp_path, output=tmp_path / "out")) == 1


def test_a_record_of_another_version_or_system_still_names_its_result(tmp_path: Path) -> None:
    album = tmp_path / "album"
    write(album / "a.jpg")
    run(album, output=album / "one")
    path = album / "one" / "a.conservator.json"
    record = json.loads(path.read_text())
    record |= {"format_version": 99, "new": {}, "output": {"path": r"D:\scans\one\a.jpg"}}
    path.write_text(json.dumps(record))
    assert names(find_tasks([album], album / "two"), album) == {"a.jpg"}


def test_in_place_a_second_run_treats_only_what_has_its_old_bytes(noisy_file: Path) -> None:
    album = noisy_file.parent
    write(album / "b.png")
    original = noisy_file.read_bytes()
    tasks, rules = find_tasks([album], album).tasks, restorer("rules")
    run_batch([task for task in tasks if task.source == noisy_file], rules, Journal(album / JOURNAL), overwrite=True)
    run(album / "b.png", output=album, overwrite=True)
    assert noisy_file.read_bytes() != original
    again = find_tasks([album], album)
    assert again.results == [noisy_file]
    assert names(again, album) == {"b.png"}  # left untouched, it still is the photo
    noisy_file.write_bytes(original)  # from a backup
    assert names(find_tasks([album], album), album) == {"noisy.png", "b.png"}


def test_other_pictures_in_the_folder_of_the_results_are_passed_over_and_counted(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg", tmp_path / "restored" / "mine.jpg")
    found = find_tasks([tmp_path], None)
    assert names(found, tmp_path) == {"a.jpg"}
    assert passed_over(found) == ["1 picture in the folder of the results passed over"]


def test_a_photo_met_by_several_paths_is_restored_once(tmp_path: Path) -> None:
    album = tmp_path / "album"
    write(album / "a.jpg", album / "sub" / "b.jpg")
    (album / "link.jpg").symlink_to("a.jpg")
    os.link(album / "a.jpg", album / "hard.jpg")  # another name of the bytes, and a photo of its own
    (tmp_path / "other").symlink_to(album)
    found = find_tasks([album, album / "sub", album / "." / "a.jpg", tmp_path / "other"], tmp_path / "out")
    assert sorted(task.source.name for task in found.tasks) == ["a.jpg", "b.jpg", "hard.jpg"]
    assert "photos met again, by another path or a link: restored once" in passed_over(found)[0]
    twice = find_tasks([album / "a.jpg", album / "link.jpg", album / "a.jpg"], tmp_path / "out")
    assert (len(twice.tasks), len(twice.repeated)) == (1, 2)


def test_folders_that_share_an_output_keep_their_names(tmp_path: Path) -> None:
    years = [tmp_path / "x" / "1931", tmp_path / "y" / "1931", tmp_path / "z"]
    write(*(year / "a.jpg" for year in years), years[2] / "sub" / "a.jpg")
    out = tmp_path / "out"
    found = find_tasks(years, out)
    assert {task.target.relative_to(out).as_posix() for task in found.tasks} == {
        "x/1931/a.jpg",
        "y/1931/a.jpg",
        "z/a.jpg",
        "z/sub/a.jpg",
    }
    before = {task.source: task.target for task in found.tasks}
    write(years[0] / "b.jpg")  # names stay when photos are added: a resumed run finds its results
    assert before.items() <= {task.source: task.target for task in find_tasks(years, out).tasks}.items()
    assert {task.target for task in find_tasks(years, None).tasks} == {
        *(year / "restored" / "a.jpg" for year in years),
        years[0] / "restored" / "b.jpg",
        years[2] / "restored" / "sub" / "a.jpg",
    }


def test_single_photos_of_one_name_keep_their_folders(tmp_path: Path) -> None:
    write(tmp_path / "x" / "a.jpg", tmp_path / "y" / "A.JPG", tmp_path / "y" / "b.jpg")
    found = find_tasks(sorted(tmp_path.rglob("*.[jJ]*")), tmp_path / "out")
    assert targets(found, tmp_path / "out") == {"a.jpg": "x/a.jpg", "A.JPG": "y/A.JPG", "b.jpg": "b.jpg"}


def test_names_that_would_share_a_record_are_told_apart(tmp_path: Path) -> None:
    write(*(tmp_path / name for name in ("a.jpg", "a.png", "a.tif", "a_png.png", "B.jpg", "b.jpg")))
    found = find_tasks([tmp_path], tmp_path / "out")
    records = [str(task.record).casefold() for task in found.tasks]
    assert len(set(records)) == 6
    assert targets(found, tmp_path / "out")["a.tif"] == "a_tif.tif"


def test_formats_of_extras_are_photos_and_their_results_can_be_written(tmp_path: Path) -> None:
    pytest.importorskip("pillow_heif")
    pytest.importorskip("rawpy")
    write(tmp_path / "img_1.jpg")
    for name in ("img_1.CR2", "b.heic", "c.NEF"):
        (tmp_path / name).write_bytes(b"whatever it holds")
    assert targets(find_tasks([tmp_path], tmp_path / "out"), tmp_path / "out") == {
        "img_1.jpg": "img_1_jpg.jpg",
        "img_1.CR2": "img_1_cr2.tif",
        "b.heic": "b.jpg",
        "c.NEF": "c.tif",
    }
    assert len(find_photos(tmp_path)) == 4


def test_pictures_that_are_not_read_here_are_counted_by_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for package in ("pillow_heif", "rawpy"):
        monkeypatch.setitem(sys.modules, package, None)  # as Python marks what cannot be imported
    write(tmp_path / "a.jpg")
    unread = ["1.heic", "2.HEIC", "3.cr2", "4.psd", "5.PSD", "6.pdf", "7.jxl"]
    silent = ["a.xmp", "a.txt", "Thumbs.db", ".DS_Store", "a.json", "b.html", "b.mp4", "._a.psd"]
    for name in unread + silent:
        (tmp_path / name).write_bytes(b"whatever it holds")
    found = find_tasks([tmp_path], tmp_path / "out")
    assert names(found, tmp_path) == {"a.jpg"}
    assert passed_over(found) == [
        "2 HEIC files not read; pip install 'conservator[heif]' reads them",
        "1 camera RAW file not read; pip install 'conservator[raw]' reads it",
        "not read: 1 JXL, 1 PDF, 2 PSD",
    ]
    (tmp_path / "a.jpg").unlink()
    with pytest.raises(ConservatorError, match=r"no photos found in .*; 2 HEIC files not read; pip install"):
        find_tasks([tmp_path], tmp_path / "out")


def test_a_link_to_nothing_is_a_photo_that_fails(tmp_path: Path) -> None:
    write(tmp_path / "a.jpg")
    (tmp_path / "gone.jpg").symlink_to("nowhere.jpg")
    assert len(tasks_of(tmp_path, output=tmp_path / "out")) == 2
    (task,) = tasks_of(tmp_path / "gone.jpg", output=tmp_path / "out")
    summary = run_batch([task], restorer("none"), Journal(tmp_path / "out" / JOURNAL))
    assert summary.outcomes[0].message == f"cannot read {tmp_path / 'gone.jpg'}: No such file or directory"


def test_many_photos_are_found_fast_enough_to_wait_for(tmp_path: Path) -> None:
    """Names are compared by a table: 20,000 photos with each other one by one would take minutes."""
    from conservator.batch.tasks import distinct

    tasks = [Task(tmp_path / f"{number}.jpg", tmp_path / "out" / f"{number // 2}.jpg") for number in range(20_000)]
    assert len({task.target for task in distinct(tasks)}) == 20_000

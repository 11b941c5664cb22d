"""What would be done to photos, in a line each; and tools that are asked for by name. Nothing is written, or all is."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from skimage import data
from test_cli import conservator

from conservator import Photo, Request, Restorer
from conservator.batch import FileRestorer, Preview, Task, preview_batch
from conservator.batch.preview import seen_in_words
from conservator.files import sha256
from conservator.image import to_image
from conservator.kinds import Kind, Severity
from conservator.perception import Percept, StatisticalPerception
from conservator.record import load_record

PERCEPTION = StatisticalPerception.load()
TREATING = ("--toolbox", "classical", "--perception", "statistics")
SETTINGS = (*TREATING, "--risk", "1")


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """A noisy photo, a clean one in a folder of its own, and a file that is no photo."""
    album = tmp_path / "album"
    (album / "more").mkdir(parents=True)
    noise = np.random.default_rng(0).normal(0, 30, (240, 320, 3))
    noisy = np.clip(data.coffee()[:240, :320] + noise, 0, 255).astype(np.uint8)
    PillowImage.fromarray(noisy).save(album / "noisy.png")
    PillowImage.fromarray(data.chelsea()[:240, :320]).save(album / "more" / "clean.png")
    (album / "torn.jpg").write_bytes(b"\xff\xd8\xff\xe0 no photo")
    return album


def contents(folder: Path) -> dict[str, str]:
    return {str(path.relative_to(folder)): sha256(path) for path in sorted(folder.rglob("*")) if path.is_file()}


def test_a_dry_run_says_what_the_run_does_and_writes_nothing(album: Path) -> None:
    before = contents(album.parent)
    dry = conservator("restore", album, "--dry-run", *SETTINGS)
    assert contents(album.parent) == before
    assert dry.returncode == 1
    lines = dry.stdout.splitlines()
    assert f"✗ cannot read {album / 'torn.jpg'}: it is damaged or cut off" in dry.stdout
    assert f"= {album / 'more' / 'clean.png'}: no damage seen; would be left untouched" in lines
    assert "1 would be treated, 1 would be left untouched, 1 cannot be restored" in " ".join(dry.stdout.split())
    assert lines[-1].endswith("nothing was written")

    assert conservator("restore", album, *SETTINGS).returncode == 1
    record = load_record(album / "restored" / "noisy.conservator.json")
    told = next(line for line in lines if line.startswith("✓"))
    assert record.gain is not None
    assert f"treated with {', then '.join(record.toolchain)}; estimated gain {record.gain:+.1f} dB" in told


def test_a_dry_run_knows_what_stands(album: Path) -> None:
    arguments = ("restore", album, *SETTINGS, "--policy", "none")
    assert conservator(*arguments).returncode == 1
    dry = conservator(*arguments, "--dry-run")
    assert f"– {album / 'restored' / 'noisy.png'} exists already; give --overwrite" in dry.stdout.replace(
        f"{album / 'noisy.png'}: ", ""
    )
    resumed = conservator(*arguments, "--dry-run", "--resume")
    assert f"{album / 'noisy.png'}: done before" in resumed.stdout
    assert "2 would be passed by" in " ".join(resumed.stdout.split())


def test_examining_a_folder_is_a_line_for_each_photo_whatever_was_restored_before(album: Path) -> None:
    assert conservator("restore", album, *SETTINGS, "--policy", "none").returncode == 1
    before = contents(album)
    seen = conservator("examine", album, *SETTINGS)
    assert seen.returncode == 1
    assert contents(album) == before
    assert sum(line.startswith(("✓", "=", "✗")) for line in seen.stdout.splitlines()) == 3
    assert "2 results of earlier runs passed over" in seen.stdout


def test_examining_gives_a_line_of_json_for_each_photo(album: Path) -> None:
    seen = conservator("examine", album, "--json", *SETTINGS)
    assert seen.returncode == 1
    rows = {Path(row["path"]).name: row for row in map(json.loads, seen.stdout.splitlines())}
    assert rows["noisy.png"]["toolchain"]
    assert rows["noisy.png"]["estimated_gain"] > 0.5
    assert rows["noisy.png"]["severities"]["noise"] != "none"
    assert (rows["clean.png"]["toolchain"], rows["clean.png"]["estimated_gain"]) == ([], 0.0)
    assert "cut off" in rows["torn.jpg"]["error"]


def test_one_photo_is_told_of_in_a_table(album: Path) -> None:
    seen = conservator("examine", album / "noisy.png", *SETTINGS)
    assert seen.returncode == 0
    assert "motion blur" in seen.stdout
    assert "would be treated with" in seen.stdout
    assert conservator("examine", album / "torn.jpg").returncode == 2
    assert conservator("examine", album / "nothing.jpg").stderr.count("\n") == 1


def test_previews_come_in_the_order_of_the_photos_from_several_threads(album: Path) -> None:
    tasks = [Task(path, album / "out" / path.name) for path in sorted(album.rglob("*.png")) * 2]
    told: list[Path] = []
    with Restorer(Request(toolbox="classical", risk=1), perception=PERCEPTION) as restorer:
        seen = preview_batch(
            tasks, FileRestorer(restorer), jobs=3, on_end=lambda task, preview: told.append(preview.path)
        )
    assert told == [preview.path for preview in seen] == [task.source for task in tasks]
    assert [preview.treated for preview in seen] == [False, True] * 2


def test_damage_in_words_is_worst_first_and_a_small_size_is_none() -> None:
    percept = Percept(
        {Kind.JPEG: Severity.LOW, Kind.NOISE: Severity.HIGH, Kind.LOW_RESOLUTION: Severity.HIGH}, quality=20.0
    )
    assert seen_in_words(percept) == "noise high, JPEG artefacts low"
    assert seen_in_words(Percept()) == "no damage seen"
    assert str(Preview(Path("a.jpg"), error="cannot read a.jpg: it is empty")) == "cannot read a.jpg: it is empty"


def test_tools_that_are_asked_for_by_name_are_applied_and_what_is_thought_of_it_is_said(album: Path) -> None:
    clean, noisy = album / "more" / "clean.png", album / "noisy.png"
    done = conservator("apply", clean, noisy, "--tools", "median_derain,tv_denoise", "-o", album / "out", *TREATING)
    assert done.returncode == 0
    harmed, helped = (load_record(album / "out" / f"{name}.conservator.json") for name in ("clean", "noisy"))
    assert harmed.toolchain == helped.toolchain == ["median_derain", "tv_denoise"]
    assert harmed.gain is not None
    assert harmed.gain < 0
    assert f"as asked; by estimate the photo is the worse for it ({harmed.gain:+.1f} dB)" in done.stdout
    assert "as asked; by estimate it gained +" in done.stdout
    assert conservator("replay", album / "out" / "noisy.conservator.json").returncode == 0

    again = ("apply", noisy, "-o", album / "out", *TREATING, "--resume", "--tools")
    assert "done before" in conservator(*again, "median_derain,tv_denoise").stdout
    assert "made with other settings" in conservator(*again, "tv_denoise").stdout
    assert "made with other settings" in conservator("restore", *again[1:-1], "--policy", "none").stdout


def test_what_changes_nothing_is_told_as_it_is(album: Path) -> None:
    gray = album / "flat.png"
    PillowImage.new("RGB", (64, 64), (128, 128, 128)).save(gray)
    done = conservator("apply", gray, "--tools", "median_derain", "-o", album / "out", *TREATING)
    assert "left as it was: median_derain changed nothing on the whole photo" in done.stdout


def test_nothing_grows_beyond_the_limit_of_pixels(album: Path) -> None:
    enlarging = ("apply", album / "noisy.png", "--tools", "lanczos_x4,lanczos_x4,lanczos_x4", *TREATING)
    done = conservator(*enlarging)
    assert done.returncode == 2
    assert "would make 20480 x 15360 pixels of the photo, more than the limit of 200000000" in done.stdout


def test_a_dry_run_says_what_could_not_be_written(album: Path) -> None:
    """In place, what a file holds and its result cannot; and a file where a folder should be."""
    noisy = PillowImage.open(album / "noisy.png")
    noisy.convert("CMYK").save(album / "cmyk.tif")
    for flags in (("--dry-run",), ()):
        done = conservator("restore", album / "cmyk.tif", "-o", album, "--overwrite", *SETTINGS, *flags)
        assert (done.returncode, "it is the photo's own file, and" in done.stdout) == (2, True), done.stdout
    aside = conservator("restore", album / "more", "-o", album / "noisy.png" / "out", "--dry-run", *SETTINGS)
    assert (aside.returncode, "noisy.png is no folder" in aside.stdout) == (2, True)


@pytest.mark.parametrize(
    ("tools", "words"),
    [
        ("tv_denois", "no tool 'tv_denois'; did you mean tv_denoise"),
        ("tv_denoise,nonsense", "no tool 'nonsense'; there are:"),
        (",", "no tool is named"),
    ],
)
def test_a_tool_that_does_not_exist_costs_no_photo(album: Path, tools: str, words: str) -> None:
    done = conservator("apply", album, "--tools", tools, *TREATING)
    assert done.returncode == 2
    assert words in done.stderr
    assert not (album / "restored").exists()


def test_the_one_estimate_is_of_the_photo_as_it_is_written() -> None:
    """At half strength of half the change; of a gray photo, of the gray result."""
    gray = (to_image(data.camera()[:240, :320]) + 0.1 * torch.randn(1, 1, 240, 320, generator=torch.Generator())).clamp(
        0, 1
    )
    with Restorer(Request(toolbox="classical", strength=0.5, risk=1), perception=PERCEPTION) as half:
        weaker = half.apply(Photo(gray, gray=True), ["tv_denoise"])
    with Restorer(Request(toolbox="classical", risk=1), perception=PERCEPTION) as whole:
        full = whole.apply(Photo(gray, gray=True), ["tv_denoise"])
        assert whole.apply(Photo(gray), []).gain == 0.0
        assert full.after == whole.examine(full.photo)
    assert 0 < weaker.gain < full.gain
    assert full.asked_for

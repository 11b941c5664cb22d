"""The page of one photo: real restorations, and what a person finds on it."""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from doubting import doubting
from page_reader import ReadPage, embedded, read_page
from PIL import Image as PillowImage
from PIL import ImageCms
from skimage import data

from conservator.batch import JOURNAL, FileRestorer, Journal, Outcome, Task, run_batch
from conservator.degradations import Kind, degrade, parse_recipe
from conservator.image import Image, to_array, to_image
from conservator.pages import compared, jpeg_bytes, jpeg_within
from conservator.pages.details import find_places
from conservator.perception import StatisticalPerception
from conservator.perception.remembering import RememberingPerception
from conservator.perception.risk import Admission
from conservator.record import Record, load_record
from conservator.report import thumbnail_of
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.suggesting import apply_command
from conservator.tools import Toolbox, make_toolbox

SEEING = RememberingPerception(StatisticalPerception.load())
DECIBELS = re.compile(r"[-+]?\d+(?:\.\d+)? dB")
HOSTILE = "<img src=x onerror=alert(1)> \"&' \u202e.png"


@dataclass(frozen=True)
class Made:
    task: Task
    outcome: Outcome
    page: ReadPage
    record: Record


def damaged(recipe: str, photo: Any = None) -> Any:
    photo = data.coffee()[:240, :320] if photo is None else photo
    return to_array(degrade(to_image(photo), parse_recipe(recipe, 3)), np.uint8) if recipe else photo


def restored(
    folder: Path,
    photo: Any,
    name: str = "photo.png",
    toolbox: Toolbox | None = None,
    icc: bytes = b"",
    admission: Admission | None = None,
    **wanted: Any,
) -> Made:
    """Restore a picture with its page, by classical tools and statistics unless other is wanted, without risk control
    unless there is an ``admission``."""
    task = Task(folder / name, folder / "out" / name)
    PillowImage.fromarray(photo).save(task.source, icc_profile=icc or None)
    request = Request(**{"policy": "rules", "toolbox": "classical", "perception": "statistics", "risk": 1} | wanted)
    with Restorer(request, toolbox=toolbox, perception=SEEING, admission=admission) as restorer:
        journal = Journal(task.target.parent / JOURNAL)
        (outcome,) = run_batch([task], FileRestorer(restorer, report=True), journal).outcomes
    assert outcome.status != "failed", outcome.message
    return Made(task, outcome, read_page(task.report), load_record(task.record))


@pytest.fixture(scope="module")
def noisy(tmp_path_factory: pytest.TempPathFactory) -> Made:
    return restored(tmp_path_factory.mktemp("noisy"), damaged("noise:high"), HOSTILE)


def test_one_number_tells_the_gain_and_what_to_think_of_it(noisy: Made) -> None:
    assert noisy.outcome.status == "restored"
    text = " ".join(noisy.page.open_text.split())
    (number,) = DECIBELS.findall(text)
    assert number == f"{noisy.record.estimated_gain:+.1f} dB"
    assert f"Estimated gain {number}" in text
    assert "to the undamaged photo: an estimate by the program." in text
    assert noisy.record.interval is None  # without calibrated errors nothing is said of them
    assert "Treated for noise" in text
    closed = noisy.page.closed_text
    assert "no one of them is the estimated gain above" in " ".join(closed.split())
    assert f"{noisy.record.steps[0].seen.quality:.1f} dB" in closed
    assert all(step.reason in closed for step in noisy.record.steps)


def test_how_far_the_estimate_may_be_off_is_told_where_it_was_measured(tmp_path: Path) -> None:
    held_to = replace(doubting(0.0), threshold=0.5, errors=(-1.25, 0.5))
    made = restored(tmp_path, damaged("noise:high"), admission=held_to)
    low, high = made.record.interval or (0.0, 0.0)
    assert (low, high) == pytest.approx(((made.record.gain or 0) - 1.25, (made.record.gain or 0) + 0.5), abs=0.002)
    told = f"In nine of ten cases it lies between {low:+.1f} and {high:+.1f} dB, as calibration photos tell."
    assert told in " ".join(made.page.open_text.split())
    weaker = restored(tmp_path, damaged("noise:high"), "half.png", admission=held_to, strength=0.5)
    assert weaker.record.interval is None  # nobody measured how far it is off for a half


def test_names_of_strangers_are_text(noisy: Made) -> None:
    assert HOSTILE in noisy.page.open_text
    assert all(attributes["src"] != "x" for attributes in noisy.page.all("img"))


def test_kinds_that_were_not_looked_for_are_not_there(noisy: Made) -> None:
    assert Kind.SNOW not in noisy.record.before.severities
    assert "snow" not in noisy.page.open_text
    assert "Looked for and not seen: " in noisy.page.open_text


def test_each_slider_has_a_name_and_two_pictures_of_one_size(noisy: Made) -> None:
    ranges = [attributes for attributes in noisy.page.all("input") if attributes["type"] == "range"]
    assert ranges
    assert all((attributes["aria-label"] or "").startswith("Slide between before and after: ") for attributes in ranges)
    pairs = [a for a in noisy.page.all("img") if (a["alt"] or "").startswith(("Before: ", "After: "))]
    assert len(pairs) == 2 * len(ranges)
    for after, before in zip(pairs[::2], pairs[1::2], strict=True):
        assert embedded(after).size == embedded(before).size == (int(after["width"] or 0), int(after["height"] or 0))


def test_details_show_the_pixels_of_the_photo(noisy: Made) -> None:
    pictures = {attributes["alt"]: embedded(attributes) for attributes in noisy.page.all("img") if attributes["alt"]}
    for shown, file in (("Before", noisy.task.source), ("After", noisy.task.target)):
        seen = np.asarray(pictures[f"{shown}: detail 1"], float)
        with PillowImage.open(file) as photo:
            pixels = np.asarray(photo, float)
        loss, elsewhere = (np.abs(seen - other).mean() for other in (pixels, np.roll(pixels, 1, 1)))
        assert loss < 6, shown  # JPEG's, of 255: the noise is strong
        assert loss < elsewhere / 2


def test_an_untouched_photo_has_one_picture_and_a_reason(tmp_path: Path) -> None:
    made = restored(tmp_path, data.astronaut()[:300, :400], toolbox=make_toolbox("classical").only("deblock"))
    assert made.outcome.status == "untouched"
    outside = [attributes for attributes in made.page.all("img") if attributes["alt"]]
    assert [attributes["alt"] for attributes in outside] == ["The photo"]
    assert not made.page.all("input")
    assert re.search(r"Nothing needed doing\. [A-Z][^.]+\.", made.page.open_text)
    assert not DECIBELS.findall(made.page.open_text)
    assert "Estimated gain" not in made.page.open_text


@pytest.mark.parametrize(
    ("wanted", "said"),
    [
        ({"policy": "none"}, "Left as it was: the policy none was asked for"),
        ({"strength": 0.0}, "Left as it was: a strength of 0 was asked for."),
    ],
)
def test_what_was_asked_for_is_no_verdict_on_the_photo(tmp_path: Path, wanted: dict[str, Any], said: str) -> None:
    text = restored(tmp_path, damaged("noise:high"), **wanted).page.open_text
    assert said in text
    assert "Nothing needed doing" not in text


@pytest.mark.parametrize(
    ("wanted", "tools", "fate"),
    [
        ({}, ["deblock"], "No tool at hand removed it."),
        ({"never": frozenset({Kind.NOISE})}, ["wavelet_denoise"], "You asked to leave it alone."),
        ({"only": frozenset({Kind.JPEG})}, ["wavelet_denoise"], "You asked to leave it alone."),
    ],
)
def test_damage_that_was_left_is_warned_of(tmp_path: Path, wanted: dict[str, Any], tools: list[str], fate: str) -> None:
    made = restored(tmp_path, damaged("noise:very_high"), toolbox=make_toolbox("classical").only(*tools), **wanted)
    sure = made.record.after.confidences["noise"]
    assert f"Noise is still seen: {sure * 100:.0f} % sure. {fate}" in made.page.open_text
    assert "warning" in [attributes.get("class") for attributes in made.page.all("p")]
    assert "Nothing needed doing" not in made.page.open_text


def test_no_warning_without_damage(tmp_path: Path) -> None:
    made = restored(tmp_path, data.astronaut()[:300, :400], toolbox=make_toolbox("classical").only("deblock"))
    assert made.record.before.severities
    assert not made.record.after.severe
    assert "is still seen" not in made.page.open_text


def test_colours_keep_their_profile(tmp_path: Path) -> None:
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    made = restored(tmp_path, damaged("noise:high"), icc=profile)
    pictures = [embedded(attributes) for attributes in made.page.all("img") if attributes["alt"]]
    assert len(pictures) >= 4
    assert all(picture.info["icc_profile"] == profile for picture in pictures)


def test_the_thumbnail_shows_both_and_is_no_photo_of_the_folder(noisy: Made) -> None:
    path = thumbnail_of(noisy.task.report)
    assert path.parent.name.startswith(".")
    with PillowImage.open(path) as picture:
        assert picture.size == (512, 192)
        before, after = (np.asarray(picture.crop(box), float) for box in ((0, 0, 256, 192), (256, 0, 512, 192)))
    assert np.abs(before - after).mean() > 1
    assert path.stat().st_size < 40_000


def changed(size: tuple[int, int], *squares: tuple[int, int, int, float]) -> tuple[Image, Image]:
    """A gray picture, and the same with squares (top, left, side) that were made brighter by so much."""
    before = torch.full((1, 3, *size), 0.4)
    after = before.clone()
    for top, left, side, by in squares:
        after[..., top : top + side, left : left + side] += by
    return before, after


def test_details_lie_where_most_changed_and_where_least_did() -> None:
    before, after = changed((1500, 2000), (100, 1300, 400, 0.5), (900, 200, 300, 0.3))
    places = find_places(before, after, 512, 4)
    first, least, second, *others = places
    assert (first.most, least.most, second.most) == (True, False, True)
    assert first.top <= 100 <= 500 <= first.top + 512
    assert first.left <= 1300 <= 1700 <= first.left + 512
    assert torch.equal(least.of(before), least.of(after))
    assert second.top <= 900 <= 1200 <= second.top + 512
    assert second.left <= 200 <= 500 <= second.left + 512
    assert len(others) == 2
    assert all(place.of(after).shape[-2:] == (512, 512) for place in places)


@pytest.mark.parametrize("size", [(1, 1), (8, 8), (1, 3000), (700, 513), (512, 512), (40, 2000)])
def test_details_of_any_size(size: tuple[int, int]) -> None:
    before, after = changed(size, (0, 0, 5, 0.5))
    places = find_places(before, after, 512, 4)
    assert 1 <= len(places) <= 5
    assert all(place.of(after).shape[-2:] == (min(512, size[0]), min(512, size[1])) for place in places)
    assert compared(before, after, None).count('type="range"') == 1 + len(places)


def test_a_page_stays_small_whatever_the_photo() -> None:
    noise = torch.rand(2, 3, 3000, 4000, generator=torch.Generator().manual_seed(0))
    page = compared(noise[:1], noise[1:], None)
    assert 1_000_000 < len(page) < 3_000_000
    assert "detail 1" in page


def test_an_enlargement_has_no_gain_to_tell(tmp_path: Path) -> None:
    toolbox = make_toolbox("conservator").only("upscale_x2")
    task = Task(tmp_path / "small.png", tmp_path / "out" / "small.png")
    PillowImage.fromarray(data.astronaut()[:96, :128]).save(task.source)
    with Restorer(
        Request("rules", upscale=True, risk=1), toolbox=toolbox, perception=StatisticalPerception.load()
    ) as restorer:
        journal = Journal(task.target.parent / JOURNAL)
        (outcome,) = run_batch([task], FileRestorer(restorer, report=True), journal).outcomes
    assert outcome.status == "restored", outcome.message
    assert load_record(task.record).estimated_gain is None
    page = read_page(task.report)
    assert "none can be given" in page.open_text
    assert not DECIBELS.findall(page.open_text)


@pytest.fixture(scope="module")
def doubted(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A photo of which the rain was treated; the noise was not, for its risk."""
    photo = damaged("rain:high,noise:high", data.coffee()[:160, :200])
    return restored(tmp_path_factory.mktemp("doubted"), photo, HOSTILE, admission=doubting(0.41, Kind.NOISE))


def test_a_suggestion_is_shown_with_what_is_thought_of_it_and_the_command(doubted: Made) -> None:
    (suggestion,) = doubted.record.suggestions
    text = " ".join(doubted.page.open_text.split())
    assert "Treated for rain. More is suggested below, for noise: it might harm, so it is left to you." in text
    assert "Not done, but suggested" in text
    assert f"{suggestion.tool}, for noise Chance of harm: 41 %. No gain is estimated." in text.replace(
        "noiseChance", "noise Chance"
    )
    source, page = Path("..") / HOSTILE, doubted.task.target.name
    command = apply_command(suggestion, source, doubted.record.request, Path(page))
    assert f"--tools {doubted.record.toolchain[0]},{suggestion.tool} " in command
    assert command in doubted.page.open_text
    assert (
        f"Noise is still seen: {doubted.record.after.confidences['noise'] * 100:.0f} % sure. What might remove it"
        in text
    )


def test_the_pictures_of_a_suggestion_are_small_and_show_what_it_does(doubted: Made) -> None:
    (suggestion,) = doubted.record.suggestions
    shown = {a["alt"]: a for a in doubted.page.all("img") if a["alt"] in ("As it is", f"With {suggestion.tool}")}
    assert len(shown) == 2
    pictures = [np.asarray(embedded(attributes), float) for attributes in shown.values()]
    assert [picture.shape for picture in pictures] == [(256, 320, 3)] * 2
    grain = [np.abs(np.diff(picture, axis=1)).mean() for picture in pictures]
    assert grain[1] < 0.8 * grain[0], "the second picture has as much noise as the first"
    assert sum(len(attributes["src"] or "") for attributes in shown.values()) < 58_000


def test_a_picture_within_bytes_is_as_good_as_they_allow() -> None:
    noise = torch.rand(1, 3, 320, 320, generator=torch.Generator().manual_seed(0))
    flat = torch.full((1, 3, 320, 320), 0.5)
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    assert 12_000 < len(jpeg_within(noise, 21_000)) <= 21_000
    assert jpeg_within(flat, 21_000, profile) == jpeg_bytes(flat, quality=85, profile=profile, small=True)
    assert jpeg_within(flat, 9 * len(profile), profile) == jpeg_bytes(flat, quality=85, small=True)


def test_nothing_is_suggested_where_nothing_was_refused(noisy: Made) -> None:
    assert noisy.record.suggestions == []
    assert "uggested" not in noisy.page.open_text


def test_an_untouched_photo_says_that_something_is_suggested(tmp_path: Path) -> None:
    only = make_toolbox("classical").only("dct_denoise")
    made = restored(tmp_path, damaged("noise:high"), toolbox=only, admission=doubting(1.0))
    assert made.outcome.status == "untouched"
    text = " ".join(made.page.open_text.split())
    assert "Left as it was. Something is suggested below, for noise: it might harm, so it is left to you." in text
    assert "The tools of that result: dct_denoise." in text  # no command has a program's own tools
    assert "conservator apply" not in text

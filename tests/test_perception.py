"""Perception and the study: what is seen, where it looks, how it is loaded; looking costs the same for any size."""

from __future__ import annotations

import dataclasses
import json
import math
import pickle
import random
import threading
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from listening import reading
from safetensors.torch import save_file
from skimage import data

from conservator.degradations import TAUGHT, Kind, Severity, degrade, parse_recipe
from conservator.errors import ConservatorError, NameNotFoundError
from conservator.image import Image, to_image
from conservator.networks.store import NetworkStore
from conservator.perception import (
    Blind,
    Gain,
    Look,
    NetworkPerception,
    Percept,
    StatisticalPerception,
    check_perception,
    load_perception,
    study,
)
from conservator.perception.features import ASKED, EXPERT_CHANGES, FIRST_ACUITY, STATISTICS, TOLD, Acuity
from conservator.perception.loading import read_perception
from conservator.perception.perception import OBJECTIVES
from conservator.pool import LocalPool
from conservator.tools import make_toolbox
from conservator.tools.experts import EXPERTS, sharing
from conservator.weights import WEIGHTS, load_weights, manifest

STATISTICAL, NETWORK = StatisticalPerception.load(), NetworkPerception.load()


@pytest.mark.parametrize("recipe", ["noise:high", "jpeg:high", "defocus_blur:very_high", "gaussian_blur:very_high"])
def test_a_strong_damage_is_seen(recipe: str, coffee: Image) -> None:
    kind = Kind(recipe.split(":")[0])
    clean = STATISTICAL.grade(study(coffee))
    seen = STATISTICAL.grade(study(degrade(coffee, parse_recipe(recipe, seed=1))))
    assert seen.severities[kind] >= Severity.MEDIUM
    assert seen.confidences[kind] > clean.confidences[kind]
    assert seen.quality < clean.quality


def test_clean_photos_are_called_clean(coffee: Image, astronaut: Image) -> None:
    for photo in (coffee, F.interpolate(astronaut, (400, 400), mode="bilinear", antialias=True)):
        assert STATISTICAL.grade(study(photo)).present == ()


def test_quality_falls_with_noise(coffee: Image) -> None:
    levels = [
        STATISTICAL.grade(study(degrade(coffee, parse_recipe(f"noise:{s}", seed=2)))).quality
        for s in ("low", "medium", "high", "very_high")
    ]
    assert levels == sorted(levels, reverse=True)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (40, 33), (200, 150), (700, 33)])
def test_every_size_can_be_looked_at(size: tuple[int, int]) -> None:
    percept = STATISTICAL.grade(study(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))))
    assert set(percept.severities) == {*TAUGHT, Kind.LOW_RESOLUTION}
    assert all(0 <= value <= 1 for value in percept.confidences.values())


def test_only_small_photos_are_of_low_resolution(astronaut: Image) -> None:
    small = F.interpolate(astronaut, (128, 128), mode="bilinear", antialias=True)
    assert STATISTICAL.grade(study(small)).severities[Kind.LOW_RESOLUTION] == Severity.HIGH
    assert STATISTICAL.grade(study(astronaut)).severities[Kind.LOW_RESOLUTION] == Severity.NONE


@pytest.mark.parametrize("size", [(512, 512), (400, 1300), (2000, 500), (3000, 4000)])
def test_a_study_has_one_size_for_any_photo(size: tuple[int, int], astronaut: Image) -> None:
    photo = F.interpolate(astronaut, size, mode="bilinear").clamp(0, 1)
    assert study(photo).shape == (5, 3, 256, 256)
    assert torch.equal(study(photo), study(photo))


def test_crops_are_native_and_keep_the_jpeg_grid(astronaut: Image) -> None:
    photo = astronaut.repeat(1, 1, 2, 3)
    starts = [(top, left) for top in range(0, 769, 16) for left in range(0, 1281, 16)]
    for crop in study(photo)[1:]:
        assert any(torch.equal(crop, photo[0, :, top : top + 256, left : left + 256]) for top, left in starts)


def test_a_reference_is_studied_where_the_damaged_photo_was(astronaut: Image) -> None:
    damaged = degrade(astronaut, parse_recipe("noise:low", seed=0))
    for seen, reference in zip(study(damaged)[1:], study(astronaut, like=damaged)[1:], strict=True):
        assert float((seen - reference).pow(2).mean()) < 0.005


def test_perception_was_trained_with_the_experts_that_it_asks() -> None:
    _, metadata = load_weights("perception")
    assert json.loads(metadata["asked"]) == {name: manifest()[name]["sha256"] for name in ASKED}


def test_shipped_weights_are_what_the_manifest_lists() -> None:
    for name, entry in manifest().items():
        tensors, _ = load_weights(name)
        assert tensors
        assert entry["license"]
        assert entry["data"]
        assert entry["command"]
    with pytest.raises(ConservatorError, match="no weights file"):
        load_weights("nothing")


@pytest.mark.parametrize("perception", [STATISTICAL, NETWORK])
@pytest.mark.parametrize("size", [(10, 7), (33, 120), (300, 420), (700, 500)])
def test_pictures_of_any_size_are_graded(size: tuple[int, int], perception: StatisticalPerception) -> None:
    seen = perception.grade(study(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))))
    assert set(seen.severities) == {*TAUGHT, Kind.LOW_RESOLUTION}
    assert all(0 <= confidence <= 1 for confidence in seen.confidences.values())
    assert math.isfinite(seen.quality)


@pytest.mark.parametrize("perception", [STATISTICAL, NETWORK])
def test_the_undamaged_photo_is_preferred(perception: StatisticalPerception, coffee: Image) -> None:
    damaged, clean = study(degrade(coffee, parse_recipe("noise:high", seed=1))), study(coffee)
    before, after = Look(damaged, perception.grade(damaged)), Look(clean, perception.grade(clean))
    for objective in OBJECTIVES:
        gain = perception.weigh(before, after, frozenset({Kind.NOISE})).cautious(objective)
        assert gain > 0.5
        assert gain > perception.weigh(after, before, frozenset({Kind.NOISE})).cautious(objective)


# The contract, and the simplest perception that breaks each law of it.


@pytest.mark.parametrize("perception", [STATISTICAL, NETWORK])
def test_what_ships_keeps_the_contract(perception: StatisticalPerception, coffee: Image) -> None:
    check_perception(perception, coffee)


class Plain(Blind):
    """Right in the simplest way: quality and gain are the smoothness of a picture."""

    def grade(self, image: Image) -> Percept:
        kinds = (*TAUGHT, Kind.LOW_RESOLUTION)
        return Percept(dict.fromkeys(kinds, Severity.NONE), dict.fromkeys(kinds, 0.1), self.smoothness(image))

    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        return Gain.sure(self.smoothness(after.image) - self.smoothness(before.image))

    def smoothness(self, image: Image) -> float:
        return -100 * float((image[..., 1:] - image[..., :-1]).abs().mean())


class Partial(Plain):
    def grade(self, image: Image) -> Percept:
        seen = super().grade(image)
        return dataclasses.replace(seen, severities={k: v for k, v in seen.severities.items() if k != Kind.RAIN})


class Unsure(Plain):
    def grade(self, image: Image) -> Percept:
        seen = super().grade(image)
        return dataclasses.replace(seen, confidences={k: v for k, v in seen.confidences.items() if k != Kind.RAIN})


class Overconfident(Plain):
    def grade(self, image: Image) -> Percept:
        seen = super().grade(image)
        return dataclasses.replace(seen, confidences=dict.fromkeys(seen.confidences, 1.5))


class Unlevelled(Plain):
    def grade(self, image: Image) -> Percept:
        seen = super().grade(image)
        return dataclasses.replace(seen, severities=dict.fromkeys(seen.severities, 2.5))  # type: ignore[arg-type]


class Speechless(Plain):
    def grade(self, image: Image) -> Percept:
        return dataclasses.replace(super().grade(image), quality=math.nan)


class Drawn(Plain):
    def grade(self, image: Image) -> Percept:
        return dataclasses.replace(super().grade(image), quality=random.random())


class Careless(Plain):
    def grade(self, image: Image) -> Percept:
        image.clamp_(0.2, 0.8)
        return super().grade(image)


class NoStudies(Plain):
    def grade(self, image: Image) -> Percept:
        (single,) = image
        return super().grade(single[None])


class NoSmallPictures(Plain):
    def grade(self, image: Image) -> Percept:
        F.pad(image, (16, 16, 16, 16), mode="reflect")
        return super().grade(image)


class Optimist(Plain):
    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        return Gain.sure(super().weigh(before, after, treated).mean["fidelity"] + 0.1)


class AlwaysBetter(Plain):
    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        return Gain.sure(abs(super().weigh(before, after, treated).mean["fidelity"]))


class AlwaysWorse(Plain):
    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        return Gain.sure(-abs(super().weigh(before, after, treated).mean["fidelity"]))


class Unbounded(Plain):
    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        gain = super().weigh(before, after, treated).mean["fidelity"]
        return Gain.sure(math.copysign(math.inf, gain) if gain else 0.0)


class Infinite(Plain):
    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        gain = super().weigh(before, after, treated)
        return Gain(gain.mean, {name: math.inf if value else 0.0 for name, value in gain.mean.items()})


class OneObjective(Plain):
    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        gain = super().weigh(before, after, treated)
        return Gain({"fidelity": gain.mean["fidelity"]}, gain.deviation)


class NegativeDeviation(Plain):
    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        gain = super().weigh(before, after, treated)
        return Gain(gain.mean, dict(gain.mean))


class FickleGain(Plain):
    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        return Gain.sure(super().weigh(before, after, treated).mean["fidelity"] * (0.9 + 0.1 * random.random()))


class Forgetful(Plain):
    """Keeps the picture in the object, so that two threads see each other's."""

    def grade(self, image: Image) -> Percept:
        self.image = image
        time.sleep(0.002)
        return super().grade(self.image)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        (Blind, "gave no severity of noise"),
        (Partial, "gave no severity of rain"),
        (Unsure, "gave no probability of rain"),
        (Overconfident, "is 1.5, not in"),
        (Unlevelled, "is 2.5, not a Severity"),
        (Speechless, "is nan, not a number of dB"),
        (Drawn, "twice, and differently"),
        (Careless, "changed its input"),
        (NoStudies, "failed on a picture of 5x3x256x256: ValueError"),
        (NoSmallPictures, "failed on a picture of 1x3x8x8: RuntimeError"),
        (Optimist, "changed nothing gained something"),
        (AlwaysBetter, "dB by noise"),
        (AlwaysWorse, "by losing its noise"),
        (Unbounded, "a gain of inf"),
        (Infinite, "a deviation of inf"),
        (OneObjective, "has no gain for balanced, perceptual"),
        (NegativeDeviation, "a negative deviation"),
        (FickleGain, "weighed a treatment twice, and differently"),
        (Forgetful, "from eight threads"),
    ],
)
def test_whoever_breaks_the_contract_is_told_where(wrong: type[Blind], told: str) -> None:
    check_perception(Plain())
    with pytest.raises(AssertionError, match=told):
        check_perception(wrong())


# How perception is loaded.


def eight_times(call: Callable[[], object]) -> list[object]:
    start = threading.Barrier(8)

    def run(_: int) -> object:
        start.wait()
        return call()

    with ThreadPoolExecutor(8) as threads:
        return list(threads.map(run, range(8)))


def test_weights_are_read_when_needed_and_once_also_from_eight_threads(photo: Image) -> None:
    with reading() as opened:
        perception = NetworkPerception.load()
        assert opened == []
        percepts = eight_times(lambda: perception.grade(photo))
        perception.grade(photo)
        assert sorted(opened) == sorted(["perception", *ASKED])
    assert all(percept == percepts[0] for percept in percepts)


def test_an_expert_that_is_a_tool_and_is_asked_is_loaded_once(photo: Image) -> None:
    networks = NetworkStore()
    tools = sharing(make_toolbox("conservator"), networks)
    perception = NetworkPerception.load(networks=networks)
    with reading() as opened, LocalPool(tools, max_batch=1) as pool:
        calls = [pool.submit(name, photo) for name in ASKED]
        perception.grade(photo)
        results = [call.result() for call in calls]
        assert sorted(opened) == sorted(["perception", *ASKED])
    with LocalPool(make_toolbox("conservator"), max_batch=1) as pool:
        assert all(torch.equal(pool.submit(n, photo).result(), r) for n, r in zip(ASKED, results, strict=True))


def test_a_store_and_what_was_loaded_stay_here_when_pickled(photo: Image) -> None:
    networks = NetworkStore()
    expert = next(expert for expert in EXPERTS if expert.spec.name == "dehaze").sharing(networks)
    perception = NetworkPerception.load(networks=networks)
    expert.setup("cpu")
    seen = perception.grade(photo)
    assert len(pickle.dumps((networks, perception))) < 1000
    assert pickle.loads(pickle.dumps(perception)).grade(photo) == seen


def test_a_load_that_fails_is_tried_again(tmp_path: Path, photo: Image) -> None:
    path = tmp_path / "mine.safetensors"
    perception = StatisticalPerception.load(path)
    with pytest.raises(ConservatorError, match=r"mine\.safetensors cannot be read"):
        perception.grade(photo)
    path.write_bytes((WEIGHTS / "statistics.safetensors").read_bytes())
    with pytest.raises(ConservatorError, match="does not name the features"):  # a copy has no manifest that names them
        perception.grade(photo)
    stored(path)
    assert perception.grade(photo) == STATISTICAL.grade(photo)


def stored(path: Path, base: str = "statistics", **changed: str) -> Path:
    """A shipped perception as it is stored when it is trained now, with other metadata."""
    tensors, metadata = load_weights(base)
    named = metadata | {"features": json.dumps(STATISTICS if base == "statistics" else NETWORK.features)} | changed
    save_file(tensors, path, named)
    return path


def test_any_file_can_be_loaded_and_knows_what_it_is_for(tmp_path: Path, photo: Image) -> None:
    path = stored(tmp_path / "mine.safetensors", "perception")
    loaded = load_perception(path)
    assert isinstance(loaded, NetworkPerception)
    assert loaded.grade(photo) == NETWORK.grade(photo)
    assert isinstance(load_perception(str(stored(tmp_path / "plain.safetensors"))), StatisticalPerception)
    assert isinstance(load_perception("statistics"), StatisticalPerception)
    with pytest.raises(ConservatorError, match=f"expected {len(Acuity().names)}"):
        NetworkPerception.load(tmp_path / "plain.safetensors").grade(photo)
    with pytest.raises(NameNotFoundError, match="perception"):
        load_perception("perceptio")


def test_features_in_another_order_are_refused(tmp_path: Path, photo: Image) -> None:
    swapped = list(STATISTICS)
    swapped[3], swapped[4] = swapped[4], swapped[3]
    shuffled = random.Random(0).sample(FIRST_ACUITY.names, len(FIRST_ACUITY.names))
    renamed = ["noise_luma_5", *STATISTICS[1:]]
    said = r"found noise_luma_25_calm as feature 4 of 305, expected noise_luma_25; train it again"
    for base, names, told in (
        ("statistics", swapped, said),
        ("statistics", renamed, "found noise_luma_5 as feature 1 of 305, expected noise_luma_05"),
        ("statistics", STATISTICS[:-1], "found 304 features, expected 305"),
        ("perception", shuffled, "as feature 1 of 457, expected noise_luma_05"),
    ):
        path = stored(tmp_path / "mine.safetensors", base, features=json.dumps(names))
        kind = StatisticalPerception if base == "statistics" else NetworkPerception
        with pytest.raises(ConservatorError, match=told):
            kind.load(path).grade(photo)
        with pytest.raises(ConservatorError, match="was trained on other features"):
            load_perception(path)


def test_what_is_no_perception_is_refused_with_a_sentence(tmp_path: Path) -> None:
    path = tmp_path / "mine.safetensors"
    with pytest.raises(ConservatorError, match="derain is no trained perception"):
        read_perception("derain")
    path.write_bytes(b"nonsense, and too long for a header")
    with pytest.raises(ConservatorError, match="is not a safetensors file"):
        read_perception(path)
    with pytest.raises(ConservatorError, match="was trained for rain, noise, expected noise, jpeg"):
        read_perception(stored(path, kinds='["rain", "noise"]'))
    with pytest.raises(ConservatorError, match="does not hold the tensors of a perception"):
        StatisticalPerception.load(stored(path, hidden="64")).grade(torch.rand(1, 3, 32, 32))


def test_the_names_of_the_features_are_those_that_are_measured(photo: Image) -> None:
    assert tuple(STATISTICAL.grade(photo).measures) == STATISTICS
    assert "features" not in {field.name for field in dataclasses.fields(Percept)}  # nobody else's business
    names = Acuity(7, 5).names
    assert TOLD == names[: len(TOLD)] == (*STATISTICS, *EXPERT_CHANGES)
    assert names[len(TOLD) :] == (*(f"encoder_00{i}" for i in range(7)), *(f"scene_00{i}" for i in range(5)))
    assert read_perception("perception").acuity == FIRST_ACUITY
    assert read_perception("perception").features == FIRST_ACUITY.names == NETWORK.features
    assert read_perception("statistics").features == STATISTICS


def test_a_page_of_text_is_stranger_than_photos(coffee: Image, astronaut: Image, tmp_path: Path) -> None:
    page = torch.where(to_image(data.page()) > 0.5, 1.0, 0.0)  # a scan of a printed page, in black and white
    told = load_perception(stored(tmp_path / "told.safetensors", "perception", strangest="4"))
    damaged = degrade(coffee, parse_recipe("noise:high,jpeg:high", seed=1))
    photos = [told.grade(study(photo)) for photo in (coffee, astronaut, damaged)]
    assert min(photo.strangeness for photo in photos) > 0
    assert max(photo.strangeness for photo in photos) < told.grade(study(page)).strangeness
    known = load_perception(
        stored(
            tmp_path / "known.safetensors", "perception", strangest=str(4 * 1.1 * max(p.strangeness for p in photos))
        )
    )
    assert [known.grade(study(image)).strange for image in (coffee, page)] == [False, True]
    assert NETWORK.grade(study(page)).strangeness == 0, "its file does not tell what is strange"
    assert STATISTICAL.grade(study(page)).strangeness == 0


def test_what_another_perception_saw_is_measured_again(coffee: Image) -> None:
    damaged, clean = study(degrade(coffee, parse_recipe("noise:high", seed=1))), study(coffee)
    treated = frozenset({Kind.NOISE})
    own = NETWORK.weigh(Look(damaged, NETWORK.grade(damaged)), Look(clean, NETWORK.grade(clean)), treated)
    assert NETWORK.weigh(Look(damaged, Percept()), Look(clean, STATISTICAL.grade(clean)), treated) == own

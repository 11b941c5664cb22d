"""The eye and the study: what is seen, where it looks, and that looking costs the same for any size."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

from conservator.degradations import TAUGHT, Kind, Severity, degrade, parse_recipe
from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.perception import Look, NetworkPerception, StatisticalPerception, study
from conservator.perception.opinions import ASKED
from conservator.perception.perception import OBJECTIVES
from conservator.weights import load_weights, manifest

EYE = StatisticalPerception()


@pytest.mark.parametrize("recipe", ["noise:high", "jpeg:high", "defocus_blur:very_high", "gaussian_blur:very_high"])
def test_a_strong_damage_is_seen(recipe: str, coffee: Image) -> None:
    kind = Kind(recipe.split(":")[0])
    clean = EYE.grade(study(coffee))
    seen = EYE.grade(study(degrade(coffee, parse_recipe(recipe, seed=1))))
    assert seen.severities[kind] >= Severity.MEDIUM
    assert seen.confidences[kind] > clean.confidences[kind]
    assert seen.quality < clean.quality


def test_clean_photos_are_called_clean(coffee: Image, astronaut: Image) -> None:
    for photo in (coffee, F.interpolate(astronaut, (400, 400), mode="bilinear", antialias=True)):
        assert EYE.grade(study(photo)).present == ()


def test_quality_falls_with_noise(coffee: Image) -> None:
    levels = [
        EYE.grade(study(degrade(coffee, parse_recipe(f"noise:{s}", seed=2)))).quality
        for s in ("low", "medium", "high", "very_high")
    ]
    assert levels == sorted(levels, reverse=True)


@pytest.mark.parametrize("size", [(1, 1), (7, 300), (40, 33), (200, 150), (700, 33)])
def test_every_size_can_be_looked_at(size: tuple[int, int]) -> None:
    percept = EYE.grade(study(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0))))
    assert set(percept.severities) == {*TAUGHT, Kind.LOW_RESOLUTION}
    assert all(0 <= value <= 1 for value in percept.confidences.values())


def test_only_small_photos_are_of_low_resolution(astronaut: Image) -> None:
    small = F.interpolate(astronaut, (128, 128), mode="bilinear", antialias=True)
    assert EYE.grade(study(small)).severities[Kind.LOW_RESOLUTION] == Severity.HIGH
    assert EYE.grade(study(astronaut)).severities[Kind.LOW_RESOLUTION] == Severity.NONE


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


def test_the_eye_was_trained_with_the_experts_that_it_asks() -> None:
    _, metadata = load_weights("eye")
    assert json.loads(metadata["asked"]) == {name: manifest()[name]["sha256"] for name in ASKED}


def test_shipped_weights_are_what_the_manifest_lists(tmp_path: Path) -> None:
    for name, entry in manifest().items():
        tensors, _ = load_weights(name)
        assert tensors
        assert entry["license"]
        assert entry["data"]
        assert entry["command"]
    with pytest.raises(ConservatorError, match="no weights file"):
        load_weights("nothing")


@pytest.mark.parametrize("eye", [StatisticalPerception, NetworkPerception])
@pytest.mark.parametrize("size", [(10, 7), (33, 120), (300, 420), (700, 500)])
def test_an_eye_grades_pictures_of_any_size(size: tuple[int, int], eye: type[StatisticalPerception]) -> None:
    small = study(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(0)))
    seen = eye().grade(small)
    assert set(seen.severities) == {*TAUGHT, Kind.LOW_RESOLUTION}
    assert all(0 <= confidence <= 1 for confidence in seen.confidences.values())
    assert math.isfinite(seen.quality)


@pytest.mark.parametrize("eye", [StatisticalPerception, NetworkPerception])
def test_an_eye_prefers_the_undamaged_photo(eye: type[StatisticalPerception], coffee: Image) -> None:
    damaged, clean = study(degrade(coffee, parse_recipe("noise:high", seed=1))), study(coffee)
    before, after = Look(damaged, eye().grade(damaged)), Look(clean, eye().grade(clean))
    for objective in OBJECTIVES:
        gain = eye().weigh(before, after, frozenset({Kind.NOISE})).cautious(objective)
        assert gain > 0.5
        assert gain > eye().weigh(after, before, frozenset({Kind.NOISE})).cautious(objective)

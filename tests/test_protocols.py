"""The published protocols: MiO, RestoreAgent and RL-Restore draw their damage from the ranges of the papers."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

import numpy as np
import pytest

from conservator.degradations import (
    MIO_GROUPS,
    RESTOREAGENT_COMBINATIONS,
    TAUGHT,
    DefocusBlur,
    Degradation,
    GaussianBlur,
    GaussianNoise,
    Haze,
    JpegCompression,
    Kind,
    LowLight,
    LowResolution,
    MotionBlur,
    PoissonNoise,
    Rain,
    degrade,
    mio_recipe,
    rl_restore_levels,
    rl_restore_recipe,
)
from conservator.errors import NameNotFoundError, RecipeError
from conservator.image import Image
from conservator.metrics.fidelity import psnr
from conservator.resample import bicubic_to


def test_mio_has_sixteen_combinations() -> None:
    assert {group: len(combinations) for group, combinations in MIO_GROUPS.items()} == {"A": 8, "B": 4, "C": 4}
    combinations = list(itertools.chain(*MIO_GROUPS.values()))
    assert len({frozenset(c) for c in combinations}) == 16
    assert {len(c) for c in MIO_GROUPS["A"] + MIO_GROUPS["B"]} == {2}
    assert {len(c) for c in MIO_GROUPS["C"]} == {3}
    assert set(itertools.chain(*combinations)) == {*TAUGHT, Kind.LOW_RESOLUTION} - {Kind.GAUSSIAN_BLUR}
    assert len(set(RESTOREAGENT_COMBINATIONS)) == 7


def _mio_parameters() -> dict[type[Degradation], dict[str, list[Any]]]:
    drawn: dict[type[Degradation], dict[str, list[Any]]] = {}
    rng = np.random.default_rng(0)
    for _ in range(80):
        for combination in itertools.chain(*MIO_GROUPS.values()):
            recipe = mio_recipe(combination, rng)
            assert tuple(item.kind for item in recipe) == combination
            for item in recipe:
                for name, value in dataclasses.asdict(item).items():  # type: ignore[call-overload]
                    drawn.setdefault(type(item), {}).setdefault(name, []).append(value)
    return drawn


def test_mio_parameters_fill_their_ranges() -> None:
    drawn = _mio_parameters()
    for cls, name, low, high in (
        (GaussianNoise, "sigma", 20 / 255, 50 / 255),
        (PoissonNoise, "scale", 1, 3),
        (JpegCompression, "quality", 10, 29),
        (MotionBlur, "angle", -90, 90),
        (Haze, "airlight", 0.7, 1),
        (Haze, "beta", 0.6, 1.8),
        (Rain, "value", 50, 100),
        (Rain, "length", 20, 40),
        (Rain, "angle", -30, 30),
    ):
        values = drawn[cls][name]
        assert low <= min(values) < low + 0.1 * (high - low), (cls.name, name)
        assert high - 0.1 * (high - low) < max(values) <= high, (cls.name, name)
    assert set(drawn[Rain]["width"]) == {3}
    assert set(drawn[LowResolution]["factor"]) == {4}
    motion, defocus, dark = drawn[MotionBlur], drawn[DefocusBlur], drawn[LowLight]
    assert set(zip(motion["radius"], motion["sigma"], strict=True)) == {(10, 3), (15, 5), (15, 8)}
    assert set(zip(defocus["radius"], defocus["alias_blur"], strict=True)) == {(3, 0.1), (4, 0.5), (6, 0.5)}
    for mode, low, high in (("shift", 30 / 255, 50 / 255), ("gamma", 0.5, 0.7), ("linear", 100 / 255, 150 / 255)):
        amounts = [a for m, a in zip(dark["mode"], dark["amount"], strict=True) if m == mode]
        assert low <= min(amounts) < max(amounts) <= high


def test_mio_takes_a_depth_map_and_refuses_other_kinds() -> None:
    (haze,) = mio_recipe((Kind.HAZE,), np.random.default_rng(0), depth="depth.png")
    assert isinstance(haze, Haze)
    assert haze.depth == "depth.png"
    with pytest.raises(RecipeError, match="no Gaussian blur"):
        mio_recipe((Kind.GAUSSIAN_BLUR,), np.random.default_rng(0))


def test_mio_damage_runs_on_a_photo(photo: Image) -> None:
    for number, combination in enumerate(itertools.chain(*MIO_GROUPS.values(), RESTOREAGENT_COMBINATIONS)):
        spoiled = degrade(photo, mio_recipe(combination, np.random.default_rng(number)))
        small = Kind.LOW_RESOLUTION in combination
        assert spoiled.shape == ((1, 3, 60, 80) if small else photo.shape)
        assert 8 < psnr(bicubic_to(spoiled, 240, 320), photo) < 32


@pytest.mark.parametrize(
    ("preset", "low", "high", "count"), [("mild", 9, 11, 163), ("moderate", 12, 17, 434), ("severe", 18, 20, 163)]
)
def test_rl_restore_presets(preset: Any, low: int, high: int, count: int) -> None:
    triples = rl_restore_levels(preset)
    indices = [k + m + n - 2 for k, m, n in triples]
    assert (min(indices), max(indices), len(set(triples))) == (low, high, count)
    assert {level for triple in triples for level in triple} <= set(range(1, 11))
    jpeg = [100, 80, 60, 50, 40, 35, 30, 25, 20, 15, 10]
    for seed in range(200):
        blur, noise, codec = rl_restore_recipe(preset, np.random.default_rng(seed))
        assert isinstance(blur, GaussianBlur)
        assert isinstance(noise, GaussianNoise)
        assert isinstance(codec, JpegCompression)
        k, m = int(blur.sigma / 0.5) + 1, int(noise.sigma * 255 / 5) + 1
        levels = [n for n in range(1, 11) if jpeg[n] <= codec.quality <= jpeg[n - 1]]  # an edge belongs to two
        assert any((k, m, n) in triples for n in levels)


def test_unknown_presets_are_refused() -> None:
    with pytest.raises(NameNotFoundError, match="did you mean moderate"):
        rl_restore_recipe("moderat", np.random.default_rng(0))  # type: ignore[arg-type]

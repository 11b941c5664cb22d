"""The damage of published benchmarks: AgenticIR's MiO groups, RestoreAgent's combinations, RL-Restore's presets."""

from __future__ import annotations

import itertools
from typing import Literal, TypeAlias

import numpy as np

from conservator.degradations.blur import DefocusBlur, GaussianBlur, MotionBlur
from conservator.degradations.codec import JpegCompression, LowResolution
from conservator.degradations.degradation import Degradation, Recipe
from conservator.degradations.light import LowLight
from conservator.degradations.noise import GaussianNoise, PoissonNoise, draw_seed
from conservator.degradations.weather import Haze, Rain
from conservator.errors import RecipeError, name_not_found
from conservator.kinds import Kind

Combination: TypeAlias = tuple[Kind, ...]
"""Kinds of damage in order of application."""

MIO_GROUPS: dict[str, tuple[Combination, ...]] = {
    "A": (
        (Kind.RAIN, Kind.HAZE),
        (Kind.MOTION_BLUR, Kind.LOW_RESOLUTION),
        (Kind.LOW_LIGHT, Kind.NOISE),
        (Kind.DEFOCUS_BLUR, Kind.JPEG),
        (Kind.NOISE, Kind.JPEG),
        (Kind.RAIN, Kind.LOW_RESOLUTION),
        (Kind.MOTION_BLUR, Kind.LOW_LIGHT),
        (Kind.DEFOCUS_BLUR, Kind.HAZE),
    ),
    "B": (
        (Kind.MOTION_BLUR, Kind.JPEG),
        (Kind.HAZE, Kind.NOISE),
        (Kind.DEFOCUS_BLUR, Kind.LOW_RESOLUTION),
        (Kind.RAIN, Kind.LOW_LIGHT),
    ),
    "C": (
        (Kind.HAZE, Kind.MOTION_BLUR, Kind.LOW_RESOLUTION),
        (Kind.RAIN, Kind.NOISE, Kind.LOW_RESOLUTION),
        (Kind.LOW_LIGHT, Kind.DEFOCUS_BLUR, Kind.JPEG),
        (Kind.MOTION_BLUR, Kind.DEFOCUS_BLUR, Kind.NOISE),
    ),
}
"""The 16 combinations of AgenticIR (Zhu et al., ICLR 2025); C has three kinds each."""

RESTOREAGENT_COMBINATIONS: tuple[Combination, ...] = (
    (Kind.NOISE, Kind.JPEG),
    (Kind.LOW_LIGHT, Kind.NOISE),
    (Kind.MOTION_BLUR, Kind.NOISE, Kind.JPEG),
    (Kind.RAIN, Kind.NOISE, Kind.JPEG),
    (Kind.HAZE, Kind.NOISE, Kind.JPEG),
    (Kind.HAZE, Kind.RAIN, Kind.NOISE, Kind.JPEG),
    (Kind.RAIN, Kind.MOTION_BLUR, Kind.NOISE, Kind.JPEG),
)
"""The seven test combinations of RestoreAgent (Chen et al., NeurIPS 2024).

Their order of application was not published; ours goes from the scene to the camera to the file.
"""

RESTORE_R1_SETTINGS: dict[str, tuple[Combination, ...]] = {
    "1": (
        (Kind.RAIN, Kind.HAZE),
        (Kind.LOW_LIGHT, Kind.NOISE),
        (Kind.DEFOCUS_BLUR, Kind.JPEG),
        (Kind.NOISE, Kind.JPEG),
        (Kind.MOTION_BLUR, Kind.LOW_LIGHT),
    ),
    "2": ((Kind.MOTION_BLUR, Kind.JPEG), (Kind.HAZE, Kind.NOISE), (Kind.RAIN, Kind.LOW_LIGHT)),
    "3": (
        (Kind.LOW_LIGHT, Kind.DEFOCUS_BLUR, Kind.JPEG),
        (Kind.MOTION_BLUR, Kind.DEFOCUS_BLUR, Kind.NOISE),
        (Kind.RAIN, Kind.NOISE, Kind.JPEG),
        (Kind.HAZE, Kind.NOISE, Kind.JPEG),
    ),
    "4": (
        (Kind.HAZE, Kind.RAIN, Kind.NOISE, Kind.JPEG),
        (Kind.RAIN, Kind.MOTION_BLUR, Kind.NOISE, Kind.JPEG),
        (Kind.LOW_LIGHT, Kind.HAZE, Kind.RAIN, Kind.NOISE, Kind.JPEG),
    ),
}
"""Restore-R1's four settings (arXiv 2512.18599): five pairs, three other pairs, four triples, three of four or five.

The paper gives the numbers; which kinds meet, it does not. These are ours: the first has each kind that MiO treats
without a change of size, the others no combination of it; pairs and triples are those of MiO and RestoreAgent where
they have some.
"""

ALL_IN_ONE_COMBINATIONS: tuple[Combination, ...] = (
    (Kind.NOISE, Kind.JPEG),
    (Kind.HAZE, Kind.NOISE),
    (Kind.HAZE, Kind.RAIN, Kind.NOISE),
    (Kind.HAZE, Kind.RAIN, Kind.NOISE, Kind.JPEG),
)
"""The four sets on which RestoreAgent is compared with all-in-one networks, in the order of our other combinations."""


def mio_recipe(combination: Combination, rng: np.random.Generator, depth: str | None = None) -> Recipe:
    """Draw a recipe with the parameter ranges of AgenticIR's test set, applied in the order given.

    ``depth`` is the path of a depth map for haze (weather.py); without it the depth is made up.
    Raises RecipeError for a kind that the protocol does not have.
    """
    return tuple(_mio_degradation(kind, rng, depth) for kind in combination)


def _mio_degradation(kind: Kind, rng: np.random.Generator, depth: str | None) -> Degradation:
    match kind:
        case Kind.NOISE if rng.random() < 0.5:
            return GaussianNoise(sigma=rng.uniform(20, 50) / 255, seed=draw_seed(rng))
        case Kind.NOISE:
            return PoissonNoise(scale=rng.uniform(1, 3), seed=draw_seed(rng))
        case Kind.JPEG:
            return JpegCompression(quality=int(rng.integers(10, 30)))
        case Kind.MOTION_BLUR:
            radius, sigma = ((10, 3), (15, 5), (15, 8))[rng.integers(3)]
            return MotionBlur(radius=radius, sigma=sigma, angle=rng.uniform(-90, 90))
        case Kind.DEFOCUS_BLUR:
            reach, alias_blur = ((3, 0.1), (4, 0.5), (6, 0.5))[rng.integers(3)]
            return DefocusBlur(radius=reach, alias_blur=alias_blur)
        case Kind.RAIN:
            value, length, angle = rng.uniform(50, 100), int(rng.integers(20, 40, endpoint=True)), rng.uniform(-30, 30)
            return Rain(value=value, length=length, angle=angle, width=3, seed=draw_seed(rng))
        case Kind.HAZE:
            airlight, beta = rng.uniform(0.7, 1), rng.uniform(0.6, 1.8)
            return Haze(airlight=airlight, beta=beta, depth_seed=draw_seed(rng), depth=depth)
        case Kind.LOW_LIGHT:
            modes = (LowLight("shift", rng.uniform(30, 50) / 255), LowLight("gamma", rng.uniform(0.5, 0.7)))
            return (*modes, LowLight("linear", rng.uniform(100, 150) / 255))[rng.integers(3)]
        case Kind.LOW_RESOLUTION:
            return LowResolution(factor=4)
    raise RecipeError(f"the MiO protocol has no {kind.label}, choose from the kinds in MIO_GROUPS")


Preset: TypeAlias = Literal["mild", "moderate", "severe"]

RL_RESTORE_PRESETS: dict[str, range] = {"mild": range(9, 12), "moderate": range(12, 18), "severe": range(18, 21)}
"""Band indices k + m + n - 2 of the levels of blur, noise and JPEG; agents train on moderate."""

BLUR_GRID = tuple(0.5 * level for level in range(11))
"""Edges of the ten levels of Gaussian blur: sigma in pixels."""
NOISE_GRID = tuple(5.0 * level for level in range(11))
"""Edges of the ten levels of Gaussian noise: sigma, of 255."""
JPEG_GRID = (100, 80, 60, 50, 40, 35, 30, 25, 20, 15, 10)
"""Edges of the ten levels of JPEG: quality."""


def rl_restore_levels(preset: Preset) -> tuple[tuple[int, int, int], ...]:
    """All triples of levels (blur, noise, JPEG), each 1 to 10, whose band index is in the preset's range.

    Raises NameNotFoundError for an unknown preset.
    """
    if preset not in RL_RESTORE_PRESETS:
        raise name_not_found("preset", preset, RL_RESTORE_PRESETS)
    levels = range(1, 11)
    triples = itertools.product(levels, levels, levels)
    return tuple((k, m, n) for k, m, n in triples if k + m + n - 2 in RL_RESTORE_PRESETS[preset])


def rl_restore_recipe(preset: Preset, rng: np.random.Generator) -> Recipe:
    """Draw RL-Restore's damage (Yu et al., CVPR 2018, generate_train.m): Gaussian blur, then noise, then JPEG.

    A triple of levels uniformly from ``rl_restore_levels``, then each parameter uniformly inside its level.
    """
    admissible = rl_restore_levels(preset)
    blur, noise, jpeg = admissible[rng.integers(len(admissible))]
    return (
        GaussianBlur(sigma=rng.uniform(BLUR_GRID[blur - 1], BLUR_GRID[blur])),
        GaussianNoise(sigma=rng.uniform(NOISE_GRID[noise - 1], NOISE_GRID[noise]) / 255, seed=draw_seed(rng)),
        JpegCompression(quality=int(rng.integers(JPEG_GRID[jpeg], JPEG_GRID[jpeg - 1], endpoint=True))),
    )

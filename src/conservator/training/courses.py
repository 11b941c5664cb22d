"""What each expert learns: the damage that its training crops get."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from conservator.degradations import (
    BY_KIND,
    TAUGHT,
    CameraNoise,
    DefocusBlur,
    Degradation,
    Downpour,
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
    Recipe,
    Severity,
    UnevenHaze,
)
from conservator.degradations.noise import draw_seed
from conservator.training.crops import Damage, Lesson

Draw: TypeAlias = Callable[[np.random.Generator], Recipe]

CLEAN_SHARE = 0.08
"""Of the crops stay undamaged: an expert must leave a photo alone that lacks its damage."""
CLEAN_SCENES = 0.25
"""The same for haze and darkness, which a photo of something gray or dark looks like."""


@dataclass(frozen=True)
class Course:
    """How one expert is trained: on which damage, from which other expert on, for how many steps."""

    damage: Damage
    start: str | None = None
    steps: int = 5000
    network: str = "unet"
    whole: bool = False
    """Whether it sees most of a photo, reduced, instead of native crops."""
    scale: int = 1
    """How many times it enlarges."""


def _noise(low: float, high: float) -> Damage:
    """Gaussian, camera or photon noise about as strong as Gaussian noise of sigma ``low`` to ``high`` (of 255)."""

    def damage(rng: np.random.Generator) -> Recipe:
        sigma = rng.uniform(low, high)
        make = rng.random()
        if make < 0.6:
            return (GaussianNoise(sigma / 255, draw_seed(rng)),)
        if make < 0.85:
            # a mid-gray of a developed photo shows sqrt(shot) times 150 levels of noise, near enough
            shot = (max(sigma, 1.0) / 190) ** 2
            return (CameraNoise(math.sqrt(shot) * rng.uniform(0.03, 0.15), shot, draw_seed(rng)),)
        return (PoissonNoise(sigma / 11, draw_seed(rng)),)

    return _with_others(damage, Kind.NOISE)


def _jpeg(low: int, high: int) -> Damage:
    """JPEG of quality ``low`` to ``high``, one crop in four compressed twice with blocks that need not meet."""

    def damage(rng: np.random.Generator) -> Recipe:
        last = JpegCompression(int(rng.integers(low, high, endpoint=True)), _subsampling(rng))
        if rng.random() > 0.25:
            return (last,)
        return (JpegCompression(int(rng.integers(low, 95, endpoint=True)), _subsampling(rng)), last)

    return _with_others(damage, Kind.JPEG)


def _subsampling(rng: np.random.Generator) -> Literal["4:4:4", "4:2:2", "4:2:0"]:
    share = rng.random()
    return "4:2:0" if share < 0.6 else "4:4:4" if share < 0.85 else "4:2:2"


def _motion(rng: np.random.Generator) -> Recipe:
    if rng.random() < 0.3:  # the protocol's own kernels
        radius, sigma = ((10, 3.0), (15, 5.0), (15, 8.0))[int(rng.integers(3))]
    else:
        radius, sigma = int(rng.integers(4, 17)), rng.uniform(0.8, 9)
    return (MotionBlur(radius, sigma, rng.uniform(-180, 180)),)


def _defocus(rng: np.random.Generator) -> Recipe:
    if rng.random() < 0.65:
        return (DefocusBlur(rng.uniform(0.8, 7), rng.uniform(0.1, 0.6)),)
    return (GaussianBlur(rng.uniform(0.3, 4)),)


def _rain(rng: np.random.Generator) -> Recipe:
    """Streaks as the protocol has them, or of any density, length, slope and width, or falling in sheets."""
    make = rng.random()
    if make < 0.4:
        return (Rain.sample(_severity(rng), rng),)
    if make < 0.7:
        return (Downpour.sample(_severity(rng), rng),)
    width, length = int(rng.choice([1, 3, 5, 7])), int(rng.integers(8, 90))
    return (Rain(rng.uniform(5, 160), length, rng.uniform(-45, 45), width, draw_seed(rng)),)


def _haze(rng: np.random.Generator) -> Recipe:
    return ((Haze if rng.random() < 0.5 else UnevenHaze).sample(_severity(rng), rng),)


def _mildly_dark(rng: np.random.Generator) -> Recipe:
    return (LowLight.sample(Severity(int(rng.integers(1, 4))), rng),)


def _very_dark(rng: np.random.Generator) -> Recipe:
    """The darker half of the protocol's, and night beyond it: gamma to 4, white down to an eighth."""
    share = rng.random()
    if share < 0.7:
        return (LowLight.sample(Severity(int(rng.integers(3, 5))), rng),)
    if share < 0.85:
        return (LowLight("gamma", rng.uniform(0.25, 0.5)),)
    return (LowLight("linear", rng.uniform(0.12, 0.4)),)


def _smaller(factor: int) -> Damage:
    return lambda rng: Lesson((LowResolution(factor),))


def _severity(rng: np.random.Generator) -> Severity:
    return Severity(int(rng.integers(1, 5)))


def _with_others(main: Draw, kind: Kind) -> Damage:
    """The main damage, in half of the crops with a little of others where a camera adds them, in some with a scene's.

    RL-Restore gives all its tools' data slight noise and JPEG: in a toolchain no tool meets its damage alone. What
    belongs to the scene (darkness, haze, rain) is in the target, too: it is for other tools.
    """

    def damage(rng: np.random.Generator) -> Lesson:
        if rng.random() < (CLEAN_SCENES if kind in _SCENES[:2] else CLEAN_SHARE):
            return Lesson(())
        before: list[Degradation] = []
        after: list[Degradation] = []
        if rng.random() < 0.5:
            if kind is not Kind.DEFOCUS_BLUR and rng.random() < 0.3:
                before.append(GaussianBlur(rng.uniform(0.3, 0.8)))
            if kind is not Kind.NOISE and rng.random() < 0.6:
                noise = GaussianNoise(rng.uniform(0, 12) / 255, draw_seed(rng))
                (before if kind is Kind.JPEG else after).append(noise)
            if kind is not Kind.JPEG and rng.random() < 0.6:
                after.append(JpegCompression(int(rng.integers(20, 96)), _subsampling(rng)))
        scene: Recipe = ()
        if rng.random() < 0.25:
            other = _SCENES[int(rng.integers(len(_SCENES)))]
            scene = () if other is kind else (BY_KIND[other][0].sample(_severity(rng), rng),)
        behind = kind is Kind.RAIN and rng.random() < 0.5  # the protocol's rain falls in front of haze, or in it
        first, then = ((), scene) if behind else (scene, ())
        return Lesson((*first, *before, *main(rng), *then, *after), scene)

    return damage


_SCENES = (Kind.LOW_LIGHT, Kind.HAZE, Kind.RAIN)


def _anything(rng: np.random.Generator) -> Lesson:
    """Up to three damages in the order of nature: scene, optics, sensor, codec."""
    count = int(rng.choice([0, 1, 2, 3], p=[CLEAN_SHARE, 0.42, 0.32, 0.18]))
    chosen = sorted(rng.choice(len(TAUGHT), count, replace=False).tolist())
    recipe: list[Degradation] = []
    for kind in (TAUGHT[i] for i in chosen):
        if kind is Kind.RAIN:
            recipe.extend(_rain(rng))
        elif kind is Kind.MOTION_BLUR:
            recipe.extend(_motion(rng))
        else:
            makers: Sequence[type[Degradation]] = BY_KIND[kind]
            recipe.append(makers[int(rng.integers(len(makers)))].sample(_severity(rng), rng))
    return Lesson(tuple(recipe))


COURSES: dict[str, Course] = {
    "denoise_medium": Course(_noise(1, 55), steps=10500),
    "denoise_light": Course(_noise(1, 20), start="denoise_medium", steps=1500),
    "denoise_heavy": Course(_noise(25, 70), start="denoise_medium", steps=1500),
    "dejpeg_severe": Course(_jpeg(5, 50), start="denoise_medium", steps=9000),
    "dejpeg_mild": Course(_jpeg(35, 95), start="dejpeg_severe", steps=1500),
    "deblur_defocus": Course(_with_others(_defocus, Kind.DEFOCUS_BLUR), start="denoise_medium", steps=4000),
    "deblur_motion": Course(_with_others(_motion, Kind.MOTION_BLUR), start="deblur_defocus", steps=20000),
    "derain": Course(_with_others(_rain, Kind.RAIN), start="denoise_medium", steps=4500),
    "generalist": Course(_anything, start="denoise_medium", steps=3500),
    "dehaze": Course(_with_others(_haze, Kind.HAZE), network="bilateral", whole=True, steps=4000),
    "brighten_mild": Course(_with_others(_mildly_dark, Kind.LOW_LIGHT), network="bilateral", whole=True, steps=3000),
    "brighten_dark": Course(
        _with_others(_very_dark, Kind.LOW_LIGHT), start="brighten_mild", network="bilateral", whole=True, steps=2500
    ),
    "upscale_x2": Course(_smaller(2), network="upscaler_x2", scale=2, steps=2000),
    "upscale_x4": Course(_smaller(4), network="upscaler_x4", scale=4, steps=3500),
}
"""Every expert in the order in which they can be trained; all but ``deblur_motion`` ship."""

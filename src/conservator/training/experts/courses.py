"""What each expert learns: the damage that its training crops get."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TypeAlias

import numpy as np

from conservator.degradations import (
    NATURE,
    Degradation,
    GaussianBlur,
    GaussianNoise,
    JpegCompression,
    Kind,
    Recipe,
)
from conservator.degradations.noise import draw_seed
from conservator.training.data import makes
from conservator.training.data.crops import Damage, Lesson

Draw: TypeAlias = Callable[[np.random.Generator], Recipe]

CLEAN_SHARE = 0.08
"""Of the crops stay undamaged: an expert must leave a photo alone that lacks its damage. With 0.15, and 0.1 more that
kept the damage of others, a denoiser left most of the noise of real photos (docs/results/experts_base.md)."""
CLEAN_SCENES = 0.25
"""Undamaged where haze and darkness are learned, which a photo of something gray or dark looks like."""


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
    side: int = 128
    """Pixels of a damaged crop."""
    batch: int = 10
    """Crops of one step."""


_SCENES = (Kind.LOW_LIGHT, Kind.HAZE, Kind.RAIN)


def _expert(main: Draw, kind: Kind) -> Damage:
    """The main damage, in half of the crops with a little of others where a camera adds them, in some with a scene's.

    RL-Restore gives all its tools' data slight noise and JPEG: in a toolchain no tool meets its damage alone. What
    belongs to the scene (darkness, haze, rain) is in the target, too: it is for other tools.
    """

    def damage(rng: np.random.Generator) -> Lesson:
        if rng.random() < (CLEAN_SCENES if kind in _SCENES[:2] else CLEAN_SHARE):
            return Lesson(())
        before, after = _traces(rng, kind) if rng.random() < 0.5 else ((), ())
        scene: Recipe = ()
        if rng.random() < 0.25:
            other = _SCENES[int(rng.integers(len(_SCENES)))]
            scene = () if other is kind else makes.EVERY[other](rng)
        behind = kind is Kind.RAIN and rng.random() < 0.5  # the protocol's rain falls in front of haze, or in it
        first, then = ((), scene) if behind else (scene, ())
        return Lesson((*first, *before, *main(rng), *then, *after), scene)

    return damage


def _traces(rng: np.random.Generator, kind: Kind) -> tuple[Recipe, Recipe]:
    """A little of what a camera adds, before and after damage of ``kind``."""
    before: list[Degradation] = []
    after: list[Degradation] = []
    if kind is not Kind.DEFOCUS_BLUR and rng.random() < 0.3:
        before.append(GaussianBlur(rng.uniform(0.3, 0.8)))
    if kind is not Kind.NOISE and rng.random() < 0.6:
        noise = GaussianNoise(rng.uniform(0, 12) / 255, draw_seed(rng))
        (before if kind is Kind.JPEG else after).append(noise)
    if kind is not Kind.JPEG and rng.random() < 0.6:
        after.append(JpegCompression(int(rng.integers(20, 96)), makes.subsampling(rng)))
    return tuple(before), tuple(after)


def _blurred(rng: np.random.Generator) -> Lesson:
    """A blur of motion or focus, known roughly, half of the time under noise, half under JPEG.

    One crop in twelve is sharp, and one in twenty is blurred otherwise than is believed: an estimator errs, and what it
    says must then not be followed.
    """
    draw = partial(makes.motion if rng.random() < 0.55 else makes.defocus, rng)
    fate, blur = rng.random(), draw()
    known = tuple(makes.roughly(damage, rng) for damage in (draw() if fate < 0.05 else blur))
    if fate > 11 / 12:
        blur = ()
    rest: list[Degradation] = []
    if rng.random() < 0.5:
        rest += makes.sensor_noise(rng, 0.5, 50 * rng.random() + 1)
    if rng.random() < 0.5:
        rest += makes.jpeg(rng, 10, 95)
    return Lesson((*blur, *rest), known=known)


def _anything(rng: np.random.Generator) -> Lesson:
    """Up to three damages in the order of nature: scene, optics, sensor, codec."""
    count = int(rng.choice([0, 1, 2, 3], p=[0.1, 0.42, 0.3, 0.18]))
    kinds = list(makes.EVERY)
    return Lesson(_in_nature({kinds[i] for i in rng.choice(len(kinds), count, replace=False)}, rng))


def _in_nature(kinds: set[Kind], rng: np.random.Generator) -> Recipe:
    return tuple(damage for kind in NATURE if kind in kinds for damage in makes.EVERY[kind](rng))


def _smaller(factor: int) -> Damage:
    return lambda rng: Lesson(makes.smaller(rng, factor))


_DENOISE, _DEJPEG = partial(_expert, kind=Kind.NOISE), partial(_expert, kind=Kind.JPEG)
_DARK = partial(_expert, kind=Kind.LOW_LIGHT)


def _course(damage: Damage, steps: int, start: str | None = "denoise_medium") -> Course:
    return Course(damage, start, steps, side=192, batch=5)


def _scene(damage: Damage, steps: int, start: str | None = None) -> Course:
    return Course(damage, start, steps, network="bilateral_leaky", whole=True, batch=16)


def _upscaler(factor: int, steps: int) -> Course:
    return Course(_smaller(factor), None, steps, f"upscaler_x{factor}", scale=factor, side=48, batch=16)


COURSES: dict[str, Course] = {
    "dehaze": _scene(_expert(makes.haze, Kind.HAZE), 7000),
    "brighten_mild": _scene(_DARK(makes.mildly_dark), 3500),
    "brighten_dark": _scene(_DARK(makes.very_dark), 2000, "brighten_mild"),
    "denoise_medium": _course(_DENOISE(partial(makes.white_noise, low=1, high=55)), 10_500, None),
    "deblur": Course(_blurred, "denoise_medium", steps=14_000, network="unet_deblur"),
    "dejpeg_severe": _course(_DEJPEG(partial(makes.jpeg, low=5, high=50)), 9000),
    "derain": _course(_expert(makes.rain, Kind.RAIN), 4500),
    "denoise_light": _course(_DENOISE(partial(makes.white_noise, low=1, high=20)), 1500, "denoise_medium"),
    "denoise_heavy": _course(_DENOISE(partial(makes.white_noise, low=25, high=70)), 1500, "denoise_medium"),
    "dejpeg_mild": _course(_DEJPEG(partial(makes.jpeg, low=35, high=95)), 1500, "dejpeg_severe"),
    "deblur_defocus": _course(_expert(makes.defocus, Kind.DEFOCUS_BLUR), 4000),
    "upscale_x2": _upscaler(2, 20_000),
    "upscale_x4": _upscaler(4, 20_000),
    "generalist": Course(_anything, "denoise_medium", steps=50_000),
}
"""Every expert in the order in which they are trained; ``deblur`` does not ship yet.

The steps are those of what ships, where that was trained for as long or longer than in later trials. One base of mixed
damage for all did not pay (docs/results/experts_base.md). The generalist, a rival to the whole toolbox, has as many
steps as all of it together.
"""

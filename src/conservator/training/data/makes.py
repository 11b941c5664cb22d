"""The makes of each kind of damage that trainings draw; what is held out for benches is not among them."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from typing import Literal

import numpy as np

from conservator.degradations import (
    AreaReduction,
    CameraNoise,
    DefocusBlur,
    Degradation,
    Downpour,
    FilmGrain,
    GaussianBlur,
    GaussianNoise,
    Haze,
    JpegCompression,
    LineBlur,
    LowLight,
    LowResolution,
    LuminanceNoise,
    MotionBlur,
    PoissonNoise,
    Rain,
    RawNoise,
    Recipe,
    RoomHaze,
    Severity,
    ShiftedJpeg,
    UnevenHaze,
    VeiledRain,
)
from conservator.degradations.noise import draw_seed
from conservator.errors import ConservatorError
from conservator.kinds import Kind


def any_severity(rng: np.random.Generator) -> Severity:
    """LOW to VERY_HIGH, each as likely."""
    return Severity(int(rng.integers(1, 5)))


def sensor_noise(rng: np.random.Generator, low: float, high: float) -> Recipe:
    """Any noise, about as strong as Gaussian noise of sigma ``low`` to ``high`` (of 255)."""
    sigma, make = rng.uniform(low, high), rng.random()
    if make < 0.4:
        return (GaussianNoise(sigma / 255, draw_seed(rng)),)
    if make < 0.5:
        return (LuminanceNoise(sigma / 255, draw_seed(rng)),)
    if make < 0.6:
        return (PoissonNoise(sigma / 11, draw_seed(rng)),)
    if make < 0.7:
        return (FilmGrain(sigma / 255, rng.uniform(0.2, 1.4), rng.choice([0, rng.uniform(0, 1)]), draw_seed(rng)),)
    # a mid-gray of a developed photo shows sqrt(shot) times 150 to 190 levels of noise
    shot = (max(sigma, 1.0) / 190) ** 2
    if make < 0.8:
        return (CameraNoise(math.sqrt(shot) * rng.uniform(0.03, 0.15), shot, draw_seed(rng)),)
    raw = RawNoise.of_shot(shot, rng)
    return (raw, JpegCompression(int(rng.integers(70, 100)), subsampling(rng))) if rng.random() < 0.6 else (raw,)


def any_noise(rng: np.random.Generator) -> Recipe:
    """Any noise, sigma 1.5 to 55 of 255, faint as often as strong (even in its logarithm): that of cameras is faint."""
    sigma = math.exp(rng.uniform(math.log(1.5), math.log(55)))
    return sensor_noise(rng, sigma, sigma)


def white_noise(rng: np.random.Generator, low: float, high: float) -> Recipe:
    """Noise whose pixels know nothing of each other, as strong as Gaussian noise of sigma ``low`` to ``high``."""
    sigma, make = rng.uniform(low, high), rng.random()
    if make < 0.65:
        return (GaussianNoise(sigma / 255, draw_seed(rng)),)
    if make < 0.85:
        return (PoissonNoise(sigma / 11, draw_seed(rng)),)
    shot = (max(sigma, 1.0) / 190) ** 2
    return (CameraNoise(math.sqrt(shot) * rng.uniform(0.03, 0.15), shot, draw_seed(rng)),)


def jpeg(rng: np.random.Generator, low: int, high: int) -> Recipe:
    """JPEG of quality ``low`` to ``high``, one in three after another JPEG, whose blocks mostly lie elsewhere."""
    last = JpegCompression(int(rng.integers(low, high, endpoint=True)), subsampling(rng))
    again = rng.random()
    if again > 1 / 3:
        return (last,)
    first, sampling = int(rng.integers(low, 95, endpoint=True)), subsampling(rng)
    if again < 0.08:
        return (JpegCompression(first, sampling), last)
    return (ShiftedJpeg(first, int(rng.integers(16)), int(rng.integers(16)), sampling), last)


def subsampling(rng: np.random.Generator) -> Literal["4:4:4", "4:2:2", "4:2:0"]:
    """Of a JPEG's colours, as common as it is met."""
    share = rng.random()
    return "4:2:0" if share < 0.6 else "4:4:4" if share < 0.85 else "4:2:2"


def motion(rng: np.random.Generator) -> Recipe:
    """A shake along a line: even, fading, or to one side as ImageNet-C has it."""
    make = rng.random()
    if make < 0.25:  # the protocol's own kernels
        radius, sigma = ((10, 3.0), (15, 5.0), (15, 8.0))[int(rng.integers(3))]
        return (MotionBlur(radius, sigma, rng.uniform(-180, 180)),)
    if make < 0.5:
        return (MotionBlur(int(rng.integers(4, 17)), rng.uniform(0.8, 9), rng.uniform(-180, 180)),)
    return (LineBlur(rng.uniform(2, 28), rng.uniform(-180, 180), 0.0 if rng.random() < 0.5 else rng.uniform(0, 1)),)


def defocus(rng: np.random.Generator) -> Recipe:
    """A disk of up to 7 pixels, or a Gaussian of up to 4."""
    if rng.random() < 0.65:
        return (DefocusBlur(rng.uniform(0.8, 7), rng.uniform(0.1, 0.6)),)
    return (GaussianBlur(rng.uniform(0.3, 4)),)


def roughly(blur: Degradation, rng: np.random.Generator) -> Degradation:
    """A blur as it would be estimated: its direction 2 degrees off, its extent 8 %, or a fifth of a pixel of a disk."""
    share, turn = 1 + rng.uniform(-0.08, 0.08), rng.uniform(-2, 2)
    match blur:
        case MotionBlur():
            return replace(blur, sigma=blur.sigma * share, angle=_turned(blur.angle, turn))
        case LineBlur():
            fade = min(1.0, max(0.0, blur.fade + rng.uniform(-0.2, 0.2)))
            return replace(blur, length=blur.length * share, angle=_turned(blur.angle, turn), fade=fade)
        case DefocusBlur():
            return replace(blur, radius=max(0.5, blur.radius + rng.uniform(-0.2, 0.2)))
        case GaussianBlur():
            return replace(blur, sigma=blur.sigma * share)
    raise ConservatorError(f"{blur} is no blur that is estimated")


def _turned(angle: float, by: float) -> float:
    return (angle + by + 180) % 360 - 180


def rain(rng: np.random.Generator) -> Recipe:
    """Streaks as the protocol has them, of any density, length and slope, in sheets, or in layers with a veil."""
    make = rng.random()
    if make < 0.3:
        return (Rain.sample(any_severity(rng), rng),)
    if make < 0.55:
        return (Downpour.sample(any_severity(rng), rng),)
    if make < 0.8:
        return (VeiledRain.sample(any_severity(rng), rng),)
    width, length = int(rng.choice([1, 3, 5, 7])), int(rng.integers(8, 90))
    return (Rain(rng.uniform(5, 160), length, rng.uniform(-45, 45), width, draw_seed(rng)),)


def haze(rng: np.random.Generator) -> Recipe:
    """Air even or in banks over a landscape, or in a room; one landscape in four under dim air, as at dusk."""
    make = rng.random()
    if make < 0.3:
        return (Haze.sample(any_severity(rng), rng),)
    if make < 0.55:
        return (RoomHaze.sample(any_severity(rng), rng),)
    uneven = UnevenHaze.sample(any_severity(rng), rng)
    dim = rng.uniform(0.3, 0.9) if make > 0.85 else 1.0
    return (replace(uneven, red=dim * uneven.red, green=dim * uneven.green, blue=dim * uneven.blue),)


def mildly_dark(rng: np.random.Generator) -> Recipe:
    """The protocol's but for its darkest."""
    return (LowLight.sample(Severity(int(rng.integers(1, 4))), rng),)


def very_dark(rng: np.random.Generator) -> Recipe:
    """The darker half of the protocol's, and night beyond it: gamma to 4, white down to an eighth."""
    share = rng.random()
    if share < 0.7:
        return (LowLight.sample(Severity(int(rng.integers(3, 5))), rng),)
    if share < 0.85:
        return (LowLight("gamma", rng.uniform(0.25, 0.5)),)
    return (LowLight("linear", rng.uniform(0.12, 0.4)),)


def darkness(rng: np.random.Generator) -> Recipe:
    """Any of the two."""
    return mildly_dark(rng) if rng.random() < 0.5 else very_dark(rng)


def smaller(rng: np.random.Generator, factor: int) -> Recipe:
    """Reduced by bicubic, one time in five by the mean of areas."""
    return (AreaReduction(factor) if rng.random() < 0.2 else LowResolution(factor),)


EVERY: Mapping[Kind, Callable[[np.random.Generator], Recipe]] = {
    Kind.LOW_LIGHT: darkness,
    Kind.HAZE: haze,
    Kind.RAIN: rain,
    Kind.DEFOCUS_BLUR: defocus,
    Kind.MOTION_BLUR: motion,
    Kind.NOISE: partial(sensor_noise, low=1, high=55),
    Kind.JPEG: partial(jpeg, low=5, high=95),
}
"""All that is learned, in the order of nature; Gaussian blur is one of the makes of defocus."""

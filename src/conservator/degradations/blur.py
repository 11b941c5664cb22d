"""Blur of motion, of focus and of nothing in particular. Lengths are in pixels."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from conservator.degradations.degradation import Degradation, by_severity, grade
from conservator.degradations.fields import Range
from conservator.degradations.kernels import (
    convolve,
    convolve_separable,
    gather_taps,
    gaussian_window,
    line_taps,
    path_taps,
)
from conservator.image import Image
from conservator.kinds import Kind, Severity


@dataclass(frozen=True)
class MotionBlur(Degradation):
    """A camera that moves along a line while it slows down: the blur of ImageMagick and ImageNet-C.

    Each pixel is the mean of the ``2 * radius + 1`` pixels on a ray from it, weighted by one half of a Gaussian of
    ``sigma`` pixels, positions rounded to whole pixels; ``angle`` in degrees, 0 to the right and 90 down. The ray is
    one-sided, so the picture also moves by about 0.8 sigma. AgenticIR: (radius, sigma) is (10, 3), (15, 5) or (15, 8).
    Samples radius and sigma: LOW 5, 1-1.8; MEDIUM 8, 1.8-3; HIGH 12, 3-5; VERY_HIGH 15, 5-8; any direction.
    """

    kind: ClassVar[Kind] = Kind.MOTION_BLUR
    radius: Annotated[int, Range(0, 256)]
    sigma: Annotated[float, Range(0.1, 256)]
    angle: Annotated[float, Range(-180, 180)]

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        radius = by_severity(severity, 5, 8, 12, 15)
        sigma = rng.uniform(*by_severity(severity, (1, 1.8), (1.8, 3), (3, 5), (5, 8)))
        return cls(radius=radius, sigma=sigma, angle=rng.uniform(-90, 90))

    @property
    def severity(self) -> Severity:
        return grade(self.sigma, 1.8, 3, 5)

    def __call__(self, image: Image) -> Image:
        length = 2 * self.radius + 1
        weights = [math.exp(-0.5 * (i / self.sigma) ** 2) for i in range(length)]
        total = sum(weights)
        taps = line_taps([weight / total for weight in weights], self.angle)
        canvas = F.pad(image, (length,) * 4, mode="replicate")
        return gather_taps(canvas, taps, (length, length)).clamp_(0, 1)


@dataclass(frozen=True)
class LineBlur(Degradation):
    """A straight shake: the mean along a line of ``length`` pixels through each pixel, drawn between the pixels, too.

    ``angle`` in degrees, 0 to the right and 90 down. Light falls along the line from 1 to 1 - ``fade``: 0 for an even
    movement, 1 for one that comes to rest. The line's centre of mass lies on the pixel: the picture stays in place.
    Samples length: LOW 3-6, MEDIUM 7-12, HIGH 13-20, VERY_HIGH 21-31; fade 0 in half of the cases, else 0-1.
    """

    kind: ClassVar[Kind] = Kind.MOTION_BLUR
    length: Annotated[float, Range(0, 256)]
    angle: Annotated[float, Range(-180, 180)]
    fade: Annotated[float, Range(0, 1)]

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        length = rng.uniform(*by_severity(severity, (3, 6), (7, 12), (13, 20), (21, 31)))
        return cls(length, rng.uniform(-180, 180), 0.0 if rng.random() < 0.5 else rng.uniform(0, 1))

    @property
    def severity(self) -> Severity:
        return grade(self.length, 6.5, 12.5, 20.5)

    def __call__(self, image: Image) -> Image:
        share = (np.arange(max(1, math.ceil(4 * self.length))) + 0.5) / max(1, math.ceil(4 * self.length))
        weights = 1 - self.fade * share
        along = (share - (weights * share).sum() / weights.sum()) * self.length
        turn = math.radians(self.angle)
        taps = path_taps(along * math.sin(turn), along * math.cos(turn), weights)
        margin = math.ceil(self.length) + 1
        return gather_taps(F.pad(image, (margin,) * 4, mode="replicate"), taps, (margin, margin)).clamp_(0, 1)


@dataclass(frozen=True)
class DefocusBlur(Degradation):
    """A lens out of focus: a disk of ``radius`` pixels, its edge smoothed by a 3x3 Gaussian of ``alias_blur`` pixels.

    The kernel of ImageNet-C (Hendrycks and Dietterich 2019; above 8 px its window is 5x5). Here borders are repeated.
    AgenticIR: (radius, alias_blur) is (3, 0.1), (4, 0.5) or (6, 0.5).
    Samples radius: LOW 1-2, MEDIUM 2-3, HIGH 3-4.5, VERY_HIGH 4.5-6; alias_blur 0.1-0.5.
    """

    kind: ClassVar[Kind] = Kind.DEFOCUS_BLUR
    radius: Annotated[float, Range(0, 64)]
    alias_blur: Annotated[float, Range(0, 10)]

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        radius = rng.uniform(*by_severity(severity, (1, 2), (2, 3), (3, 4.5), (4.5, 6)))
        return cls(radius=radius, alias_blur=rng.uniform(0.1, 0.5))

    @property
    def severity(self) -> Severity:
        return grade(self.radius, 2, 3, 4.5)

    def __call__(self, image: Image) -> Image:
        return convolve(image, self._kernel()).clamp_(0, 1)

    def _kernel(self) -> Tensor:
        smooth = 1 if self.radius <= 8 else 2
        reach = math.floor(self.radius) + smooth
        x = torch.arange(-reach, reach + 1).square()
        disk = (x[:, None] + x[None, :] <= self.radius**2).float()
        disk /= disk.sum()
        return convolve_separable(disk[None, None], gaussian_window(self.alias_blur, smooth))[0, 0]


@dataclass(frozen=True)
class GaussianBlur(Degradation):
    """RL-Restore's blur: a Gaussian of ``sigma`` pixels in a 21x21 window, borders repeated.

    Samples sigma: LOW 0.5-1, MEDIUM 1-2, HIGH 2-3.5, VERY_HIGH 3.5-5.
    """

    kind: ClassVar[Kind] = Kind.GAUSSIAN_BLUR
    sigma: Annotated[float, Range(0, 10)]

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        return cls(sigma=rng.uniform(*by_severity(severity, (0.5, 1), (1, 2), (2, 3.5), (3.5, 5))))

    @property
    def severity(self) -> Severity:
        return grade(self.sigma, 1, 2, 3.5)

    def __call__(self, image: Image) -> Image:
        return convolve_separable(image, gaussian_window(self.sigma, radius=10)).clamp_(0, 1)

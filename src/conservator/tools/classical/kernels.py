"""Families of blur kernels that the deblurring tools look for. Kernels are (k, k), k odd, and sum to 1."""

from __future__ import annotations

import math
from collections.abc import Iterator

import torch
from torch import Tensor

from conservator.degradations.kernels import line_taps
from conservator.tools.classical.blur_model import Family


def motion_kernels() -> Iterator[Tensor]:
    """Lines in 45 directions: even ones of 5 to 30 pixels, and ones that fade as half a Gaussian of 1.5 to 8 pixels.

    A fading line is one-sided, as in ImageMagick's motion blur; its turned copy has the same power spectrum.
    """
    for angle in range(0, 180, 4):
        for length in (5, 7, 9, 12, 15, 19, 24, 30):
            yield _line([1.0 / length] * length, angle, centred=True)
        for sigma in (1.5, 2.0, 2.5, 3.0, 4.0, 5.0, 6.5, 8.0):
            weights = [math.exp(-0.5 * (i / sigma) ** 2) for i in range(math.ceil(3 * sigma) + 1)]
            yield _line([weight / sum(weights) for weight in weights], angle, centred=False)


def defocus_kernels() -> Iterator[Tensor]:
    """Disks with a smooth rim, radius 1.5 to 8 pixels."""
    for radius in (1.5, 2, 2.5, 3, 3.5, 4, 4.5, 5, 5.5, 6, 7, 8):
        distance = _distance(math.ceil(radius) + 1)
        yield _normalised((radius + 0.5 - distance).clamp(0, 1))


def gaussian_kernels() -> Iterator[Tensor]:
    """Gaussians of 0.75 to 5 pixels."""
    for sigma in (0.75, 1, 1.25, 1.5, 1.75, 2, 2.5, 3, 3.5, 4, 4.5, 5):
        distance = _distance(math.ceil(3 * sigma) + 1)
        yield _normalised(torch.exp(-0.5 * (distance / sigma) ** 2))


def _line(weights: list[float], angle: float, *, centred: bool) -> Tensor:
    reach = len(weights)
    kernel = torch.zeros(2 * reach + 1, 2 * reach + 1)
    shift = (reach - 1) / 2 if centred else 0.0
    dy, dx = (round(shift * f(math.radians(angle))) for f in (math.sin, math.cos))
    for (y, x), weight in line_taps(weights, angle).items():
        kernel[reach + y - dy, reach + x - dx] += weight
    return kernel


def _distance(reach: int) -> Tensor:
    x = torch.arange(-reach, reach + 1.0)
    return torch.hypot(*torch.broadcast_tensors(x[:, None], x[None]))


def _normalised(kernel: Tensor) -> Tensor:
    return kernel / kernel.sum()


MOTION = Family(motion_kernels, convincing=0.5, least_bins=100)
DEFOCUS = Family(defocus_kernels, convincing=0.5, least_bins=12)
GAUSSIAN = Family(gaussian_kernels, convincing=0.3, least_bins=12)
"""Limits found on photos of the training set: none of the sharp ones is taken for blurred. There are many more motion
kernels, so a motion needs more evidence; a denoised photo resembles one behind a Gaussian."""

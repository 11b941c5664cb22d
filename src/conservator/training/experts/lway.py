"""Train LWay's degradation transfer: one part of a photo degraded, and another part to be degraded in the same way."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from torch.utils.data import Dataset

from conservator.degradations import (
    AreaReduction,
    DefocusBlur,
    GaussianBlur,
    GaussianNoise,
    JpegCompression,
    LowResolution,
    PoissonNoise,
    Recipe,
    degrade,
)
from conservator.degradations.kernels import convolve
from conservator.degradations.noise import draw_seed
from conservator.image import Image
from conservator.networks.lway import DegradationTransfer
from conservator.resample import bicubic_to
from conservator.training.data import makes
from conservator.training.data.crops import Photos, random_crop, validation_set_of
from conservator.training.experts.train import Budget, Trained, never, train_network
from conservator.training.run import Belongs

SIDE = 128
"""Pixels of a crop."""
BATCH = 8
_BORDER = 32
"""Pixels around a crop that are degraded with it and cut off; a multiple of every reduction and of JPEG's blocks."""


@dataclass(frozen=True)
class Transfers(Dataset[tuple[Image, Image]]):
    """Item ``step`` is the batch of that step: (B, 6, side, side), and the first picture of each, degraded.

    The second picture is another part of the same photo at the same size, degraded in the same way.
    """

    photos: Sequence[Sequence[NDArray[np.uint8]]]
    batch: int
    seed: int
    steps: int
    side: int = SIDE

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Image, Image]:
        pairs = [self.pair(np.random.default_rng([self.seed, step, i])) for i in range(self.batch)]
        given, wanted = (torch.cat(images) for images in zip(*pairs, strict=True))
        return given, wanted

    def pair(self, rng: np.random.Generator) -> tuple[Image, Image]:
        """One picture with another one that shows its degradation, and the picture degraded."""
        pyramid = self.photos[int(rng.integers(len(self.photos)))]
        level = [pyramid[int(rng.integers(len(pyramid)))]]
        if min(level[0].shape[:2]) < self.side + 2 * _BORDER:
            level = [pyramid[0]]
        damage = degradation(rng)
        whole = self.side + 2 * _BORDER
        (clean, damaged), (_, other) = ((crop, damage(crop)) for crop in (random_crop(level, whole, rng) for _ in "ab"))
        inner = (..., slice(_BORDER, -_BORDER), slice(_BORDER, -_BORDER))
        if rng.random() < 0.5:  # what is known at test time is the photo itself, not another part
            other = damaged
        return torch.cat([clean[inner], other[inner]], 1), damaged[inner]


def degradation(rng: np.random.Generator) -> Callable[[Image], Image]:
    """What a photo went through that is to be enlarged 2 or 4 times: blur, reduction, noise, JPEG, and enlargement.

    One time in four nothing but the reduction, as the upscalers were trained.
    """
    scale = int(rng.choice([2, 4], p=[0.6, 0.4]))
    reduction = AreaReduction(scale) if rng.random() < 0.25 else LowResolution(scale)
    if rng.random() < 0.25:
        return lambda image: _enlarged(degrade(image, (reduction,)), image)
    kernel = _kernel(rng, scale) if rng.random() < 0.85 else None
    after: Recipe = ()
    if rng.random() < 0.5:
        sigma = rng.uniform(0.5, 15)
        after += (PoissonNoise(sigma / 11, draw_seed(rng)) if rng.random() < 0.3 else GaussianNoise(sigma / 255, draw_seed(rng)),)
    if rng.random() < 0.5:
        after += (JpegCompression(int(rng.integers(40, 100)), makes.subsampling(rng)),)

    def applied(image: Image) -> Image:
        blurred = image if kernel is None else kernel(image)
        return _enlarged(degrade(blurred, (reduction, *after)), image)

    return applied


def _enlarged(small: Image, like: Image) -> Image:
    small = (small * 255).round() / 255  # as a file holds it
    return bicubic_to(small, *like.shape[-2:]).clamp(0, 1)


def _kernel(rng: np.random.Generator, scale: int) -> Callable[[Image], Image]:
    """A blur before the reduction: Gaussian of 0.3 to 2.4 small pixels, alike in all directions or not, or a disk."""
    make = rng.random()
    if make < 0.4:
        return GaussianBlur(scale * rng.uniform(0.15, 1.2) if scale == 2 else rng.uniform(0.6, 4.8))
    if make < 0.55:
        return DefocusBlur(rng.uniform(0.8, 2.2 * scale), rng.uniform(0.1, 0.6))
    long, short = sorted(scale * rng.uniform(0.3, 1.4, 2), reverse=True)
    kernel = anisotropic(long, short, rng.uniform(0, math.pi))
    return lambda image: convolve(image, kernel).clamp_(0, 1)


def anisotropic(long: float, short: float, angle: float) -> torch.Tensor:
    """A Gaussian kernel (K, K) that sums to 1, with deviations in pixels along and across an angle in radians."""
    reach = max(1, math.ceil(3 * long))
    y, x = torch.meshgrid(*(torch.arange(-reach, reach + 1, dtype=torch.float32),) * 2, indexing="ij")
    along, across = x * math.cos(angle) + y * math.sin(angle), y * math.cos(angle) - x * math.sin(angle)
    kernel = torch.exp(-0.5 * ((along / long) ** 2 + (across / short) ** 2))
    return kernel / kernel.sum()


def train_transfer(
    photos: Photos,
    folder: Path,
    budget: Budget,
    stop: Callable[[], bool] = never,
    report: Callable[[str], None] = print,
) -> Trained:
    """Train a DegradationTransfer; resumes from ``folder``. What it is worth is how near it comes to what was degraded."""
    batches, unseen = (
        Transfers(pyramids, budget.batch, budget.seed, budget.steps) for pyramids in (photos.training, photos.held_out)
    )
    belongs = Belongs({"photos": photos.digest, "network": "lway 1"})
    return train_network(
        DegradationTransfer(),
        batches,
        validation_set_of(unseen.pair, budget.seed, 32),
        folder,
        budget,
        belongs=belongs,
        stop=stop,
        report=report,
    )

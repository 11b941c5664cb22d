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
from conservator.training.data import makes
from conservator.training.data.crops import Photos, random_crop, validation_set_of
from conservator.training.experts.train import Budget, Trained, never, train_network
from conservator.training.run import Belongs

SIDE = 64
"""Pixels of a small crop."""
BATCH = 8
_BORDER = 16
"""Pixels around a small crop that are degraded with it and cut off; a multiple of JPEG's blocks."""


@dataclass(frozen=True)
class Transfers(Dataset[tuple[Image, Image]]):
    """Item ``step`` is the batch of that step: what ``DegradationTransfer`` takes, and what it is to give.

    The photo that shows the degradation is another part of the same photo, degraded in the same way, or the very photo
    that is wanted, as it is when a photo is enlarged.
    """

    photos: Sequence[Sequence[NDArray[np.uint8]]]
    scale: int
    batch: int
    seed: int
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Image, Image]:
        pairs = [self.pair(np.random.default_rng([self.seed, step, i])) for i in range(self.batch)]
        given, wanted = (torch.cat(images) for images in zip(*pairs, strict=True))
        return given, wanted

    def pair(self, rng: np.random.Generator) -> tuple[Image, Image]:
        """One picture with another one that shows its degradation, and the picture degraded."""
        pyramid = self.photos[int(rng.integers(len(self.photos)))]
        side, border = SIDE * self.scale, _BORDER * self.scale
        level = [pyramid[int(rng.integers(len(pyramid)))]]
        if min(level[0].shape[:2]) < side + 2 * border:
            level = [pyramid[0]]
        damage = degradation(rng, self.scale)
        crops = [random_crop(level, side + 2 * border, rng) for _ in range(2)]
        small, other = (damage(crop)[..., _BORDER:-_BORDER, _BORDER:-_BORDER] for crop in crops)
        if rng.random() < 0.5:
            other = small
        corner = torch.zeros(1, 3, side, side)
        corner[..., :SIDE, :SIDE] = other
        return torch.cat([crops[0][..., border:-border, border:-border], corner], 1), small


def degradation(rng: np.random.Generator, scale: int) -> Callable[[Image], Image]:
    """What a photo went through that is to be enlarged by ``scale``: blur, reduction, noise, JPEG.

    One time in four nothing but the bicubic reduction, as the upscalers were trained.
    """
    reduction = LowResolution(scale)
    if rng.random() < 0.25:
        return lambda image: _small(image, (reduction,))
    if rng.random() < 0.15:
        reduction = AreaReduction(scale)  # type: ignore[assignment]
    kernel = _kernel(rng) if rng.random() < 0.85 else None
    after: Recipe = ()
    if rng.random() < 0.5:
        sigma = rng.uniform(0.5, 15)
        poisson = rng.random() < 0.3
        seed = draw_seed(rng)
        after += (PoissonNoise(sigma / 11, seed) if poisson else GaussianNoise(sigma / 255, seed),)
    if rng.random() < 0.5:
        after += (JpegCompression(int(rng.integers(40, 100)), makes.subsampling(rng)),)
    return lambda image: _small(image if kernel is None else kernel(image), (reduction, *after))


def _small(image: Image, recipe: Recipe) -> Image:
    return (degrade(image, recipe) * 255).round() / 255  # as a file holds it


def _kernel(rng: np.random.Generator) -> Callable[[Image], Image]:
    """A blur before the reduction: Gaussian of 0.3 to 4 pixels, alike in all directions or not, or a disk."""
    make = rng.random()
    if make < 0.4:
        return GaussianBlur(rng.uniform(0.3, 4))
    if make < 0.55:
        return DefocusBlur(rng.uniform(0.8, 5), rng.uniform(0.1, 0.6))
    short, long = sorted(rng.uniform(0.3, 4, 2))
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
    scale: int,
    folder: Path,
    budget: Budget,
    stop: Callable[[], bool] = never,
    report: Callable[[str], None] = print,
) -> Trained:
    """Train a DegradationTransfer; resumes from ``folder``. What it is worth is how near it comes to what was degraded."""
    batches, unseen = (
        Transfers(pyramids, scale, budget.batch, budget.seed, budget.steps) for pyramids in (photos.training, photos.held_out)
    )
    belongs = Belongs({"photos": photos.digest, "network": f"lway x{scale}"})
    return train_network(
        DegradationTransfer(scale),
        batches,
        validation_set_of(unseen.pair, budget.seed, 32),
        folder,
        budget,
        belongs=belongs,
        stop=stop,
        report=report,
    )

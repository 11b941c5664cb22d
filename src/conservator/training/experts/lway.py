"""Train LWay's degradation transfer: one part of a photo degraded, and another part to be degraded in the same way."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from conservator.degradations import (
    AreaReduction,
    DefocusBlur,
    GaussianBlur,
    JpegCompression,
    LineBlur,
    LowResolution,
    Recipe,
    degrade,
)
from conservator.image import Image
from conservator.networks.lway import DegradationTransfer, answer, lesson
from conservator.resample import bicubic_to
from conservator.training.data import makes
from conservator.training.data.crops import Photos, random_crop, validation_set_of
from conservator.training.experts.train import Budget, Trained, never, train_network
from conservator.training.run import Belongs

_SIDES = {2: 64, 4: 48}
"""Pixels of a small crop, by how many times smaller it is than its picture."""
_BORDER = 16
"""Pixels around a small crop that are degraded with it and cut off: JPEG's blocks are as long."""
_EPSILON = 3e-6
"""Mean square error (55 dB) below which an improvement counts no more: about that of rounding to 8 bits."""


@dataclass(frozen=True)
class Transfers(Dataset[tuple[Tensor, Image]]):
    """Item ``step`` is the batch of that step: what ``DegradationTransfer`` takes, and what it is to give.

    The photo that shows the degradation is another part of the same photo, degraded in the same way, or the very photo
    that is wanted, as it is when a photo is enlarged. Every third batch is of pictures four times as large, the others
    of pictures twice as large.
    """

    photos: Sequence[Sequence[NDArray[np.uint8]]]
    batch: int
    seed: int
    steps: int

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Tensor, Image]:
        scale = 4 if step % 3 == 2 else 2
        pairs = [self.pair(np.random.default_rng([self.seed, step, i]), scale) for i in range(self.batch)]
        given, wanted = (torch.cat(images) for images in zip(*pairs, strict=True))
        return given, wanted

    def pair(self, rng: np.random.Generator, scale: int = 2) -> tuple[Tensor, Image]:
        """One picture with another one that shows its degradation, and the picture degraded, twice."""
        side, border = _SIDES[scale] * scale, _BORDER * scale
        pyramid = self.photos[int(rng.integers(len(self.photos)))]
        level = pyramid[int(rng.integers(len(pyramid)))]
        if min(level.shape[:2]) < side + 2 * border:
            level = pyramid[0]
        blur, rest = degradation(rng, scale)
        crops = [random_crop([level], side + 2 * border, rng) for _ in range(2)]
        reduced = [degrade(crop, (*blur, rest[0])) for crop in crops]
        done = [_as_a_file(degrade(x, rest[1:])) for x in reduced]
        shown = int(rng.integers(2))
        small, other, error = (_inside(x, _BORDER) for x in (done[0], done[shown], done[shown] - reduced[shown]))
        told = spread(blur, isinstance(rest[0], AreaReduction), scale), error.std((2, 3))
        return lesson(other, _inside(crops[0], border)), answer(small, *told)


def degradation(rng: np.random.Generator, scale: int) -> tuple[Recipe, Recipe]:
    """What a photo went through that is to be enlarged by ``scale``: blur; then reduction, noise and JPEG.

    One time in four nothing but the bicubic reduction, as the upscalers were trained. The chances of noise and JPEG are
    those of LWay's own training (the authors' issue 4).
    """
    if rng.random() < 0.25:
        return (), (LowResolution(scale),)
    blur = _softness(rng, scale) if rng.random() < 0.8 else ()
    reduction: Recipe = (AreaReduction(scale),) if rng.random() < 0.15 else (LowResolution(scale),)
    noise = makes.sensor_noise(rng, 0.5, 15) if rng.random() < 0.5 else ()
    jpeg = (JpegCompression(int(rng.integers(40, 100)), makes.subsampling(rng)),) if rng.random() < 0.5 else ()
    return blur, (*reduction, *noise, *jpeg)


def _softness(rng: np.random.Generator, scale: int) -> Recipe:
    """A blur of up to 1.3 small pixels of deviation: alike in all directions, a disk, or drawn out along a line."""
    make, sigma = rng.random(), scale * rng.uniform(0.15, 1.3)
    if make < 0.5:
        return (GaussianBlur(sigma),)
    if make < 0.65:
        return (DefocusBlur(2 * sigma, rng.uniform(0.1, 0.6)),)  # a disk's deviation is half its radius
    length = scale * rng.uniform(0.5, 4)
    return (LineBlur(length, rng.uniform(-90, 90), 0.0), GaussianBlur(scale * rng.uniform(0.15, 0.9)))


def spread(blur: Recipe, area: bool, scale: int) -> Tensor:
    """The numbers (1, 3) of a blur before a reduction, as the reconstructor tells them; ``area`` is a blur of its own.

    A bicubic reduction is none: the second moment of its kernel is 0.
    """
    reach = 14 * scale  # beyond which no kernel of _softness goes
    point = torch.zeros(1, 3, 2 * reach + 1, 2 * reach + 1)
    point[..., reach, reach] = 1
    kernel = degrade(point, blur)[0, 0].double().numpy()
    x = (np.arange(-reach, reach + 1)) / scale
    x, y = np.meshgrid(x, x)
    xx, yy, xy = (float((kernel * moment).sum() / kernel.sum()) for moment in (x * x, y * y, x * y))
    box = (1 - 1 / scale**2) / 12 if area else 0.0
    values, vectors = np.linalg.eigh([[xx + box, xy], [xy, yy + box]])
    root = vectors @ np.diag(np.sqrt(values.clip(0))) @ vectors.T
    return torch.tensor([[root[0, 0], root[1, 1], root[0, 1]]], dtype=torch.float32)


def _inside(image: Image, border: int) -> Image:
    return image[..., border:-border, border:-border]


def _as_a_file(image: Image) -> Image:
    return (image * 255).round() / 255


def train_transfer(
    photos: Photos,
    folder: Path,
    budget: Budget,
    stop: Callable[[], bool] = never,
    report: Callable[[str], None] = print,
) -> Trained:
    """Train a DegradationTransfer; resumes from ``folder``. Its PSNR is of the photos made again to those degraded."""
    batches, unseen = (
        Transfers(pyramids, budget.batch, budget.seed, budget.steps) for pyramids in (photos.training, photos.held_out)
    )
    lessons, answers = validation_set_of(unseen.pair, budget.seed, 64)
    reduced = bicubic_to(F.pixel_shuffle(lessons[:, 3:], 2), *answers.shape[-2:])
    return train_network(
        DegradationTransfer(),
        batches,
        (lessons, answers),
        folder,
        budget,
        untreated=answer(reduced, *torch.zeros(2, len(reduced), 3)),
        epsilon=_EPSILON,
        belongs=Belongs({"photos": photos.digest, "network": "lway"}),
        stop=stop,
        report=report,
    )

"""The patches that agents and tools of RL-Restore's kind learn from."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch.utils.data import Dataset

from conservator.degradations.patches import (
    PATCH_SCALES,
    PATCH_SIDE,
    DrawRecipe,
    Pyramid,
    draw_pair,
)
from conservator.image import Image
from conservator.training.data.crops import Photos

_LONGEST = 640
"""Pixels of a photo's longer side: the protocol's photos are small, and full of detail that a large one lacks."""


def patch_photos(folder: Path) -> Photos:
    """The photos of a folder at the sizes of which the protocol takes patches.

    Raises ConservatorError as ``Photos`` does.
    """
    return Photos(folder, longest=_LONGEST, reductions=[1 / scale for scale in PATCH_SCALES])


PairSource: TypeAlias = Callable[[np.random.Generator], tuple[Image, Image]]
"""Draws a damaged image and the undamaged one, (1, 3, H, W) each."""


@dataclass(frozen=True)
class PatchSource:
    """Draws a damaged patch and the undamaged one, (1, 3, side, side) each."""

    pyramids: Sequence[Pyramid]
    draw: DrawRecipe
    side: int = PATCH_SIDE

    def __call__(self, rng: np.random.Generator) -> tuple[Image, Image]:
        """Equal random numbers, equal pixels."""
        return draw_pair(self.pyramids[int(rng.integers(len(self.pyramids)))], self.draw, rng, self.side)


@dataclass(frozen=True)
class PatchBatches(Dataset[tuple[Image, Image]]):
    """Item ``step`` is the batch of that step: damaged and clean (B, 3, side, side), the same in every run."""

    source: PairSource
    batch: int
    seed: int

    def __getitem__(self, step: int) -> tuple[Image, Image]:
        pairs = [self.source(np.random.default_rng([self.seed, step, i])) for i in range(self.batch)]
        damaged, clean = (torch.cat(images) for images in zip(*pairs, strict=True))
        return damaged, clean

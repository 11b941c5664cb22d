"""The patches that agents and tools of RL-Restore's kind learn from."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch.utils.data import Dataset

from conservator.degradations import Recipe
from conservator.degradations.patches import (
    DAMAGE_BANDS,
    PATCH_LEVELS,
    PATCH_SCALES,
    PATCH_SIDE,
    DrawRecipe,
    Pyramid,
    draw_pair,
    single,
)
from conservator.errors import name_not_found
from conservator.image import Image
from conservator.training.crops import Photos

SHARES: Mapping[str, Mapping[str, float]] = {
    "paper": {"moderate": 0.5, "single": 0.5},
    "mixed": {"mild": 0.3, "moderate": 0.4, "severe": 0.3},
    "all": {"mild": 0.16, "moderate": 0.22, "severe": 0.16, "single": 0.26, "clean": 0.2},
}
"""What share of an agent's patches is which: the paper's (its author, in the repository's issue 6: as many of single
damages as of moderate mixtures; mild and severe ones stay unseen), mixtures of damage alone, and ours, in which some
need nothing."""


_LONGEST = 640
"""Pixels of a photo's longer side: the protocol's photos are small, and full of detail that a large one lacks."""


def patch_photos(folder: Path) -> Photos:
    """The photos of a folder at the sizes of which the protocol takes patches.

    Raises ConservatorError as ``Photos`` does.
    """
    return Photos(folder, longest=_LONGEST, reductions=[1 / scale for scale in PATCH_SCALES])


def mixture(name: str) -> DrawRecipe:
    """Draws the damage of one patch; raises NameNotFoundError for an unknown mixture."""
    if name not in SHARES:
        raise name_not_found("mixture", name, SHARES)
    parts, shares = list(SHARES[name]), list(SHARES[name].values())

    def draw(rng: np.random.Generator) -> Recipe:
        part = parts[int(rng.choice(len(parts), p=shares))]
        return _single(rng) if part == "single" else PATCH_LEVELS[part](rng)

    return draw


def _single(rng: np.random.Generator) -> Recipe:
    kinds = list(DAMAGE_BANDS)
    return single(kinds[int(rng.integers(len(kinds)))], int(rng.integers(4)))(rng)


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

"""Image quality: full-reference and no-reference are two types, so a policy cannot be handed the wrong one."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TypeAlias

from conservator.image import Image


@dataclass(frozen=True)
class FullReference:
    """A metric that compares an image (1, 3, H, W) with its clean reference of the same shape."""

    name: str
    """As tables name it: psnr_y is PSNR of the luma."""
    higher_is_better: bool
    score: Callable[[Image, Image], float]
    """(image, reference) -> score; NaN when it cannot be computed, never 0."""
    at_most: float = math.inf
    """A better score counts as this much in tables, means and z-scores, which hold no infinity."""
    stands_in_for: tuple[str, ...] = ()
    """Benchmarks measure it only where none of these can be measured: they say the same, and cost less or say more."""


@dataclass(frozen=True)
class NoReference:
    """A metric that sees the image (1, 3, H, W) alone."""

    name: str
    higher_is_better: bool
    score: Callable[[Image], float]


Metric: TypeAlias = FullReference | NoReference

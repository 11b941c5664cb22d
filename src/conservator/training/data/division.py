"""What belongs to the assessor and what to the policy that it rates: photos, and makes of damage.

Restore-R1 is trained without labels: its policy is paid by what an assessor says of a picture. Our assessor is taught
from references. Were they those of the photos that the policy learns on, or were its damage of the same makes, the
reward would be the reference in disguise. So both are divided once, here, and nothing belongs to both. What is held out
for benches (``HELD_OUT`` in degradations/catalog.py) belongs to neither.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conservator.claims import hashes_of
from conservator.degradations import (
    Degradation,
    FilmGrain,
    GaussianBlur,
    LineBlur,
    LowLight,
    LuminanceNoise,
    RawNoise,
    Recipe,
    RoomHaze,
    ShiftedJpeg,
    VeiledRain,
)
from conservator.kinds import NATURE, Kind, Severity
from conservator.training.data.recipes import UNDAMAGED_SHARE, Make, any_mixture

_ASSESSORS_SHARE = 1 / 3
"""Of the photos. Ours: what the policy does is what matters, and it learns from few starts as it is."""


def _linear_light(severity: Severity, rng: np.random.Generator) -> LowLight:
    """Darkness of one of its three modes, which differ as makes do."""
    while (drawn := LowLight.sample(severity, rng)).mode != "linear":
        pass
    return drawn


_CLASSES: tuple[type[Degradation], ...] = (
    *(RoomHaze, VeiledRain, GaussianBlur, LineBlur),
    *(LuminanceNoise, FilmGrain, RawNoise, ShiftedJpeg),
)
ASSESSORS_MAKES: Mapping[Kind, Sequence[Make]] = {Kind.LOW_LIGHT: (_linear_light,)} | {
    kind: tuple(cls.sample for cls in _CLASSES if cls.kind is kind)
    for kind in NATURE
    if any(cls.kind is kind for cls in _CLASSES)
}
"""The makes of the assessor, in the order of nature. All others that trainings draw are the policy's: those of the
protocols but for linear darkness, and disks. Of disks the assessor knows Gaussian blur only."""


def is_assessors(damage: Degradation) -> bool:
    """Whether a damage is of a make of the assessor, which no policy may be trained on."""
    return isinstance(damage, _CLASSES) or (isinstance(damage, LowLight) and damage.mode == "linear")


def assessors_recipe(rng: np.random.Generator) -> Recipe:
    """Nothing, or one to four damages of the assessor's makes, as often and as strong as others are drawn."""
    return () if rng.random() < UNDAMAGED_SHARE else any_mixture(ASSESSORS_MAKES, rng)


def policys_recipe(draw: Callable[[np.random.Generator], Recipe], rng: np.random.Generator) -> Recipe:
    """What ``draw`` draws, again until nothing in it is of a make of the assessor."""
    while any(map(is_assessors, recipe := draw(rng))):
        pass
    return recipe


@dataclass(frozen=True)
class DividedPhotos:
    """Files of the assessor, and files of the policy, each in the order they were given."""

    assessor: list[Path]
    policy: list[Path]


def divide_photos(photos: Sequence[Path], folder: Path, cache: Path | None = None) -> DividedPhotos:
    """Divide photos of a folder by the sha256 of their content, whatever they are called and whatever others there are.

    A third is the assessor's. ``cache`` is a run's folder, which keeps the hashes (``claims.hashes_of``).
    """
    found = DividedPhotos([], [])
    for path, digest in zip(photos, hashes_of(photos, folder, cache).values(), strict=True):
        of_assessor = int(digest[:8], 16) / 2**32 < _ASSESSORS_SHARE
        (found.assessor if of_assessor else found.policy).append(path)
    return found

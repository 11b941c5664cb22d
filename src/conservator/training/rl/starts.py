"""Where episodes of a planner's kind begin: studies of damaged photos, the same ones again and again.

Perception takes a third of a second for a picture, and a tool about as long. So there are few starts, a pool that
remembers runs what begins alike once (MemoPool), and a perception that remembers grades it once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from conservator.degradations import degrade
from conservator.degradations.patches import DrawRecipe
from conservator.errors import ConservatorError
from conservator.image import Image, in_8_bits
from conservator.perception.perception import Perception
from conservator.perception.study import study
from conservator.photo import load_photo
from conservator.training.data.division import policys_recipe
from conservator.training.data.parts import random_part
from conservator.training.data.recipes import setting_recipe

StartingPair: TypeAlias = tuple[Image, Image | None]
"""A damaged study (B, 3, H, W), and the undamaged photo's at the same places, or None where nobody has it."""
_VIEWS = 2
"""Crops of a study beside its overview, where planning has four: the most textured place and a smooth one. The other
two are of median texture, and half of the work."""
_HELD_OUT = 8
"""One photo of so many is held out, as in the training of perception."""
_PART = 512
"""Pixels of the part of a large damaged photo that is looked at, a side: as in the training of perception at most."""
_TINY = 128
"""Pixels of the shorter side below which a damaged photo is left out: half of a study's view."""
_GRID = 16
"""Parts of files begin where the blocks of a JPEG do."""


@dataclass(frozen=True)
class Starts:
    """Pairs to learn from and pairs of other photos to measure on."""

    training: tuple[StartingPair, ...]
    held_out: tuple[StartingPair, ...]

    def __call__(self, rng: np.random.Generator) -> StartingPair:
        """One to learn from: a source of episodes (training/rl/episode.py)."""
        return self.training[int(rng.integers(len(self.training)))]


def damaged_starts(photos: Sequence[Path], count: int, seed: int, draw: DrawRecipe | None = None) -> Starts:
    """``count`` parts of clean photos, damaged by what ``draw`` draws, with their references.

    By default they are damaged as planners' are (training/data/recipes.py). No damage is of a make of the assessor.
    Nothing makes them smaller: pictures of two sizes cannot be compared. Raises ConservatorError for too few.
    """
    drawn = draw or setting_recipe("random")

    def pair(i: int) -> StartingPair:
        rng = np.random.default_rng([seed, i, 41])
        clean = random_part(load_photo(photos[i % len(photos)]).image, rng)
        damaged = in_8_bits(degrade(clean, policys_recipe(drawn, rng)))
        return study(damaged, _VIEWS), study(clean, _VIEWS, like=damaged)

    return _parted([(i % len(photos), pair(i)) for i in range(count)])


def found_starts(
    photos: Sequence[Path], count: int, seed: int, perception: Perception, report: Callable[[str], None]
) -> Starts:
    """``count`` parts of photos that were damaged by life, without references: nothing but the files is read.

    Left out, and told, are photos that cannot be read, that are tiny (a side below 128 pixels), and in which
    ``perception`` sees no damage. Raises ConservatorError for too few.
    """
    usable, left_out = list[Path](), list[str]()
    for path in photos:
        try:
            image = load_photo(path).image
        except ConservatorError as error:
            left_out.append(f"{path.name} cannot be read ({error})")
            continue
        if min(image.shape[-2:]) < _TINY:
            left_out.append(f"{path.name} is tiny, {image.shape[-1]}x{image.shape[-2]} pixels")
        elif not perception.grade(study(image)).damages:
            left_out.append(f"no damage is seen in {path.name}")
        else:
            usable.append(path)
    for sentence in left_out:
        report(f"left out: {sentence}")
    report(f"{len(usable)} of {len(photos)} photos are learned from")
    if not usable:
        raise ConservatorError("none of these photos can be learned from; give a folder of damaged photos")
    numbers = range(max(count, len(usable)))
    return _parted([(i % len(usable), (_native_part(usable[i % len(usable)], seed, i), None)) for i in numbers])


def _native_part(path: Path, seed: int, number: int) -> Image:
    """The study of a part of a file, never resized, for that would hide its damage."""
    rng, image = np.random.default_rng([seed, number, 43]), load_photo(path).image
    top, left = (int(rng.integers(max(0, n - _PART) // _GRID + 1)) * _GRID for n in image.shape[-2:])
    return study(image[..., top : top + _PART, left : left + _PART].contiguous(), _VIEWS)


def _parted(pairs: Sequence[tuple[int, StartingPair]]) -> Starts:
    """The pairs of the photos of these numbers; whole photos are held out."""
    training = tuple(pair for photo, pair in pairs if photo % _HELD_OUT)
    held_out = tuple(pair for photo, pair in pairs if photo % _HELD_OUT == 0)
    if not training:
        raise ConservatorError(f"{len(pairs)} damaged pictures are too few; give at least two photos")
    return Starts(training, held_out)

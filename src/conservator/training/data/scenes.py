"""The world as perception meets it: what photos show, and what befell them.

A third of the photos is not damaged, and some scenes are dark, hazy or without colour by nature. These
are so in the truth as well: what brightens, clears or colours them does harm.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from conservator.degradations import NATURE, Recipe, degrade
from conservator.image import Image, in_8_bits, luma
from conservator.training.data import makes
from conservator.training.data.parts import random_part
from conservator.training.data.recipes import random_recipe, without_resizing

_SHARES = {"undamaged": 0.33, "single": 0.27, "mixed": 0.2, "protocol": 0.2}
"""Of what befalls the photos: nothing, one make of damage, two or three, or ``random_recipe``, half of which is from
the ranges of public protocols."""
_NATURAL = 0.2
"""Of all photos that are dark or hazy by nature, each as often. The ten worst photos at risk 1 are all pale or dim ones
that were taken for damaged (docs/results/risk.md); they were 0.12 then, mostly dark. What 0.2 does was not measured."""
_GRAY = 0.1
"""Of all photos that are gray."""


@dataclass(frozen=True)
class Scene:
    """One photo, and the damage that befell it."""

    truth: Image
    """(1, 3, H, W), of 8 bits, as the photo should be."""
    damage: Recipe
    share: str
    """Which of the shares it is of."""
    natural: bool
    """Whether it is dark or hazy by nature."""


def random_scene(photo: Image, rng: np.random.Generator, resizing: bool = False) -> Scene:
    """A part of a clean photo (1, 3, H, W), perhaps as by nature dark, hazy or gray, and damage for it, or none.

    With ``resizing`` some damage makes the photo smaller.
    """
    share = str(rng.choice(list(_SHARES), p=list(_SHARES.values())))
    natural = bool(rng.random() < _NATURAL)
    nature: Recipe = ()
    if natural:
        nature = makes.darkness(rng) if rng.random() < 0.5 else makes.haze(rng)
    damage = _damage(share, rng)
    part = random_part(photo, rng)
    if rng.random() < _GRAY:
        part = luma(part).expand(-1, 3, -1, -1).contiguous()
    return Scene(in_8_bits(degrade(part, nature)), damage if resizing else without_resizing(damage), share, natural)


def _damage(share: str, rng: np.random.Generator) -> Recipe:
    if share == "protocol":
        return random_recipe(rng)
    count = {"undamaged": 0, "single": 1, "mixed": int(rng.choice([2, 3], p=[0.65, 0.35]))}[share]
    kinds = list(makes.EVERY)
    chosen = {kinds[i] for i in rng.choice(len(kinds), count, replace=False)}
    return tuple(damage for kind in NATURE if kind in chosen for damage in makes.EVERY[kind](rng))

"""RL-Restore's patches: 63x63 pixels of photos at three sizes, damaged as its code does, the same for the same seed."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from conservator.degradations.blur import GaussianBlur
from conservator.degradations.codec import JpegCompression
from conservator.degradations.degradation import Recipe, degrade
from conservator.degradations.noise import GaussianNoise, draw_seed
from conservator.degradations.protocols import rl_restore_recipe
from conservator.errors import ConservatorError
from conservator.image import Image, to_array, to_image
from conservator.photo import find_photos, load_photo
from conservator.resample import bicubic_resize

DrawRecipe: TypeAlias = Callable[[np.random.Generator], Recipe]
"""Draws the damage of one patch."""
Pyramid: TypeAlias = Sequence[NDArray[np.generic]]
"""One photo at several sizes, 8-bit arrays (H, W, 3)."""

PATCH_SIDE = 63
"""Pixels."""
PATCH_SCALES = (1.0, 2 / 3, 1 / 3)
"""Sizes of a photo of which patches are taken (generate_train.m)."""
UNDAMAGED_PSNR = 50.0
"""dB: what the protocol calls undamaged. The authors' code counts PSNR up to 100, but a mean over patches, and a
reward, must not be all about those that hardly differ."""
_UNDAMAGED = 10 ** (-UNDAMAGED_PSNR / 10)
"""The same as a mean square error; a damage that does less is drawn again."""
_TRIES = 100

DAMAGE_BANDS = {
    "blur": ((0.0, 1.25), (1.25, 2.5), (2.5, 3.75), (3.75, 5.0)),
    "noise": ((0.0, 12.5), (12.5, 25.0), (25.0, 37.5), (37.5, 50.0)),
    "jpeg": ((60.0, 100.0), (35.0, 60.0), (20.0, 35.0), (10.0, 20.0)),
}
"""What each of the twelve tools is for (table 1 of the paper): sigma in pixels, sigma of 255, quality."""


def single(kind: str, band: int) -> DrawRecipe:
    """One damage alone, uniformly from the range of one tool; ``kind`` is a key of DAMAGE_BANDS, ``band`` 0 to 3."""
    low, high = DAMAGE_BANDS[kind][band]

    def draw(rng: np.random.Generator) -> Recipe:
        amount = float(rng.uniform(low, high))
        if kind == "blur":
            return (GaussianBlur(amount),)
        if kind == "noise":
            return (GaussianNoise(amount / 255, draw_seed(rng)),)
        return (JpegCompression(round(amount)),)

    return draw


def undamaged(rng: np.random.Generator) -> Recipe:
    """No damage."""
    return ()


PATCH_LEVELS: dict[str, DrawRecipe] = {
    "mild": lambda rng: rl_restore_recipe("mild", rng),
    "moderate": lambda rng: rl_restore_recipe("moderate", rng),
    "severe": lambda rng: rl_restore_recipe("severe", rng),
    "clean": undamaged,
}
"""The three mixtures of the paper's table 3, and patches that need nothing."""


def draw_pair(
    pyramid: Pyramid, draw: DrawRecipe, rng: np.random.Generator, side: int = PATCH_SIDE
) -> tuple[Image, Image]:
    """A damaged patch and the undamaged one, (1, 3, side, side) each, of one photo at a size drawn by chance.

    A patch is cut before it is damaged, as in generate_train.m: its borders are those of the blur and of the blocks.
    One that hardly changes is drawn again, a hundred times at most: nothing blurs a blank page.
    """
    for _ in range(_TRIES):
        array = pyramid[int(rng.integers(len(pyramid)))]
        if min(array.shape[:2]) < side:
            array = pyramid[0]
        top, left = (int(rng.integers(n - side + 1)) for n in array.shape[:2])
        clean = to_image(array[top : top + side, left : left + side])
        recipe = draw(rng)
        damaged = degrade(clean, recipe)
        if not recipe or float((damaged - clean).square().mean()) > _UNDAMAGED:
            break
    return damaged, clean


@dataclass(frozen=True)
class Patches:
    """The patches of one level."""

    level: str
    damaged: Image
    """(N, 3, 63, 63)."""
    clean: Image


def make_patches(pyramids: Sequence[Pyramid], name: str, draw: DrawRecipe, count: int, seed: int) -> Patches:
    """``count`` patches; name, seed and photos fix every pixel, and fewer are the first of more."""
    level = zlib.crc32(name.encode())
    pairs = []
    for i in range(count):
        rng = np.random.default_rng([seed, level, i])
        pairs.append(draw_pair(pyramids[i % len(pyramids)], draw, rng))
    damaged, clean = (torch.cat(images) for images in zip(*pairs, strict=True))
    return Patches(name, damaged, clean)


def load_pyramids(folders: Sequence[Path]) -> list[Pyramid]:
    """All photos of some folders at three sizes, in the order of their names; ConservatorError for an empty one."""
    return [_pyramid(path) for folder in folders for path in find_photos(folder)]


def _pyramid(path: Path) -> Pyramid:
    image = load_photo(path).image
    if min(image.shape[-2:]) < PATCH_SIDE:
        height, width = image.shape[-2:]
        raise ConservatorError(
            f"{path} has {width}x{height} pixels, expected {PATCH_SIDE} or more a side; leave it out"
        )
    return [to_array(bicubic_resize(image, s).clamp(0, 1) if s < 1 else image, np.uint8) for s in PATCH_SCALES]

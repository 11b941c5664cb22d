"""Undamaged pictures of many kinds: whatever is done to them is harm. The kinds are the strata of a table.

Of the photos of a part (parts.py) each is in one of the first four strata, by the luma of the photo reduced to 64 x 64
pixels and taken in this order:

===================== ==================================================================================================
night and low key      the median is below 0.2
fog and low contrast   from the 5th to the 95th percentile there are less than 0.35, and the 5th is above 0.15
snow and high key      the mean is above 0.62, and the mean distance of the largest from the smallest channel below 0.15
photos                 all others
black and white, sepia every photo again, in one of the two tones by the hash of its name
film grain             some photos with grain: an artist's means as often as damage, so it is left out of sums
the others             drawn (drawings.py)
===================== ==================================================================================================

The bounds were chosen in November 2026 on photos of all parts, by looking at which photos they take: about 4 % of them
are night, 7 % fog and 3 % snow.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from scipy import ndimage

from conservator.evaluation.drawings import DRAWINGS, Pixels
from conservator.evaluation.parts import PARTS, PhotoItem, name_digest, photos_of
from conservator.image import Image, in_8_bits, luma, to_image

FILM_GRAIN = "film grain"
"""The stratum that sums leave out."""
_DRAWN = 12
"""Pictures of each drawn stratum in each part: none touched of 12 says "at most 26 %", and of all 96 "at most 4 %"."""
_SEPIA = torch.tensor([[0.393, 0.769, 0.189], [0.349, 0.686, 0.168], [0.272, 0.534, 0.131]])
"""Red, green and blue of the usual sepia filter, each from red, green and blue (Microsoft's sample of 2007)."""


@dataclass(frozen=True)
class Undamaged:
    """One undamaged picture, made when it is asked for."""

    stratum: str
    name: str
    """Of the photo or drawing: the same where one photo is in several strata."""
    make: Callable[[], Image]
    files: tuple[Path, ...] = ()
    """The files that it is made from."""


def undamaged_of(data: Path, part: str, seed: int, limit: int | None = None) -> Iterator[Undamaged]:
    """The undamaged pictures of a part, stratum by stratum; ``limit`` is how many of each at most.

    ``data`` holds train/research and val. ``seed`` is that of drawings and grain. Raises ConservatorError where a set
    is not there.
    """
    photos = photos_of(data, part)
    found: dict[str, list[Undamaged]] = {name: [] for name in ("photos", *_RULES, *TONES, FILM_GRAIN)}
    for item in photos:
        stratum = _stratum(item)
        found[stratum].append(_photo(stratum, item, _same))
        tone = sorted(TONES)[name_digest(item.path.name)[-1] % 2]
        found[tone].append(_photo(tone, item, TONES[tone]))
    for item in photos[:_DRAWN]:
        number = int.from_bytes(name_digest(item.path.name)[8:12], "big")
        found[FILM_GRAIN].append(_photo(FILM_GRAIN, item, partial(_grainy, seed=(seed, number))))
    for place, (name, draw) in enumerate(DRAWINGS.items()):
        seeds = [(seed, list[str](PARTS).index(part), place, number) for number in range(_DRAWN)]
        found[name] = [Undamaged(name, f"{name} {s[-1]}", partial(_drawn, draw, s)) for s in seeds]
    for pictures in found.values():
        yield from pictures[:limit]


def _photo(stratum: str, item: PhotoItem, change: Callable[[Image], Image]) -> Undamaged:
    return Undamaged(stratum, f"{item.set}/{item.name}", lambda: in_8_bits(change(item.load())), (item.path,))


def _drawn(draw: Callable[[np.random.Generator], Pixels], seed: tuple[int, ...]) -> Image:
    return to_image(draw(np.random.default_rng(seed)))


# --- strata of photos -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Tones:
    """Statistics of a photo, all from 0 to 1."""

    mean: float
    low: float
    """The 5th percentile of the luma, as ``median`` and ``high`` (the 95th)."""
    median: float
    high: float
    colour: float
    """Mean distance of the largest from the smallest channel."""


_RULES: dict[str, Callable[[_Tones], bool]] = {
    "night and low key": lambda tones: tones.median < 0.2,
    "fog and low contrast": lambda tones: tones.high - tones.low < 0.35 and tones.low > 0.15,
    "snow and high key": lambda tones: tones.mean > 0.62 and tones.colour < 0.15,
}


def _stratum(item: PhotoItem) -> str:
    tones = _tones(item.load())
    return next((name for name, rule in _RULES.items() if rule(tones)), "photos")


def _tones(image: Image) -> _Tones:
    small = F.adaptive_avg_pool2d(image, 64)
    light = luma(small).flatten()
    low, median, high = torch.quantile(light, torch.tensor([0.05, 0.5, 0.95])).tolist()
    return _Tones(float(light.mean()), low, median, high, float((small.amax(1) - small.amin(1)).mean()))


# --- changes that are no damage ---------------------------------------------------------------------------------------


def _same(image: Image) -> Image:
    return image


def _black_and_white(image: Image) -> Image:
    return luma(image).expand(-1, 3, -1, -1)


def _sepia(image: Image) -> Image:
    return torch.einsum("oc,bchw->bohw", _SEPIA, image).clamp(0, 1)


def _grainy(image: Image, seed: tuple[int, ...]) -> Image:
    """With the grain of a film: the same in all channels, a pixel or two large, strongest in middle tones."""
    rng = np.random.default_rng(seed)
    grain = ndimage.gaussian_filter(rng.standard_normal(image.shape[-2:]), rng.uniform(0.5, 1.0))
    grain *= rng.uniform(0.02, 0.05) / grain.std()
    light = luma(image)
    return (image + torch.from_numpy(grain.astype(np.float32)) * 4 * light * (1 - light)).clamp(0, 1)


TONES: dict[str, Callable[[Image], Image]] = {"black and white": _black_and_white, "sepia": _sepia}
"""Tones that an undamaged photo may have, each a function from (1, 3, H, W) to (1, 3, H, W)."""

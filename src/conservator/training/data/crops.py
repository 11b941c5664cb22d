"""Clean photos in memory, and the damaged crops that an expert learns from."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_all_start_methods
from pathlib import Path
from typing import TypeAlias, TypeVar

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from conservator.degradations import Kind, Recipe, degrade
from conservator.errors import ConservatorError
from conservator.image import Image, in_8_bits, luma, to_array, to_image
from conservator.photo import find_photos, load_photo
from conservator.resample import bicubic_resize
from conservator.tools.deblur import views

Item = TypeVar("Item")


@dataclass(frozen=True)
class Lesson:
    """What is done to one crop, and the part of it that its expert leaves to others."""

    recipe: Recipe
    left: Recipe = ()
    """Damage of the scene (darkness, haze, rain) that stays in the target: a denoiser must not brighten."""
    known: Recipe = ()
    """The blur as an estimator would know it, roughly, where an expert sees what filters make of the crop."""


Damage: TypeAlias = Callable[[np.random.Generator], Lesson]
"""Draws the damage of one crop."""

_FREE = "291 clean photos: CLIC 2025, CID22, wallpapers (Unsplash, CC0, CC-BY, CC-BY-SA), damaged on the fly"
"""What everything that ships is trained on."""
_REDUCTIONS = (1.0, 1.5, 2.25)
_LONGEST = 1536
"""Pixels; larger photos are reduced when loaded, for what they show beyond it is mostly the lens."""
_DETAILS = 0.3
"""Of the crops that show a whole photo are a quarter of one that was damaged whole: planning shows tools such crops."""
_REACH = {Kind.JPEG: 8, Kind.GAUSSIAN_BLUR: 16, Kind.DEFOCUS_BLUR: 16, Kind.MOTION_BLUR: 32}
"""Pixels around a crop that are damaged with it and cut off, so that few crops show the border of a photo.

Noise, streaks and light need none: they know no border.
"""
_RINGING = 32
"""Pixels around a crop that is filtered: what filters make of its border is not what they make of a whole photo."""
_TONED = 0.08
"""Of the crops are black and white or sepia, as old photos are."""
_REDUCED = (0.9, 0.09, 0.01)
"""Of the crops are damaged 1, 2 and 4 times as large and then reduced, as the protocols' low resolution has it."""


_EVERY, _FEWEST = 24, 10


def held_out(photos: Sequence[Item]) -> list[Item]:
    """Every 24th of the photos of a folder, in order, the first one first; of fewer than ten none.

    Experts and planners hold out the same ones, and perception every eighth, so these have taught nothing that tells a
    planner of a photo.
    """
    return list(photos[::_EVERY]) if len(photos) >= _FEWEST else []


def training_data(folder: Path) -> str:
    """What the manifest says of the photos that something was trained on."""
    return _FREE if folder.parts[-2:] == ("train", "free") else f"the photos of {folder.name}, damaged on the fly"


class Photos:
    """The clean photos of a folder, as 8-bit arrays (H, W, 3) at three sizes; some whole photos are held out."""

    def __init__(
        self,
        folder: Path,
        held_out_share: float = 1 / _EVERY,
        longest: int = _LONGEST,
        reductions: Sequence[float] = _REDUCTIONS,
    ) -> None:
        """Load every photo under ``folder``, recursively, in the order of their names.

        The largest size has sides of ``longest`` pixels at most; ``reductions`` divide it. Raises ConservatorError for
        a folder with fewer than two photos, or with one that cannot be read.
        """
        paths = find_photos(folder)
        if len(paths) < 2:
            raise ConservatorError(f"{folder} holds {len(paths)} photos, expected at least 2; give a folder of photos")
        every = max(2, round(1 / held_out_share))
        with ThreadPoolExecutor(4) as threads:
            pyramids = list(threads.map(partial(_pyramid, longest=longest, reductions=reductions), paths))
        self.digest = _digest(pyramids)
        """Of all pixels at all sizes: other photos, another digest."""
        self.training = [pyramid for i, pyramid in enumerate(pyramids) if i % every]
        self.held_out = [pyramid for i, pyramid in enumerate(pyramids) if i % every == 0]


def _digest(pyramids: Sequence[Sequence[NDArray[np.uint8]]]) -> str:
    found = hashlib.sha256()
    for level in (level for pyramid in pyramids for level in pyramid):
        found.update(repr(level.shape).encode())
        found.update(np.ascontiguousarray(level).data)
    return found.hexdigest()[:16]


def _pyramid(path: Path, longest: int, reductions: Sequence[float]) -> list[NDArray[np.uint8]]:
    image = load_photo(path).image
    levels = []
    for reduction in reductions:
        factor = min(1.0, longest / max(image.shape[-2:])) / reduction
        size = [max(64, round(side * factor)) for side in image.shape[-2:]]
        small = image if factor == 1 else F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
        levels.append(to_array(small, np.uint8))
    return levels  # type: ignore[return-value]


def random_crop(
    pyramid: Sequence[NDArray[np.uint8]], side: int, rng: np.random.Generator, turned: bool = True
) -> Image:
    """A square crop (1, 3, side, side) of one photo at a random size, mirrored, and turned by quarters if allowed."""
    array = pyramid[int(rng.integers(len(pyramid)))]
    if min(array.shape[:2]) < side:
        array = pyramid[0]
    top, left = (int(rng.integers(max(1, n - side + 1))) for n in array.shape[:2])
    crop = to_image(array[top : top + side, left : left + side])
    if min(crop.shape[-2:]) < side:
        crop = F.pad(crop, (0, side - crop.shape[-1], 0, side - crop.shape[-2]), mode="replicate")
    if rng.random() < 0.5:
        crop = crop.flip(-1)
    return (torch.rot90(crop, int(rng.integers(4)), (-2, -1)) if turned else crop).contiguous()


@dataclass(frozen=True)
class Crops(Dataset[tuple[Image, Image]]):
    """Item ``step`` is the batch of that step: damaged and clean (B, 3, side, side), the same in every run.

    With ``whole`` most crops show most of the photo, reduced to ``side``: for damage of the scene, such as haze.
    """

    photos: Sequence[Sequence[NDArray[np.uint8]]]
    damage: Damage
    side: int
    batch: int
    seed: int
    steps: int
    whole: bool = False
    scale: int = 1
    """How many times the clean crop is larger, for damage that makes a photo smaller."""

    def __len__(self) -> int:
        return self.steps

    def __getitem__(self, step: int) -> tuple[Image, Image]:
        pairs = [self.pair(np.random.default_rng([self.seed, step, i])) for i in range(self.batch)]
        damaged, clean = (torch.cat(images) for images in zip(*pairs, strict=True))
        return damaged, clean

    def pair(self, rng: np.random.Generator) -> tuple[Image, Image]:
        """One damaged crop, of 8 bits as files are, with what filters make of it if a blur is known; and the clean."""
        damaged, clean = self._pair(rng)
        return torch.cat([in_8_bits(damaged[:, :3]), damaged[:, 3:]], 1), clean

    def _pair(self, rng: np.random.Generator) -> tuple[Image, Image]:
        photo = self.photos[int(rng.integers(len(self.photos)))]
        if self.whole:
            lesson = self.damage(rng)
            if rng.random() > _DETAILS:
                return _pair(_overview(photo, self.side, rng), lesson, rng)
            damaged, clean = _pair(_overview(photo, 2 * self.side, rng), lesson, rng)
            top, left = (int(rng.integers(self.side + 1)) for _ in range(2))
            return tuple(x[..., top : top + self.side, left : left + self.side] for x in (damaged, clean))  # type: ignore[return-value]
        if self.scale > 1:
            return _pair(random_crop(photo, self.side * self.scale, rng), self.damage(rng), rng)
        lesson = self.damage(rng)
        border = max((_REACH.get(damage.kind, 0) for damage in lesson.recipe), default=0)
        if lesson.known:
            border = max(border, _RINGING)
        reduced = 1 if lesson.known else int(rng.choice([1, 2, 4], p=_REDUCED))
        if min(photo[0].shape[:2]) < reduced * (self.side + 2 * border):
            reduced = 1
        damaged, clean = _pair(random_crop(photo, reduced * (self.side + 2 * border), rng), lesson, rng)
        if reduced > 1:
            damaged, clean = (bicubic_resize(x, 1 / reduced).clamp(0, 1) for x in (damaged, clean))
        if lesson.known:
            damaged = views(in_8_bits(damaged), kernel_of(lesson.known))
        # half of the time the crop starts where a JPEG's blocks do, as it does in a whole photo
        top, left = (border // 16 * 16 + _shift(rng, border) for _ in range(2))
        return tuple(x[..., top : top + self.side, left : left + self.side] for x in (damaged, clean))  # type: ignore[return-value]


def kernel_of(blur: Recipe, reach: int = 40) -> Tensor:
    """The kernel of a blur, as a BlurModel has it: what it makes of a point, turned; (k, k), k odd.

    Of a blur that goes no further than ``reach`` pixels; weights below a thousandth of the largest are left out.
    """
    point = torch.zeros(1, 3, 2 * reach + 1, 2 * reach + 1)
    point[..., reach, reach] = 1
    kernel = degrade(point, blur)[0, 0].flip(0, 1)
    far = (kernel > 1e-3 * kernel.max()).nonzero().sub(reach).abs().max()
    inside = slice(reach - int(far), reach + int(far) + 1)
    return kernel[inside, inside] / kernel[inside, inside].sum()


def _shift(rng: np.random.Generator, border: int) -> int:
    return int(rng.integers(16)) if border and rng.random() < 0.5 else 0


def _pair(clean: Image, lesson: Lesson, rng: np.random.Generator) -> tuple[Image, Image]:
    """The crop damaged, and with the damage that is left; one crop in a dozen is black and white, or sepia.

    Half of those were damaged as gray pictures before they were toned (film and its scan), half after (their file).
    """
    if rng.random() >= _TONED:
        return degrade(clean, lesson.recipe), degrade(clean, lesson.left)
    red, blue = (1.0, 1.0) if rng.random() < 0.5 else (rng.uniform(0.75, 0.95), rng.uniform(1.05, 1.4))
    if rng.random() < 0.5:
        clean = _toned(clean, red, blue)
        return degrade(clean, lesson.recipe), degrade(clean, lesson.left)
    clean = _toned(clean, 1, 1)
    return _toned(degrade(clean, lesson.recipe), red, blue), _toned(degrade(clean, lesson.left), red, blue)


def _toned(image: Image, red: float, blue: float) -> Image:
    """The picture in one tone, its red and blue the gray to these powers: below 1 more of it, above 1 less."""
    gray = luma(image).clamp_(0, 1)
    return torch.cat([gray**red, gray, gray**blue], 1)


def _overview(pyramid: Sequence[NDArray[np.uint8]], side: int, rng: np.random.Generator) -> Image:
    """Most of a photo, or a detail of it, reduced to ``side``, its tones changed a little.

    A network that sees whole photos would otherwise learn by heart how bright each of a few hundred photos is.
    """
    array = pyramid[-1]
    least = 0.2 if rng.random() < 0.3 else 0.5
    height, width = (max(32, round(n * rng.uniform(least, 1.0))) for n in array.shape[:2])
    top, left = (int(rng.integers(max(1, n - m + 1))) for n, m in zip(array.shape[:2], (height, width), strict=True))
    crop = to_image(array[top : top + height, left : left + width])
    crop = F.interpolate(crop, (side, side), mode="bilinear", antialias=True).clamp(0, 1)
    if rng.random() < 0.5:
        crop = crop.flip(-1)
    tint = torch.from_numpy(rng.uniform(0.93, 1.0, (1, 3, 1, 1)).astype(np.float32))
    gray = crop.mean(1, keepdim=True)
    crop = gray + (crop - gray) * rng.uniform(0.6, 1.2)
    return (crop.clamp(0, 1) ** math.exp(rng.uniform(-0.25, 0.25)) * tint * rng.uniform(0.85, 1.0)).clamp(0, 1)


def ahead(items: Dataset[Item], indices: range, workers: int) -> Iterator[Item]:
    """The items of these indices, made by ``workers`` processes ahead of their use (0: in this process)."""
    loader: DataLoader[Item] = DataLoader(
        items,
        batch_size=None,
        sampler=indices,
        num_workers=workers,
        prefetch_factor=8 if workers else None,
        multiprocessing_context="fork" if workers and "fork" in get_all_start_methods() else None,
    )
    yield from loader


def validation_set(crops: Crops, count: int) -> tuple[Image, Image]:
    """``count`` pairs (count, 3, side, side) at other random numbers than any step's."""
    return validation_set_of(crops.pair, crops.seed, count)


def validation_set_of(
    pair: Callable[[np.random.Generator], tuple[Image, Image]], seed: int, count: int
) -> tuple[Image, Image]:
    """``count`` pairs of what ``pair`` draws, at other random numbers than any step's of this seed."""
    pairs = [pair(np.random.default_rng([seed, 2**40, i])) for i in range(count)]
    damaged, clean = (torch.cat(images) for images in zip(*pairs, strict=True))
    return damaged, clean

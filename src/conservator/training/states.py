"""The pictures that the eye learns from: damaged, some of them treated by tools, and what is wrong with each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import Dataset

from conservator.degradations import (
    BY_KIND,
    MIO_GROUPS,
    NATURE,
    RESTOREAGENT_COMBINATIONS,
    Kind,
    LowResolution,
    Recipe,
    Severity,
    degrade,
    mio_recipe,
)
from conservator.image import Image, to_image
from conservator.metrics.fidelity import psnr
from conservator.networks.eye import OVERVIEW
from conservator.perception.perception import GRADED_KINDS
from conservator.perception.statistics import statistics
from conservator.perception.study import study
from conservator.tools.tool import Toolbox, is_specialist
from conservator.training.crops import random_crop

_CROPS, _CROP = 2, 192
_MIO = tuple(combination for group in MIO_GROUPS.values() for combination in group)
_BEST_QUALITY = 45.0  # dB; what a clean photo is said to have
_WHOLE = 768  # pixels; photos this large are shown whole
_WRECKED = 1.4  # times the error that there was


def random_recipe(rng: np.random.Generator) -> Recipe:
    """Nothing, a combination of a public protocol, or up to four damages of any severity in the order of nature."""
    share = rng.random()
    if share < 0.15:
        return ()
    if share < 0.45:
        return mio_recipe(_MIO[int(rng.integers(len(_MIO)))], rng)
    if share < 0.65:
        return mio_recipe(RESTOREAGENT_COMBINATIONS[int(rng.integers(len(RESTOREAGENT_COMBINATIONS)))], rng)
    count = int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))
    chosen = sorted(rng.choice(len(NATURE), count, replace=False).tolist())
    recipe = []
    for kind in (NATURE[i] for i in chosen):
        makers = BY_KIND[kind]
        severity = Severity(int(rng.choice([1, 2, 3, 4], p=[0.16, 0.28, 0.28, 0.28])))
        recipe.append(makers[int(rng.integers(len(makers)))].sample(severity, rng))
    return tuple(recipe)


def severities(recipe: Recipe) -> dict[Kind, Severity]:
    """The severity of each kind in a recipe, the worst where one comes twice."""
    found: dict[Kind, Severity] = {}
    for degradation in recipe:
        found[degradation.kind] = max(degradation.severity, found.get(degradation.kind, Severity.NONE))
    return found


@dataclass(frozen=True)
class States(Dataset[tuple[Tensor, ...]]):
    """Item i: overview (3, 128, 128) and crops (2, 3, 192, 192) as uint8, statistics (S,), severities (8,), PSNR."""

    photos: Sequence[Sequence[NDArray[np.uint8]]]
    seed: int
    tools: Toolbox | None
    treated: float = 0.35
    """Share of the pictures that tools have worked on."""

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        rng = np.random.default_rng([self.seed, index])
        recipe = random_recipe(rng)
        picture = self._picture(recipe, rng)
        image, clean = picture.after(recipe), picture.after(tuple(d for d in recipe if isinstance(d, LowResolution)))
        found = severities(recipe)
        if self.tools and rng.random() < self.treated:
            image, found = self._treated(image, picture, recipe, rng)
        levels = torch.tensor([int(found.get(kind, Severity.NONE)) for kind in GRADED_KINDS])
        quality = torch.tensor(min(_BEST_QUALITY, psnr(image, clean)))
        measured = torch.tensor(list(statistics(study(image, views=_CROPS)).values()))
        return *_views(image, rng), measured, levels, quality

    def _picture(self, recipe: Recipe, rng: np.random.Generator) -> _Picture:
        """A whole photo, or a part of one, which is larger where the recipe makes it smaller."""
        photo = self.photos[int(rng.integers(len(self.photos)))]
        if any(isinstance(degradation, LowResolution) for degradation in recipe):
            return _Picture(random_crop(photo, 4 * _CROP, rng, turned=False))
        fitting = [level for level in photo if min(level.shape[:2]) >= _CROP + 16 and max(level.shape[:2]) <= _WHOLE]
        if fitting and rng.random() < 0.35:
            clean = to_image(fitting[0])
            return _Picture(clean.flip(-1).contiguous() if rng.random() < 0.5 else clean)
        side = int(rng.choice([320, 320, 448]))
        # some are cut out of a larger picture: there, the blocks of a JPEG begin anywhere
        top, left = (int(rng.integers(16)) for _ in range(2)) if rng.random() < 0.2 else (0, 0)
        return _Picture(random_crop(photo, side, rng, turned=False), top, left)

    def _treated(
        self, image: Image, picture: _Picture, recipe: Recipe, rng: np.random.Generator
    ) -> tuple[Image, dict[Kind, Severity]]:
        """One to three tools, mostly for damages that are there, and what they leave of the severities.

        What is left is the error to the picture without these damages, as a share of what it was before the tool.
        """
        assert self.tools is not None
        left = severities(recipe)
        specs = [tool.spec for tool in self.tools.values() if tool.spec.scale == 1 and is_specialist(tool.spec)]
        for _ in range(int(rng.integers(1, 4))):
            fitting = [spec for spec in specs if spec.removes & left.keys()]
            choices = fitting if fitting and rng.random() < 0.85 else specs
            spec = choices[int(rng.integers(len(choices)))]
            treated = self.tools[spec.name](image)
            gone = spec.removes | (severities(recipe).keys() - left.keys())
            target = picture.after(tuple(d for d in recipe if d.kind not in gone))
            remains = 10 ** ((psnr(image, target) - psnr(treated, target)) / 20)
            if remains > _WRECKED and not spec.removes & left.keys():
                break  # a tool without a damage that spoils the picture: what it leaves has no name
            image = treated
            for kind in spec.removes & left.keys():
                level = round(left[kind] * min(1.0, remains))
                left.pop(kind)
                if level:
                    left[kind] = Severity(level)
        return image, left


@dataclass(frozen=True)
class _Picture:
    """A clean picture (1, 3, H, W), and where the cut begins that is shown of it and its damaged versions."""

    clean: Image
    top: int = 0
    left: int = 0

    def after(self, recipe: Recipe) -> Image:
        """What a recipe makes of it."""
        image = degrade(self.clean, recipe)
        height, width = (n - 16 * bool(self.top or self.left) for n in image.shape[-2:])
        return image[..., self.top : self.top + height, self.left : self.left + width]


def _views(image: Image, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    overview = F.interpolate(image, (OVERVIEW, OVERVIEW), mode="bilinear", antialias=True)[0]
    crops = []
    for _ in range(_CROPS):
        top, left = (16 * int(rng.integers((n - _CROP) // 16 + 1)) for n in image.shape[-2:])
        crops.append(image[0, :, top : top + _CROP, left : left + _CROP])
    return _bytes(overview), _bytes(torch.stack(crops))


def _bytes(x: Tensor) -> Tensor:
    return (x * 255).round().clamp(0, 255).to(torch.uint8)


class Replay:
    """The last ``size`` pictures: each is seen a few times, for making one costs more than learning from it."""

    def __init__(self, size: int) -> None:
        self.size, self.items = size, list[tuple[Tensor, ...]]()
        self._next = 0

    def add(self, item: tuple[Tensor, ...]) -> None:
        """Keep one picture; the oldest goes."""
        if len(self.items) < self.size:
            self.items.append(item)
        else:
            self.items[self._next] = item
            self._next = (self._next + 1) % self.size

    def draw(self, count: int, rng: np.random.Generator) -> list[Tensor]:
        """A batch, mirrored half of the time."""
        chosen = [self.items[i] for i in rng.integers(len(self.items), size=count)]
        overview, crops, measured, levels, quality = (torch.stack(parts) for parts in zip(*chosen, strict=True))
        if rng.random() < 0.5:
            overview, crops = overview.flip(-1), crops.flip(-1)
        return [overview.float() / 255, crops.float() / 255, measured, levels, quality]

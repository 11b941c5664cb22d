"""Which parts of a photo to show at 100 %: where a restoration changed most, and where it changed least."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.image import Image

_CELLS = 32  # along the shorter side of a part: as finely as its place is searched
_STEPS = 8  # places along the side of a part
_APART = 0.75  # of its side: parts that lie nearer show much the same


@dataclass(frozen=True)
class Place:
    """A part of a photo, in pixels."""

    top: int
    left: int
    height: int
    width: int
    most: bool
    """Whether it is shown for much change, or else for little."""

    def of(self, image: Image) -> Image:
        """This part of an image."""
        return image[..., self.top : self.top + self.height, self.left : self.left + self.width]


def find_places(before: Image, after: Image, side: int, most: int) -> list[Place]:
    """Up to ``most`` parts where two pictures of one size differ most, the first most of all, and the part where they
    differ least, second in the list: whoever shows only a few sees both. Parts are ``side`` pixels square, or as large
    as the picture is.
    """
    height, width = after.shape[-2:]
    tall, wide = min(side, height), min(side, width)
    cell = max(1, min(tall, wide) // _CELLS)
    kernel = tall // cell, wide // cell
    stride = max(1, kernel[0] // _STEPS), max(1, kernel[1] // _STEPS)
    scores = F.avg_pool2d(_change(before, after, cell), kernel, stride)[0, 0]
    tops = torch.arange(scores.shape[0])[:, None] * stride[0] * cell
    lefts = torch.arange(scores.shape[1])[None] * stride[1] * cell
    free = torch.ones_like(scores, dtype=torch.bool)
    found: list[Place] = []

    def take(largest: bool) -> Place:
        ranked = scores.masked_fill(~free, -1 if largest else torch.inf)
        row, column = divmod(int(ranked.argmax() if largest else ranked.argmin()), scores.shape[1])
        top, left = int(tops[row, 0]), int(lefts[0, column])
        free.logical_and_(((tops - top).abs() >= _APART * tall) | ((lefts - left).abs() >= _APART * wide))
        return Place(top, left, tall, wide, largest)

    while len(found) <= most and free.any():
        found.append(take(largest=len(found) != 1))
    return found


def _change(before: Image, after: Image, cell: int) -> Tensor:
    """Mean absolute difference of each cell, (1, 1, H // cell, W // cell), a strip at a time: photos are large."""
    strip = 64 * cell
    rows = [
        F.avg_pool2d((b - a).abs().mean(1, keepdim=True), cell)
        for b, a in zip(before.split(strip, dim=2), after.split(strip, dim=2), strict=True)
        if a.shape[2] >= cell
    ]
    return torch.cat(rows, dim=2)

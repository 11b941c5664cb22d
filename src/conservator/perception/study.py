"""A study: the few small pictures of a photo that planning looks at, so that its cost does not grow with the photo."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.errors import ImageError
from conservator.image import Image, check_image, luma
from conservator.tools.classical.basics import block_mean

_GRID = 16  # crops keep the phase of JPEG's 8 and 16 pixel blocks
_STRIP = 32
"""Rows of the grid that are compared at once."""


def study(image: Image, views: int = 4, side: int = 256, like: Image | None = None) -> Image:
    """Make a study (1 + views, 3, side, side) of one image: item 0 the reduced overview, the others native crops.

    The crops are picked for what they show: the most textured place, a smooth one of medium brightness, and places of
    median texture far from these. An image no larger than 1.5 ``side`` both ways is its own study, (1, 3, H, W).
    ``like`` picks the places on another image of the same size, to study a reference where its damaged version was.
    """
    height, width = check_image(image).shape[-2:]
    if max(height, width) <= 1.5 * side:
        return image
    overview = F.interpolate(image, (side, side), mode="bilinear", antialias=True)
    places = _places(_pad_to(image if like is None else like, side), views, side)
    padded = _pad_to(image, side)
    crops = [padded[..., top : top + side, left : left + side] for top, left in places]
    return torch.cat([overview, *crops]).clamp(0, 1)


def most_changed(before: Image, after: Image, side: int = 256) -> tuple[int, int]:
    """Top left corner of the native ``side`` x ``side`` part where two images of one size differ most (mean square).

    Corners are multiples of 16 pixels, as those of a study's crops are. Of an image that is smaller one way or the
    other, the part has all of it that way.
    """
    height, width = check_image(before).shape[-2:]
    if after.shape != before.shape:
        raise ImageError(f"{tuple(after.shape)} cannot be compared with {tuple(before.shape)}; give images of one size")
    grid = min(_GRID, height, width)
    rows = range(0, height // grid * grid, _STRIP * grid)  # strips of the photo: its squares would take as much again
    strips = ((image[..., top : top + _STRIP * grid, :] for image in (before, after)) for top in rows)
    change = torch.cat([F.avg_pool2d((a - b).square().mean(1, keepdim=True), grid) for a, b in strips], 2)
    box = [min(side // grid, length) for length in change.shape[-2:]]
    sums = F.avg_pool2d(change, box, stride=1)[0, 0]
    place = int(sums.argmax())
    return place // sums.shape[1] * grid, place % sums.shape[1] * grid


def _pad_to(image: Image, side: int) -> Image:
    height, width = image.shape[-2:]
    bottom, right = max(0, side - height), max(0, side - width)
    if not bottom and not right:
        return image
    mode = "reflect" if bottom < height and right < width else "replicate"
    return F.pad(image, (0, right, 0, bottom), mode=mode)


def _places(image: Image, views: int, side: int) -> list[tuple[int, int]]:
    """Top left corners of the crops, multiples of 16 pixels."""
    height, width = image.shape[-2:]
    tops, lefts = _starts(height, side), _starts(width, side)
    texture, light = _cells(image, tops, lefts, side)
    centres = torch.tensor([(t, le) for t in tops for le in lefts], dtype=torch.float32)
    exposed = ((light > 0.08) & (light < 0.95)).float()
    wanted = [texture * exposed, -texture - 10 * (1 - exposed), -(texture - texture.median()).abs()]
    chosen: list[int] = []
    for view in range(views):
        score = wanted[min(view, 2)]
        rank = score.argsort().argsort().float() / max(1, len(score) - 1)
        if chosen:
            distance = torch.cdist(centres, centres[chosen]).amin(1)
            rank = rank + (distance / side).clamp(max=1.0) + (distance / float(max(height, width))).clamp(max=0.5)
        chosen.append(int(rank.argmax()))
    return [(int(centres[i, 0]), int(centres[i, 1])) for i in chosen]


def _starts(length: int, side: int) -> list[int]:
    """Evenly spaced crop positions, at most 12, at half-crop distances or wider."""
    last = length - side
    count = min(12, max(1, 2 * last // side + 1))
    return sorted({last * i // max(1, count - 1) // _GRID * _GRID for i in range(count)})


def _cells(image: Image, tops: list[int], lefts: list[int], side: int) -> tuple[Tensor, Tensor]:
    """Mean gradient and mean luma of every candidate crop, each a vector (tops * lefts)."""
    small = luma(block_mean(image, 4))  # in this order: the luma of a whole photo would take longer than all the rest
    gradient = torch.zeros_like(small)
    gradient[..., :-1] += (small[..., 1:] - small[..., :-1]).abs()
    gradient[..., :-1, :] += (small[..., 1:, :] - small[..., :-1, :]).abs()
    boxes = [(t // 4, le // 4, side // 4) for t in tops for le in lefts]
    both = torch.cat([gradient, small], 1)[0]
    means = torch.stack([both[:, t : t + s, le : le + s].mean((1, 2)) for t, le, s in boxes])
    return means[:, 0], means[:, 1]

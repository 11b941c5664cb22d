"""Does a treatment agree with the damage that it says it removed? Evidence against it, from two pictures alone.

A result that is damaged again, by what was found in the input, must give the input back; and what was taken away must
look like damage, not like the photo. Every function takes the picture before and after a treatment, of one size: an
image (1, 3, H, W), or a study (B, 3, H, W), whose items count together. 0 means that all is consistent, more that less
is; a number that cannot be computed, because nothing changed, say, is NaN. None of them knows the undamaged photo, so a
low number is no praise: docs/results/consistency.md says what each of them is worth.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.errors import ImageError
from conservator.image import Image, check_image, in_8_bits, luma
from conservator.photo.quantisation import JpegTables

_SHARED_BY: Mapping[str, tuple[int, int]] = {"4:4:4": (1, 1), "4:2:2": (2, 1), "4:2:0": (2, 2)}
"""Pixels across and down that share one value of colour."""
_YCC = ((0.299, 0.587, 0.114), (-0.168735892, -0.331264108, 0.5), (0.5, -0.418687589, -0.081312411))
"""JFIF's Y, Cb and Cr of red, green and blue."""
_DOUBT_OF_MEAN, _DOUBT_OF_LUMA, _DOUBT_OF_COLOUR = 8.0, 3.0, 4.0
"""By how many levels 8-bit rounding moves a coefficient of a decoded block. A mean moves by 8 at most, where all 64
values are rounded one way, twice; of the others, on scikit-image's photos, 3 and 4 cover all but three in a million."""
_SLACK = 1.0
_SIDE = 8
"""Pixels a side of the blocks in which the energy of a change is measured."""
_CALM = 0.25
"""The quantile of the blocks that tells how much of a change lies everywhere. A tenth and the median tell harm from
benefit about as well (docs/results/consistency.md)."""
_STREAK = 7
"""Pixels a side in which a direction is told: twice the width of streaks."""
_DIRECTIONS, _TOGETHER = 36, 5
"""Steps of 5 degrees, and how many of them are one direction: layers of rain differ by up to 20 degrees."""


def noise_structure(before: Image, after: Image) -> float:
    """How much of what a denoiser took away lies where the picture has something to show, 0 to 1.

    Noise lies everywhere, texture does not: the energy of the difference in blocks of 8x8 pixels, its lower quartile
    over its mean, is the share that lies everywhere, and 1 less that comes back. White noise of three channels gives
    0.07, gray or correlated noise 0.1 to 0.4; texture taken from a part of a picture nearly 1. If all noise went and
    some texture with it, more was lost than gained from about 0.5 on. That the difference must look like noise is the
    idea of the method noise (Buades, Coll, Morel, "A non-local algorithm for image denoising", 2005). Blocks that are
    black or white, where noise cannot show, do not count. Texture that fills the picture looks like noise. NaN where
    nothing changed. Raises ImageError for pictures of two sizes.
    """
    _check_both(before, after)
    if min(before.shape[-2:]) < _SIDE:
        return math.nan
    energy = F.avg_pool2d((before - after).square().sum(1, keepdim=True), _SIDE).flatten()
    clipped = ((before <= 0.5 / 255) | (before >= 254.5 / 255)).all(1, keepdim=True).float()
    energy = energy[F.avg_pool2d(clipped, _SIDE).flatten() < 0.5].double()
    if not len(energy) or not float(energy.mean()) > 0:
        return math.nan
    return 1 - min(1.0, float(torch.quantile(energy, _CALM) / energy.mean()))


def streaks(before: Image, after: Image) -> float:
    """How much of what a treatment of rain took away is no rain, 0 to 1.

    Streaks are brighter than what is behind them, and run along few directions. The structure tensor (Bigün, Granlund,
    "Optimal orientation detection of linear symmetry", 1987) of the difference in luma tells for each place how much of
    it runs along one direction, and along which; the best 25 degrees together are taken for streaks. Of that share of
    the difference, as much is left as the picture became darker on balance: nothing where half of the energy brightened
    it. Bright parallel lines that belong to the scene are taken for rain. NaN where nothing changed. Raises ImageError
    for pictures of two sizes.
    """
    _check_both(before, after)
    if min(before.shape[-2:]) < _STREAK + 2:
        return math.nan
    change = luma(before - after).double()
    x = (change[..., 1:-1, 2:] - change[..., 1:-1, :-2]) / 2
    y = (change[..., 2:, 1:-1] - change[..., :-2, 1:-1]) / 2
    tensor = F.avg_pool2d(torch.cat([x * x - y * y, 2 * x * y, x * x + y * y], 1), _STREAK, 1)
    cosine, sine, energy = (plane.flatten() for plane in tensor.unbind(1))
    contrast = energy.clamp_min(1e-12).sqrt()  # not the energy: a few strong edges would count for all
    whole, darker = float(contrast.sum()), float(change.clamp_min(0).square().sum() / change.square().sum())
    if not darker >= 0:
        return math.nan
    turn = (torch.atan2(sine, cosine) / (2 * math.pi) + 0.5) * _DIRECTIONS  # of twice the angle: a line has no front
    along = torch.zeros(_DIRECTIONS, dtype=torch.float64)
    along.index_add_(0, turn.long() % _DIRECTIONS, torch.hypot(cosine, sine) / contrast)
    best = max(float(along.roll(n)[:_TOGETHER].sum()) for n in range(_DIRECTIONS))
    return 1 - min(1.0, best / whole) * max(0.0, 2 * darker - 1)


def jpeg_cells(before: Image, after: Image, tables: JpegTables, top: int = 0, left: int = 0) -> float:
    """Share of the DCT coefficients of ``after`` that a JPEG would not have rounded to those of ``before``, 0 to 1.

    ``before`` is a JPEG as it was decoded, with its ``tables``; ``top`` and ``left`` say where its first whole block
    lies (of 16 pixels where colours are subsampled), as in a crop. The undamaged photo lies in all cells (the
    quantisation constraint of Zakhor, "Iterative procedures for reduction of blocking effects in transform image
    coding", 1992). ``after`` is rounded to 8 bits and encoded as libjpeg does it. What ``before`` was rounded to is
    known as far as its own 8 bits tell: a cell is wider by 8 levels of 255 for the mean of a block, by 3 for its other
    coefficients of Y, by 4 for those of Cb and Cr, where that leaves a doubt, and by 1 for arithmetic. Blocks with
    black or white in a channel do not count: the decoder cut them. Tables of Y alone leave the colours out. NaN where
    no block is left. Raises ImageError for pictures of two sizes.
    """
    _check_both(before, after)
    height, width = ((side - start) // 16 * 16 for side, start in zip(before.shape[-2:], (top, left), strict=True))
    if min(height, width) <= 0:
        return math.nan
    part = (..., slice(top, top + height), slice(left, left + width))
    cut = ((before[part] <= 0) | (before[part] >= 1)).any(1, keepdim=True).double()
    given, encoded = _ycc(before[part]), (_ycc(in_8_bits(after[part])) + 0.5).floor()
    count = outside = 0
    for channel, steps in enumerate(tables.steps):
        shared = _SHARED_BY[tables.subsampling] if channel else (1, 1)
        doubt = _DOUBT_OF_COLOUR if channel else _DOUBT_OF_LUMA
        beyond = _beyond_cells(given[:, channel], encoded[:, channel], steps, shared, doubt)
        beyond = beyond[_usable(cut, shared)]
        count, outside = count + beyond.numel(), outside + int((beyond > _SLACK).sum())
    return outside / count if count else math.nan


def _check_both(before: Image, after: Image) -> None:
    """Raise ImageError unless both are images or studies of the same shape."""
    check_image(before)
    check_image(after)
    if before.shape != after.shape:
        raise ImageError(
            f"before and after have shapes {tuple(before.shape)} and {tuple(after.shape)}, expected the same"
        )


def _beyond_cells(
    given: Tensor, encoded: Tensor, steps: tuple[int, ...], shared: tuple[int, int], doubt: float
) -> Tensor:
    """How many levels each coefficient lies beyond its cell, (B, rows, columns, 8, 8), of two planes (B, H, W)."""
    step = torch.tensor(steps, dtype=torch.float64).view(8, 8)
    doubts = torch.full_like(step, doubt)
    doubts[0, 0] = _DOUBT_OF_MEAN
    was, now = _blocks(_not_enlarged(_means(given, shared), shared)), _blocks(_means(encoded, shared, rounded=True))
    nearest = (was / step).round()
    first, last = ((was - doubts) / step).ceil(), ((was + doubts) / step).floor()
    first, last = torch.minimum(first, nearest), torch.maximum(last, nearest)
    return torch.maximum((first - 0.5) * step - now, now - (last + 0.5) * step)


def _usable(cut: Tensor, shared: tuple[int, int]) -> Tensor:
    """Which blocks (B, rows, columns) count, of where pixels were cut (B, 1, H, W).

    Where colours are shared, a block's depend on its neighbours, and at the border on what is not there.
    """
    across, down = shared
    blocks = F.max_pool2d(cut, (8 * down, 8 * across))
    if shared != (1, 1):
        blocks = F.max_pool2d(F.pad(blocks, (1, 1, 1, 1), value=1.0), 3, 1)
    return blocks[:, 0] == 0


def _ycc(image: Image) -> Tensor:
    """Y - 128, Cb - 128 and Cr - 128 of the levels 0 to 255 of an image, (B, 3, H, W) float64."""
    planes = torch.einsum("oc,bchw->bohw", torch.tensor(_YCC, dtype=torch.float64), image.double() * 255)
    return planes - torch.tensor([128.0, 0.0, 0.0], dtype=torch.float64).view(1, 3, 1, 1)


def _means(plane: Tensor, shared: tuple[int, int], *, rounded: bool = False) -> Tensor:
    """Means of the pixels (B, H, W) that share a value; ``rounded`` as libjpeg does: up and down by turns."""
    across, down = shared
    if across == 1:
        return plane
    batch, height, width = plane.shape
    sums = plane.reshape(batch, height // down, down, width // across, across).sum((2, 4))
    if not rounded:
        return sums / (across * down)
    bias = (torch.arange(sums.shape[-1]) % 2 + (1 if down == 2 else 0)).double()
    return ((sums + bias) / (across * down)).floor()


def _not_enlarged(plane: Tensor, shared: tuple[int, int]) -> Tensor:
    """What the decoder had enlarged to a plane whose means are ``plane`` (B, H, W).

    libjpeg enlarges with weights of 3/4 and 1/4, so a mean holds 3/4 of the value and 1/8 of each neighbour. A cosine
    transform with mirrored borders turns that into a factor for each frequency.
    """
    from scipy.fft import dctn, idctn

    axes = [axis for axis, count in ((1, shared[1]), (2, shared[0])) if count == 2]
    if not axes:
        return plane
    spectrum = dctn(plane.numpy(), axes=axes, norm="ortho")
    for axis in axes:
        length = spectrum.shape[axis]
        factor = 0.75 + 0.25 * np.cos(np.pi * np.arange(length) / length)
        spectrum /= np.expand_dims(factor, [other for other in range(3) if other != axis])
    return torch.from_numpy(idctn(spectrum, axes=axes, norm="ortho"))


def _blocks(plane: Tensor) -> Tensor:
    """The orthonormal DCT of blocks of 8x8, (B, rows, columns, 8, 8), of a plane (B, H, W)."""
    k = torch.arange(8, dtype=torch.float64)
    matrix = torch.cos(math.pi / 16 * (2 * k + 1) * k[:, None]) / 2
    matrix[0] /= math.sqrt(2)
    batch, height, width = plane.shape
    blocks = plane.reshape(batch, height // 8, 8, width // 8, 8).transpose(2, 3)
    return matrix @ blocks @ matrix.T

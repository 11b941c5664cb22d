"""The small filters that several classical tools share."""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.image import Image

_OPPONENT = torch.tensor(
    [
        [1 / math.sqrt(3), 1 / math.sqrt(3), 1 / math.sqrt(3)],
        [1 / math.sqrt(2), 0.0, -1 / math.sqrt(2)],
        [1 / math.sqrt(6), -2 / math.sqrt(6), 1 / math.sqrt(6)],
    ]
)


def to_opponent(image: Image) -> Tensor:
    """Rotate RGB (B, 3, H, W) to intensity, red-blue and green-magenta; white noise stays white, sigma the same."""
    opponent: Tensor = (_OPPONENT.to(image) @ image.flatten(2)).unflatten(2, image.shape[2:])
    return opponent


def from_opponent(opponent: Tensor) -> Image:
    """Undo ``to_opponent`` and clip to [0, 1]."""
    return torch.einsum("oc,bohw->bchw", _OPPONENT.to(opponent), opponent).clamp(0, 1)


def pad(image: Tensor, margin: int) -> Tensor:
    """Pad (B, C, H, W) by ``margin`` pixels a side: mirrored, or repeated where the image is too small for that."""
    mode = "reflect" if min(image.shape[-2:]) > margin else "replicate"
    return F.pad(image, (margin,) * 4, mode=mode)


def box_mean(image: Tensor, radius: int) -> Tensor:
    """Mean over a square of side ``2 * radius + 1``, inside the image only; (B, C, H, W) to the same."""
    side = 2 * radius + 1
    rows = F.avg_pool2d(image, (side, 1), 1, (radius, 0), count_include_pad=False)
    return F.avg_pool2d(rows, (1, side), 1, (0, radius), count_include_pad=False)


def block_mean(planes: Tensor, side: int) -> Tensor:
    """Mean of every whole block of ``side`` x ``side`` pixels, (..., H, W) to (..., H // side, W // side).

    What does not fill a block at the right and at the bottom is left out. As ``avg_pool2d``, in a fraction of the time:
    whole rows are added before columns are.
    """
    height, width = (length // side * side for length in planes.shape[-2:])
    planes = planes[..., :height, :width]
    if side == 2:  # a sum over an axis of two elements is slow
        rows = planes[..., ::2, :] + planes[..., 1::2, :]
        return (rows[..., ::2] + rows[..., 1::2]) * 0.25
    sums: Tensor = planes.unflatten(-2, (-1, side)).sum(-2).unflatten(-1, (-1, side)).sum(-1)
    return sums / side**2


def guided_filter(guide: Tensor, target: Tensor, radius: int, epsilon: float) -> Tensor:
    """Smooth ``target`` (B, 1, H, W) along the edges of ``guide`` (B, 1, H, W).

    Source: He, Sun, Tang, "Guided image filtering", ECCV 2010.
    """
    mean_guide, mean_target = box_mean(guide, radius), box_mean(target, radius)
    covariance = box_mean(guide * target, radius) - mean_guide * mean_target
    slope = covariance / (box_mean(guide * guide, radius) - mean_guide**2 + epsilon)
    offset = mean_target - slope * mean_guide
    return box_mean(slope, radius) * guide + box_mean(offset, radius)


@cache
def dct_matrix(side: int) -> Tensor:
    """The orthonormal DCT-II, (side, side): row k is the k-th frequency."""
    k = torch.arange(side, dtype=torch.float64)
    matrix = torch.cos(math.pi * (2 * k[None] + 1) * k[:, None] / (2 * side)) * math.sqrt(2 / side)
    matrix[0] /= math.sqrt(2)
    return matrix.float()


@cache
def dct_basis(side: int) -> Tensor:
    """The two-dimensional DCT as convolution kernels, (side * side, 1, side, side)."""
    rows = dct_matrix(side)
    return torch.einsum("uy,vx->uvyx", rows, rows).reshape(side * side, 1, side, side).contiguous()

"""Shrinkage of overlapping 8 x 8 DCT blocks: the engine of the DCT denoiser and of the DCT deblocker."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.tools.classical.basics import dct_matrix, pad

_SIDE = 8
_STRIDE = 2
_MARGIN = 16  # two passes reach 14 pixels; a multiple of the stride keeps the blocks of all pieces on one grid
_PIECE = 128  # pixels a side: 64 coefficients for each pixel are many, and small pieces stay in the cache
_THRESHOLD = 2.7


def shrink_dct(planes: Tensor, sigma: Tensor) -> Tensor:
    """Remove noise from planes (N, 1, H, W) whose DCT coefficients have the deviations ``sigma`` (N, 1 or 64, 1, 1).

    Two passes over all blocks at every second pixel: hard thresholding, then a Wiener filter whose gains come from the
    first result. Blocks are averaged with weights that favour those that needed few coefficients.

    Source: Yu, Sapiro, "DCT image denoising", IPOL 2011; weights and second pass as in Pierazzo, Morel, Facciolo,
    "Multi-scale DCT denoising", IPOL 2017.
    """
    height, width = planes.shape[-2:]
    padded = pad(planes, _MARGIN)
    padded = F.pad(padded, (0, width % _STRIDE, 0, height % _STRIDE), mode="replicate")
    result = torch.empty_like(planes)
    for top in range(0, height, _PIECE):
        for left in range(0, width, _PIECE):
            bottom, right = min(top + _PIECE, height), min(left + _PIECE, width)
            ends = [end + end % _STRIDE + 2 * _MARGIN for end in (bottom, right)]
            piece = _shrink_piece(padded[..., top : ends[0], left : ends[1]], sigma)
            result[..., top:bottom, left:right] = piece[..., : bottom - top, : right - left]
    return result


def _shrink_piece(piece: Tensor, sigma: Tensor) -> Tensor:
    """Both passes over one piece; returns it without its margin."""
    noisy = _analyse(piece)
    kept = (noisy.abs() > _THRESHOLD * sigma).float()
    kept[:, 0] = 1
    pilot = _synthesise(noisy * kept, 1 / kept.sum(1, keepdim=True))
    power = _analyse(pilot).square_()
    gain = power / (power + sigma**2).clamp_min_(1e-12)
    gain[:, 0] = 1
    result = _synthesise(noisy * gain, 1 / gain.square().sum(1, keepdim=True))
    return result[..., _MARGIN:-_MARGIN, _MARGIN:-_MARGIN]


def _analyse(planes: Tensor) -> Tensor:
    """DCT of the blocks of (N, 1, H, W) at every second pixel: (N, 64, rows, columns)."""
    matrix = dct_matrix(_SIDE)
    rows = F.conv2d(planes, matrix[:, None, :, None], stride=(_STRIDE, 1))
    both = F.conv2d(rows.flatten(0, 1)[:, None], matrix[:, None, None, :], stride=(1, _STRIDE))
    return both.view(len(planes), _SIDE * _SIDE, *both.shape[-2:])


def _synthesise(coefficients: Tensor, weight: Tensor) -> Tensor:
    """Average of the overlapping blocks, each with its ``weight`` (N, 1, rows, columns): (N, 1, H, W)."""
    matrix = dct_matrix(_SIDE)
    n, _, rows, columns = coefficients.shape
    weighted = (coefficients * weight).view(n * _SIDE, _SIDE, rows, columns)
    lines = F.conv_transpose2d(weighted, matrix[:, None, None, :], stride=(1, _STRIDE))
    lines = lines.view(n, _SIDE, rows, -1)
    total = F.conv_transpose2d(lines, matrix[:, None, :, None], stride=(_STRIDE, 1))
    ones = torch.ones(1, 1, _SIDE, _SIDE)
    return total / F.conv_transpose2d(weight, ones, stride=_STRIDE)

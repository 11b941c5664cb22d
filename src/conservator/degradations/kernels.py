"""Convolutions that blurs, noise and rain share. Borders repeat the outermost pixel."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional as F

Taps: TypeAlias = Mapping[tuple[int, int], float]
"""Weight of the pixel at (rows down, columns right) of the output pixel."""


def gaussian_window(sigma: float, radius: int) -> Tensor:
    """Gaussian of ``sigma`` pixels, sampled at the pixels and cut at ``radius``: (2 * radius + 1,), sums to 1."""
    x = torch.arange(-radius, radius + 1, dtype=torch.float64)
    window = torch.exp(-0.5 * (x / max(sigma, 1e-2)) ** 2)  # below 1e-2 px nothing but the centre is left anyway
    return (window / window.sum()).float()


def convolve(x: Tensor, kernel: Tensor) -> Tensor:
    """Convolve each channel of (B, C, H, W) with one symmetric kernel (odd, odd)."""
    rows, columns = kernel.shape[0] // 2, kernel.shape[1] // 2
    taps = {(int(i) - rows, int(j) - columns): float(kernel[i, j]) for i, j in kernel.nonzero()}
    return gather_taps(F.pad(x, (columns, columns, rows, rows), mode="replicate"), taps, (rows, columns))


def convolve_separable(x: Tensor, window: Tensor) -> Tensor:
    """Convolve (B, C, H, W) with the same symmetric window (odd,) along rows and columns."""
    return convolve(convolve(x, window[:, None]), window[None, :])


def line_taps(weights: Sequence[float], angle: float) -> Taps:
    """Lay weights, one per pixel, on a ray from the origin; angle in degrees, 0 to the right and 90 down.

    Positions are rounded to whole pixels, and weights that meet are added.
    """
    dy, dx = math.sin(math.radians(angle)), math.cos(math.radians(angle))
    taps: dict[tuple[int, int], float] = {}
    for i, weight in enumerate(weights):
        place = (math.ceil(i * dy - 0.5), math.ceil(i * dx - 0.5))
        taps[place] = taps.get(place, 0.0) + weight
    return taps


def path_taps(down: NDArray[np.float64], right: NDArray[np.float64], weights: NDArray[np.float64]) -> Taps:
    """Taps of a path between the pixels: each of its points (N,) shared out among the four pixels around it; sum 1."""
    taps: dict[tuple[int, int], float] = {}
    rows, columns = np.floor(down).astype(int), np.floor(right).astype(int)
    y, x, share = down - rows, right - columns, weights / weights.sum()
    for i, j, part in ((0, 0, (1 - y) * (1 - x)), (0, 1, (1 - y) * x), (1, 0, y * (1 - x)), (1, 1, y * x)):
        for row, column, weight in zip(rows + i, columns + j, part * share, strict=True):
            if weight > 0:
                place = (int(row), int(column))
                taps[place] = taps.get(place, 0.0) + float(weight)
    return taps


def gather_taps(canvas: Tensor, taps: Taps, margin: tuple[int, int]) -> Tensor:
    """Weighted sum of shifted copies of a canvas that has (rows, columns) of margin on each side, without the margin.

    On a CPU this beats torch's convolution of single channels, and it sums in one order for any number of threads.
    No tap may reach beyond the margin.
    """
    rows, columns = margin
    height, width = canvas.shape[-2] - 2 * rows, canvas.shape[-1] - 2 * columns
    total = torch.zeros((*canvas.shape[:-2], height, width), dtype=canvas.dtype, device=canvas.device)
    for (dy, dx), weight in taps.items():
        top, left = rows + dy, columns + dx
        total.add_(canvas[..., top : top + height, left : left + width], alpha=weight)
    return total

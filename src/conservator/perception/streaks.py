"""Streaks: thin bright lines that run one way all over a picture, as rain does."""

from __future__ import annotations

import math
from collections.abc import Sequence
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.perception.windows import logarithm, surroundings

_DIRECTIONS = tuple(range(-80, 100, 10))
_FLAT = [i for i, degrees in enumerate(_DIRECTIONS) if abs(degrees) > 40]
_STEEP = [i for i, degrees in enumerate(_DIRECTIONS) if abs(degrees) <= 40]
_LINE = 21  # pixels
_TOGETHER, _SHIFTS = 16, 8
"""Filters that PyTorch runs at full speed, and how many shifted copies of each of the others it gets (see below)."""


def streak_statistics(y: Tensor) -> dict[str, Tensor]:
    """Thin bright lines that run one way all over the picture, as rain does.

    The responses of line filters are divided by their local strength, so that a few strong edges do not outweigh the
    picture; what counts is how the best steep direction stands out against the median of all directions, and how much
    more bright than dark lines there are along it.
    """
    response = _line_responses(y)
    squares = response.square()
    energy = surroundings(squares.mean(1, keepdim=True), 4, 2).sqrt()
    plain = response[..., ::2, ::2]
    found = _bright_lines(torch.stack([plain / (energy + 2e-4), plain]).flatten(3), ("even", "plain"))
    steep = squares.mean((2, 3))[:, _STEEP]
    found["line_strength"] = logarithm(steep.amax(1).sqrt())
    found["line_angle"] = (steep.argmax(1).float() - len(_STEEP) // 2) / 4
    return found


def _line_responses(y: Tensor) -> Tensor:
    """Responses to the line filters at every second pixel, (B, 18, H', W'), as ``conv2d`` gives them.

    A convolution with one channel in computes 16 channels out at a time; 18 would take it as long as 32. So the last
    two are made by another 16: eight places in a row at once, as channels, of each of the two.
    """
    first = F.conv2d(y, _streak_kernels()[:_TOGETHER], stride=2)
    width = first.shape[-1]
    missing = 2 * (-width % _SHIFTS) - (y.shape[-1] - _LINE) % 2  # pixels, for whole groups of eight places
    groups = F.conv2d(F.pad(y, (0, max(0, missing))), _shifted_kernels(), stride=(2, 2 * _SHIFTS))
    places = groups.unflatten(1, (-1, _SHIFTS)).permute(0, 1, 3, 4, 2).flatten(3)
    return torch.cat([first, places[..., :width]], 1)


@cache
def _streak_kernels() -> Tensor:
    """Thin bright lines with dark flanks, 21 pixels long, in 18 directions from the vertical: (18, 1, 21, 21)."""
    half = _LINE // 2
    y, x = torch.meshgrid(*(torch.arange(-half, half + 1, dtype=torch.float32),) * 2, indexing="ij")
    kernels = []
    for degrees in _DIRECTIONS:
        radians = math.radians(degrees)
        across, along = x * math.cos(radians) + y * math.sin(radians), y * math.cos(radians) - x * math.sin(radians)
        envelope = torch.exp(-((along / 7) ** 2))
        line, flank = torch.exp(-((across / 1.3) ** 2) / 2), torch.exp(-((across / 3.0) ** 2) / 2)
        kernel = envelope * line / (envelope * line).sum() - envelope * flank / (envelope * flank).sum()
        kernels.append(kernel / kernel.abs().sum())
    return torch.stack(kernels)[:, None]


@cache
def _shifted_kernels() -> Tensor:
    """The last two kernels, each in 8 copies that are 2 pixels farther to the right: (16, 1, 21, 35)."""
    kernels = _streak_kernels()[_TOGETHER:]
    reach = 2 * (_SHIFTS - 1)
    copies = [F.pad(kernels, (2 * i, reach - 2 * i)) for i in range(_SHIFTS)]
    return torch.stack(copies, 1).flatten(0, 1)


def _bright_lines(responses: Tensor, names: Sequence[str]) -> dict[str, Tensor]:
    """How the best steep direction stands out, of responses (names, B, directions, places)."""
    percents, count = (60, 80, 95), responses.shape[3]
    places = [min(count - 1, count * percent // 100) for percent in percents]
    ordered = np.sort(responses.numpy(), axis=3)  # a fraction of the time that torch.sort takes
    bright = torch.from_numpy(ordered[..., places])
    dark = -torch.from_numpy(ordered[..., [count - 1 - place for place in places]])
    median = logarithm(bright.median(2).values.clamp(min=0))
    steep = bright[:, :, _STEEP]
    most, best = steep.max(2, keepdim=True)
    stands_out = logarithm(most[:, :, 0].clamp(min=0)) - median
    opposite = dark[:, :, _STEEP].gather(2, best).abs() + 1e-4
    brighter = (most / opposite)[:, :, 0].clamp(-4, 4)
    flat = logarithm(bright[:, :, _FLAT].amax(2).clamp(min=0)) - median
    found: dict[str, Tensor] = {}
    for i, name in enumerate(names):
        for j, percent in enumerate(percents):
            found[f"line_{name}_{percent}"] = stands_out[i, :, j]
            found[f"line_{name}_bright_{percent}"] = brighter[i, :, j]
            if name == "even":
                found[f"line_flat_{percent}"] = flat[i, :, j]
    return found

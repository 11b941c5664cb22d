"""How much of a photo is a pattern that repeats: stripes, checks, weaves."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F

from conservator.image import Image, luma

_SECTORS = 12
"""Of 15 degrees, over half a turn: the other half is the same."""
_BADLY = 4
"""Directions that may fit badly: checks fit in eight of twelve, where they are fine."""
_NEAREST = 4
"""Pixels from a place within which it resembles its surroundings in any photo."""


def periodicity(patches: Image) -> float:
    """How well patches (N, 3, S, S) fit onto themselves when they are shifted, whichever way: 0 to 1.

    An edge fits onto itself only when it is shifted along its own direction, a pattern in most directions, if it is
    shifted by the right length. So the best fit of each direction is taken, and of these the fifth worst of twelve; the
    mean over the patches is weighted by what they show. In 207 pictures of CBSD68, CID22_val and Set14, reduced, it was
    0.45 at most, and above 0.34 in one of fifty; sharp stripes and checks of up to 10 pixels have 0.6 to 1.
    """
    y, side = luma(patches).float(), patches.shape[-1]
    window = torch.hann_window(side, device=y.device)
    window = (window[:, None] * window)[None, None]
    fine = y - F.avg_pool2d(F.pad(y, (2, 2, 2, 2), mode="replicate"), 5, 1)
    fine = (fine - fine.mean((2, 3), keepdim=True)) * window
    fits = _correlation(fine) / _correlation(window).clamp_min(0.02 * window.square().sum())
    fits = fits[:, 0] / fits[:, :, :1, :1][:, 0].clamp_min(1e-12)
    shift = torch.fft.fftfreq(2 * side, 1 / (2 * side), device=y.device)
    down, across = torch.meshgrid(shift, shift, indexing="ij")
    length, turn = torch.hypot(down, across), torch.atan2(down, across) % math.pi
    sectors = (turn / math.pi * _SECTORS).long().clamp(max=_SECTORS - 1)
    seen = (length >= _NEAREST) & (length <= side / 2)
    best = torch.stack([fits[:, seen & (sectors == sector)].amax(1) for sector in range(_SECTORS)])
    energy = fine.square().sum((1, 2, 3)) + 1e-12
    return float((best.sort(0).values[_BADLY].clamp(0, 1) * energy).sum() / energy.sum())


def _correlation(image: Image) -> Image:
    """Of images (N, 1, S, S) with themselves at all shifts, (N, 1, 2 S, 2 S); no shift stands first."""
    size = 2 * image.shape[-2], 2 * image.shape[-1]
    found: Image = torch.fft.irfft2(torch.fft.rfft2(image, s=size).abs().square(), s=size)
    return found

"""Which kernel blurred this image: candidates are compared with what is left of its spectrum.

The power spectrum of a sharp photo falls as a power of the frequency. That of a blurred one is this, times the squared
transfer function of the kernel, plus noise. So each candidate explains the measured log-spectrum better or worse, and
the kernel that leaves the least unexplained is taken, if it does much better than "no blur".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cache
from typing import TypeAlias

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.image import Image, luma
from conservator.tools.classical.noise_level import estimate_sigma

_WINDOW = 64  # pixels a side of the windows whose spectra are averaged
_LARGEST = 640  # pixels a side that are looked at
_ROUNDING = 0.3 / 255
_CONVINCING = 0.72
"""A kernel must leave less than this part of the misfit of "no blur"; sharp photos leave 0.8 and more."""

Family: TypeAlias = Callable[[], Iterable[Tensor]]
"""Makes the candidate kernels (k, k), k odd; the pixel at offset d of the sharp image weighs kernel[centre + d]."""


@dataclass(frozen=True)
class BlurModel:
    """A kernel, and what a filter that undoes it needs to know of the scene.

    ``kernel`` is (k, k), k odd, sums to 1. A sharp image has the power ``level * frequency ** slope`` (cycles per
    pixel); ``noise`` is the deviation of the noise, both in units of the range [0, 1].
    """

    kernel: Tensor
    level: float
    slope: float
    noise: float


def estimate_blur(image: Image, family: Family) -> BlurModel | None:
    """Find the kernel of ``family`` that blurred one image (1, 3, H, W); None where none of them explains it well.

    An image below 64 pixels a side is too small to tell.
    """
    height, width = image.shape[-2:]
    if min(height, width) < _WINDOW:
        return None
    y0, x0 = (max(0, side - _LARGEST) // 2 for side in (height, width))
    part = image[..., y0 : y0 + _LARGEST, x0 : x0 + _LARGEST]
    noise = max(float(estimate_sigma(part)[0, 0]) / math.sqrt(3), _ROUNDING)
    kernels, transfer = _candidates(family)
    misfit, level, slope = _fit(_power(luma(part)), transfer, noise**2)
    best = int(misfit[1:].argmin()) + 1
    if float(misfit[best]) > _CONVINCING * float(misfit[0]):
        return None
    return BlurModel(kernels[best - 1], math.exp(float(level[best])), float(slope[best]), noise)


def transfer_function(kernel: Tensor, height: int, width: int) -> Tensor:
    """What the kernel does to ``rfft2`` of a periodic image: complex, (height, width // 2 + 1)."""
    reach = kernel.shape[-1] // 2
    canvas = torch.zeros(height, width)
    index = torch.arange(-reach, reach + 1)
    canvas[(index % height)[:, None], (index % width)[None]] = kernel
    return torch.fft.rfft2(canvas).conj()


def _power(y: Tensor) -> Tensor:
    """Mean power spectrum of luma (1, 1, H, W) in overlapping Hann windows, (64, 33); white noise has its variance."""
    window = torch.hann_window(_WINDOW, periodic=True)
    window = window[:, None] * window
    blocks = F.unfold(y, _WINDOW, stride=_WINDOW // 2)[0].T.reshape(-1, _WINDOW, _WINDOW)
    spectra = torch.fft.rfft2((blocks - blocks.mean((1, 2), keepdim=True)) * window)
    return spectra.abs().square().mean(0) / window.square().sum()


@cache
def _frequencies() -> tuple[Tensor, Tensor, Tensor]:
    """Of the window's bins that are used: their mask (64, 33), the frequency, the direction."""
    fy, fx = torch.fft.fftfreq(_WINDOW)[:, None], torch.fft.rfftfreq(_WINDOW)[None]
    frequency = torch.hypot(*torch.broadcast_tensors(fy, fx))
    used = (frequency > 1.5 / _WINDOW) & (frequency <= 0.5)
    return used, frequency[used], torch.atan2(*torch.broadcast_tensors(fy, fx))[used]


@cache
def _candidates(family: Family) -> tuple[list[Tensor], Tensor]:
    """The kernels, and their squared transfer functions at the used bins, (1 + kernels, bins); the first is no blur."""
    used = _frequencies()[0]
    kernels = list(family())
    leak = torch.tensor([1 / 6, 2 / 3, 1 / 6])  # a Hann window mixes neighbouring bins
    squared = []
    for kernel in kernels:
        full = transfer_function(kernel, _WINDOW, _WINDOW).abs().square()
        full = torch.cat([full, full.roll(-1, 0).flip(0)[:, 1:-1].flip(1)], dim=1)[None, None]
        full = F.conv2d(F.pad(full, (1, 1, 1, 1), mode="circular"), (leak[:, None] * leak)[None, None])[0, 0]
        squared.append(full[:, : _WINDOW // 2 + 1][used])
    return kernels, torch.stack([torch.ones_like(squared[0]), *squared])


def _fit(power: Tensor, transfer: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor]:
    """Explain a spectrum by each candidate: mean squared misfit of its logarithm, log level, slope; each (candidates,).

    Scenes have preferred directions; two harmonics of the direction allow for that.
    """
    used, frequency, direction = _frequencies()
    measured = power[used]
    weight = measured / (measured + 3 * noise)
    harmonics = [torch.cos(2 * direction), torch.sin(2 * direction), torch.cos(4 * direction)]
    design = torch.stack([torch.ones_like(frequency), frequency.log(), *harmonics], dim=1) * weight[:, None]
    solve = torch.linalg.pinv(design)
    floor = torch.full_like(transfer, 1e-4)
    for _ in range(2):
        target = (measured.log() - (transfer + floor).log()) * weight
        parameters = target @ solve.T
        scene = (parameters[:, :1] + parameters[:, 1:2] * frequency.log()).exp()
        floor = (noise / scene).clamp(1e-6, 0.1)
    misfit = (target - parameters @ design.T).square().sum(1) / weight.square().sum()
    return misfit, parameters[:, 0], parameters[:, 1]

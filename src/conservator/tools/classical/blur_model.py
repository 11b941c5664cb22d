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

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.image import Image, luma
from conservator.tools.classical.noise_level import estimate_sigma

_WINDOW = 64  # pixels a side of the windows whose spectra are averaged
_LARGEST = 640  # pixels a side that are looked at
_NOISES = (0.3 / 255, 3 / 255, 8 / 255)
"""Deviations below which the spectrum is not trusted, tried in turn: 8-bit rounding, and what a denoiser or a JPEG
has taken from or added to the weak high frequencies."""
_LARGEST_MISFIT = 0.7
"""Mean squared misfit of the log-spectrum beyond which no kernel is believed."""
_SLOPE, _TRUST = -2.6, 0.03
"""The slope of most photos' spectra, and its weight beside that of the measured bins."""


@dataclass(frozen=True)
class Family:
    """Kernels of one kind of blur, and how much evidence it takes to believe in one of them."""

    kernels: Callable[[], Iterable[Tensor]]
    """Makes the candidates (k, k), k odd; the pixel at offset d of the sharp image weighs ``kernel[centre + d]``."""
    convincing: float
    """A kernel must leave less than this part of the misfit of "no blur"."""
    least_bins: float
    """The weights of the bins that show more scene than noise must add up to this, of about 1600."""


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
    misfit: float
    """What the kernel leaves of the misfit of "no blur"."""


def estimate_blur(image: Image, family: Family) -> BlurModel | None:
    """Find the kernel of ``family`` that blurred one image (1, 3, H, W); None where none of them explains it well.

    An image below 64 pixels a side is too small to tell.
    """
    height, width = image.shape[-2:]
    if min(height, width) < _WINDOW:
        return None
    y0, x0 = (max(0, side - _LARGEST) // 2 for side in (height, width))
    part = image[..., y0 : y0 + _LARGEST, x0 : x0 + _LARGEST]
    measured = float(estimate_sigma(part)[0, 0]) / math.sqrt(3)
    power = _power(luma(part))
    kernels, transfer = _candidates(family)
    for noise in sorted({max(measured, least) for least in _NOISES}):
        misfit, level, slope, bins = _fit(power, transfer, noise**2)
        best = int(misfit[1:].argmin()) + 1
        limit = min(_LARGEST_MISFIT, family.convincing * float(misfit[0]))
        if bins >= family.least_bins and float(misfit[best]) < limit:
            left = float(misfit[best] / misfit[0])
            return BlurModel(kernels[best - 1], math.exp(float(level[best])), float(slope[best]), noise, left)
    return None


def mean_power(crops: Image) -> Tensor:
    """The mean power spectrum of native crops (B, 3, H, W) of one photo, sides of 64 pixels or more."""
    return torch.stack([_power(y) for y in luma(crops).split(1)]).mean(0)


def blur_evidence(power: Tensor, family: Family, noise: float) -> tuple[float, float, float, float]:
    """How well the kernels of ``family`` explain a ``mean_power``.

    The logarithm of the least misfit over that of "no blur", that of the least misfit, the extent of the best kernel in
    pixels (root mean square), and the share of the spectrum that shows more scene than noise of deviation ``noise``.
    """
    kernels, transfer = _candidates(family)
    misfit, _, _, bins = _fit(power, transfer, noise**2)
    best = int(misfit[1:].argmin())
    least, none = (max(1e-4, float(misfit[i])) for i in (best + 1, 0))
    return math.log(least / none), math.log(least), _extent(kernels[best]), bins / transfer.shape[1]


def _extent(kernel: Tensor) -> float:
    x = torch.arange(kernel.shape[-1]) - kernel.shape[-1] // 2
    moments = [(kernel.sum(axis) * x, kernel.sum(axis) * x.square()) for axis in (0, 1)]
    return math.sqrt(max(0.0, sum(float(second.sum() - first.sum().square()) for first, second in moments)))


def transfer_function(kernel: Tensor, height: int, width: int) -> Tensor:
    """What the kernel does to ``rfft2`` of a periodic image: complex, (height, width // 2 + 1)."""
    reach = kernel.shape[-1] // 2
    canvas = torch.zeros(height, width)
    index = torch.arange(-reach, reach + 1)
    canvas[(index % height)[:, None], (index % width)[None]] = kernel
    transfer: Tensor = torch.fft.rfft2(canvas).conj()
    return transfer


def _power(y: Tensor) -> Tensor:
    """Mean power spectrum of luma (1, 1, H, W) in overlapping Hann windows, (64, 33); white noise has its variance."""
    window = torch.hann_window(_WINDOW, periodic=True)
    window = window[:, None] * window
    blocks = F.unfold(y, _WINDOW, stride=_WINDOW // 2)[0].T.reshape(-1, _WINDOW, _WINDOW)
    spectra = torch.fft.rfft2((blocks - blocks.mean((1, 2), keepdim=True)) * window)
    power: Tensor = spectra.abs().square().mean(0) / window.square().sum()
    return power


@cache
def _frequencies() -> tuple[Tensor, Tensor, Tensor]:
    """Of the window's bins that are used: their mask (64, 33), the frequency, the direction."""
    fy, fx = torch.fft.fftfreq(_WINDOW)[:, None], torch.fft.rfftfreq(_WINDOW)[None]
    frequency = torch.hypot(*torch.broadcast_tensors(fy, fx))
    used = (frequency > 1.5 / _WINDOW) & (frequency <= 0.5)
    return used, frequency[used], torch.atan2(*torch.broadcast_tensors(fy, fx))[used]


@cache
def _candidates(family: Family) -> tuple[list[Tensor], Tensor]:
    """The kernels, and their log power transfer at the used bins, (1 + kernels, bins); the first is no blur."""
    used = _frequencies()[0]
    kernels = list(family.kernels())
    leak = torch.tensor([1 / 6, 2 / 3, 1 / 6])  # a Hann window mixes neighbouring bins
    squared = []
    for kernel in kernels:
        full = transfer_function(kernel, _WINDOW, _WINDOW).abs().square()
        full = torch.cat([full, full.roll(-1, 0).flip(0)[:, 1:-1].flip(1)], dim=1)[None, None]
        full = F.conv2d(F.pad(full, (1, 1, 1, 1), mode="circular"), (leak[:, None] * leak)[None, None])[0, 0]
        squared.append(full[:, : _WINDOW // 2 + 1][used])
    return kernels, (torch.stack([torch.ones_like(squared[0]), *squared]) + 1e-5).log()


def _fit(power: Tensor, transfer: Tensor, noise: float) -> tuple[Tensor, Tensor, Tensor, float]:
    """Explain a spectrum by each candidate: mean squared misfit of its logarithm, log level, slope, each (candidates,);
    and the sum of the weights.

    Scenes have preferred directions; two harmonics of the direction allow for that. Bins that hold more noise than
    scene do not count, and where few are left the slope keeps to that of most photos.
    """
    used, frequency, direction = _frequencies()
    measured = power[used]
    measured = measured.clamp_min(0.01 * noise)  # a flat image has no power at all
    scene = (measured - noise).clamp_min(0.05 * noise)
    weight = ((measured - 2 * noise) / measured).clamp_min(0)
    harmonics = [torch.cos(2 * direction), torch.sin(2 * direction), torch.cos(4 * direction)]
    design = torch.stack([torch.ones_like(frequency), frequency.log(), *harmonics], dim=1) * weight[:, None]
    prior = torch.tensor([[0.0, math.sqrt(_TRUST * len(frequency)), 0.0, 0.0, 0.0]])
    design = torch.cat([design, prior])
    target = (scene.log() - transfer) * weight
    target = F.pad(target, (0, 1), value=_SLOPE * float(prior[0, 1]))
    parameters = target @ torch.linalg.pinv(design).T
    bins = float(weight.square().sum())
    misfit = torch.addmm(target, parameters, design.T, alpha=-1).square_().sum(1) / max(bins, 1.0)
    return misfit, parameters[:, 0], parameters[:, 1], bins

"""Which kernel blurred this image: candidates are compared with what is left of its spectrum.

The power spectrum of a sharp photo falls as a power of the frequency. That of a blurred one is this, times the squared
transfer function of the kernel, plus noise. So each candidate explains the measured log-spectrum better or worse, and
the kernel that leaves the least unexplained is taken, if it does much better than "no blur".
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
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


_ROUNDING = 2e-5
"""What rounding adds at most to a sum over the bins, beside its terms: 32-bit floats hold 1e-7, of 1600 terms."""
_MANY = 100
"""Candidates of which it pays to find the promising ones first; of fewer, each is fitted."""


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
    power = mean_power(luma(part))
    for noise in sorted({max(measured, least) for least in _NOISES}):
        spectrum = _weighted(power, noise**2)
        (fit,) = _best_fits([spectrum], family)
        if spectrum.bins >= family.least_bins and fit.misfit < min(_LARGEST_MISFIT, family.convincing * fit.unblurred):
            kernel = _candidates(family).kernels[fit.kernel]
            return BlurModel(kernel, math.exp(fit.level), fit.slope, noise, fit.misfit / fit.unblurred)
    return None


def blur_evidence(
    power: Tensor, families: Sequence[Family], noises: Sequence[float]
) -> list[list[tuple[float, float, float, float]]]:
    """How well the kernels of each family explain a ``mean_power``, for each deviation that the noise may have.

    The logarithm of the least misfit over that of "no blur", that of the least misfit, the extent of the best kernel in
    pixels (root mean square), and the share of the spectrum that shows more scene than noise.
    """
    spectra = [_weighted(power, noise**2) for noise in noises]
    found: list[list[tuple[float, float, float, float]]] = [[] for _ in noises]
    for family in families:
        for evidence, spectrum, fit in zip(found, spectra, _best_fits(spectra, family), strict=True):
            least, none = max(1e-4, fit.misfit), max(1e-4, fit.unblurred)
            shown = spectrum.bins / len(spectrum.weight)
            evidence.append((math.log(least / none), math.log(least), _extent(family, fit.kernel), shown))
    return found


@cache
def _extent(family: Family, number: int) -> float:
    kernel = _candidates(family).kernels[number]
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


def mean_power(y: Tensor) -> Tensor:
    """Mean power spectrum of luma (B, 1, H, W) in overlapping Hann windows, (64, 33); white noise has its variance.

    The pictures are parts of one photo, sides of 64 pixels or more.
    """
    window = torch.hann_window(_WINDOW, periodic=True)
    window = window[:, None] * window
    blocks = y.unfold(2, _WINDOW, _WINDOW // 2).unfold(3, _WINDOW, _WINDOW // 2)
    blocks = (blocks - blocks.mean((-2, -1), keepdim=True)).mul_(window).flatten(0, 3)
    spectra = torch.view_as_real(torch.fft.rfft2(blocks))
    power: Tensor = spectra.square().mean(0).sum(-1) / window.square().sum()
    return power


@cache
@torch.inference_mode(False)
def _frequencies() -> tuple[Tensor, Tensor, Tensor]:
    """Of the window's bins that are used: their mask (64, 33), the frequency, the direction."""
    fy, fx = torch.fft.fftfreq(_WINDOW)[:, None], torch.fft.rfftfreq(_WINDOW)[None]
    frequency = torch.hypot(*torch.broadcast_tensors(fy, fx))
    used = (frequency > 1.5 / _WINDOW) & (frequency <= 0.5)
    return used, frequency[used], torch.atan2(*torch.broadcast_tensors(fy, fx))[used]


@cache
@torch.inference_mode(False)
def _regressors() -> Tensor:
    """What a scene's log power is made of at the used bins, (bins, 5): level, slope, and two harmonics of direction.

    Scenes have preferred directions; the harmonics allow for that.
    """
    _, frequency, direction = _frequencies()
    harmonics = [torch.cos(2 * direction), torch.sin(2 * direction), torch.cos(4 * direction)]
    return torch.stack([torch.ones_like(frequency), frequency.log(), *harmonics], dim=1)


@dataclass(frozen=True)
class _Candidates:
    """The kernels of a family, and their log power transfer at the used bins, (1 + kernels, bins); first, no blur."""

    kernels: list[Tensor]
    transfer: Tensor
    squared: Tensor
    """The transfer, squared."""


@cache
@torch.inference_mode(False)  # whoever asks first: kernels go into trainings, too
def _candidates(family: Family) -> _Candidates:
    used = _frequencies()[0]
    kernels = list(family.kernels())
    leak = torch.tensor([1 / 6, 2 / 3, 1 / 6])  # a Hann window mixes neighbouring bins
    powers = []
    for kernel in kernels:
        full = transfer_function(kernel, _WINDOW, _WINDOW).abs().square()
        full = torch.cat([full, full.roll(-1, 0).flip(0)[:, 1:-1].flip(1)], dim=1)[None, None]
        full = F.conv2d(F.pad(full, (1, 1, 1, 1), mode="circular"), (leak[:, None] * leak)[None, None])[0, 0]
        powers.append(full[:, : _WINDOW // 2 + 1][used])
    transfer = (torch.stack([torch.ones_like(powers[0]), *powers]) + 1e-5).log()
    return _Candidates(kernels, transfer, transfer.square())


@dataclass(frozen=True)
class _Spectrum:
    """A measured spectrum, and how it is regressed, the same for every candidate.

    ``scene`` is the logarithm of its power less that of the noise, ``weight`` how far a bin is believed, both (bins,).
    ``design`` (bins + 1, 5) are the weighted regressors, and a last row that holds the slope to that of most photos
    where few bins are left; ``inverse`` is its pseudo-inverse, ``bins`` the sum of the squared weights.
    """

    scene: Tensor
    weight: Tensor
    design: Tensor
    inverse: Tensor
    bins: float

    def targets(self, transfer: Tensor) -> Tensor:
        """What the regressors have to explain, (candidates, bins + 1), if kernels of these log powers blurred it."""
        return F.pad((self.scene - transfer) * self.weight, (0, 1), value=_SLOPE * float(self.design[-1, 1]))


def _weighted(power: Tensor, noise: float) -> _Spectrum:
    """Weigh a spectrum's bins: those that hold more noise than scene do not count."""
    used, frequency, _ = _frequencies()
    measured = power[used]
    measured = measured.clamp_min(0.01 * noise)  # a flat image has no power at all
    scene = (measured - noise).clamp_min(0.05 * noise)
    weight = ((measured - 2 * noise) / measured).clamp_min(0)
    prior = torch.tensor([[0.0, math.sqrt(_TRUST * len(frequency)), 0.0, 0.0, 0.0]])
    design = torch.cat([_regressors() * weight[:, None], prior])
    return _Spectrum(scene.log(), weight, design, torch.linalg.pinv(design), float(weight.square().sum()))


@dataclass(frozen=True)
class _Fit:
    """The kernel that explains a spectrum best, by its number, and how well: mean squared misfits of its logarithm."""

    kernel: int
    misfit: float
    unblurred: float
    """The misfit of "no blur"."""
    level: float
    slope: float


def _best_fits(spectra: Sequence[_Spectrum], family: Family) -> list[_Fit]:
    """Explain each spectrum by each kernel of a family, and by no blur."""
    candidates = _candidates(family)
    promising = _promising(spectra, candidates)
    return [_best_of(candidates, numbers, spectrum) for spectrum, numbers in zip(spectra, promising, strict=True)]


def _best_of(candidates: _Candidates, numbers: Tensor, spectrum: _Spectrum) -> _Fit:
    """Fit those candidates, of which the first is no blur."""
    transfer = candidates.transfer if len(numbers) == len(candidates.transfer) else candidates.transfer[numbers]
    target = spectrum.targets(transfer)
    parameters = target @ spectrum.inverse.T
    misfit = torch.addmm(target, parameters, spectrum.design.T, alpha=-1).square_().sum(1) / max(spectrum.bins, 1.0)
    best = int(misfit[1:].argmin()) + 1
    level, slope = parameters[best, :2].tolist()
    return _Fit(int(numbers[best]) - 1, float(misfit[best]), float(misfit[0]), level, slope)


def _promising(spectra: Sequence[_Spectrum], candidates: _Candidates) -> list[Tensor]:
    """For each spectrum the numbers of "no blur", 0, and of the candidates among which the best is, in their order.

    A sum of squared misfits, multiplied out, is a few products with what is known of the candidates beforehand, which
    spares passes over each of their bins; but great terms cancel, so those that are close to the least are all named.
    """
    count = len(candidates.transfer)
    if count < _MANY:
        return [torch.arange(count)] * len(spectra)
    factors, residuals = [], []
    for spectrum in spectra:
        unblurred = spectrum.targets(candidates.transfer[:1])[0]
        residual = unblurred - spectrum.design @ (spectrum.inverse @ unblurred)
        explained = torch.linalg.qr(spectrum.design).Q  # an orthonormal basis of what the regressors explain
        factors.append(torch.cat([residual[:, None], explained], dim=1)[:-1] * spectrum.weight[:, None])
        residuals.append(float(residual.square().sum()))
    products = (torch.cat(factors, dim=1).T @ candidates.transfer.T).unflatten(0, (len(spectra), -1))
    sizes = torch.stack([spectrum.weight.square() for spectrum in spectra]) @ candidates.squared.T
    misfits = sizes - 2 * products[:, 0] - products[:, 1:].square().sum(1)  # beyond those of "no blur"
    found = []
    for misfit, size, residual_size in zip(misfits, sizes, residuals, strict=True):
        close = misfit <= misfit[1:].min() + _ROUNDING * (residual_size + float(size.max()))
        close[0] = True
        found.append(close.nonzero()[:, 0])
    return found

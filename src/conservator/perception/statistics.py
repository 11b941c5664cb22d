"""Statistics of an image that tell its damages apart: noise, blocks, blur, streaks, veil and light.

Every function takes luma or colour planes in [0, 1] and returns one number (or a few) per item of the batch.

They are measured on every photo, before and after every treatment, so they are quick: what several of them need is
computed once, and windows.py replaces what PyTorch is slow at. benchmarks/perception_speed.py tells what each costs.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache, lru_cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.image import Image, luma
from conservator.perception.streaks import streak_statistics
from conservator.perception.windows import five_pixel_mean, logarithm, quantiles, seven_pixel_minimum, surroundings
from conservator.tools.classical.basics import block_mean
from conservator.tools.classical.blur_model import blur_evidence, mean_power
from conservator.tools.classical.kernels import DEFOCUS, GAUSSIAN, MOTION
from conservator.tools.classical.noise_level import estimate_sigma

_SMALLEST = 48  # smaller images are padded to this many pixels a side


@torch.inference_mode()
def statistics(image: Image) -> dict[str, float]:
    """Measure one image (1, 3, H, W), or a study (item 0 the overview, the others native crops).

    Local statistics come from the native crops: the mean over them, and the values of the calmest and of the busiest
    one, where noise and streaks, and blur, show best. Global ones come from the overview. The names of all are
    STATISTICS in features.py.
    """
    height, width = image.shape[-2:]
    if min(height, width) < _SMALLEST:
        image = F.pad(image, (0, max(0, _SMALLEST - width), 0, max(0, _SMALLEST - height)), mode="replicate")
    native = image[1:] if len(image) > 1 else image
    overview = image[:1]
    height, width = native.shape[-2:]
    if max(height, width) > 512:  # a whole image: four quarters keep memory and FFT sizes bounded
        native = _windows(native, 512)
    y = luma(native)
    return _summed_up(_local(native, y)) | _kernels(native, y) | _light(overview)


def _windows(native: Image, side: int) -> Image:
    """At most four windows of at most ``side`` pixels from the corners of a centred area, stacked."""
    height, width = native.shape[-2:]
    h, w = min(side, height), min(side, width)
    tops, lefts = sorted({0, (height - h) // 16 * 16}), sorted({0, (width - w) // 16 * 16})
    return torch.cat([native[..., t : t + h, le : le + w] for t in tops for le in lefts])


def _local(native: Image, y: Tensor) -> dict[str, Tensor]:
    """What is measured of each native crop, and of its luma."""
    r, _, b = native.unbind(1)
    planes = torch.cat([y, (b[:, None] - y) * 0.564, (r[:, None] - y) * 0.713], 1)  # luma, then chroma
    coarse = block_mean(planes, 2)
    blur = _blur(y, coarse[:, :1])
    return _noise(planes, coarse) | _blocks(planes) | blur | _spectrum(y) | streak_statistics(y)


def _summed_up(local: dict[str, Tensor]) -> dict[str, float]:
    """Of what was measured of each crop: the mean, and the values of the calmest and of the busiest one."""
    calm, busy = local["band_1"].argmin(), local["band_2"].argmax()
    values = torch.stack(list(local.values()))
    summary = torch.stack([values.mean(1), values[:, calm], values[:, busy]], 1).flatten().tolist()
    return dict(zip((f"{name}{crop}" for name in local for crop in ("", "_calm", "_busy")), summary, strict=True))


def _named(names: Iterable[str], values: Tensor) -> dict[str, Tensor]:
    """Numbers of each item, (B, ...), by their names."""
    return dict(zip(names, values.flatten(1).unbind(1), strict=True))


# Noise and blocks.


def _noise(planes: Tensor, coarse: Tensor) -> dict[str, Tensor]:
    """Noise sigma (log10, of 1) in the calmest blocks of luma and chroma, fine and coarse: Immerkaer's mask (1996)."""
    found: dict[str, Tensor] = {}
    fine = _block_deviation(planes)
    for size, deviations in (("", fine), ("coarse", _block_deviation(coarse))):
        for channels, blocks in (("luma", deviations[:, 0]), ("chroma", deviations[:, 1:].mean(1))):
            name = channels if not size else size if channels == "luma" else f"{size}_{channels}"
            levels = logarithm(quantiles(blocks, 0.05, 0.25, 0.5))
            found |= _named((f"noise_{name}_{percent:02d}" for percent in (5, 25, 50)), levels)
    deviations = fine[:, 0]
    bright = F.avg_pool2d(planes[:, 0], 16)[..., : deviations.shape[-2], : deviations.shape[-1]]
    middle = bright.flatten(1).median(1).values[:, None, None]
    calm = [quantiles(deviations.where(part, 9.0), 0.1)[:, 0] for part in (bright > middle, bright <= middle)]
    found["noise_signal_dependence"] = logarithm(calm[0]) - logarithm(calm[1])
    return found


def _block_deviation(planes: Tensor) -> Tensor:
    """Noise sigma of each 16x16 block of (B, C, H, W): (B, C, H/16, W/16)."""
    response = planes.diff(n=2, dim=-1).diff(n=2, dim=-2)  # his mask, as two second differences: much faster
    return math.sqrt(math.pi / 2) / 6 * block_mean(response.abs_(), 16)


def _blocks(planes: Tensor) -> dict[str, Tensor]:
    """How much stronger steps are on one 8-pixel grid than off it, and how many DCT coefficients vanish on it."""
    found: dict[str, Tensor] = {}
    steps = [_steps(planes[:, :2], axis) for axis in (-1, -2)]
    for channel, (name, period) in enumerate((("grid", 8), ("grid_chroma", 16))):
        phases = [_phases(step[:, channel], period) for step in steps]
        ratios = [logarithm(p.amax(1)) - logarithm(p.median(1).values) for p in phases]
        found[name] = torch.stack(ratios).mean(0)
    on, chroma = _vanishing(planes[:, :2]).unbind(1)
    found["vanishing_dct"] = on
    found["vanishing_dct_on_grid"] = on - _vanishing(planes[:, :1, 4:, 4:])[:, 0]
    found["vanishing_dct_chroma"] = chroma
    return found


def _steps(planes: Tensor, axis: int) -> Tensor:
    """How much each step along an axis of (B, C, H, W) exceeds its neighbours, averaged over the other: (B, C, N)."""
    steps = planes.diff(dim=axis).abs_()
    count = steps.shape[axis] - 2
    before, here, after = (steps.narrow(axis, start, count) for start in range(3))
    return torch.sub(here, before + after, alpha=0.5).clamp_(min=0).mean(-3 - axis)


def _phases(steps: Tensor, period: int) -> Tensor:
    """Mean of (B, N) at each phase of the period: (B, period)."""
    phases: Tensor = steps[:, : steps.shape[1] // period * period].unflatten(1, (-1, period))
    return phases.mean(1)


def _vanishing(planes: Tensor) -> Tensor:
    """Share of AC coefficients below half a grey level in 8x8 blocks aligned with the corner: (B, C) of (B, C, H, W).

    Block by block, for grey pictures of 8 bits have coefficients of just half a level: the order in which products are
    added decides on which side they fall. A convolution does it in half the time, and with other numbers.
    """
    height, width = (length // 8 * 8 for length in planes.shape[-2:])
    rows = planes[..., :height, :width].unflatten(2, (-1, 8)).unflatten(4, (-1, 8)).transpose(3, 4).flatten(0, 2)
    blocks, basis = rows.flatten(0, 1), _dct()
    half = torch.bmm(basis.expand(len(blocks), 8, 8), blocks)
    coefficients = torch.bmm(half.view(len(rows), -1, 8), basis.T.expand(len(rows), 8, 8))
    small = (coefficients.abs_() < 0.5 / 255).view(*planes.shape[:2], -1).numpy()
    vanished = [[np.count_nonzero(plane) / plane.size for plane in item] for item in small]  # faster than a mean
    return torch.tensor(vanished) - 1 / 64


@cache
def _dct() -> Tensor:
    n = torch.arange(8, dtype=torch.float32)
    basis = torch.cos(math.pi * (n[None] + 0.5) * n[:, None] / 8) * 0.5
    basis[0] /= math.sqrt(2)
    return basis


# Blur.


def _blur(y: Tensor, coarse: Tensor) -> dict[str, Tensor]:
    """Energy per octave, and edge steepness."""
    bands = _bands(y, coarse)
    found = {f"band_{i}": band for i, band in enumerate(bands)}
    found |= {f"band_slope_{i}": bands[i] - bands[i + 1] for i in range(3)}
    here = y[..., :-1, :-1]
    gradient = ((y[..., 1:, :-1] - here).square_() + (y[..., :-1, 1:] - here).square_()).sqrt_()
    found["gradient_peak"] = logarithm(quantiles(gradient[..., ::2, ::2], 0.995)[:, 0])
    found["gradient_peakedness"] = found["gradient_peak"] - logarithm(gradient.mean((1, 2, 3)))
    wide = five_pixel_mean(y)
    steep = (wide[..., 5:] - wide[..., :-5]).abs_().amax((1, 2, 3))
    found["edge_steepness"] = found["gradient_peak"] - logarithm(steep)
    return found


def _bands(y: Tensor, coarse: Tensor) -> list[Tensor]:
    """Energy (log10 of the deviation) in each of four octaves; ``coarse`` is ``y`` at half its size."""
    level, smaller = y, coarse
    bands: list[Tensor] = []
    for _ in range(4):
        if min(level.shape[-2:]) < 8:
            bands.append(bands[-1])
            continue
        up = F.interpolate(smaller, level.shape[-2:], mode="bilinear", align_corners=False)
        bands.append(logarithm((level - up).square_().mean((1, 2, 3)).sqrt()))
        level, smaller = smaller, block_mean(smaller, 2)
    return bands


_RINGS = (0.03, 0.06, 0.1, 0.15, 0.22, 0.32, 0.48)
"""Limits of the rings of frequencies, in cycles a pixel."""
_SECTORS = 12
"""Directions of each ring."""
_RADII = (3, 5, 7, 10, 14, 20)
"""Radii of the rings of the autocorrelation, in pixels."""


@dataclass(frozen=True)
class _Geometry:
    """Where things are in planes of one size and in their half spectra."""

    window: Tensor
    """Hann's, (H, W)."""
    sector: Tensor
    """Of each frequency the number of its ring and direction, or one more than there are, flat."""
    members: Tensor
    """How many frequencies each ring and direction has, at least 1."""
    whitened: Tensor
    """Which frequencies (H, W // 2 + 1) are not too low to count."""
    rows: Tensor
    columns: Tensor
    """The pixels of each ring of the autocorrelation, (rings, 16), as indices."""


@lru_cache(maxsize=8)  # studies have one size; whole photos have many, at most 512 pixels a side: 3 MB each
def _geometry(height: int, width: int) -> _Geometry:
    fy, fx = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    radius, angle = (fx**2 + fy**2).sqrt(), torch.atan2(fy, fx) % math.pi
    rings = len(_RINGS) - 1
    ring = torch.bucketize(radius, torch.tensor(_RINGS), right=True) - 1
    sector = ring * _SECTORS + (angle / math.pi * _SECTORS).long().clamp(max=_SECTORS - 1)
    sector = sector.where((ring >= 0) & (ring < rings), rings * _SECTORS).flatten()
    members = torch.bincount(sector, minlength=rings * _SECTORS + 1)[:-1].clamp(min=1)
    directions, radii = torch.arange(16) * math.pi / 16, torch.tensor(_RADII)[:, None]
    return _Geometry(
        torch.hann_window(height)[:, None] * torch.hann_window(width)[None],
        sector,
        members,
        fx**2 + fy**2 > 0.0004,
        (radii * torch.sin(directions)).round().long() % height,
        (radii * torch.cos(directions)).round().long() % width,
    )


def _spectrum(y: Tensor) -> dict[str, Tensor]:
    """Energy per ring of frequencies, and the shape of the autocorrelation of the whitened luma."""
    geometry = _geometry(*y.shape[-2:])
    plane = (y - y.mean((1, 2, 3), keepdim=True))[:, 0] * geometry.window
    spectrum = torch.fft.rfft2(plane)
    power = spectrum.real.square() + spectrum.imag.square()
    return _sectors(power, geometry) | _autocorrelation(power, geometry)


def _sectors(power: Tensor, geometry: _Geometry) -> dict[str, Tensor]:
    """Log energy per ring of frequencies, and how unevenly it lies over 12 directions: a line blur kills one."""
    sums = torch.zeros(len(power), len(geometry.members) + 1).index_add_(1, geometry.sector, power.flatten(1))
    logs = torch.log10(sums[:, :-1] / geometry.members + 1e-6).unflatten(1, (-1, _SECTORS))
    lowest = logs.argmin(2, keepdim=True)
    least = logs.amin(2)
    across = logs.gather(2, (lowest + _SECTORS // 2) % _SECTORS)[..., 0]
    diagonal = torch.sin(lowest[..., 0] / _SECTORS * 2 * math.pi).abs()
    names = (f"ring{what}_{i}" for i in range(logs.shape[1]) for what in ("", "_spread", "_across", "_diagonal"))
    return _named(names, torch.stack([logs.mean(2), logs.amax(2) - least, across - least, diagonal], 2))


def _autocorrelation(power: Tensor, geometry: _Geometry) -> dict[str, Tensor]:
    """Autocorrelation of the whitened luma on rings of 3 to 20 pixels: mean, and spread over directions.

    A line blur leaves a ridge along its direction, a disc a trough at its diameter, white noise nothing.
    """
    whitened = torch.log(power + 1e-4) * geometry.whitened
    cepstrum = torch.fft.irfft2(whitened, s=geometry.window.shape)
    rings = cepstrum[:, geometry.rows, geometry.columns] / cepstrum[:, :1, :1].abs().clamp(min=1e-6)
    mean, least = rings.mean(2), rings.amin(2)
    names = (f"autocorrelation{what}_{radius}" for radius in _RADII for what in ("", "_spread", "_trough"))
    return _named(names, torch.stack([mean, rings.amax(2) - least, mean - least], 2))


def _kernels(native: Image, y: Tensor) -> dict[str, float]:
    """How much better a line, a disk and a Gaussian explain the spectrum than no blur, where noise hides more or less.

    Zeros for pictures too small to tell.
    """
    families = {"line": MOTION, "disk": DEFOCUS, "gaussian": GAUSSIAN}
    levels = (1, 6)  # grey levels of noise, at least
    if min(native.shape[-2:]) < 64:
        evidence = [[(0.0,) * 4] * len(families)] * len(levels)
    else:
        measured, power = float(estimate_sigma(native).mean()) / math.sqrt(3), mean_power(y)
        noises = [max(measured, least / 255) for least in levels]
        evidence = blur_evidence(power, tuple(families.values()), noises)
    return {
        f"{name}_{what}_{least}": value
        for i, name in enumerate(families)
        for least, found in zip(levels, evidence, strict=True)
        for what, value in zip(("gain", "misfit", "extent", "shown"), found[i], strict=True)
    }


# Veil and light.


def _light(overview: Image) -> dict[str, float]:
    """Luminance, contrast, saturation and the dark channel (He 2009) of the overview."""
    small = F.interpolate(overview, (128, 128), mode="bilinear", antialias=True)
    y, value, least = luma(small), small.amax(1, keepdim=True), small.amin(1, keepdim=True)
    dark = seven_pixel_minimum(least)
    saturation = (value - least) / (value + 0.02)
    rows = y.mean(3)[0, 0]
    found = {
        "luminance": y.mean(),
        "luminance_deviation": y.std(),
        "saturation": saturation.mean(),
        "saturation_deviation": saturation.std(),
        "dark_channel": dark.mean(),
        "dark_channel_deviation": dark.std(),
        "dark_channel_top": dark[..., : dark.shape[-2] // 3, :].mean(),
        "dark_channel_bottom": dark[..., -(dark.shape[-2] // 3) :, :].mean(),
        "luminance_trend": rows[: len(rows) // 3].mean() - rows[-(len(rows) // 3) :].mean(),
        "local_contrast": (y - surroundings(y, 7)).std(),
        "black": (value < 0.02).float().mean(),
        "white": (value > 0.98).float().mean(),
    }
    for name, plane, percents in (("value", value, (2, 25, 50, 75, 98)), ("dark_channel", dark, (2, 50, 98))):
        levels = quantiles(plane, *(percent / 100 for percent in percents))[0]
        found |= {f"{name}_{percent:02d}": level for percent, level in zip(percents, levels, strict=True)}
    return dict(zip(found, torch.stack(list(found.values())).tolist(), strict=True))

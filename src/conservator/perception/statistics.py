"""Statistics of an image that tell its damages apart: noise, blocks, blur, streaks, veil and light.

Every function takes luma or colour planes in [0, 1] and returns one number (or a few) per item of the batch.
"""

from __future__ import annotations

import math
from functools import cache

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.image import Image, luma
from conservator.tools.classical.blur_model import blur_evidence, mean_power
from conservator.tools.classical.kernels import DEFOCUS, GAUSSIAN, MOTION
from conservator.tools.classical.noise_level import estimate_sigma

_EPS = 1e-4
_SMALLEST = 48  # smaller images are padded to this many pixels a side


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
    local = {**_noise(native, y), **_blocks(native, y), **_blur(y), **_streaks(y)}
    calm, busy = int(local["band_1"].argmin()), int(local["band_2"].argmax())
    measures: dict[str, float] = {}
    for name, values in local.items():
        measures[name] = float(values.mean())
        measures[f"{name}_calm"] = float(values[calm])
        measures[f"{name}_busy"] = float(values[busy])
    return measures | _kernels(native) | _light(overview)


def _windows(native: Image, side: int) -> Image:
    """At most four windows of at most ``side`` pixels from the corners of a centred area, stacked."""
    height, width = native.shape[-2:]
    h, w = min(side, height), min(side, width)
    tops, lefts = sorted({0, (height - h) // 16 * 16}), sorted({0, (width - w) // 16 * 16})
    return torch.cat([native[..., t : t + h, le : le + w] for t in tops for le in lefts])


def _log(values: Tensor) -> Tensor:
    return torch.log10(values + _EPS)


def _quantile(values: Tensor, q: float) -> Tensor:
    """Quantile of each item of (B, ...)."""
    return values.flatten(1).quantile(q, dim=1)


def _noise(native: Image, y: Tensor) -> dict[str, Tensor]:
    """Noise sigma (log10, of 1) in the calmest blocks of luma and chroma, fine and coarse: Immerkaer's mask (1996)."""
    r, _, b = native.unbind(1)
    chroma = torch.cat([(b[:, None] - y) * 0.564, (r[:, None] - y) * 0.713], 1)
    coarse = F.avg_pool2d(y, 2)
    found: dict[str, Tensor] = {}
    for name, plane in (
        ("luma", y),
        ("chroma", chroma),
        ("coarse", coarse),
        ("coarse_chroma", F.avg_pool2d(chroma, 2)),
    ):
        deviations = _block_deviation(plane)
        for q in (0.05, 0.25, 0.5):
            found[f"noise_{name}_{round(q * 100):02d}"] = _log(_quantile(deviations, q))
    bright = F.avg_pool2d(y, 16)
    deviations = _block_deviation(y)[..., : bright.shape[-2], : bright.shape[-1]]
    bright = bright[..., : deviations.shape[-2], : deviations.shape[-1]]
    middle = bright.flatten(1).median(1).values[:, None, None, None]
    calm = torch.where(bright > middle, deviations, torch.full_like(deviations, 9.0))
    calm_dark = torch.where(bright <= middle, deviations, torch.full_like(deviations, 9.0))
    found["noise_signal_dependence"] = _log(_quantile(calm, 0.1)) - _log(_quantile(calm_dark, 0.1))
    return found


def _block_deviation(plane: Tensor) -> Tensor:
    """Noise sigma of each 16x16 block of (B, C, H, W), channels pooled: (B, 1, H/16, W/16)."""
    mask = plane.new_tensor([[1.0, -2.0, 1.0], [-2.0, 4.0, -2.0], [1.0, -2.0, 1.0]]) / 6
    channels = plane.shape[1]
    response = F.conv2d(plane, mask.expand(channels, 1, 3, 3), groups=channels).abs().mean(1, keepdim=True)
    block = min(16, *response.shape[-2:])
    return math.sqrt(math.pi / 2) * F.avg_pool2d(response, block)


def _blocks(native: Image, y: Tensor) -> dict[str, Tensor]:
    """How much stronger steps are on one 8-pixel grid than off it, and how many DCT coefficients vanish on it."""
    chroma = (native[:, 2:3] - y) * 0.564
    found = {}
    for name, plane, period in (("grid", y, 8), ("grid_chroma", chroma, 16)):
        phases = [_phase_steps(plane, period), _phase_steps(plane.transpose(-1, -2), period)]
        ratios = [_log(p.amax(1)) - _log(p.median(1).values) for p in phases]
        found[name] = torch.stack(ratios).mean(0)
    on, off = _vanishing(y), _vanishing(y[..., 4:, 4:])
    found["vanishing_dct"] = on
    found["vanishing_dct_on_grid"] = on - off
    found["vanishing_dct_chroma"] = _vanishing(chroma)
    return found


def _phase_steps(plane: Tensor, period: int) -> Tensor:
    """Mean second difference at each phase of the period along the last axis: (B, period)."""
    width = (plane.shape[-1] - 3) // period * period
    step = (plane[..., 1:-2] - plane[..., 2:-1]).abs() - 0.5 * (
        (plane[..., :-3] - plane[..., 1:-2]).abs() + (plane[..., 2:-1] - plane[..., 3:]).abs()
    )
    if width < period:
        return torch.zeros(len(plane), period)
    phases: Tensor = step[..., :width].clamp(min=0).unflatten(-1, (-1, period))
    return phases.mean((1, 2, 3))


def _dct(device: torch.device) -> Tensor:
    n = torch.arange(8, dtype=torch.float32, device=device)
    basis = torch.cos(math.pi * (n[None] + 0.5) * n[:, None] / 8) * 0.5
    basis[0] /= math.sqrt(2)
    return basis


def _vanishing(plane: Tensor) -> Tensor:
    """Share of AC coefficients below half a grey level in 8x8 blocks aligned with the corner: (B,)."""
    h, w = (s // 8 * 8 for s in plane.shape[-2:])
    if h < 8 or w < 8:
        return torch.zeros(len(plane))
    blocks = plane[:, 0, :h, :w].unflatten(-1, (-1, 8)).unflatten(-3, (-1, 8)).transpose(-2, -3)
    basis = _dct(plane.device)
    coefficients: Tensor = basis @ blocks @ basis.T
    return (coefficients.abs() < 0.5 / 255).float().mean((1, 2, 3, 4)) - 1 / 64


def _blur(y: Tensor) -> dict[str, Tensor]:
    """Energy per octave, edge steepness, and the shape of the autocorrelation of the Laplacian."""
    found: dict[str, Tensor] = {}
    level = y
    bands: list[Tensor] = []
    for _ in range(4):
        if min(level.shape[-2:]) < 8:
            bands.append(bands[-1])
            continue
        smaller = F.avg_pool2d(level, 2)
        up = F.interpolate(smaller, level.shape[-2:], mode="bilinear", align_corners=False)
        bands.append(_log((level - up).pow(2).mean((1, 2, 3)).sqrt()))
        level = smaller
    found |= {f"band_{i}": band for i, band in enumerate(bands)}
    found |= {f"band_slope_{i}": bands[i] - bands[i + 1] for i in range(3)}
    gradient = ((y[..., 1:, :-1] - y[..., :-1, :-1]).pow(2) + (y[..., :-1, 1:] - y[..., :-1, :-1]).pow(2)).sqrt()
    found["gradient_peak"] = _log(_quantile(gradient[..., ::2, ::2], 0.995))
    found["gradient_peakedness"] = found["gradient_peak"] - _log(gradient.mean((1, 2, 3)))
    wide = F.avg_pool2d(y, 5, 1)
    steep = (wide[..., 5:] - wide[..., :-5]).abs().amax((1, 2, 3))
    found["edge_steepness"] = found["gradient_peak"] - _log(steep)
    return found | _autocorrelation(y)


def _autocorrelation(y: Tensor) -> dict[str, Tensor]:
    """Autocorrelation of the whitened luma on rings of 3 to 20 pixels: mean, and spread over directions.

    A line blur leaves a ridge along its direction, a disc a trough at its diameter, white noise nothing.
    """
    plane = y[:, 0] - y.mean((1, 2, 3))[:, None, None]
    window = torch.hann_window(plane.shape[-2])[:, None] * torch.hann_window(plane.shape[-1])[None]
    spectrum = torch.fft.rfft2(plane * window).abs().pow(2)
    fy = torch.fft.fftfreq(plane.shape[-2])[:, None]
    fx = torch.fft.rfftfreq(plane.shape[-1])[None]
    found = _sectors(spectrum, plane.shape[-1])
    whitened = torch.log(spectrum + 1e-4) * (fx**2 + fy**2 > 0.0004)
    cepstrum = torch.fft.irfft2(whitened, s=(plane.shape[-2], plane.shape[-1]))
    cepstrum = cepstrum / cepstrum[:, :1, :1].abs().clamp(min=1e-6)
    directions = torch.arange(16) * math.pi / 16
    for radius in (3, 5, 7, 10, 14, 20):
        rows = (radius * torch.sin(directions)).round().long() % plane.shape[-2]
        columns = (radius * torch.cos(directions)).round().long() % plane.shape[-1]
        ring = cepstrum[:, rows, columns]
        found[f"autocorrelation_{radius}"] = ring.mean(1)
        found[f"autocorrelation_spread_{radius}"] = ring.amax(1) - ring.amin(1)
        found[f"autocorrelation_trough_{radius}"] = ring.mean(1) - ring.amin(1)
    return found


_RINGS = (0.03, 0.06, 0.1, 0.15, 0.22, 0.32, 0.48)


def _kernels(native: Image) -> dict[str, float]:
    """How much better a line, a disk and a Gaussian explain the spectrum than no blur, where noise hides more or less.

    Zeros for pictures too small to tell.
    """
    small = min(native.shape[-2:]) < 64
    measured = float(estimate_sigma(native).mean()) / math.sqrt(3)
    power = torch.zeros(0) if small else mean_power(native)
    found = {}
    for name, family in (("line", MOTION), ("disk", DEFOCUS), ("gaussian", GAUSSIAN)):
        for least in (1, 6):
            values = (0.0,) * 4 if small else blur_evidence(power, family, max(measured, least / 255))
            for what, value in zip(("gain", "misfit", "extent", "shown"), values, strict=True):
                found[f"{name}_{what}_{least}"] = value
    return found


@cache
def _sector_means(height: int, width: int) -> Tensor:
    """Weights (frequencies, rings * 12) that average a half spectrum over 12 directions of each ring of frequencies."""
    fy, fx = torch.fft.fftfreq(height)[:, None], torch.fft.rfftfreq(width)[None]
    radius, angle = (fx**2 + fy**2).sqrt(), torch.atan2(fy, fx) % math.pi
    ring = torch.bucketize(radius, torch.tensor(_RINGS), right=True) - 1
    sector = (angle / math.pi * 12).long().clamp(max=11)
    inside = (ring >= 0) & (ring < len(_RINGS) - 1)
    masks = F.one_hot((ring * 12 + sector)[inside], (len(_RINGS) - 1) * 12).float()
    weights = torch.zeros(radius.numel(), masks.shape[1])
    weights[inside.flatten()] = masks / masks.sum(0).clamp(min=1)
    return weights


def _sectors(spectrum: Tensor, width: int) -> dict[str, Tensor]:
    """Log energy per ring of frequencies, and how unevenly it lies over 12 directions: a line blur kills one."""
    energies = spectrum.flatten(1) @ _sector_means(spectrum.shape[1], width)
    found: dict[str, Tensor] = {}
    for i, log in enumerate(torch.log10(energies + 1e-6).split(12, dim=1)):
        lowest = log.argmin(1, keepdim=True)
        across = log.gather(1, (lowest + log.shape[1] // 2) % log.shape[1])[:, 0]
        found[f"ring_{i}"] = log.mean(1)
        found[f"ring_spread_{i}"] = log.amax(1) - log.amin(1)
        found[f"ring_across_{i}"] = across - log.amin(1)
        found[f"ring_diagonal_{i}"] = torch.sin(lowest[:, 0] / 12 * 2 * math.pi).abs()
    return found


@cache
def _streak_kernels() -> Tensor:
    """Thin bright lines with dark flanks, 21 pixels long, in 18 directions from the vertical: (18, 1, 21, 21)."""
    half = 10
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


_DIRECTIONS = tuple(range(-80, 100, 10))
_FLAT = [i for i, degrees in enumerate(_DIRECTIONS) if abs(degrees) > 40]
_STEEP = [i for i, degrees in enumerate(_DIRECTIONS) if abs(degrees) <= 40]


def _streaks(y: Tensor) -> dict[str, Tensor]:
    """Thin bright lines that run one way all over the picture, as rain does.

    The responses of line filters are divided by their local strength, so that a few strong edges do not outweigh the
    picture; what counts is how the best steep direction stands out against the median of all directions, and how much
    more bright than dark lines there are along it.
    """
    found: dict[str, Tensor] = {}
    response = F.conv2d(y, _streak_kernels(), stride=2)
    energy = F.avg_pool2d(response.pow(2).mean(1, keepdim=True), 9, 1, 4, count_include_pad=False).sqrt()
    for name, lines in (("even", response / (energy + 2e-4)), ("plain", response)):
        values = lines[..., ::2, ::2].flatten(2)
        count = values.shape[2]
        places = {percent: min(count - 1, count * percent // 100) for percent in (60, 80, 95)}
        wanted = sorted({place for at in places.values() for place in (at, count - 1 - at)})
        ordered = torch.from_numpy(np.partition(values.numpy(), wanted, axis=2))  # a sort takes five times as long
        for percent, at in places.items():
            bright, dark = ordered[..., at], -ordered[..., count - 1 - at]
            steep, median = bright[:, _STEEP], bright.median(1).values
            best = steep.argmax(1, keepdim=True)
            found[f"line_{name}_{percent}"] = _log(steep.amax(1).clamp(min=0)) - _log(median.clamp(min=0))
            opposite = dark[:, _STEEP].gather(1, best).abs() + 1e-4
            found[f"line_{name}_bright_{percent}"] = (steep.gather(1, best) / opposite)[:, 0].clamp(-4, 4)
            if name == "even":
                found[f"line_flat_{percent}"] = _log(bright[:, _FLAT].amax(1).clamp(min=0)) - _log(median.clamp(min=0))
    steep = response[:, _STEEP].pow(2).mean((2, 3))
    found["line_strength"] = _log(steep.amax(1).sqrt())
    found["line_angle"] = (steep.argmax(1).float() - len(_STEEP) // 2) / 4
    return found


def _light(overview: Image) -> dict[str, float]:
    """Luminance, contrast, saturation and the dark channel (He 2009) of the overview."""
    small = F.interpolate(overview, (128, 128), mode="bilinear", antialias=True)
    y, value = luma(small), small.amax(1, keepdim=True)
    dark = -F.max_pool2d(-small.amin(1, keepdim=True), 7, 1)
    saturation = (value - small.amin(1, keepdim=True)) / (value + 0.02)
    rows = y.mean(3)[0, 0]
    found = {
        "luminance": float(y.mean()),
        "luminance_deviation": float(y.std()),
        "saturation": float(saturation.mean()),
        "saturation_deviation": float(saturation.std()),
        "dark_channel": float(dark.mean()),
        "dark_channel_deviation": float(dark.std()),
        "dark_channel_top": float(dark[..., : dark.shape[-2] // 3, :].mean()),
        "dark_channel_bottom": float(dark[..., -(dark.shape[-2] // 3) :, :].mean()),
        "luminance_trend": float(rows[: len(rows) // 3].mean() - rows[-(len(rows) // 3) :].mean()),
        "local_contrast": float((y - F.avg_pool2d(y, 15, 1, 7, count_include_pad=False)).std()),
        "black": float((value < 0.02).float().mean()),
        "white": float((value > 0.98).float().mean()),
    }
    for name, plane, percents in (("value", value, (2, 25, 50, 75, 98)), ("dark_channel", dark, (2, 50, 98))):
        levels = plane.flatten().quantile(torch.tensor(percents) / 100)
        found |= {f"{name}_{percent:02d}": float(level) for percent, level in zip(percents, levels, strict=True)}
    return found

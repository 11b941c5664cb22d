"""Deconvolution with an estimated kernel. Where no kernel explains the image, it comes back as it is."""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.image import Image, luma
from conservator.kinds import Kind
from conservator.tools.classical.blur_model import BlurModel, Family, estimate_blur, transfer_function
from conservator.tools.classical.kernels import DEFOCUS, GAUSSIAN, MOTION
from conservator.tools.classical.measuring import MeasuringTool
from conservator.tools.tool import Tool, ToolSpec

_TILE, _OVERLAP = 512, 128  # the kernel is that of the whole image; tiles only bound the memory of the transforms
_SIDE = 384  # pixels a side of the part that decides the direction of a one-sided kernel
_LEAST_NOISE = 0.5 / 255
_EXCESS = 0.008
"""How far, on average, a plausible result may go beyond black and white."""


class _Deblur(MeasuringTool[BlurModel]):
    """Estimates the kernel of the whole photo, in one family; an image that no kernel explains stays as it is."""

    def __init__(self, kind: Kind, name: str, family: Family, description: str, source: str) -> None:
        self._family = family
        self.spec = ToolSpec(name, frozenset({kind}), description, source, "Apache-2.0", tile=_TILE, overlap=_OVERLAP)

    def measure(self, image: Image) -> BlurModel | None:
        model = estimate_blur(image, self._family)
        return None if model is None else settled(model, image)

    @abstractmethod
    def treat(self, image: Image, found: BlurModel) -> Image:
        """Undo the blur of the model in one image (1, 3, H, W)."""


class WienerDeblur(_Deblur):
    """Divides the spectrum by the kernel's where the scene is stronger than the noise."""

    def treat(self, image: Image, found: BlurModel) -> Image:
        return wiener(found, image, caution=2).clamp_(0, 1)


class RichardsonLucyDeblur(_Deblur):
    """Accelerated Richardson-Lucy iterations with total variation as strong as the noise asks for."""

    _iterations = 12

    def treat(self, image: Image, found: BlurModel) -> Image:
        height, width = image.shape[-2:]
        observed = periodic(image, 2 * found.kernel.shape[-1]).clamp_min(1e-3)
        transfer = transfer_function(found.kernel, *observed.shape[-2:])
        estimate = guess = observed
        last_step = torch.zeros_like(observed)
        for _ in range(self._iterations):
            ratio = observed / filtered(guess, transfer).clamp_min(1e-3)
            improved = guess * filtered(ratio, transfer.conj())
            improved = (improved / (1 - 0.6 * found.noise * _curvature(improved))).clamp(1e-3, 1.2)
            step = improved - guess
            momentum = ((step * last_step).sum() / last_step.square().sum().clamp_min(1e-9)).clamp(0, 0.95)
            guess = (improved + momentum * (improved - estimate)).clamp(1e-3, 1.2)
            estimate, last_step = improved, step
        return estimate[..., :height, :width].clamp(0, 1)


def wiener(model: BlurModel, image: Tensor, caution: float) -> Tensor:
    """Wiener filter of (B, C, H, W) for the model, its noise taken ``caution`` times as strong; not clipped."""
    height, width = image.shape[-2:]
    extended = periodic(image, 2 * model.kernel.shape[-1])
    rows, columns = extended.shape[-2:]
    transfer = transfer_function(model.kernel, rows, columns)
    frequency = torch.hypot(
        *torch.broadcast_tensors(torch.fft.fftfreq(rows)[:, None], torch.fft.rfftfreq(columns)[None])
    )
    scene = model.level * frequency.clamp_min(1 / max(rows, columns)) ** model.slope
    noise = max(caution * model.noise, _LEAST_NOISE) ** 2
    gain = transfer.conj() / (transfer.abs().square() + noise / scene)
    gain[0, 0] = 1
    return filtered(extended, gain)[..., :height, :width]


def settled(model: BlurModel, image: Image) -> BlurModel | None:
    """The model, or the one with the kernel turned by 180 degrees if that gives the plainer image; None if both ring.

    The power spectrum cannot tell the two apart, but the wrong one leaves echoes and values beyond black and white.
    """
    turned = replace(model, kernel=model.kernel.flip(0, 1))
    y0, x0 = (max(0, side - _SIDE) // 2 for side in image.shape[-2:])
    y = luma(image[..., y0 : y0 + _SIDE, x0 : x0 + _SIDE])
    candidates = [model] if torch.allclose(turned.kernel, model.kernel) else [model, turned]
    best, plain = min(
        ((candidate, wiener(candidate, y, caution=1)) for candidate in candidates),
        key=lambda pair: _variation(pair[1]) + 2 * _excess(pair[1]),
    )
    return best if _excess(plain) < _EXCESS else None


def _variation(y: Tensor) -> float:
    return float(y.diff(dim=-1).abs().mean() + y.diff(dim=-2).abs().mean())


def _excess(y: Tensor) -> float:
    return float((y - y.clamp(0, 1)).abs().mean())


def filtered(image: Tensor, gain: Tensor) -> Tensor:
    """Filter a periodic image (B, C, H, W) with a gain (H, W // 2 + 1)."""
    found: Tensor = torch.fft.irfft2(torch.fft.rfft2(image) * gain, s=image.shape[-2:])
    return found


def periodic(image: Tensor, margin: int) -> Tensor:
    """Append at least ``margin`` rows and columns that lead from the last back to the first, for the transform."""
    from scipy.fft import next_fast_len

    height, width = image.shape[-2:]
    rows, columns = (next_fast_len(side + margin, real=True) - side for side in (height, width))
    down = torch.linspace(0, 1, rows + 2)[1:-1, None]
    image = torch.cat([image, torch.lerp(image[..., -1:, :], image[..., :1, :], down)], dim=-2)
    right = torch.linspace(0, 1, columns + 2)[1:-1]
    return torch.cat([image, torch.lerp(image[..., -1:], image[..., :1], right)], dim=-1)


def _curvature(image: Tensor) -> Tensor:
    """Divergence of the normalised gradient: minus the derivative of the total variation, as in Dey et al. 2006."""
    right, down = F.pad(image.diff(dim=-1), (0, 1)), F.pad(image.diff(dim=-2), (0, 0, 0, 1))
    length = torch.sqrt(right.square() + down.square() + 1e-4)
    right, down = right / length, down / length
    return right - F.pad(right[..., :-1], (1, 0)) + down - F.pad(down[..., :-1, :], (0, 0, 1, 0))


_SPECTRUM = "kernel from a parametric fit of the power spectrum"
_WIENER = f"Wiener, Extrapolation of stationary time series, 1949; {_SPECTRUM}"
_LUCY = (
    "Richardson, JOSA 1972; Lucy, AJ 1974; acceleration of Biggs, Andrews, Applied Optics 1997; "
    f"total variation of Dey et al., Microscopy Research and Technique 2006; {_SPECTRUM}"
)
DEBLUR: tuple[Tool, ...] = (
    WienerDeblur(
        Kind.MOTION_BLUR,
        "wiener_deblur_motion",
        MOTION,
        "Sharpens a photo blurred by camera motion, after measuring direction and length; best without noise.",
        _WIENER,
    ),
    RichardsonLucyDeblur(
        Kind.MOTION_BLUR,
        "richardson_lucy_motion",
        MOTION,
        "Sharpens motion blur step by step; milder than the Wiener filter, with less ringing around bright edges.",
        _LUCY,
    ),
    WienerDeblur(
        Kind.DEFOCUS_BLUR,
        "wiener_deblur_defocus",
        DEFOCUS,
        "Sharpens a photo that is out of focus, after measuring the disk of the lens; best without noise.",
        _WIENER,
    ),
    RichardsonLucyDeblur(
        Kind.DEFOCUS_BLUR,
        "richardson_lucy_defocus",
        DEFOCUS,
        "Sharpens a photo that is out of focus step by step; milder than the Wiener filter, with less ringing.",
        _LUCY,
    ),
    WienerDeblur(
        Kind.GAUSSIAN_BLUR,
        "wiener_deblur_gaussian",
        GAUSSIAN,
        "Sharpens a photo that is evenly soft, after measuring how soft; best without noise.",
        _WIENER,
    ),
    RichardsonLucyDeblur(
        Kind.GAUSSIAN_BLUR,
        "richardson_lucy_gaussian",
        GAUSSIAN,
        "Sharpens a photo that is evenly soft step by step; milder than the Wiener filter, with less ringing.",
        _LUCY,
    ),
)

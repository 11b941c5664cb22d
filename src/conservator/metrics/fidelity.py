"""How close an image is to its clean reference: PSNR, SSIM and MS-SSIM.

Every function takes an image and its reference, both (1, 3, H, W) in [0, 1], and raises ImageError when their sizes
differ. The colour channel is always said: ``psnr`` is RGB, ``psnr_y`` the Y of YCbCr, ``ssim`` and ``ms_ssim`` the
full-range luma (Y of YIQ), which is what pyiqa computes under these names.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.errors import ImageError
from conservator.image import Image, check_image, decibels, luma

TABLE_CAP = 100.0
"""dB; of an identical picture in tables, means and z-scores, which hold no infinity: half a level of 16 bits in all
pixels is 102 dB, so no difference that a file can hold is lost."""
_WINDOW = 11
_SIGMA = 1.5
_STRIP = 64  # rows
_C1 = (0.01 * 255) ** 2
_C2 = (0.03 * 255) ** 2
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)  # Wang 2003, finest to coarsest


def check_pair(image: Image, reference: Image) -> None:
    """Raise ImageError unless both are single images (1, 3, H, W) of the same size."""
    check_image(image)
    check_image(reference)
    if image.shape != reference.shape:
        raise ImageError(
            f"the image is {_size(image)} and its reference {_size(reference)}; bring them to the same size first"
        )
    if image.shape[0] != 1:
        raise ImageError(
            f"expected one image and its reference, got a batch of {image.shape[0]}; score them one by one"
        )


def psnr(image: Image, reference: Image, cap: float = math.inf) -> float:
    """Peak signal-to-noise ratio over RGB in dB, data range 1; at most ``cap``, which equal images have."""
    check_pair(image, reference)
    return float(_decibels(image - reference, cap))


def psnr_y(image: Image, reference: Image, cap: float = math.inf) -> float:
    """PSNR in dB of the limited-range (16 to 235) BT.601 Y, as super-resolution papers do; at most ``cap``.

    The peak stays 255, so values lie about 1.3 dB above those of a full-range luma.
    """
    check_pair(image, reference)
    return float(_decibels(luma(image - reference) * (219 / 255), cap))


def psnr_of_each(images: Image, references: Image, cap: float = math.inf) -> Tensor:
    """``psnr`` of every image of (B, 3, H, W) to its own reference, (B,) float64 on the images' device: equal numbers.

    Checks nothing: it is for the inner loops of trainings.
    """
    return _decibels(images - references, cap)


def ssim(image: Image, reference: Image) -> float:
    """Structural similarity of the luma, at most 1; NaN for images smaller than the 11-pixel window.

    Gaussian window 11x11 with sigma 1.5 on the valid region, data range 255 (Wang et al., "Image quality assessment:
    from error visibility to structural similarity", 2004).
    """
    check_pair(image, reference)
    if min(image.shape[-2:]) < _WINDOW:
        return math.nan
    return _similarity(luma(image) * 255, luma(reference) * 255)[0]


def ms_ssim(image: Image, reference: Image) -> float:
    """Multi-scale SSIM of the luma in [0, 1]; NaN where the coarsest of the five scales is smaller than the window.

    That needs at least 161 pixels a side. Negative structure terms count as 0, because they are raised to a power (Wang
    et al., "Multiscale structural similarity for image quality assessment", 2003).
    """
    check_pair(image, reference)
    halvings = 2 ** (len(_SCALE_WEIGHTS) - 1)
    if math.ceil(min(image.shape[-2:]) / halvings) < _WINDOW:
        return math.nan
    pair = torch.cat([luma(image), luma(reference)]) * 255
    score = 1.0
    for weight in _SCALE_WEIGHTS[:-1]:
        score *= _power(_similarity(pair[:1], pair[1:])[1], weight)
        pair = F.avg_pool2d(pair, 2, ceil_mode=True)  # at an odd border it averages the pixels that are there
    return score * _power(_similarity(pair[:1], pair[1:])[0], _SCALE_WEIGHTS[-1])


def _decibels(difference: Tensor, cap: float) -> Tensor:
    """Of differences (B, C, H, W): (B,)."""
    rows = difference.square_().mean(dim=-1)  # exact enough in float32; the mean over many rows is not
    return decibels(rows.mean(dim=(1, 2), dtype=torch.float64), cap)


def _power(base: float, exponent: float) -> float:
    return math.exp(exponent * math.log(base)) if base > 0 else 0.0


def _similarity(x: Tensor, y: Tensor) -> tuple[float, float]:
    """Mean SSIM and mean contrast-structure of two planes (1, 1, H, W) in [0, 255], over the valid region.

    Works in strips of rows, which stay in the processor's cache and keep the memory small for large photos.
    """
    rows = x.shape[2] - _WINDOW + 1
    similarity = structure = 0.0
    for top in range(0, rows, _STRIP):
        strip = (..., slice(top, min(top + _STRIP, rows) + _WINDOW - 1), slice(None))
        luminance, contrast = _similarity_maps(x[strip], y[strip])
        similarity += float((luminance * contrast).sum())
        structure += float(contrast.sum())
    count = rows * (x.shape[3] - _WINDOW + 1)
    return similarity / count, structure / count


def _similarity_maps(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    mean_x, mean_y, square_x, square_y, product = _window_means(torch.cat([x, y, x * x, y * y, x * y]))
    variances = (square_x - mean_x**2) + (square_y - mean_y**2)
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + _C1) / (mean_x**2 + mean_y**2 + _C1)
    return luminance, (2 * covariance + _C2) / (variances + _C2)


def _window_means(planes: Tensor) -> Tensor:
    """Gaussian means of planes (N, 1, H, W) over the valid region, one axis after the other."""
    weights = [math.exp(-(offset**2) / (2 * _SIGMA**2)) for offset in range(-(_WINDOW // 2), _WINDOW // 2 + 1)]
    for axis in (2, 3):
        length = planes.shape[axis] - _WINDOW + 1
        total = torch.zeros_like(planes.narrow(axis, 0, length))
        for shift, weight in enumerate(weights):
            total.add_(planes.narrow(axis, shift, length), alpha=weight / sum(weights))
        planes = total
    return planes


def _size(image: Image) -> str:
    height, width = image.shape[-2:]
    return f"{width}x{height} pixels"

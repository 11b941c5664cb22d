"""What an image alone tells: PIQE, sharpness and noise. All take one image (1, 3, H, W) in [0, 1]."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.errors import ImageError
from conservator.image import Image, check_image, luma

_BLOCK = 16
_QUIET_SHARE = 0.1  # of the blocks of an image, taken as the ones without texture


def piqe(image: Image) -> float:
    """Perception-based image quality evaluator, 0 (best) to 100; NaN below 16 pixels a side.

    Venkatanath et al., "Blind image quality evaluation using perception based features", 2015. The share of active
    16x16 blocks that look noisy or have a flat stretch along an edge (blockiness, blur). It needs no weights. An image
    with no active block at all gets the worst score, as in the paper.
    """
    _check_one(image)
    height, width = image.shape[-2:]
    if min(height, width) < _BLOCK:
        return math.nan
    grey = F.pad(luma(image) * 255, (0, -width % _BLOCK, 0, -height % _BLOCK), mode="reflect")
    # (blocks, rows, columns)
    blocks = _normalised(grey)[0, 0].unfold(0, _BLOCK, _BLOCK).unfold(1, _BLOCK, _BLOCK).reshape(-1, _BLOCK, _BLOCK)
    variance = blocks.flatten(1).var(dim=1)
    active = variance > 0.1
    if not bool(active.any()):
        return 100.0
    blocks, variance = blocks[active], variance[active]
    score = _flat_edge(blocks) * (1 - variance) + _noisy(blocks) * variance
    return 100 * (float(score.sum()) + 1) / (len(blocks) + 1)


def sharpness(image: Image) -> float:
    """Root mean square luma gradient over the luma's standard deviation, per pixel; higher is sharper.

    Tenengrad (Krotkov 1988) made independent of contrast, with the share that the estimated noise has in both numbers
    taken away. NaN for an image without contrast or below 18 pixels a side.
    """
    if not _large_enough(image):
        return math.nan
    plane = luma(image)
    noise_variance = _noise_sigma(plane) ** 2
    # a white noise of unit variance has a Sobel energy of 2 * 12 / 64
    energy = float(_sobel_energy(plane).mean()) - 0.375 * noise_variance
    variance = float(plane.var()) - noise_variance
    if not variance > 1e-6:
        return math.nan
    return math.sqrt(max(energy, 0.0) / variance)


def noise(image: Image) -> float:
    """Standard deviation of the noise, in levels of 0 to 255, mean over R, G and B; lower is better.

    Immerkaer, "Fast noise variance estimation", 1996, on the blocks with the least texture and no clipped pixels.
    NaN below 18 pixels a side.
    """
    if not _large_enough(image):
        return math.nan
    return 255 * sum(_noise_sigma(image[:, c : c + 1]) for c in range(3)) / 3


def _check_one(image: Image) -> None:
    check_image(image)
    if image.shape[0] != 1:
        raise ImageError(f"expected one image, got a batch of {image.shape[0]}; score them one by one")


def _large_enough(image: Image) -> bool:
    _check_one(image)
    return min(image.shape[-2:]) >= _BLOCK + 2


def _normalised(grey: Tensor) -> Tensor:
    """Mean-subtracted, contrast-normalised plane: Gaussian window 7x7 of sigma 7/6, replicated border."""
    offset = torch.arange(7, dtype=grey.dtype, device=grey.device) - 3
    window = torch.exp(-(offset**2) / (2 * (7 / 6) ** 2))
    window = window / window.sum()

    def mean(plane: Tensor) -> Tensor:
        plane = F.pad(plane, (3, 3, 3, 3), mode="replicate")
        return F.conv2d(F.conv2d(plane, window.view(1, 1, 1, -1)), window.view(1, 1, -1, 1))

    centre = mean(grey)
    deviation = (mean(grey * grey) - centre * centre).abs().sqrt()
    return (grey - centre) / (deviation + 1)


def _flat_edge(blocks: Tensor) -> Tensor:
    """1 for each block with a stretch of six pixels along one of its four edges that hardly varies, else 0."""
    edges = torch.stack([blocks[:, 0], blocks[:, -1], blocks[:, :, 0], blocks[:, :, -1]], dim=1)
    deviation = edges.unfold(2, 6, 1).std(dim=3)
    return (deviation < 0.1).flatten(1).any(dim=1).to(blocks.dtype)


def _noisy(blocks: Tensor) -> Tensor:
    """1 for each block whose deviation exceeds twice its distance from the centre-surround contrast, else 0."""
    middle = _BLOCK // 2
    centre = blocks[:, :, middle - 1 : middle + 1].flatten(1).std(dim=1)
    surround = torch.cat([blocks[:, :, : middle - 1], blocks[:, :, middle + 1 :]], dim=2).flatten(1).std(dim=1)
    ratio = torch.nan_to_num(centre / surround)
    deviation = blocks.flatten(1).std(dim=1)
    beta = (deviation - ratio).abs() / torch.maximum(deviation, ratio)
    return (deviation > 2 * beta).to(blocks.dtype)


def _sobel_energy(plane: Tensor) -> Tensor:
    """Squared Sobel gradient (kernels over 8) of a plane (1, 1, H, W), on the valid region (1, 1, H - 2, W - 2)."""
    rows = plane[..., :-2, :] + 2 * plane[..., 1:-1, :] + plane[..., 2:, :]
    columns = plane[..., :-2] + 2 * plane[..., 1:-1] + plane[..., 2:]
    return ((rows[..., 2:] - rows[..., :-2]).square() + (columns[..., 2:, :] - columns[..., :-2, :]).square()) / 64


def _noise_sigma(plane: Tensor) -> float:
    """Noise deviation of one plane (1, 1, H, W), in its own unit, from its quietest blocks."""
    residual = plane[..., :-2] - 2 * plane[..., 1:-1] + plane[..., 2:]
    residual = residual[..., :-2, :] - 2 * residual[..., 1:-1, :] + residual[..., 2:, :]
    # mean |x| of a Gaussian is sigma * sqrt(2 / pi); the two second differences amplify sigma by 6
    sigma = F.avg_pool2d(residual.abs(), _BLOCK) * (math.sqrt(math.pi / 2) / 6)
    # texture is judged on the smoothed plane, apart from the residual, so quiet blocks are not just lucky ones
    smooth = F.avg_pool2d(plane, 5, stride=1, padding=2, count_include_pad=False)
    activity = F.avg_pool2d(_sobel_energy(smooth), _BLOCK).flatten()
    clipped = F.avg_pool2d(((plane <= 0) | (plane >= 1)).to(plane.dtype)[..., 1:-1, 1:-1], _BLOCK).flatten() > 0.01
    usable = ~clipped if bool((~clipped).any()) else torch.ones_like(clipped)
    activity, sigma = activity[usable], sigma.flatten()[usable]
    quiet = activity.argsort()[: max(1, round(_QUIET_SHARE * len(activity)))]
    return float(sigma[quiet].median())

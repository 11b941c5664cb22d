"""How strong is the noise, from the image alone."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.image import Image
from conservator.tools.classical.basics import block_mean, dct_basis, to_opponent

_BLOCK = 16
_QUANTILE = 0.1
_BIAS = 0.90
"""The 10 % quantile of the block deviations of pure white noise, over its true sigma."""

_CALM_BIAS = 1.5
"""The true deviation over that of the calmest tenth of the blocks; white noise needs 1.2, a few frequencies more."""


def estimate_sigma(image: Image) -> Tensor:
    """Standard deviation of the noise on the three axes of ``to_opponent``, (B, 3), in units of the range [0, 1].

    The deviation of a high-pass residual (Immerkaer, "Fast noise variance estimation", CVIU 1996) in every block of
    16 x 16 pixels; a low quantile over the blocks keeps texture out, and blocks that are clipped to black or white,
    where noise cannot show, are left out. An image below 32 x 32 pixels is measured as one block.
    """
    b, c, h, w = image.shape
    if min(h, w) < 3:
        return torch.zeros(b, c)
    opponent = to_opponent(image)
    residual = opponent.diff(n=2, dim=-1).diff(n=2, dim=-2) / 6  # his mask, as two second differences: much faster
    side = _BLOCK if min(h, w) >= 2 * _BLOCK + 2 else min(h, w) - 2
    deviation = block_mean(residual.square(), side).sqrt().flatten(2)
    clipped = ((image.amin(1) <= 0.5 / 255) | (image.amax(1) >= 254.5 / 255)).float()
    usable = block_mean(clipped[..., 1:-1, 1:-1], side).flatten(1) < 0.1
    sigma = [
        torch.quantile(item[:, keep] if keep.any() else item, _QUANTILE, dim=1)
        for item, keep in zip(deviation, usable, strict=True)
    ]
    return torch.stack(sigma) / _BIAS


def estimate_spectrum(planes: Tensor) -> Tensor:
    """Deviation of the noise at every frequency of an 8 x 8 DCT, (N, 64), of planes (N, 1, H, W).

    Measured in the tenth of the blocks that vary least, so it holds for noise that is no longer white, too; texture
    that fills the whole image is taken for noise.
    """
    stride = max(4, math.isqrt(planes.shape[-2] * planes.shape[-1]) // 256)  # large images have blocks enough
    coefficients = F.conv2d(planes, dct_basis(8), stride=stride).flatten(2)
    coefficients[:, 0] = 0
    activity = coefficients.square().sum(1)
    calm = activity <= torch.quantile(activity, _QUANTILE, dim=1, keepdim=True)
    power = (coefficients.square() * calm[:, None]).sum(2) / calm.sum(1)[:, None]
    return power.sqrt() * _CALM_BIAS

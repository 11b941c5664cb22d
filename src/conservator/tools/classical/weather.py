"""Haze and rain without learning."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.degradations.kinds import Kind
from conservator.image import Image, luma
from conservator.tools.classical.basics import guided_filter
from conservator.tools.tool import Tool, ToolSpec

_THINNEST = 0.2
"""The least transmission that is divided by: below it only noise would come up."""


def _erode(plane: Tensor, radius: int) -> Tensor:
    side = 2 * radius + 1
    padded = F.pad(plane, (radius,) * 4, mode="replicate")
    rows = F.max_pool2d(-padded, (side, 1), 1)
    return -F.max_pool2d(rows, (1, side), 1)


def _airlight(image: Image, veil: Tensor) -> Tensor:
    """Mean colour (B, 3, 1, 1) of the thousandth of the pixels where the ``veil`` (B, 1, H, W) is thickest."""
    count = max(1, veil[0].numel() // 1000)
    at = veil.flatten(1).topk(count, 1).indices[:, None].expand(-1, 3, -1)
    return image.flatten(2).gather(2, at).mean(2)[..., None, None].clamp(min=0.3)


def _unveil(image: Image, airlight: Tensor, transmission: Tensor) -> Image:
    """Invert I = J t + A (1 - t)."""
    return ((image - airlight) / transmission.clamp(min=_THINNEST) + airlight).clamp(0, 1)


class DarkChannelDehaze(Tool):
    """Transmission from the darkest colour of every patch, refined along edges."""

    spec = ToolSpec(
        name="dark_channel_dehaze",
        removes=frozenset({Kind.HAZE}),
        description="Removes fog and haze, giving back contrast and colour; may darken large bright areas.",
        source="He, Sun, Tang, Single image haze removal using dark channel prior, CVPR 2009",
        license="Apache-2.0",
        tile=None,
    )
    _share = 0.85

    def restore(self, image: Image) -> Image:
        radius = max(3, min(image.shape[-2:]) // 60)
        airlight = _airlight(image, _erode(image.amin(1, keepdim=True), radius))
        veil = _erode((image / airlight).amin(1, keepdim=True), radius).clamp(0, 1)
        transmission = guided_filter(luma(image), 1 - self._share * veil, 4 * radius, 1e-3)
        return _unveil(image, airlight, transmission)


class ColourAttenuationDehaze(Tool):
    """Depth from value and saturation: far things are bright and pale."""

    spec = ToolSpec(
        name="colour_attenuation_dehaze",
        removes=frozenset({Kind.HAZE}),
        description="Removes light to moderate haze, gentle on skies.",
        source="Zhu, Mai, Shao, A fast single image haze removal algorithm using color attenuation prior, IEEE TIP 2015",
        license="Apache-2.0",
        tile=None,
    )

    def restore(self, image: Image) -> Image:
        value, low = image.amax(1, keepdim=True), image.amin(1, keepdim=True)
        saturation = (value - low) / value.clamp(min=0.02)
        radius = max(3, min(image.shape[-2:]) // 60)
        depth = _erode((0.121779 + 0.959710 * value - 0.780245 * saturation).clamp(min=0), radius)
        airlight = _airlight(image, depth)
        transmission = guided_filter(luma(image), torch.exp(-depth), 4 * radius, 1e-3)
        return _unveil(image, airlight, transmission.clamp(max=1.0))


def _line(length: int, degrees: float) -> Tensor:
    """A normalised line through the centre, (1, 1, length, length), ``degrees`` clockwise from the vertical."""
    half = length // 2
    y, x = torch.meshgrid(*(torch.arange(-half, half + 1, dtype=torch.float32),) * 2, indexing="ij")
    radians = math.radians(degrees)
    across = x * math.cos(radians) + y * math.sin(radians)
    line = (1 - across.abs()).clamp(min=0) * (x * x + y * y <= half * half + 0.5)
    return (line / line.sum())[None, None]


_DIRECTIONS = tuple(range(-40, 41, 5))
_LENGTH = 15


def _along(detail: Tensor) -> Tensor:
    """Average bright detail (B, 1, H, W) along the direction, near the vertical, in which each item has streaks."""
    kernels = torch.cat([_line(_LENGTH, degrees) for degrees in _DIRECTIONS])
    lines = F.conv2d(F.pad(detail, (_LENGTH // 2,) * 4, mode="replicate"), kernels)
    skewed = lines.clamp(min=0).pow(3).mean((2, 3))
    best = skewed.argmax(1)
    return lines.gather(1, best[:, None, None, None].expand(-1, 1, *lines.shape[-2:]))


class MedianDerain(Tool):
    """Streaks are what is brighter than the median across them and goes on along them."""

    spec = ToolSpec(
        name="median_derain",
        removes=frozenset({Kind.RAIN}),
        description="Removes bright rain streaks by looking beside them; keeps most texture.",
        source="oriented median residual, after Kim et al., Single-image deraining using an adaptive nonlocal means "
        "filter, ICIP 2013",
        license="Apache-2.0",
        tile=None,
    )
    _width = 11
    _rain_light = 0.8

    def restore(self, image: Image) -> Image:
        y = luma(image)
        padded = F.pad(y, (self._width // 2, self._width // 2, 0, 0), mode="replicate")
        beside = padded.unfold(3, self._width, 1).median(-1).values
        share = ((y - beside) / (self._rain_light - beside).clamp(min=0.15)).clamp(0, 0.9)
        streak = _along(share - share.mean((2, 3), keepdim=True))
        rain = torch.minimum(share, (2.5 * streak).clamp(0, 0.8))
        return ((image - self._rain_light * rain) / (1 - rain)).clamp(0, 1)


class MorphologicalDerain(Tool):
    """Opening across the streaks cuts off what is bright and narrow."""

    spec = ToolSpec(
        name="morphological_derain",
        removes=frozenset({Kind.RAIN}),
        description="Cuts dense bright rain off the picture; stronger than the median, softer result.",
        source="grey-scale opening (Serra, Image Analysis and Mathematical Morphology, 1982)",
        license="Apache-2.0",
        tile=None,
    )
    _radius = 4

    def restore(self, image: Image) -> Image:
        r = self._radius
        low = -F.max_pool2d(F.pad(-image, (r, r, 0, 0), mode="replicate"), (1, 2 * r + 1), 1)
        opened = F.max_pool2d(F.pad(low, (r, r, 0, 0), mode="replicate"), (1, 2 * r + 1), 1)
        residual = luma(image - opened)
        weight = (4 * _along(residual - residual.mean((2, 3), keepdim=True))).clamp(0, 1)
        return torch.lerp(image, opened, weight)

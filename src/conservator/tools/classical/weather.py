"""Removal of rain and haze."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.image import Image, luma
from conservator.kinds import Kind
from conservator.tools.classical.basics import box_mean
from conservator.tools.tool import Tool, ToolSpec

_RAIN_LIGHT = 0.8
"""What a drop looks like that hides the scene."""
_STREAK = 13  # pixels along a streak over which it must not break
_WITNESS = 384  # pixels a side of the part that tells the direction


class _Derain(Tool):
    """Shears the streaks upright, takes what is thin, bright and unbroken along them, and uncovers the scene."""

    def restore(self, image: Image) -> Image:
        return torch.cat([self._item(image[i : i + 1]) for i in range(len(image))])

    def _item(self, image: Image) -> Image:
        y = luma(image)
        y0, x0 = (max(0, side - _WITNESS) // 2 for side in y.shape[-2:])
        slope = _streak_slope(y[..., y0 : y0 + _WITNESS, x0 : x0 + _WITNESS])
        upright = _sheared(y, slope)
        bright, dark, background = self.details(upright)
        streaks = _streaks(bright, dark)
        rain = (streaks / (_RAIN_LIGHT - background).clamp_min(0.15)).clamp(0, 0.8)
        rain = _sheared(rain, slope, back=True)
        return ((image - _RAIN_LIGHT * rain) / (1 - rain)).clamp(0, 1)

    @abstractmethod
    def details(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Of upright luma (1, 1, H, W): what is thin and bright, thin and dark, both >= 0, and the background."""


class MedianDerain(_Derain):
    """Details are differences from a median across the streaks."""

    spec = ToolSpec(
        name="median_derain",
        removes=frozenset({Kind.RAIN}),
        description="Takes out bright rain streaks that stand out from the median around them; for dense rain.",
        source="median residual, after Zhang et al., Rain removal in video by combining temporal and chromatic "
        "properties, ICME 2006; streak test of our own",
        license="Apache-2.0",
        tile=None,
    )

    def details(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        padded = F.pad(y, (5, 5, 0, 0), mode="replicate")
        median = torch.cat([rows.unfold(-1, 11, 1).median(-1).values for rows in padded.split(256, dim=-2)], dim=-2)
        return (y - median).clamp_min(0), (median - y).clamp_min(0), median


class MorphologicalDerain(_Derain):
    """Details are what an opening or closing across the streaks removes."""

    spec = ToolSpec(
        name="morphological_derain",
        removes=frozenset({Kind.RAIN}),
        description="Takes out thin bright rain streaks by a morphological opening across them; quick, for light rain.",
        source="top-hat transform, Serra, Image analysis and mathematical morphology, 1982; streak test of our own",
        license="Apache-2.0",
        tile=None,
    )

    def details(self, y: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        opened = _opened(y, (1, 5))
        return y - opened, -_opened(-y, (1, 5)) - y, opened


def _streaks(bright: Tensor, dark: Tensor) -> Tensor:
    """The part of the bright details (1, 1, H, W) that is rain.

    A scene has as many thin dark lines as bright ones, rain is bright only: of the details of one strength, the surplus
    of bright over dark ones tells what part is rain. So an image without rain is hardly touched.
    """
    strength, control = (_along(_opened(details, (_STREAK, 1))) for details in (bright, dark))
    bins, top = 25, 0.5
    counts, control_counts = (torch.histc(values, bins, 0, top) for values in (strength, control))
    share = (1 - control_counts / counts.clamp_min(1)).clamp(0, 1)
    filled = counts >= 20
    share = torch.where(filled, share, share[filled][-1] if filled.any() else torch.zeros(()))
    share[0] = 0
    share = torch.cummax(share, 0).values
    part = share[(strength * (bins / top)).long().clamp(0, bins - 1)]
    return part * torch.minimum(bright, 1.5 * _along(bright))


def _streak_slope(y: Tensor) -> float:
    """Columns to the right per row down of the rain in luma (1, 1, H, W), within 45 degrees of the vertical.

    The direction along which means of the details are most skewed to the bright side.
    """

    def skew(slope: float) -> float:
        upright = _sheared(y, slope)
        details = upright - F.avg_pool2d(upright, (1, 9), 1, (0, 4), count_include_pad=False)
        means = F.avg_pool2d(details, (15, 1), 1, (7, 0), count_include_pad=False)
        return float(means.pow(3).mean())

    return max((math.tan(math.radians(angle)) for angle in range(-45, 46, 3)), key=skew)


def _sheared(plane: Tensor, slope: float, *, back: bool = False) -> Tensor:
    """Shift every row of (1, 1, H, W) so that lines of this slope stand upright; columns wrap around."""
    height, width = plane.shape[-2:]
    shift = (torch.arange(height) * slope).round().long()
    columns = (torch.arange(width) + (-shift if back else shift)[:, None]) % width
    return plane.gather(-1, columns.expand(plane.shape))


def _opened(plane: Tensor, size: tuple[int, int]) -> Tensor:
    """Grey opening of (1, 1, H, W) with a line."""
    margin = (size[0] // 2, size[1] // 2)
    return F.max_pool2d(-F.max_pool2d(-plane, size, 1, margin), size, 1, margin)


def _along(plane: Tensor) -> Tensor:
    return F.avg_pool2d(plane, (5, 1), 1, (2, 0), count_include_pad=False)


class _Dehaze(Tool):
    """Estimates airlight and transmission on a small copy, refines them along the edges, and inverts the haze model."""

    _small = 400  # pixels of the longer side of the small copy
    _least = 0.15

    def restore(self, image: Image) -> Image:
        return torch.cat([self._item(image[i : i + 1]) for i in range(len(image))])

    def _item(self, image: Image) -> Image:
        factor = min(1.0, self._small / max(image.shape[-2:]))
        size = [max(1, round(side * factor)) for side in image.shape[-2:]]
        small = F.interpolate(image, size, mode="bilinear", antialias=True) if factor < 1 else image
        airlight, transmission = self.estimate(small)
        t = _upsampled_along_edges(transmission, luma(small), luma(image)).clamp(self._least, 1)
        return ((image - airlight) / t + airlight).clamp(0, 1)

    @abstractmethod
    def estimate(self, small: Image) -> tuple[float, Tensor]:
        """Gray airlight and transmission (1, 1, H, W), both in [0, 1], of one small image (1, 3, H, W)."""


class DarkChannelDehaze(_Dehaze):
    """Every patch of a clear outdoor photo holds something dark; where none does, haze has lifted it."""

    spec = ToolSpec(
        name="dark_channel_dehaze",
        removes=frozenset({Kind.HAZE}),
        description="Removes haze and fog by the dark channel prior, restoring contrast and colour; may darken skies.",
        source="He, Sun, Tang, Single image haze removal using dark channel prior, CVPR 2009; guided filter, ECCV 2010",
        license="Apache-2.0",
        tile=None,
    )

    def estimate(self, small: Image) -> tuple[float, Tensor]:
        dark = _eroded(small.amin(1, keepdim=True), 15)
        airlight = max(_light_where_brightest(dark, small), 0.75)
        return airlight, 1 - 0.9 * dark / airlight


class ColourAttenuationDehaze(_Dehaze):
    """Haze makes a pixel bright and pale; depth is linear in both."""

    spec = ToolSpec(
        name="colour_attenuation_dehaze",
        removes=frozenset({Kind.HAZE}),
        description="Removes light to moderate haze by the colour attenuation prior; milder than the dark channel.",
        source="Zhu, Mai, Shao, A fast single image haze removal algorithm using color attenuation prior, TIP 2015",
        license="Apache-2.0",
        tile=None,
    )

    def estimate(self, small: Image) -> tuple[float, Tensor]:
        value = small.amax(1, keepdim=True)
        saturation = (value - small.amin(1, keepdim=True)) / value.clamp_min(1e-3)
        depth = _eroded(0.121779 + 0.959710 * value - 0.780245 * saturation, 7)
        return max(_light_where_brightest(depth, small), 0.7), torch.exp(-0.9 * depth)


def _light_where_brightest(map_: Tensor, small: Image) -> float:
    """Mean of the image over the thousandth of the pixels where the map (1, 1, H, W) is greatest."""
    chosen = map_ >= torch.quantile(map_, 0.999)
    return float(small.mean(1, keepdim=True)[chosen].mean())


def _eroded(plane: Tensor, radius: int) -> Tensor:
    """Minimum of (1, 1, H, W) over a square."""
    side = 2 * radius + 1
    rows = F.max_pool2d(-plane, (side, 1), 1, (radius, 0))
    return -F.max_pool2d(rows, (1, side), 1, (0, radius))


def _upsampled_along_edges(plane: Tensor, small_guide: Tensor, guide: Tensor) -> Tensor:
    """Guided filter of a small plane, applied at the size of ``guide``; all (1, 1, ., .).

    Source: He, Sun, "Fast guided filter", arXiv 1505.00996.
    """
    radius, epsilon = 24, 1e-3
    mean_guide, mean_plane = box_mean(small_guide, radius), box_mean(plane, radius)
    covariance = box_mean(small_guide * plane, radius) - mean_guide * mean_plane
    slope = covariance / (box_mean(small_guide.square(), radius) - mean_guide.square() + epsilon)
    offset = mean_plane - slope * mean_guide
    slope, offset = (
        F.interpolate(box_mean(part, radius), guide.shape[-2:], mode="bilinear") for part in (slope, offset)
    )
    return slope * guide + offset

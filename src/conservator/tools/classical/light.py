"""Brightening. All tools change V of HSV, the greatest of the three channels, and keep hue and saturation.

A photo that is bright enough comes back as it is.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.image import Image
from conservator.kinds import Kind
from conservator.tools.classical.basics import guided_filter
from conservator.tools.classical.measuring import MeasuringTool
from conservator.tools.tool import Tool, ToolSpec

_TARGET = 0.48
"""Mean of V of an ordinary photo."""
_WHITE = 0.97
"""Where the brightest half percent of an ordinary photo lies."""
_STRONGEST = 0.35
"""Least exponent; below it, noise and rounding would show."""


class _Curve(MeasuringTool[float]):
    """Changes V by a curve with one number, which is measured on the whole photo."""

    def measure(self, image: Image) -> float | None:
        return self.amount(image.amax(1, keepdim=True))

    def treat(self, image: Image, found: float) -> Image:
        value = image.amax(1, keepdim=True)
        return _with_value(image, value, self.curve(value, found))

    @abstractmethod
    def amount(self, value: Tensor) -> float | None:
        """The number for V (1, 1, H, W) of a whole photo; None where it is bright enough."""

    @abstractmethod
    def curve(self, value: Tensor, amount: float) -> Tensor:
        """The new V (1, 1, H, W) in [0, 1], pixel by pixel."""


class _Map(Tool):
    """Changes V of each item by a map of the whole photo."""

    def restore(self, image: Image) -> Image:
        value = image.amax(1, keepdim=True)
        return _with_value(image, value, torch.cat([self.brighten(item) for item in value.split(1)]))

    @abstractmethod
    def brighten(self, value: Tensor) -> Tensor:
        """The new V, (1, 1, H, W) in [0, 1]."""


def _with_value(image: Image, value: Tensor, brighter: Tensor) -> Image:
    """The image with another V (B, 1, H, W); where V was 0 there is no hue to keep, and the pixel becomes gray."""
    return torch.where(value > 0, image * (brighter / value.clamp_min(1e-6)), brighter).clamp(0, 1)


class GammaBrighten(_Curve):
    """The exponent that brings the mean of V to that of ordinary photos."""

    spec = ToolSpec(
        name="gamma_brighten",
        removes=frozenset({Kind.LOW_LIGHT}),
        description="Brightens a dark photo by a gamma curve, lifting shadows most; keeps black and white points.",
        source="idea of Huang et al., Efficient contrast enhancement using adaptive gamma correction, IEEE TIP 2013",
        license="Apache-2.0",
        tile=1024,
        overlap=0,
    )

    def amount(self, value: Tensor) -> float | None:
        counts = torch.histc(value, 256, 0, 1) / value.numel()
        levels = (torch.arange(256) + 0.5) / 256
        gamma = _exponent(lambda gamma: float((counts * levels**gamma).sum()))
        return gamma if gamma < 1 else None

    def curve(self, value: Tensor, amount: float) -> Tensor:
        return value**amount


class StretchBrighten(_Curve):
    """The factor that brings the brightest half percent of V close to white."""

    spec = ToolSpec(
        name="stretch_brighten",
        removes=frozenset({Kind.LOW_LIGHT}),
        description="Brightens an underexposed photo linearly until its lights are white; if nothing in it is bright.",
        source="linear contrast stretching, Gonzalez, Woods, Digital image processing",
        license="Apache-2.0",
        tile=1024,
        overlap=0,
    )

    def amount(self, value: Tensor) -> float | None:
        lights = _quantile(value, 0.995)
        factor = min(_WHITE / max(lights, 1e-3), 4.0)
        return factor if factor > 1.02 else None

    def curve(self, value: Tensor, amount: float) -> Tensor:
        return (value * amount).clamp_max(1)


class ShiftBrighten(_Curve):
    """The same amount of light for every pixel that is not black: what the brightest half percent lacks to white."""

    spec = ToolSpec(
        name="shift_brighten",
        removes=frozenset({Kind.LOW_LIGHT}),
        description="Brightens a dark photo by adding the same light everywhere; for crushed blacks, lowers contrast.",
        source="constant shift of V, as among the tools of AgenticIR, arXiv 2410.17809",
        license="Apache-2.0",
        tile=1024,
        overlap=0,
    )

    def amount(self, value: Tensor) -> float | None:
        missing = min(_WHITE - _quantile(value, 0.995), 0.25)
        return missing if missing > 0 else None

    def curve(self, value: Tensor, amount: float) -> Tensor:
        return (value + amount * (value > 1 / 255)).clamp_max(1)


class ClaheBrighten(_Map):
    """Contrast-limited adaptive histogram equalisation of scikit-image, for dark photos only."""

    spec = ToolSpec(
        name="clahe_brighten",
        removes=frozenset({Kind.LOW_LIGHT}),
        description="Brightens a dark photo by local contrast, opening shadows region by region; may bring out noise.",
        source="Zuiderveld, Contrast limited adaptive histogram equalization, Graphics Gems IV, 1994 (scikit-image)",
        license="Apache-2.0",
        tile=None,
    )

    def brighten(self, value: Tensor) -> Tensor:
        from skimage.exposure import equalize_adapthist

        if float(value.mean()) >= _TARGET:
            return value
        return torch.from_numpy(equalize_adapthist(value[0, 0].numpy(), clip_limit=0.005)).to(value)[None, None]


class RetinexBrighten(_Map):
    """Divides by a smooth illumination map raised to the power that brings the mean of V to that of ordinary photos."""

    spec = ToolSpec(
        name="retinex_brighten",
        removes=frozenset({Kind.LOW_LIGHT}),
        description="Brightens what is poorly lit and keeps local contrast; for a photo in uneven light.",
        source="Guo, Li, Ling, LIME: low-light image enhancement via illumination map estimation, IEEE TIP 2017, "
        "with a guided filter",
        license="Apache-2.0",
        tile=None,
    )

    def brighten(self, value: Tensor) -> Tensor:
        light = guided_filter(value, F.max_pool2d(value, 7, 1, 3), radius=16, epsilon=1e-3).clamp(0.02, 1)
        few = slice(None, None, max(1, value.shape[-1] // 512))
        thin_value, thin_light = value[..., few, few], light[..., few, few]
        gamma = _exponent(lambda g: float((thin_value * thin_light ** (g - 1)).clamp_max(1).mean()))
        return (value * light ** (gamma - 1)).clamp_max(1)


def _exponent(mean_after: Callable[[float], float]) -> float:
    """The exponent in [0.35, 1] that brings the mean of V to the target, by bisection; 1 where it is there already."""
    if mean_after(1.0) >= _TARGET:
        return 1.0
    low, high = _STRONGEST, 1.0
    for _ in range(16):
        middle = (low + high) / 2
        low, high = (middle, high) if mean_after(middle) > _TARGET else (low, middle)
    return high


def _quantile(value: Tensor, q: float) -> float:
    """Quantile from a histogram of 1024 bins: ``torch.quantile`` takes at most 16 million pixels."""
    share = torch.histc(value, 1024, 0, 1).cumsum(0) / value.numel()
    return (int((share < q).sum()) + 1) / 1024

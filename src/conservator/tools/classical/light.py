"""Brightening. All work on the value of HSV (the largest of R, G, B), so hues stay as they are."""

from __future__ import annotations

import math
from abc import abstractmethod

import torch
from torch import Tensor

from conservator.degradations.kinds import Kind
from conservator.image import Image
from conservator.tools.classical.basics import guided_filter
from conservator.tools.tool import Tool, ToolSpec

_MEAN_OF_A_PHOTO = 0.48
"""Mean value of a well exposed photo."""
_WHITE = 0.97
"""Where the brightest half percent of a well exposed photo lies."""
_DARKEST = 1 / 255


class _Brightener(Tool):
    """Maps the value of each item and scales its colours along."""

    def restore(self, image: Image) -> Image:
        return torch.cat([self._item(image[i : i + 1]) for i in range(len(image))])

    def _item(self, image: Image) -> Image:
        value = image.amax(1, keepdim=True)
        brighter = torch.maximum(self.brighten(value), value).clamp(max=1.0)
        return (image * (brighter / value.clamp(min=_DARKEST))).clamp(0, 1)

    @abstractmethod
    def brighten(self, value: Tensor) -> Tensor:
        """Map the value (1, 1, H, W) in [0, 1] of one image; what comes out darker is left as it was."""


def _percentile(value: Tensor, share: float) -> float:
    """A percentile of the pixels; a large image is sampled, for torch.quantile takes 16 million numbers at most."""
    step = max(1, math.isqrt(value.numel() // 1_000_000))
    return float(value[..., ::step, ::step].flatten().quantile(share))


class GammaBrighten(_Brightener):
    """Raises the value to the power that gives the mean of a well exposed photo."""

    spec = ToolSpec(
        name="gamma_brighten",
        removes=frozenset({Kind.LOW_LIGHT}),
        description="Lifts the mid-tones of an underexposed photo by a gamma curve; black and white stay put.",
        source="adaptive gamma correction, textbook",
        license="Apache-2.0",
        tile=None,
    )

    def brighten(self, value: Tensor) -> Tensor:
        mean = min(max(float(value.mean()), 0.02), 0.95)
        gamma = min(max(math.log(_MEAN_OF_A_PHOTO) / math.log(mean), 0.4), 1.0)
        return value.clamp(min=1e-4) ** gamma


class StretchBrighten(_Brightener):
    """Multiplies the value so that the brightest half percent becomes nearly white."""

    spec = ToolSpec(
        name="stretch_brighten",
        removes=frozenset({Kind.LOW_LIGHT}),
        description="Scales a photo that lacks highlights to the full range; the gentlest way to brighten.",
        source="linear contrast stretching, textbook",
        license="Apache-2.0",
        tile=None,
    )

    def brighten(self, value: Tensor) -> Tensor:
        return value * min(max(_WHITE / max(_percentile(value, 0.995), _DARKEST), 1.0), 4.0)


class ShiftBrighten(_Brightener):
    """Adds a constant to the value so that the brightest half percent becomes nearly white."""

    spec = ToolSpec(
        name="shift_brighten",
        removes=frozenset({Kind.LOW_LIGHT}),
        description="Adds the same light everywhere; right where shadows were cut off by a constant.",
        source="constant shift of HSV value, as in AgenticIR (arXiv 2410.17809)",
        license="Apache-2.0",
        tile=None,
    )

    def brighten(self, value: Tensor) -> Tensor:
        missing = min(max(_WHITE - _percentile(value, 0.995), 0.0), 0.25)
        return value + missing * (value > _DARKEST)


class RetinexBrighten(_Brightener):
    """Divides by a power of the illumination, the value smoothed along edges."""

    spec = ToolSpec(
        name="retinex_brighten",
        removes=frozenset({Kind.LOW_LIGHT}),
        description="Lights up the dark parts of an unevenly lit photo and leaves its bright parts alone.",
        source="Guo, Li, Ling, LIME: low-light image enhancement via illumination map estimation, IEEE TIP 2017",
        license="Apache-2.0",
        tile=None,
    )

    def brighten(self, value: Tensor) -> Tensor:
        radius = max(2, min(value.shape[-2:]) // 40)
        light = guided_filter(value, value, radius, 1e-2).clamp(0.03, 1)
        mean = min(max(float(light.mean()), 0.02), 0.95)
        power = min(max(1 - math.log(_MEAN_OF_A_PHOTO) / math.log(mean), 0.0), 0.6)
        return value / light**power


class ClaheBrighten(_Brightener):
    """Contrast-limited adaptive histogram equalisation of the value (scikit-image)."""

    spec = ToolSpec(
        name="clahe_brighten",
        removes=frozenset({Kind.LOW_LIGHT}),
        description="Brings out local contrast in a dark photo, region by region.",
        source="Zuiderveld, Contrast limited adaptive histogram equalization, Graphics Gems IV, 1994 (scikit-image)",
        license="Apache-2.0",
        tile=None,
    )

    def brighten(self, value: Tensor) -> Tensor:
        from skimage.exposure import equalize_adapthist

        result = equalize_adapthist(value[0, 0].double().numpy(), clip_limit=0.008)
        return torch.from_numpy(result).to(value)[None, None]

"""Enlarging without learning."""

from __future__ import annotations

import numpy as np
import torch
from PIL import Image as PillowImage

from conservator.degradations.kinds import Kind
from conservator.image import Image
from conservator.resample import bicubic_resize
from conservator.tools.tool import Tool, ToolSpec


def _lanczos(image: Image, scale: int) -> Image:
    """Enlarge (B, 3, H, W) by Pillow's Lanczos filter in floating point; values may leave [0, 1] a little."""
    height, width = image.shape[-2:]
    planes = [
        np.asarray(
            PillowImage.fromarray(plane.numpy(), "F").resize(
                (width * scale, height * scale), PillowImage.Resampling.LANCZOS
            )
        )
        for plane in image.flatten(0, 1)
    ]
    return torch.from_numpy(np.stack(planes)).view(len(image), 3, height * scale, width * scale)


class LanczosX2(Tool):
    """Lanczos interpolation to twice the size."""

    spec = ToolSpec(
        name="lanczos_x2",
        removes=frozenset({Kind.LOW_RESOLUTION}),
        description="Doubles the size of a photo by interpolation; sharp, adds no detail.",
        source="Lanczos resampling (Pillow)",
        license="Apache-2.0",
        scale=2,
    )

    def restore(self, image: Image) -> Image:
        return _lanczos(image, 2)


class LanczosX4(Tool):
    """Lanczos interpolation to four times the size."""

    spec = ToolSpec(
        name="lanczos_x4",
        removes=frozenset({Kind.LOW_RESOLUTION}),
        description="Enlarges a small photo four times by interpolation; sharp, adds no detail.",
        source="Lanczos resampling (Pillow)",
        license="Apache-2.0",
        scale=4,
    )

    def restore(self, image: Image) -> Image:
        return _lanczos(image, 4)


class BackProjectionX4(Tool):
    """Lanczos, then corrections until reducing the result gives the input back."""

    spec = ToolSpec(
        name="backprojection_x4",
        removes=frozenset({Kind.LOW_RESOLUTION}),
        description="Enlarges a small photo four times and sharpens it until it agrees with the small one.",
        source="Irani, Peleg, Improving resolution by image registration, CVGIP 1991",
        license="Apache-2.0",
        scale=4,
        tile=256,
    )
    _rounds = 6

    def restore(self, image: Image) -> Image:
        large = _lanczos(image, 4).clamp(0, 1)
        for _ in range(self._rounds):
            large = (large + _lanczos(image - bicubic_resize(large, 0.25), 4)).clamp(0, 1)
        return large

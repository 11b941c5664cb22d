"""Parts of clean photos, as planners and perception see them in training."""

from __future__ import annotations

import numpy as np
import torch.nn.functional as F

from conservator.image import Image


def random_part(image: Image, rng: np.random.Generator) -> Image:
    """A part of 260 to 640 pixels a side of a photo, reduced by 1 to 2.5 first, mirrored half of the time."""
    factor = 1 / float(rng.choice([1.0, 1.0, 1.4, 2.0, 2.5]))
    height, width = image.shape[-2:]
    size = (max(260, round(height * factor)), max(260, round(width * factor)))
    if factor < 1:
        image = F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
    h, w = (min(side, int(rng.choice([320, 384, 512, 512, 640]))) for side in image.shape[-2:])
    top, left = (int(rng.integers(0, n - m + 1)) for n, m in zip(image.shape[-2:], (h, w), strict=True))
    part = image[..., top : top + h, left : left + w]
    return (part.flip(-1) if rng.random() < 0.5 else part).contiguous()

"""Pictures of a page, as the text of a data URI."""

from __future__ import annotations

import base64
import io
from pathlib import Path

import numpy as np
import torch.nn.functional as F
from PIL import Image as PillowImage

from conservator.image import Image, to_array

_LARGEST_PROFILE = 16 * 1024
"""Bytes of a colour profile that go along with each picture: those of cameras and screens have up to a few thousand,
those with whole tables, for printers, a hundred times that."""
_QUALITIES = (85, 70, 50, 30, 15)
"""Of JPEG, the first that fits: below 15 nothing is to be seen."""


def sized(image: Image, size: tuple[int, int]) -> Image:
    """The image at this height and width."""
    if tuple(image.shape[-2:]) == size:
        return image
    shrinking = size[0] < image.shape[-2]
    return F.interpolate(image, size, mode="bilinear", antialias=shrinking).clamp(0, 1)


def jpeg_bytes(image: Image, *, quality: int = 90, profile: bytes | None = None, small: bool = False) -> bytes:
    """The image as a JPEG, its colours at full resolution unless it is to be ``small``.

    An RGB ``profile`` goes along, so that colours look right.
    """
    buffer = io.BytesIO()
    picture = PillowImage.fromarray(to_array(image, np.uint8))
    picture.save(buffer, "JPEG", quality=quality, subsampling=2 if small else 0, icc_profile=_fitting(profile))
    return buffer.getvalue()


def save_png(image: Image, path: Path, profile: bytes | None = None) -> None:
    """Write the image as a PNG of 8 bits, quickly rather than small; an RGB ``profile`` goes along."""
    PillowImage.fromarray(to_array(image, np.uint8)).save(path, "PNG", compress_level=1, icc_profile=_fitting(profile))


def _fitting(profile: bytes | None) -> bytes | None:
    fits = profile is not None and len(profile) <= _LARGEST_PROFILE and profile[16:20] == b"RGB "
    return profile if fits else None


def jpeg_within(image: Image, most_bytes: int, profile: bytes | None = None) -> bytes:
    """The image as a small JPEG of at most so many bytes, as good as they allow.

    A ``profile`` of more than a tenth of them is left out. Of the lowest quality a picture may still be larger.
    """
    fitting = profile if profile is not None and 10 * len(profile) <= most_bytes else None
    for quality in _QUALITIES:
        picture = jpeg_bytes(image, quality=quality, profile=fitting, small=True)
        if len(picture) <= most_bytes:
            break
    return picture


def picture_uri(picture: bytes) -> str:
    """The bytes of a JPEG as a data URI."""
    return "data:image/jpeg;base64," + base64.b64encode(picture).decode()

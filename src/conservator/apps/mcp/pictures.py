"""What an assistant is shown of a photo: a small JPEG, of the whole or of a part at full size."""

from __future__ import annotations

from collections.abc import Sequence

from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.pages.pictures import jpeg_bytes, sized

LONGEST_SIDE = 1024
"""Pixels. Vision models reduce larger pictures themselves."""

PREVIEW_BYTES = 250_000
"""Of one preview. Hosts refuse results from about 1 MB on, text and all pictures together, and base64 makes a third
more of it: two previews are 0.7 MB."""

_QUALITIES = (92, 80, 60)
"""Of the JPEG, the first that is small enough. The first leaves no traces that could be taken for the photo's own."""


def check_region(region: Sequence[int] | None, height: int, width: int) -> None:
    """Raise ConservatorError for a part (left, top, width, height) that is not in a picture; None is all of it."""
    if region is None:
        return
    if len(region) == 4:
        left, top, wide, high = region
        if min(left, top) >= 0 and min(wide, high) >= 1 and left + wide <= width and top + high <= height:
            return
    raise ConservatorError(
        f"the region {list(region)} does not lie in the photo of {width} x {height} pixels; give left, top, width and "
        "height in pixels"
    )


def cropped(image: Image, region: Sequence[int] | None) -> Image:
    """The part (left, top, width, height) of an image, in pixels; all of it for None. Raises as ``check_region``."""
    check_region(region, *image.shape[-2:])
    if region is None:
        return image
    left, top, wide, high = region
    return image[..., top : top + high, left : left + wide]


def preview_jpeg(image: Image, profile: bytes | None = None) -> bytes:
    """An image (1, 3, H, W) as a JPEG of at most LONGEST_SIDE pixels a side and PREVIEW_BYTES, with its ICC profile."""
    longest = LONGEST_SIDE
    while True:
        height, width = image.shape[-2:]
        scale = min(1.0, longest / max(height, width))
        image = sized(image, (max(1, round(scale * height)), max(1, round(scale * width))))
        for quality in _QUALITIES:
            picture = jpeg_bytes(image, quality=quality, profile=profile)
            if len(picture) <= PREVIEW_BYTES:
                return picture
        longest = longest * 3 // 4  # a picture that is nothing but noise

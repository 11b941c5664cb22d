"""Colour profiles: their names, and the conversions between CMYK or Lab and sRGB (LittleCMS, through Pillow)."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

from PIL import Image as PillowImage

if TYPE_CHECKING:
    from PIL.ImageCms import ImageCmsProfile


def color_space(icc: bytes | None) -> str:
    """Return the profile's colour space, "RGB", "GRAY", "CMYK", "Lab"...; empty without a profile (ICC.1, 7.2.6)."""
    return icc[16:20].decode("ascii", "replace").strip() if icc else ""


def profile_name(icc: bytes) -> str | None:
    """Return the profile's own name, or None when it cannot be read as an ICC profile."""
    from PIL import ImageCms

    try:
        return ImageCms.getProfileDescription(_profile(icc)).strip() or "unnamed"
    except (OSError, ImageCms.PyCMSError):
        return None


def is_srgb(icc: bytes | None) -> bool:
    """Whether the profile says sRGB; no profile counts as sRGB."""
    return icc is None or "srgb" in (profile_name(icc) or "").lower()


def to_srgb(image: PillowImage.Image, icc: bytes | None) -> PillowImage.Image:
    """Convert 8-bit pixels through their profile to sRGB, mode RGB. Lab needs no profile.

    Raises ImageCms.PyCMSError or OSError when the profile does not fit the pixels or has no table for this direction.
    """
    return _convert(image, _profile("LAB" if image.mode == "LAB" else icc or b""), _profile("sRGB"), "RGB")


def from_srgb(image: PillowImage.Image, icc: bytes) -> PillowImage.Image:
    """Convert 8-bit sRGB pixels to CMYK through a profile. Raises like ``to_srgb``."""
    return _convert(image, _profile("sRGB"), _profile(icc), "CMYK")


def _profile(source: bytes | str) -> ImageCmsProfile:
    """The profile in these bytes, or one of those that LittleCMS makes itself."""
    from PIL import ImageCms

    if isinstance(source, bytes):
        return ImageCms.ImageCmsProfile(io.BytesIO(source))
    return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB" if source == "LAB" else "sRGB"))


def _convert(
    image: PillowImage.Image, source: ImageCmsProfile, target: ImageCmsProfile, mode: str
) -> PillowImage.Image:
    """Relative colorimetric with black point compensation: in-gamut colours stay, shadows keep their steps."""
    from PIL import ImageCms

    intent, flags = ImageCms.Intent.RELATIVE_COLORIMETRIC, ImageCms.Flags.BLACKPOINTCOMPENSATION
    converted = ImageCms.profileToProfile(image, source, target, renderingIntent=intent, outputMode=mode, flags=flags)
    assert converted is not None  # None only when converting in place
    return converted

"""TIFF, the reader: the tags of the photo, and its pixels, through Pillow or, where that cuts or errs, tifffile.

Tags follow TIFF 6.0 (Adobe, 1992); XMP (700) and the ICC profile (34675) lie where their own specifications put them.
"""

from __future__ import annotations

import logging
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from conservator.errors import PhotoError
from conservator.photo.directories import Directory
from conservator.photo.meta import described

_BITS, _COMPRESSION, _PHOTOMETRIC, _ORIENTATION, _SAMPLES = 258, 259, 262, 274, 277
_X_RESOLUTION, _Y_RESOLUTION, _RESOLUTION_UNIT = 282, 283, 296
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _XMP, _ICC = 338, 339, 700, 34675

_READ_HERE = {1, 2, 3, 4, 5, 6, 7, 8, 32771, 32773, 32946, 34925, 50000}
"""Compressions: none, those of fax (2 to 4, 32771), LZW, JPEG (6, 7), Deflate (8, 32946), PackBits, LZMA, Zstandard."""
_COMPRESSIONS = {33003: "JPEG 2000", 33005: "JPEG 2000", 34712: "JPEG 2000", 34887: "LERC", 34892: "lossy DNG JPEG"}
_COMPRESSIONS |= {34933: "PNG", 34934: "JPEG XR", 50001: "WebP", 34927: "WebP", 50002: "JPEG XL", 52546: "JPEG XL"}
_COLOURS = {
    0: "gray",
    1: "gray",
    2: "RGB",
    3: "palette",
    4: "mask",
    5: "CMYK",
    6: "YCbCr",
    8: "Lab",
    9: "Lab",
    10: "Lab",
}

_OVERSHOOT = 0.1
"""What sharpening and resampling add at an edge, as a part of the range: Lanczos' kernel overshoots a step by
6 to 10 %. Such values are clipped, however many they are."""
_HEADROOM = 16.0
"""Four stops above white, more than the highlights that a raw developer leaves in a floating-point file. What reaches
farther is measured in other units: levels to 255 or 65535, heights, temperatures. Set by judgement."""
_FEW = 0.05
"""The share of values that may lie beyond the overshoot: highlights and their noise are a small part of a photo that is
meant to be seen; a photo with more of them is meant for another exposure. Set by judgement."""

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it has to say about a file ends up in PhotoError


class TiffTagsOfPhoto:
    """The photo's tags, as what the rest of the reading asks for."""

    def __init__(self, file: BinaryIO, directory: Directory) -> None:
        """Read the tags; raises struct.error, OSError and others of Pillow's when the directory is broken."""
        file.seek(0)
        self._tags = PillowImage.Exif()
        self._tags.endian = directory.order
        self._tags.bigtiff = 43 in file.read(4)[2:]
        self._tags.load_from_fp(file, directory.offset)

    @property
    def bits(self) -> int:
        """The most bits that a channel has."""
        return max(_several(self._tags.get(_BITS, 1)))

    @property
    def kind(self) -> str:
        """What the numbers are: "unsigned", "signed", "float" or "other"."""
        return {1: "unsigned", 2: "signed", 3: "float"}.get(max(_several(self._tags.get(_SAMPLE_FORMAT, 1))), "other")

    @property
    def colours(self) -> str:
        """What the channels are: "gray", "RGB", "palette", "CMYK", "YCbCr", "Lab" or "unknown"."""
        return _COLOURS.get(self._tags.get(_PHOTOMETRIC, -1), "unknown")

    @property
    def plain(self) -> bool:
        """Whether the channels are gray or RGB, not a palette, CMYK, YCbCr or Lab."""
        return self.colours in ("gray", "RGB")

    @property
    def left_out(self) -> int:
        """How many channels of a plain picture are neither colour nor its one alpha."""
        samples, alphas = int(self._tags.get(_SAMPLES, 1)), _several(self._tags.get(_EXTRA_SAMPLES, ()))
        extra = samples - (1 if self.colours == "gray" else 3)
        return max(0, extra - any(kind in (1, 2) for kind in alphas))

    @property
    def orientation(self) -> int | None:
        return self._tags.get(_ORIENTATION)

    @property
    def icc(self) -> bytes | None:
        return _bytes(self._tags.get(_ICC))

    @property
    def xmp(self) -> bytes | None:
        return _bytes(self._tags.get(_XMP))

    @property
    def exif(self) -> bytes | None:
        """The descriptive tags, EXIF and GPS, as a block of their own; None without any."""
        tags = described(self._tags)
        return tags.tobytes() if len(tags) else None

    @property
    def dpi(self) -> tuple[float, float] | None:
        """Pixels per inch; None when the file gives none or no absolute unit."""
        per_inch = {2: 1.0, 3: 2.54}.get(self._tags.get(_RESOLUTION_UNIT, 2))
        x, y = self._tags.get(_X_RESOLUTION), self._tags.get(_Y_RESOLUTION)
        return None if per_inch is None or x is None or y is None else (float(x) * per_inch, float(y) * per_inch)

    def check(self) -> None:
        """Raise PhotoError, with the true reason, for numbers and compressions that are not read here."""
        if self.kind not in ("unsigned", "float") or (self.kind == "unsigned" and self.bits > 16):
            what = f"{self.bits}-bit {self.kind} numbers"
            raise PhotoError(f"it holds {what}, expected up to 16 bits without a sign, or values from 0 to 1")
        if self.bits > 8 and self.colours in ("Lab", "palette", "YCbCr"):
            raise PhotoError(f"its TIFF holds {self.colours} at {self.bits} bits per channel, expected 8 for that")
        if self.colours == "unknown":
            raise PhotoError("its TIFF holds colours of a kind that is not read here, expected gray, RGB, CMYK or Lab")
        compression = self._tags.get(_COMPRESSION, 1)
        if compression not in _READ_HERE:
            name = _COMPRESSIONS.get(compression, f"method {compression}")
            raise PhotoError(f"its TIFF is compressed with {name}, which is not read here; save it with LZW or Deflate")


def decode_tiff(file: BinaryIO, max_pixels: int, notes: list[str]) -> NDArray[np.generic]:
    """Decode the first page of 9 to 16 bits or floating-point gray or RGB to uint16 (H, W, 1 to 4), alpha last.

    Alpha is straight. Fewer bits than 16 are stretched to the whole range.

    Raises PhotoError for values or channels that a photo cannot have; tifffile's own errors pass through.
    """
    import tifffile

    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        if page.imagedepth != 1 or page.samplesperpixel > 8 or page.tilewidth * page.tilelength > max_pixels:
            raise PhotoError("its TIFF holds a volume, many channels or huge tiles, expected a gray or RGB photo")
        bits, pixels = page.bitspersample, page.asarray()
        if pixels.ndim == 2:
            pixels = pixels[..., None]
        elif page.axes.startswith("S"):
            pixels = np.moveaxis(pixels, 0, -1)
        inverted, extra = int(page.photometric) == 0, [int(e) for e in page.extrasamples]
    pixels = _as_uint16(pixels, bits, notes)
    colours = pixels.shape[2] - len(extra)
    if colours not in (1, 3):
        raise PhotoError(f"its TIFF has {colours} colour channels, expected 1 or 3")
    if inverted:
        pixels[..., :colours] = 65535 - pixels[..., :colours]
    return _with_alpha(pixels, colours, extra)


def _as_uint16(pixels: NDArray[Any], bits: int, notes: list[str]) -> NDArray[np.uint16]:
    if pixels.dtype.kind == "u" and bits == 16:
        return pixels.astype(np.uint16)
    if pixels.dtype.kind == "u":
        notes.append(f"{bits} bits per channel were stretched to 16")
        stretched: NDArray[np.uint16] = np.rint(pixels.astype(np.float64) * (65535 / (2**bits - 1))).astype(np.uint16)
        return stretched
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= -_HEADROOM and high <= _HEADROOM):  # also catches NaN
        raise PhotoError(f"its floating-point values reach from {low:g} to {high:g}, expected 0 to 1")
    if low < 0 or high > 1:
        beyond = float(((pixels < -_OVERSHOOT) | (pixels > 1 + _OVERSHOOT)).mean())
        if beyond > _FEW:
            reach = f"reach from {low:g} to {high:g}, expected 0 to 1"
            raise PhotoError(f"its floating-point values {reach}, and {beyond:.0%} of them lie well outside")
        notes.append(f"floating-point values from {low:.3g} to {high:.3g} were clipped to 0 to 1")
    notes.append("floating-point values were rounded to 16 bits")
    return np.rint(pixels.clip(0, 1).astype(np.float64) * 65535).astype(np.uint16)


def _with_alpha(pixels: NDArray[np.uint16], colours: int, extra: list[int]) -> NDArray[np.generic]:
    """Keep one alpha channel (extra sample 1 or 2) and divide it out of colours that were multiplied with it (1)."""
    kinds = [kind for kind in extra if kind in (1, 2)]
    if not kinds:
        return pixels[..., :colours]
    colour, alpha = pixels[..., :colours], pixels[..., colours + extra.index(kinds[0])][..., None]
    if kinds[0] == 1:
        straight = colour.astype(np.float64) * 65535 / np.maximum(alpha, 1)
        colour = np.rint(np.minimum(straight, 65535)).astype(np.uint16)
    return np.concatenate([colour, alpha], axis=2)


def _several(value: int | tuple[int, ...]) -> tuple[int, ...]:
    return value if isinstance(value, tuple) else (value,)


def _bytes(value: object) -> bytes | None:
    """The bytes of a tag that writers store as bytes, text or a tuple of numbers."""
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    if isinstance(value, tuple):
        return bytes(value)
    return value if isinstance(value, bytes) else None

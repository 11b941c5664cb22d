"""TIFF: the tags of the first page, 16-bit and floating-point pixels (through tifffile), and a writer.

Tags follow TIFF 6.0 (Adobe, 1992); XMP (700) and the ICC profile (34675) lie where their own specifications put them.
"""

from __future__ import annotations

import logging
import struct
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import TiffImagePlugin, TiffTags

from conservator.errors import PhotoError
from conservator.photo.meta import described, described_exif

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES = 273, 274, 277, 278, 279
_X_RESOLUTION, _Y_RESOLUTION, _PLANAR, _RESOLUTION_UNIT, _PREDICTOR = 282, 283, 284, 296, 317
_EXTRA_SAMPLES, _SAMPLE_FORMAT, _XMP, _ICC = 338, 339, 700, 34675

_DEFLATE, _HORIZONTAL = 8, 2
_IPTC, _PHOTOSHOP = 33723, 34377
_STRIP_SIZE = 1 << 20  # bytes before compression

logging.getLogger("tifffile").addHandler(logging.NullHandler())  # what it has to say about a file ends up in PhotoError


class TiffTagsOfPhoto:
    """The first page's tags, as what the rest of the reading asks for."""

    def __init__(self, file: BinaryIO) -> None:
        """Read the tags; raises struct.error, OSError and others of Pillow's when the directory is broken."""
        file.seek(0)
        head = file.read(16)
        order = "<" if head[:2] == b"II" else ">"
        self._tags = PillowImage.Exif()
        self._tags.endian = order
        self._tags.bigtiff = 43 in head[2:4]
        offset = (
            struct.unpack(order + "Q", head[8:])[0] if self._tags.bigtiff else struct.unpack(order + "I", head[4:8])[0]
        )
        self._tags.load_from_fp(file, offset)
        self.width, self.height = int(self._tags[_WIDTH]), int(self._tags[_HEIGHT])

    @property
    def bits(self) -> int:
        """The most bits that a channel has."""
        return max(_several(self._tags.get(_BITS, 1)))

    @property
    def kind(self) -> str:
        """What the numbers are: "unsigned", "signed", "float" or "other"."""
        return {1: "unsigned", 2: "signed", 3: "float"}.get(max(_several(self._tags.get(_SAMPLE_FORMAT, 1))), "other")

    @property
    def plain(self) -> bool:
        """Whether the channels are gray or RGB, not a palette, CMYK, YCbCr or Lab."""
        return self._tags.get(_PHOTOMETRIC) in (0, 1, 2)

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
    def captions(self) -> bytes:
        """Not empty where there are IPTC captions, in a tag of their own or among Photoshop's resources.

        They are not taken apart: some programs store them as 32-bit numbers.
        """
        resources = self._tags.get(_PHOTOSHOP)
        among = isinstance(resources, bytes) and b"8BIM\x04\x04" in resources
        return b"IPTC" if among or _IPTC in self._tags else b""

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


def decode_tiff(file: BinaryIO, max_pixels: int, notes: list[str]) -> tuple[NDArray[np.generic], int]:
    """Decode the first page of 9 to 16 bits or floating-point gray or RGB to uint16 (H, W, 1 to 4), alpha last.

    Alpha is straight. Fewer bits than 16 are stretched to the whole range. The second value is the number of pages.

    Raises PhotoError for values or channels that a photo cannot have; tifffile's own errors pass through.
    """
    import tifffile

    file.seek(0)
    with tifffile.TiffFile(file) as tiff:
        page = tiff.pages.first
        if page.imagedepth != 1 or page.samplesperpixel > 8 or page.tilewidth * page.tilelength > max_pixels:
            raise PhotoError("its TIFF holds a volume, many channels or huge tiles, expected a gray or RGB photo")
        pages, bits = len(tiff.pages), page.bitspersample
        if pages > 1:
            notes.append(f"only the first of {pages} pages was read")
        pixels = page.asarray()
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
    return _with_alpha(pixels, colours, extra, notes), pages


def encode_tiff(
    file: BinaryIO,
    pixels: NDArray[np.generic],
    *,
    cmyk: bool,
    icc: bytes | None,
    exif: bytes | None,
    xmp: bytes | None,
    dpi: tuple[float, float] | None,
) -> None:
    """Write (H, W, 1 to 4), uint8 or uint16, as one Deflate-compressed page, with all that the photo carries."""
    height, width, samples = pixels.shape
    rows = max(1, _STRIP_SIZE // (width * samples * pixels.itemsize))
    strips = [_compressed(pixels[top : top + rows]) for top in range(0, height, rows)]
    sizes = [len(strip) for strip in strips]
    colours = samples if cmyk else samples - 1 + samples % 2
    tags = TiffImagePlugin.ImageFileDirectory_v2()
    if exif:
        tags.update(described_exif(exif) or {})
    tags[_WIDTH], tags[_HEIGHT], tags[_SAMPLES] = width, height, samples
    tags[_BITS] = (8 * pixels.itemsize,) * samples
    tags[_COMPRESSION], tags[_PREDICTOR], tags[_PLANAR], tags[_ORIENTATION] = _DEFLATE, _HORIZONTAL, 1, 1
    tags[_PHOTOMETRIC] = 5 if cmyk else {1: 1, 3: 2}[colours]
    tags[_ROWS_PER_STRIP], tags[_STRIP_BYTES] = min(rows, height), tuple(sizes)
    tags.tagtype[_STRIP_OFFSETS] = TiffTags.LONG
    tags[_STRIP_OFFSETS] = tuple(sum(sizes[:i]) for i in range(len(sizes)))
    if colours < samples:
        tags[_EXTRA_SAMPLES] = 2  # alpha that the colours are not multiplied with
    if dpi:
        tags[_X_RESOLUTION], tags[_Y_RESOLUTION], tags[_RESOLUTION_UNIT] = dpi[0], dpi[1], 2
    for tag, block, kind in ((_XMP, xmp, TiffTags.BYTE), (_ICC, icc, TiffTags.UNDEFINED)):
        if block:
            tags.tagtype[tag] = kind
            tags[tag] = block
    tags.save(file)  # makes the strip offsets count from the end of the directory
    file.writelines(strips)


def _compressed(strip: NDArray[Any]) -> bytes:
    """Horizontal differences per channel (TIFF 6.0, section 14), then Deflate."""
    import imagecodecs

    differences = strip.copy()
    differences[:, 1:] -= strip[:, :-1]
    return bytes(imagecodecs.deflate_encode(differences.astype(f"<u{strip.itemsize}").tobytes(), 6))


def _as_uint16(pixels: NDArray[Any], bits: int, notes: list[str]) -> NDArray[np.uint16]:
    if pixels.dtype.kind == "u" and bits == 16:
        return pixels.astype(np.uint16)
    if pixels.dtype.kind == "u":
        notes.append(f"{bits} bits per channel were stretched to 16")
        stretched: NDArray[np.uint16] = np.rint(pixels.astype(np.float64) * (65535 / (2**bits - 1))).astype(np.uint16)
        return stretched
    low, high = float(pixels.min()), float(pixels.max())
    if not (low >= 0 and high <= 1):  # also catches NaN
        raise PhotoError(f"its floating-point values reach from {low:g} to {high:g}, expected 0 to 1")
    notes.append("floating-point values were rounded to 16 bits")
    return np.rint(pixels.astype(np.float64) * 65535).astype(np.uint16)


def _with_alpha(pixels: NDArray[np.uint16], colours: int, extra: list[int], notes: list[str]) -> NDArray[np.generic]:
    """Keep one alpha channel (extra sample 1 or 2) and divide it out of colours that were multiplied with it (1)."""
    kinds = [kind for kind in extra if kind in (1, 2)]
    if len(extra) > min(len(kinds), 1):
        notes.append("channels besides colour and alpha were left out")
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

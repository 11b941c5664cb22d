"""From an open file to pixels and metadata. Pillow decodes 8 bits, libpng and tifffile what it would cut or get wrong.

Whatever is wrong with the file comes out as PhotoError (what a photo cannot be: too large, no photo format) or as any
other exception of a decoder (damage); photo.py makes one sentence of either.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageFile, features

from conservator.errors import PhotoError
from conservator.photo.color import color_space, profile_name, to_srgb
from conservator.photo.meta import jpeg_captions, orientation, quiet
from conservator.photo.png import check_png, decode_png, png_captions, png_depth
from conservator.photo.tiff import TiffTagsOfPhoto, decode_tiff

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", *(("AVIF",) if features.check("avif") else ()))

_GRAY_MODES = ("1", "L", "LA", "La")
_TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")


@dataclass
class Decoded:
    """A decoded file: straight sRGB or gray levels (H, W, 1 to 4), uint8 or uint16, alpha last, and what came along."""

    pixels: NDArray[np.generic]
    format: str
    mode: str
    lossless: bool
    orientation: int
    """EXIF orientation that is still to be applied."""
    icc: bytes | None
    exif: bytes | None
    xmp: bytes | None
    dpi: tuple[float, float] | None
    notes: list[str]
    frames: int = 1
    """Pages or frames in the file, of which this is the first."""
    whole: bool = True
    own: bytes = b""
    """Captions and comments as this format alone stores them: JPEG's segments, PNG's chunks."""


def decode(file: BinaryIO, max_pixels: int, lenient: bool) -> Decoded:
    """Decode the first picture of a file; ``lenient`` takes what a damaged file still gives."""
    with _pillow_switches(lenient):
        prefix = file.read(16)
        if prefix[:4] in _TIFF_MAGIC:
            return _decode_tiff(file, max_pixels, lenient)
        return _decode_other(file, prefix, max_pixels, lenient)


@contextmanager
def _pillow_switches(lenient: bool) -> Iterator[None]:
    """Set whether Pillow accepts cut-off files: a switch of the whole process, so one file is decoded at a time."""
    with quiet():
        before = ImageFile.LOAD_TRUNCATED_IMAGES
        ImageFile.LOAD_TRUNCATED_IMAGES = lenient
        try:
            yield
        finally:
            ImageFile.LOAD_TRUNCATED_IMAGES = before


def _decode_tiff(file: BinaryIO, max_pixels: int, lenient: bool) -> Decoded:
    tags = TiffTagsOfPhoto(file)
    _check_size(tags.width, tags.height, max_pixels)
    notes: list[str] = []
    deep = tags.bits > 8
    if deep and (tags.kind not in ("unsigned", "float") or (tags.kind == "unsigned" and tags.bits > 16)):
        raise PhotoError(f"it holds {tags.bits}-bit {tags.kind} numbers, expected 8 or 16 bits, or values from 0 to 1")
    frames = 1
    if deep and tags.plain:
        pixels, frames = decode_tiff(file, max_pixels, notes)
        mode, turn = "I;16", tags.orientation
        turn = orientation(None, tags.xmp) if turn is None else turn
    else:
        image = _open(file, b"", "TIFF")
        frames = _note_frames(image, notes)
        image.load()  # Pillow applies a TIFF's orientation itself
        if deep:
            notes.append(f"{tags.bits} bits per channel were read as 8, because they are not gray or RGB at 16")
        pixels, mode, turn = _levels(image, tags.icc, notes), image.mode, 1
    try:
        exif = tags.exif
    except Exception:  # whatever a broken directory makes Pillow raise; the pixels are good
        exif = None
        notes.append("its EXIF data is damaged and was dropped")
    captions = tags.captions
    return Decoded(pixels, "TIFF", mode, True, turn, tags.icc, exif, tags.xmp, tags.dpi, notes, frames, own=captions)


def _decode_other(file: BinaryIO, prefix: bytes, max_pixels: int, lenient: bool) -> Decoded:
    image = _open(file, prefix)
    _check_size(*image.size, max_pixels)
    notes: list[str] = []
    name = "JPEG" if image.format == "MPO" else str(image.format)
    frames = _note_frames(image, notes)
    lossless = name in ("PNG", "BMP", "GIF") or (name == "WEBP" and _is_lossless_webp(file))
    if name == "AVIF":
        _note_avif_depth(file, notes)
    if name == "PNG" and not lenient:
        check_png(file)
    image.load()  # also reads metadata that lies behind the pixels
    if name == "PNG" and _beyond_pillow(image, png_depth(file)):
        pixels = _decode_beyond_pillow(file, image, lenient, notes)
    else:
        pixels = _levels(image, _bytes(image, "icc_profile"), notes)
    exif, xmp = _bytes(image, "exif"), _bytes(image, "xmp")
    icc, dpi = _bytes(image, "icc_profile"), image.info.get("dpi")
    own = _captions(file, image, name, lenient)
    turn = orientation(exif, xmp)
    return Decoded(pixels, name, image.mode, lossless, turn, icc, exif, xmp, dpi, notes, frames, own=own)


def _captions(file: BinaryIO, image: ImageFile.ImageFile, name: str, lenient: bool) -> bytes:
    if name == "PNG":
        return b"" if lenient else png_captions(file)
    return jpeg_captions(image.info) if name == "JPEG" else _bytes(image, "comment") or b""


def _open(file: BinaryIO, prefix: bytes, name: str | None = None) -> ImageFile.ImageFile:
    """Read the header as ``Image.open`` does, without its size limit, which is one for the whole process."""
    PillowImage.init()
    for candidate in FORMATS if name is None else (name,):
        factory, accept = PillowImage.OPEN[candidate]
        if name is not None or accept is None or accept(prefix) is True:
            file.seek(0)
            return factory(file, "")
    raise PhotoError(f"it is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise PhotoError(f"its size is {width} x {height} pixels")
    if width * height > max_pixels:
        raise PhotoError(
            f"it has {width} x {height} pixels, more than the limit of {max_pixels}; raise max_pixels to read it"
        )


def _note_frames(image: ImageFile.ImageFile, notes: list[str]) -> int:
    """How many pages or frames there are."""
    frames: int = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"only the first of {frames} {'pages' if image.format == 'TIFF' else 'frames'} was read")
    return frames


def _levels(image: PillowImage.Image, icc: bytes | None, notes: list[str]) -> NDArray[np.generic]:
    """Gray or sRGB levels of a loaded Pillow image, (H, W, 1 to 4) uint8, alpha last."""
    if image.mode.startswith(("I", "F")):
        raise PhotoError(f"its pixels are of Pillow's kind {image.mode}, expected 8 or 16 bits per channel")
    if image.mode in ("CMYK", "LAB"):
        image = _converted(image, icc, notes)
    gray = image.mode in _GRAY_MODES
    target = ("LA" if gray else "RGBA") if image.has_transparency_data else ("L" if gray else "RGB")
    array = np.asarray(image.convert(target))
    return array[..., None] if array.ndim == 2 else array


def _converted(image: PillowImage.Image, icc: bytes | None, notes: list[str]) -> PillowImage.Image:
    """Convert CMYK or Lab to sRGB, through the profile where there is a good one."""
    from PIL import ImageCms

    if image.mode == "LAB":
        notes.append("converted from Lab to sRGB")
        return to_srgb(image, None)
    why = "there is none"
    if icc and color_space(icc) == "CMYK":
        try:
            converted = to_srgb(image, icc)
        except (OSError, ImageCms.PyCMSError):
            why = "its own cannot be used"
        else:
            notes.append(f'converted from CMYK to sRGB through its profile "{profile_name(icc)}"')
            return converted
    notes.append(f"converted from CMYK to sRGB without a colour profile, because {why}: colours are approximate")
    return image.convert("RGB")


def _beyond_pillow(image: ImageFile.ImageFile, depth: int) -> bool:
    """Whether Pillow cuts this PNG to 8 bits, or, gray of 1 to 4 bits, looks for its transparent level unscaled."""
    return depth == 16 or (depth < 8 and image.mode in ("1", "L") and "transparency" in image.info)


def _decode_beyond_pillow(
    file: BinaryIO, image: ImageFile.ImageFile, lenient: bool, notes: list[str]
) -> NDArray[np.generic]:
    if lenient:  # libpng takes no damage
        notes.append("as a damaged PNG it was read at 8 bits per channel")
        return _levels(_eight_bits(image), None, notes)
    pixels = decode_png(file)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _eight_bits(image: PillowImage.Image) -> PillowImage.Image:
    """Pillow's own 8 bits, for its 16-bit gray too, which it does not scale."""
    if not image.mode.startswith("I"):
        return image
    return PillowImage.fromarray((np.asarray(image).astype(np.uint32) // 257).astype(np.uint8))


def _is_lossless_webp(file: BinaryIO) -> bool:
    """Whether the picture is in a VP8L chunk (WebP container specification)."""
    at, size = 12, file.seek(0, 2)
    while at + 8 <= size:
        file.seek(at)
        head = file.read(8)
        if head[:4] in (b"VP8L", b"VP8 "):
            return head[:4] == b"VP8L"
        length = int.from_bytes(head[4:], "little")
        at += 8 + length + length % 2
    return False


def _note_avif_depth(file: BinaryIO, notes: list[str]) -> None:
    """Say when Pillow cuts more than 8 bits: the ``pixi`` box (ISO/IEC 23008-12, 6.5.6) lists the bits per channel."""
    file.seek(0)
    head = file.read(1 << 16)
    at = head.find(b"pixi")
    bits = max(head[at + 9 : at + 9 + head[at + 8]], default=8) if 0 <= at < len(head) - 9 else 8
    if bits > 8:
        notes.append(f"{bits} bits per channel were read as 8")


def _bytes(image: PillowImage.Image, key: str) -> bytes | None:
    value = image.info.get(key)
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return value if isinstance(value, bytes) and value else None

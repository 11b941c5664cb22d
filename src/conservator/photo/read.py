"""From an open file to pixels and metadata. Pillow decodes 8 bits, libpng and tifffile what it would cut or get wrong.

Whatever is wrong with the file comes out as PhotoError (what a photo cannot be: too large, no photo format) or as any
other exception of a decoder (damage); photo.py makes one sentence of either.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage
from PIL import ImageFile, features

from conservator.errors import PhotoError
from conservator.photo.carried import Carried
from conservator.photo.color import color_space, profile_name, to_srgb
from conservator.photo.containers import boxes_carried, brands, gif_carried, is_lossless_webp, webp_carried
from conservator.photo.directories import (
    TIFF_MAGIC,
    Directory,
    directories,
    ends_inside,
    is_raw,
    photo_of,
    starting_with,
    tiff_carried,
)
from conservator.photo.heif import BRANDS, HDR_CURVES, hdr_note, heif_carried, heif_levels, open_heif
from conservator.photo.meta import orientation, quiet
from conservator.photo.png import check_png, decode_png, png_carried, png_depth
from conservator.photo.quantisation import JpegTables, tables_of
from conservator.photo.raw import develop, has_raw_mark
from conservator.photo.segments import Frame, is_whole, jpeg_carried, jpeg_frame
from conservator.photo.tiff import TiffTagsOfPhoto, decode_tiff

FORMATS = ("JPEG", "PNG", "WEBP", "TIFF", "BMP", "GIF", *(("AVIF",) if features.check("avif") else ()))

_GRAY_MODES = ("1", "L", "LA", "La")
_HEAD = 64
"""Bytes that tell the format, with the brands of a file of boxes."""


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
    """Pages or frames in the file, of which this is one."""
    whole: bool = True
    carried: Carried = field(default_factory=Carried)
    jpeg: JpegTables | None = None


def decode(file: BinaryIO, max_pixels: int, lenient: bool) -> Decoded:
    """Decode the photo in a file, the first of several; ``lenient`` takes what a damaged file still gives."""
    prefix = file.read(_HEAD)
    found = directories(file) if prefix[:4] in TIFF_MAGIC else []
    if has_raw_mark(prefix) or is_raw(found):
        return _decode_raw(file, found, max_pixels, lenient)
    named = brands(prefix)
    if named & BRANDS and not named & {b"avif", b"avis"}:
        return _decode_heif(file, max_pixels)
    with _pillow_switches(lenient):
        if prefix[:4] in TIFF_MAGIC:
            return _decode_tiff(file, found, max_pixels)
        return _decode_other(file, prefix[:16], max_pixels, lenient)


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


def _decode_tiff(file: BinaryIO, found: list[Directory], max_pixels: int) -> Decoded:
    photo = photo_of(found)
    width, height = photo.size
    _check_size(width, height, max_pixels)
    carried = tiff_carried(file, found, photo)
    if photo is not found[0]:
        file = starting_with(file, photo)
    tags = TiffTagsOfPhoto(file, photo)
    tags.check()
    notes: list[str] = []
    pages = 1 + sum(not page.reduced and not page.mask for page in found if page is not photo)
    if photo is not found[0]:
        notes.append("its first page is a thumbnail: the full picture behind it was read")
    elif pages > 1:
        notes.append(f"only the first of {pages} pages was read")
    if tags.plain and tags.left_out:
        notes.append("channels besides colour and alpha (infrared, for instance) were left out")
        carried.told.append("a channel besides colour and alpha")
    pixels, mode, turn = _tiff_pixels(file, tags, max_pixels, notes, carried)
    try:
        exif = tags.exif
    except Exception:  # whatever a broken directory makes Pillow raise; the pixels are good
        exif = None
        notes.append("its EXIF data is damaged and was dropped")
        carried.told.append("its damaged EXIF data")
    return Decoded(pixels, "TIFF", mode, True, turn, tags.icc, exif, tags.xmp, tags.dpi, notes, pages, carried=carried)


def _tiff_pixels(
    file: BinaryIO, tags: TiffTagsOfPhoto, max_pixels: int, notes: list[str], carried: Carried
) -> tuple[NDArray[np.generic], str, int]:
    """The levels, Pillow's name for the pixels, and the orientation that is still to be applied."""
    if tags.bits > 8 and tags.plain:
        if tags.kind == "float":
            carried.told.append("floating-point values")
        turn = orientation(None, tags.xmp) if tags.orientation is None else tags.orientation
        return decode_tiff(file, max_pixels, notes), "I;16", turn
    try:
        image = _open(file, b"", "TIFF")
    except SyntaxError as error:
        what = f"{tags.colours} of {tags.bits} bits per channel"
        raise PhotoError(f"its TIFF holds {what}, or channels, in a way that is not read here") from error
    image.load()  # Pillow applies a TIFF's orientation itself
    if tags.bits > 8:
        notes.append(f"{tags.bits} bits per channel were read as 8, because they are not gray or RGB at 16")
        carried.told.append(f"{tags.bits} bits per channel")
    return _levels(image, tags.icc, notes), image.mode, 1


def _decode_raw(file: BinaryIO, found: list[Directory], max_pixels: int, lenient: bool) -> Decoded:
    if not lenient and not all(ends_inside(file, directory) for directory in found):  # LibRaw would fill up with black
        raise ValueError("it ends before its pixels do")
    notes: list[str] = []
    pixels = develop(file, lambda width, height: _check_size(width, height, max_pixels), notes)
    exif = xmp = None
    try:
        if found:
            with quiet():
                tags = TiffTagsOfPhoto(file, found[0])
                exif, xmp = tags.exif, tags.xmp
        else:
            notes.append("its EXIF data is stored in the camera's own way and was not read")
    except Exception:  # whatever a broken directory makes Pillow raise; the pixels are good
        notes.append("its EXIF data is damaged and was dropped")
    carried = Carried(told=["what the sensor saw"])
    return Decoded(pixels, "RAW", "RGB", True, 1, None, exif, xmp, None, notes, carried=carried)


def _decode_heif(file: BinaryIO, max_pixels: int) -> Decoded:
    heif = open_heif(file)
    width, height = heif.size
    _check_size(width, height, max_pixels)
    notes: list[str] = []
    pixels, carried = heif_levels(heif, notes), heif_carried(file, heif)
    if len(heif) > 1:
        notes.append(f"only the main one of {len(heif)} pictures was read")
    icc, exif, xmp = (heif.info.get(key) or None for key in ("icc_profile", "exif", "xmp"))
    # libheif has turned the picture, whatever EXIF says
    return Decoded(pixels, "HEIF", heif.mode, False, 1, icc, exif, xmp, None, notes, len(heif), carried=carried)


def _decode_other(file: BinaryIO, prefix: bytes, max_pixels: int, lenient: bool) -> Decoded:
    frame = jpeg_frame(file) if prefix[:3] == b"\xff\xd8\xff" else None
    if frame is not None and frame.bits > 8:
        return _decode_deep_jpeg(file, frame, max_pixels, lenient)
    image = _open(file, prefix)
    _check_size(*image.size, max_pixels)
    notes: list[str] = []
    name = "JPEG" if image.format == "MPO" else str(image.format)
    frames = _note_frames(image, notes)
    carried = _carried(file, image, name, frames, lenient)
    lossless = name in ("PNG", "BMP", "GIF") or (name == "WEBP" and is_lossless_webp(file))
    if name == "AVIF":
        _note_avif_depth(file, notes, carried)
    if name == "PNG" and not lenient:
        check_png(file)
    image.load()  # also reads metadata that lies behind the pixels
    if name == "PNG" and _beyond_pillow(image, png_depth(file)):
        pixels = _decode_beyond_pillow(file, image, lenient, notes)
    else:
        pixels = _levels(image, _bytes(image, "icc_profile"), notes)
    exif, xmp = _bytes(image, "exif"), _bytes(image, "xmp")
    icc, dpi = _bytes(image, "icc_profile"), image.info.get("dpi")
    turn = orientation(exif, xmp)
    jpeg = tables_of(image)
    return Decoded(pixels, name, image.mode, lossless, turn, icc, exif, xmp, dpi, notes, frames, True, carried, jpeg)


def _decode_deep_jpeg(file: BinaryIO, frame: Frame, max_pixels: int, lenient: bool) -> Decoded:
    """A JPEG of 9 to 16 bits per channel. Pillow opens none, and reads its metadata from a copy that calls itself 8."""
    import imagecodecs

    if not lenient and not is_whole(file):  # libjpeg would fill up with gray
        raise ValueError("it ends before its end marker")
    file.seek(0)
    data, bits = file.read(), frame.bits
    image = _open(io.BytesIO(data[: frame.at] + b"\x08" + data[frame.at + 1 :]), data[:16])
    _check_size(*image.size, max_pixels)
    levels = np.asarray(imagecodecs.jpeg_decode(data))
    if levels.shape[:2] != image.size[::-1]:
        raise ValueError("its pixels cannot be decoded")
    levels = levels[..., None] if levels.ndim == 2 else levels
    if levels.shape[2] not in (1, 3):
        raise PhotoError(f"it is a JPEG of {bits} bits and {levels.shape[2]} channels, expected gray or colour")
    notes = [] if bits == 16 else [f"{bits} bits per channel were stretched to 16"]
    pixels = np.rint(levels.astype(np.float32) * np.float32(65535 / (2**bits - 1))).clip(0, 65535).astype(np.uint16)
    carried = jpeg_carried(file)
    carried.told.append(f"{bits} bits per channel")
    exif, xmp, icc = _bytes(image, "exif"), _bytes(image, "xmp"), _bytes(image, "icc_profile")
    turn, dpi = orientation(exif, xmp), image.info.get("dpi")
    return Decoded(pixels, "JPEG", "I;16", frame.lossless, turn, icc, exif, xmp, dpi, notes, carried=carried)


def _carried(file: BinaryIO, image: ImageFile.ImageFile, name: str, frames: int, lenient: bool) -> Carried:
    """What the file carries beside its picture; further frames are named once."""
    if name == "JPEG":
        return _jpeg_carried(file, image)
    if name == "PNG":
        found = Carried() if lenient else png_carried(file)
    elif name in ("WEBP", "GIF", "AVIF"):
        found = {"WEBP": webp_carried, "GIF": gif_carried, "AVIF": boxes_carried}[name](file)
    else:
        found = Carried()
    if frames > 1:
        found.told.append("a further frame" if frames == 2 else f"{frames - 1} further frames")
    return found


def _jpeg_carried(file: BinaryIO, image: ImageFile.ImageFile) -> Carried:
    """What a JPEG carries; previews behind it that the camera made of it are named for what they are (CIPA DC-007)."""
    found, pictures = jpeg_carried(file), (getattr(image, "mpinfo", None) or {}).get(0xB002, [])
    kinds = [str(picture["Attribute"]["MPType"]) for picture in pictures[1:]]
    if kinds and all(kind.startswith("Large Thumbnail") for kind in kinds):
        found.lost = [name for name in found.lost if name != "a further picture"]
        found.outdated.append("a preview behind it")
    return found


def _open(file: BinaryIO, prefix: bytes, name: str | None = None) -> ImageFile.ImageFile:
    """Read the header as ``Image.open`` does, without its size limit, which is one for the whole process."""
    PillowImage.init()
    for candidate in FORMATS if name is None else (name,):
        factory, accept = PillowImage.OPEN[candidate]
        if name is not None or accept is None or accept(prefix) is True:
            file.seek(0)
            return factory(file, "")
    raise PhotoError(f"it is not a {', '.join(FORMATS[:-1])} or {FORMATS[-1]} file, nor HEIC or camera RAW")


def _check_size(width: int, height: int, max_pixels: int) -> None:
    if width < 1 or height < 1:
        raise PhotoError(f"its size is {width} x {height} pixels")
    if width * height > max_pixels:
        raise PhotoError(
            f"it has {width} x {height} pixels, more than the limit of {max_pixels}; raise max_pixels to read it"
        )


def _note_frames(image: ImageFile.ImageFile, notes: list[str]) -> int:
    """How many frames there are."""
    frames: int = getattr(image, "n_frames", 1)
    if frames > 1:
        notes.append(f"only the first of {frames} frames was read")
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


def _note_avif_depth(file: BinaryIO, notes: list[str], carried: Carried) -> None:
    """Say when Pillow cuts more than 8 bits, or takes tones of HDR for others.

    The ``pixi`` box (ISO/IEC 23008-12, 6.5.6) lists the bits per channel, the ``colr`` box the transfer characteristics
    (ISO/IEC 14496-12, 12.1.5).
    """
    file.seek(0)
    head = file.read(1 << 16)
    at = head.find(b"pixi")
    bits = max(head[at + 9 : at + 9 + head[at + 8]], default=8) if 0 <= at < len(head) - 9 else 8
    if bits > 8:
        notes.append(f"{bits} bits per channel were read as 8")
        carried.told.append(f"{bits} bits per channel")
    at = head.find(b"colrnclx")
    curve = HDR_CURVES.get(int.from_bytes(head[at + 10 : at + 12], "big")) if at >= 0 else None
    if curve:
        notes.append(hdr_note(curve))
        carried.told.append("its HDR tones")


def _bytes(image: PillowImage.Image, key: str) -> bytes | None:
    value = image.info.get(key)
    if isinstance(value, str):
        return value.encode("utf-8", "replace")
    return value if isinstance(value, bytes) and value else None

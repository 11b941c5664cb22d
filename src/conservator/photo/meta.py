"""EXIF and XMP blocks as bytes: read and reset the orientation, correct the pixel size, leave all else in place.

EXIF is a TIFF structure (Exif 2.32, CIPA DC-008) behind the six bytes ``Exif\\0\\0``. It is patched where it lies, not
taken apart and written anew, because maker notes hold offsets that only survive in place.
"""

from __future__ import annotations

import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from PIL import Image as PillowImage

from conservator.forking import Lock

ORIENTATION = 0x0112
EXIF_IFD, GPS_IFD, INTEROP_IFD = 0x8769, 0x8825, 0xA005
_PIXEL_WIDTH, _PIXEL_HEIGHT = 0xA002, 0xA003

_PREFIX = b"Exif\0\0"
_XMP_ORIENTATION = re.compile(rb"(tiff:Orientation(?:\s*=\s*[\"']|\s*>)\s*)([1-8])")
_XMP_MOTION = re.compile(rb"(Camera:(?:MotionPhoto|MicroVideo)(?:\s*=\s*[\"']|\s*>)\s*)1")

# tags of the first directory that tell about the photo, not about how this file stores it: names, maker, software,
# dates, author, copyright, rating, and Windows' title, comment, author, keywords, subject
_DESCRIPTIVE = {269, 270, 271, 272, 285, 305, 306, 315, 316, 18246, 18249, 33432, *range(0x9C9B, 0x9CA0)}


_QUIET = Lock()


@dataclass(frozen=True)
class _Entry:
    tag: int
    format: str
    at: int
    """Where its value lies."""
    value: int


@contextmanager
def quiet() -> Iterator[None]:
    """Keep Pillow's warnings off the terminal; they are a switch of the whole process, so one thread at a time."""
    with _QUIET, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def with_prefix(exif: bytes) -> bytes:
    """Return the block as JPEG holds it, behind ``Exif\\0\\0``."""
    return exif if exif.startswith(_PREFIX) else _PREFIX + exif


def without_prefix(exif: bytes) -> bytes:
    """Return the block as PNG holds it, beginning with the TIFF header."""
    return exif.removeprefix(_PREFIX)


def orientation(exif: bytes | None, xmp: bytes | None) -> int:
    """Return the EXIF orientation 1 to 8; XMP's when EXIF has none, 1 when both are silent or make no sense."""
    if exif:
        for entry in _entries(exif, _first_directory(exif)):
            if entry.tag == ORIENTATION:
                return entry.value if 1 <= entry.value <= 8 else 1
    found = _XMP_ORIENTATION.search(xmp) if xmp else None
    return int(found[2]) if found else 1


def still_xmp(xmp: bytes) -> bytes:
    """Say of the picture that it is upright, and that no video lies behind it (Google's Motion Photo format)."""
    return _XMP_MOTION.sub(rb"\g<1>0", _XMP_ORIENTATION.sub(rb"\g<1>1", xmp))


def has_thumbnail(exif: bytes) -> bool:
    """Whether the block holds a second directory, which is that of a thumbnail (Exif 2.32, 4.5.8)."""
    exif, first = with_prefix(exif), _first_directory(exif)
    if first is None:
        return False
    after = first + 2 + 12 * _count(exif, first)
    return any(exif[after : after + 4])


def patched_exif(exif: bytes, width: int, height: int) -> bytes:
    """Set the orientation to 1 and the pixel size, and unhook the thumbnail, which shows the photo as it was.

    Raises ValueError when the block does not begin with a TIFF directory.
    """
    exif = with_prefix(exif)
    order, first = _byte_order(exif), _first_directory(exif)
    if first is None:
        raise ValueError("no TIFF directory")
    values = {ORIENTATION: 1, _PIXEL_WIDTH: width, _PIXEL_HEIGHT: height}
    block = bytearray(exif)
    for directory in (first, _sub_directory(exif, first)):
        for entry in _entries(exif, directory):
            if entry.tag in values and values[entry.tag] < 1 << 8 * struct.calcsize(entry.format):
                struct.pack_into(order + entry.format, block, entry.at, values[entry.tag])
    after = first + 2 + 12 * _count(exif, first)
    if after + 4 <= len(block):
        block[after : after + 4] = bytes(4)
    return bytes(block)


def described(tags: PillowImage.Exif) -> PillowImage.Exif:
    """Return what a TIFF directory tells about the photo itself, with its EXIF and GPS directories as dictionaries."""
    out = PillowImage.Exif()
    out.endian = tags.endian
    for tag, value in tags.items():
        if tag in _DESCRIPTIVE:
            out[tag] = value
    for tag in (EXIF_IFD, GPS_IFD):
        directory = dict(tags.get_ifd(tag))
        if INTEROP_IFD in directory:
            directory[INTEROP_IFD] = dict(tags.get_ifd(INTEROP_IFD))
        if directory:
            out[tag] = directory
    return out


def described_exif(exif: bytes) -> PillowImage.Exif | None:
    """Return ``described`` of an EXIF block; None when it is too damaged to be taken apart and written anew."""
    tags = PillowImage.Exif()
    try:
        with quiet():
            tags.load(exif)
            tags = described(tags)
            tags.tobytes()
    except Exception:  # whatever a broken directory makes Pillow raise
        return None
    return tags


def _byte_order(exif: bytes) -> str:
    return {b"II*\0": "<", b"MM\0*": ">"}.get(exif[6:10], "")


def _first_directory(exif: bytes) -> int | None:
    """Return where the first directory begins, counted from the start of the block with its prefix."""
    exif, order = with_prefix(exif), _byte_order(with_prefix(exif))
    if not order or len(exif) < 16:
        return None
    return _inside(exif, 6 + struct.unpack_from(order + "I", exif, 10)[0])


def _sub_directory(exif: bytes, first: int) -> int | None:
    for entry in _entries(exif, first):
        if entry.tag == EXIF_IFD:
            return _inside(exif, 6 + entry.value)
    return None


def _inside(exif: bytes, at: int) -> int | None:
    return at if at >= 6 and at + 2 <= len(exif) else None


def _count(exif: bytes, directory: int) -> int:
    return int(struct.unpack_from(_byte_order(exif) + "H", exif, directory)[0])


def _entries(exif: bytes, directory: int | None) -> Iterator[_Entry]:
    """Yield the entries that hold a single SHORT or LONG; a directory that runs out of the block ends early."""
    if directory is None:
        return
    exif = with_prefix(exif)
    order = _byte_order(exif)
    for at in range(directory + 2, directory + 2 + 12 * _count(exif, directory), 12):
        if at + 12 > len(exif):
            return
        tag, kind, number = struct.unpack_from(order + "HHI", exif, at)
        if number == 1 and kind in (3, 4):
            code = "H" if kind == 3 else "I"
            yield _Entry(tag, code, at + 8, struct.unpack_from(order + code, exif, at + 8)[0])

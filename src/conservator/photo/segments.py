"""The segments of a JPEG: which of them a restored picture keeps, and what the others are called.

Markers follow ISO/IEC 10918-1 (B.1.1), Photoshop's segment the Adobe Photoshop File Formats Specification, extended XMP
the XMP Specification Part 3 (1.1.3.1), several pictures in one file CIPA DC-007, Content Credentials C2PA 2 (A.3.1).
"""

from __future__ import annotations

import mmap
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO

from conservator.photo.carried import GAIN_MAP, SIGNATURE, Block, Carried, behind, printable_name

_LONGEST = 65_533
_MOST_SEGMENTS = 10_000
"""No camera writes a tenth of these; a hostile file of empty segments would keep us busy for long."""

_MARKER = re.compile(rb"\xff[^\x00\xff\xd0-\xd7]", re.DOTALL)
"""The next marker in compressed data: not a stuffed byte, not one that restarts the decoder."""
_END, _COMMENT, _APP = 0xD9, 0xFE, 0xE0
_FRAMES = frozenset(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}
_LOSSLESS = {0xC3, 0xC7, 0xCB, 0xCF}

_PHOTOSHOP = b"Photoshop 3.0\0"
_IPTC, _THUMBNAILS = 0x0404, (0x0409, 0x040C)
_ELSEWHERE = {0x040F, 0x0422, 0x0423, 0x0424}
"""Photoshop's copies of the colour profile, EXIF and XMP, which are carried by themselves."""

_EXTENDED_XMP = b"http://ns.adobe.com/xmp/extension/\0"
_CARRIED_ELSEWHERE = {
    0: (b"JFIF\0",),
    1: (b"Exif\0", b"http://ns.adobe.com/xap/1.0/\0"),
    2: (b"ICC_PROFILE\0", b"MPF\0"),  # MPF is a list of the pictures behind this one
    12: (b"Ducky",),  # the quality at which a program saved it
    14: (b"Adobe",),  # how its colours are stored
}
_LOST = (
    (2, b"FPXR\0", "FlashPix data"),
    (2, b"urn:iso:std:iso:ts:21496", GAIN_MAP),
    (11, b"HDR_RI", "what makes it a JPEG-HDR"),
    (12, b"", "its maker's picture information (APP12)"),
)


@dataclass(frozen=True)
class Frame:
    """What the header of a JPEG says of its picture."""

    bits: int
    """Per channel."""
    lossless: bool
    at: int
    """Where the bits stand in the file."""


def jpeg_frame(file: BinaryIO) -> Frame | None:
    """The first frame of a JPEG; None where none is found."""
    frames = (segment for segment in _segments(file, Carried()) if segment.marker in _FRAMES and segment.data)
    first = next(frames, None)
    return None if first is None else Frame(first.data[0], first.marker in _LOSSLESS, first.at)


def is_whole(file: BinaryIO) -> bool:
    """Whether a JPEG has the marker that ends it."""
    return any(segment.marker == _END for segment in _segments(file, Carried()))


def jpeg_carried(file: BinaryIO) -> Carried:
    """What a JPEG carries; a damaged one is followed as far as its segments go."""
    found, photoshop = Carried(), []
    for segment in _segments(file, found):
        marker, data = segment.marker, segment.data
        if marker == _COMMENT:
            found.blocks += _kept("a comment", _COMMENT, data)
        elif marker == _APP + 13 and data.startswith(_PHOTOSHOP):
            photoshop.append(data[len(_PHOTOSHOP) :])
        elif _APP <= marker < _APP + 16:
            _sort_in(found, marker - _APP, data)
    kept, captions = sort_in_resources(found, b"".join(photoshop))
    for i in range(0, len(kept), _LONGEST - len(_PHOTOSHOP)):  # a long one goes on in the next segment
        part = _PHOTOSHOP + kept[i : i + _LONGEST - len(_PHOTOSHOP)]
        found.blocks += _kept("captions (IPTC)" if captions else "Photoshop's data", _APP + 13, part)
    return found


def _sort_in(found: Carried, app: int, data: bytes) -> None:
    """One of the sixteen kinds of segments that are free for applications."""
    if data.startswith(_CARRIED_ELSEWHERE.get(app, ())):
        return
    if app == 1 and data.startswith(_EXTENDED_XMP):
        found.blocks += _kept("extended XMP", _APP + 1, data)
    elif app == 0 and data.startswith(b"JFXX\0"):
        found.outdated.append("a thumbnail")
    elif app == 11 and data.startswith(b"JP"):
        c2pa = b"c2pa" in data or SIGNATURE in found.lost  # it goes on in more segments
        found.lost.append(SIGNATURE if c2pa else "JUMBF data (APP11)")
    else:
        known = (name for number, start, name in _LOST if number == app and data.startswith(start))
        word = printable_name(re.split(rb"[^!-~]", data, maxsplit=1)[0])
        found.lost.append(next(known, f"the segment APP{app}" + (f" ({word})" if word else "")))


def sort_in_resources(found: Carried, data: bytes) -> tuple[bytes, bool]:
    """Photoshop's resources, of which all but the thumbnail stay true: captions, copyright, paths.

    Returns what is kept, and whether there are captions (IPTC) in it.
    """
    kept, captions, at = b"", False, 0
    while data[at : at + 4] == b"8BIM" and at + 8 <= len(data):
        start = at + 6 + (data[at + 6] + 2) // 2 * 2  # behind a name that is filled up to an even length
        number = int.from_bytes(data[at + 4 : at + 6], "big")
        end = start + 4 + int.from_bytes(data[start : start + 4], "big")
        if end > len(data) or start + 4 > len(data):
            break
        padding = (end - start) % 2
        if number in _THUMBNAILS:
            found.outdated.append("a thumbnail")
        elif number not in _ELSEWHERE:
            kept += data[at:end] + bytes(padding)
            captions |= number == _IPTC
        at = end + padding
    if data[at:].strip(b"\0"):
        found.lost.append("damaged captions (IPTC)" if b"8BIM\x04\x04" in data[at:] else "Photoshop's damaged data")
    return kept, captions


def _kept(name: str, marker: int, data: bytes) -> list[Block]:
    return [Block(name, struct.pack(">BBH", 0xFF, marker, len(data) + 2) + data)]


@dataclass(frozen=True)
class _Segment:
    marker: int
    data: bytes
    at: int
    """Where its data begin."""


def _segments(file: BinaryIO, found: Carried) -> Iterator[_Segment]:
    """Every segment up to the end of the picture, the end among them; what lies behind it goes to ``found``."""
    view = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    at = 2
    for _ in range(_MOST_SEGMENTS):
        match = _MARKER.search(view, at)
        if match is None:
            return
        at, marker = match.end(), view[match.end() - 1]
        if marker == _END:
            lost, outdated = behind(file, at)
            found.lost += lost
            found.outdated += outdated
            yield _Segment(marker, b"", at)
            return
        if marker in (0xD8, 0x01):  # they stand alone
            continue
        length = int.from_bytes(view[at : at + 2], "big")
        if length < 2 or at + length > len(view):
            return
        yield _Segment(marker, view[at + 2 : at + length], at + 2)
        at += length
    found.lost.append(f"whatever lies behind its first {_MOST_SEGMENTS} segments")

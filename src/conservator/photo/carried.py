"""What a file carries beside its picture and the usual metadata: what a result takes over, and what it cannot."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import BinaryIO

_LOOKED_AT = 1 << 20
"""Bytes behind a picture that are read to tell what they are; a video's or picture's own head lies within."""

SIGNATURE, GAIN_MAP = "a Content Credentials signature (C2PA)", "a gain map (for HDR screens)"
"""What several formats can hold, in words."""

_GAIN_MAP_MARKS = re.compile(rb"hdrgm:|HDRGainMap|iso:std:iso:ts:21496")
"""Adobe's and Google's name, Apple's name, and the standard's (ISO/TS 21496-1)."""


@dataclass(frozen=True)
class Block:
    """Something that only files of one format hold, as that format stores it: JPEG's segments, PNG's chunks."""

    name: str
    """What it is, in words; "" where nobody misses it in another format."""
    data: bytes


@dataclass
class Carried:
    """What a file carries beside its picture, EXIF, XMP, colour profile and resolution."""

    blocks: list[Block] = field(default_factory=list)
    """What is still true of a restored picture; a result of the same format takes it over."""
    lost: list[str] = field(default_factory=list)
    """In words, what no result can take over: it is other than this picture, or fits its old pixels alone."""
    told: list[str] = field(default_factory=list)
    """The same, where a note of its own says already what becomes of it."""
    outdated: list[str] = field(default_factory=list)
    """In words, what shows or describes the old pixels and can be made again: a thumbnail, the time of the change."""

    def notes(self) -> list[str]:
        """Plain sentences on what a result will not hold."""
        out = []
        if self.lost:
            out.append(f"a result does not keep {listed(self.lost)}")
        if self.outdated:
            out.append(f"left out, because it shows or describes the old pixels: {listed(self.outdated)}")
        return out


def listed(names: Iterable[str]) -> str:
    """The names, each once, joined by commas; of more than eight the first ones and how many there are."""
    found = list(dict.fromkeys(names))
    rest = len(found) - 8
    return ", ".join(found[:8]) + (f" and {rest} more" if rest > 0 else "")


def printable_name(name: bytes) -> str:
    """The letters of a name out of a file, without what a terminal would not print."""
    return "".join(chr(c) if 32 < c < 127 else "?" for c in name[:32])


def behind(file: BinaryIO, end: int) -> tuple[list[str], list[str]]:
    """What lies behind the end of a picture: what would be lost, and what was made from the picture, both in words."""
    size = file.seek(0, 2)
    if end >= size:
        return [], []
    file.seek(end)
    data = file.read(_LOOKED_AT)
    if not data.strip(b"\0") and end + len(data) == size:
        return [], []  # padding
    if _GAIN_MAP_MARKS.search(data):
        found = [GAIN_MAP]
    elif data.lstrip(b"\0")[:3] == b"\xff\xd8\xff":
        found = ["a further picture"]
    else:
        found = []
    if b"ftyp" in data:
        found.append("a video behind the picture")
    return found or [f"{size - end} bytes behind the end of the picture"], []

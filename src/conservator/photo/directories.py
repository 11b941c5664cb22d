"""The directories of a TIFF file: which of its pictures is the photo, what the others are, and whether it is RAW.

TIFF 6.0 (Adobe, 1992), its supplement of 1995 for SubIFDs (330), and the draft of BigTIFF; DNG 1.7 for RAW.
"""

from __future__ import annotations

import io
import struct
from collections.abc import Mapping
from dataclasses import dataclass
from typing import BinaryIO

import numpy as np

from conservator.errors import PhotoError
from conservator.photo.carried import SIGNATURE, Block, Carried
from conservator.photo.segments import sort_in_resources

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")

_NEW_KIND, _OLD_KIND, _WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _SUB = 254, 255, 256, 257, 259, 262, 330
_IPTC, _PHOTOSHOP, _DNG = 33723, 34377, 50706
_REDUCED, _MASK = 1, 4
_MOST_DIRECTORIES, _MOST_ENTRIES = 2048, 512
"""What is read of a file: a scan of a whole archive box has some hundred pages, and a directory a hundred entries."""
_MOST_NUMBERS, _MOST_PARTS = 64, 65_536
"""Values of an entry that are read: of one that says what kind of picture it is, and of one that lists its parts."""

_FORMATS = {1: "B", 2: "B", 3: "H", 4: "I", 6: "b", 7: "B", 8: "h", 9: "i", 11: "f", 12: "d", 13: "I", 16: "Q", 18: "Q"}
_RAW_PHOTOMETRIC = {32803, 34892}  # colour filter array, linear raw
_RAW_COMPRESSION = {34713, 32767, 32770, 65535}  # Nikon, Sony, Samsung, Pentax

_THUMBNAIL_SIDE = 512
"""Pixels; a first page no larger than that, with a page twice its size and of its shape behind it, is a thumbnail, even
where nothing says so. A scanned page is larger at any resolution worth scanning at; 160 to 256 are usual."""
_SAME_SHAPE = 0.05
"""Sides of a thumbnail are rounded: one pixel of twenty is the most that this can make."""

_CARRIED = {*range(32768), *range(32995, 32999), 33432, _IPTC, _PHOTOSHOP, 34665, 34675, 34853, *range(0x9C9B, 0x9CA0)}
_LOST_BELOW = {301: "its transfer function", 290: "its gray response curve", 291: "its gray response curve"}
_LOST = {
    37724: "Photoshop's layers",
    **dict.fromkeys((33550, 33922, 34264, 34735, 34736, 34737), "map coordinates (GeoTIFF)"),
    **dict.fromkeys((42112, 42113), "data of a map program (GDAL)"),
    **dict.fromkeys((50838, 50839), "data of ImageJ"),
    52545: SIGNATURE,
}


@dataclass(frozen=True)
class Entry:
    """One entry of a directory: its type, how many values, and where they lie."""

    type: int
    count: int
    at: int


@dataclass(frozen=True)
class Directory:
    """One picture of a TIFF file."""

    offset: int
    entries: Mapping[int, Entry]
    numbers: Mapping[int, tuple[int, ...]]
    """The values of the few tags that say what kind of picture it is."""
    order: str
    """"<" or ">"."""

    def number(self, tag: int, missing: int = 0) -> int:
        """The first value of one of those tags."""
        return next(iter(self.numbers.get(tag, ())), missing)

    @property
    def size(self) -> tuple[int, int]:
        """Width and height in pixels."""
        return self.number(_WIDTH), self.number(_HEIGHT)

    @property
    def reduced(self) -> bool:
        """Whether it calls itself a smaller copy of another picture."""
        return bool(self.number(_NEW_KIND) & _REDUCED) or self.number(_OLD_KIND) == 2

    @property
    def mask(self) -> bool:
        """Whether it says which pixels of another picture are seen."""
        return bool(self.number(_NEW_KIND) & _MASK)


def directories(file: BinaryIO) -> list[Directory]:
    """Every directory, those below another one right behind it; what lies outside the file is left out."""
    file.seek(0)
    head = file.read(16)
    order, big = ("<" if head[:2] == b"II" else ">"), 43 in head[2:4]
    if big and order == ">":  # nor does Pillow
        raise PhotoError("it is a BigTIFF with the high byte first, which is not read here; save it as ordinary TIFF")
    size = file.seek(0, 2)
    waiting = [struct.unpack_from(order + "Q", head, 8)[0] if big else struct.unpack_from(order + "I", head, 4)[0]]
    seen: set[int] = set()
    found: list[Directory] = []
    while waiting and len(found) < _MOST_DIRECTORIES:
        at = waiting.pop(0)
        if at in seen or not 8 <= at < size:
            continue
        seen.add(at)
        directory, after = _read(file, at, order, big)
        found.append(directory)
        waiting = [*directory.numbers.get(_SUB, ()), *waiting, *([after] if after else [])]
    return found


def _read(file: BinaryIO, at: int, order: str, big: bool) -> tuple[Directory, int]:
    """The directory at a place, and where the next one begins, 0 for none."""
    number, step, place = ("Q", 20, "Q") if big else ("H", 12, "I")
    head, width = struct.calcsize(order + number), struct.calcsize(order + place)
    file.seek(at)
    (count,) = struct.unpack(order + number, file.read(head).ljust(head, b"\0"))
    block = file.read(min(count, _MOST_ENTRIES) * step)
    file.seek(min(at + head + count * step, file.seek(0, 2)))
    rest = file.read(width)
    after = struct.unpack(order + place, rest)[0] if len(rest) == width else 0
    entries = {}
    for i in range(len(block) // step):
        tag, kind, values = struct.unpack_from(order + "HH" + place, block, i * step)
        inside = at + head + i * step + step - width
        small = values * struct.calcsize(_FORMATS.get(kind, "d")) <= width
        entries[tag] = Entry(
            kind, values, inside if small else struct.unpack_from(order + place, block, (i + 1) * step - width)[0]
        )
    asked = (_NEW_KIND, _OLD_KIND, _WIDTH, _HEIGHT, _COMPRESSION, _PHOTOMETRIC, _SUB)
    numbers = {tag: _numbers(file, entries[tag], order) for tag in asked if tag in entries}
    return Directory(at, entries, numbers, order), after


def _numbers(file: BinaryIO, entry: Entry, order: str, most: int = _MOST_NUMBERS) -> tuple[int, ...]:
    """An entry's values; none where they are more than that, or no whole numbers."""
    code = _FORMATS.get(entry.type, "")
    if code in ("", "f", "d") or entry.count > most:
        return ()
    file.seek(entry.at)
    data = file.read(entry.count * struct.calcsize(order + code))
    return struct.unpack(f"{order}{len(data) // struct.calcsize(order + code)}{code}", data) if data else ()


def is_raw(found: list[Directory]) -> bool:
    """Whether some picture is what a camera's sensor saw, not yet one of colours."""
    return any(
        _DNG in directory.entries
        or directory.number(_PHOTOMETRIC) in _RAW_PHOTOMETRIC
        or directory.number(_COMPRESSION) in _RAW_COMPRESSION
        for directory in found
    )


def ends_inside(file: BinaryIO, directory: Directory) -> bool:
    """Whether the parts of a picture, its strips or tiles, lie inside the file."""
    size = file.seek(0, 2)
    for offsets, lengths in ((273, 279), (324, 325)):
        lists = [
            _numbers(file, directory.entries[tag], directory.order, _MOST_PARTS)
            for tag in (offsets, lengths)
            if tag in directory.entries
        ]
        if len(lists) == 2 and any(at + length > size for at, length in zip(*lists, strict=False)):
            return False
    return True


def photo_of(found: list[Directory]) -> Directory:
    """The picture that is the photo: the first one, but for a thumbnail before it, then the largest."""
    if not found:
        raise ValueError("it ends before its first directory")
    first = found[0]
    whole = [directory for directory in found[1:] if not directory.reduced and not directory.mask]
    larger = [other for other in whole if first.reduced or not all(first.size) or _is_thumbnail_of(first, other)]
    return max(larger, key=lambda directory: directory.size[0] * directory.size[1], default=first)


def _is_thumbnail_of(first: Directory, other: Directory) -> bool:
    (width, height), (w, h) = first.size, other.size
    if min(width, height) < 1 or max(width, height) > _THUMBNAIL_SIDE or w < 2 * width or h < 2 * height:
        return False
    return abs(w * height / (h * width) - 1) < _SAME_SHAPE


def starting_with(file: BinaryIO, directory: Directory) -> BinaryIO:
    """The file, in memory, as if this directory were its first: every decoder then reads that picture."""
    file.seek(0)
    data = bytearray(file.read())
    if 43 in data[2:4]:
        struct.pack_into(directory.order + "Q", data, 8, directory.offset)
    else:
        struct.pack_into(directory.order + "I", data, 4, directory.offset)
    return io.BytesIO(data)


def tiff_carried(file: BinaryIO, found: list[Directory], photo: Directory) -> Carried:
    """What a TIFF carries: captions, which stay; further pages, and private tags, which do not."""
    carried = Carried()
    others = [directory for directory in found if directory is not photo]
    masks = sum(other.mask for other in others)
    smaller = sum(not other.mask and (other.reduced or _is_thumbnail_of(other, photo)) for other in others)
    pages = len(others) - masks - smaller
    if pages:
        carried.told.append("a further page" if pages == 1 else f"{pages} further pages")
    carried.lost += ["a mask"] * bool(masks)
    carried.outdated += ["a smaller copy of it"] * bool(smaller)
    for tag, entry in photo.entries.items():
        if tag == _PHOTOSHOP:
            data, captions = sort_in_resources(carried, _raw(file, photo, entry))
            name = "captions (IPTC)" if captions else "Photoshop's data"
            carried.blocks += [_as_block(name, tag, data)] if data else []
        elif tag == _IPTC:
            data = _captions(file, photo, entry)
            carried.blocks += [_as_block("captions (IPTC)", tag, data)] if data else []
            carried.lost += [] if data else ["damaged captions (IPTC)"]
        elif tag in _LOST_BELOW or tag not in _CARRIED:
            carried.lost.append((_LOST_BELOW | _LOST).get(tag, f"the private tag {tag}"))
    return carried


def _captions(file: BinaryIO, directory: Directory, entry: Entry) -> bytes:
    """IPTC in its own order of bytes, which begins with 0x1C: many programs store it as numbers of 32 bits."""
    data = _raw(file, directory, entry)
    if entry.type == 4 and data[:1] != b"\x1c" and data[3:4] == b"\x1c":
        return np.frombuffer(data, "<u4").byteswap().tobytes()
    return data


def _raw(file: BinaryIO, directory: Directory, entry: Entry) -> bytes:
    """An entry's bytes, its numbers little-endian; empty where they lie outside the file or are of no known type."""
    code = _FORMATS.get(entry.type)
    if code is None:
        return b""
    length = entry.count * struct.calcsize(code)
    if entry.at + length > file.seek(0, 2):
        return b""
    file.seek(entry.at)
    return np.frombuffer(file.read(length), directory.order + code).astype("<" + code).tobytes()


def _as_block(name: str, tag: int, data: bytes) -> Block:
    return Block(name, struct.pack("<H", tag) + data)


def from_block(block: Block) -> tuple[int, bytes]:
    """The tag, and the bytes that are stored under it."""
    return int(struct.unpack_from("<H", block.data)[0]), block.data[2:]

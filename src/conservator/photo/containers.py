"""The chunks of WebP, the blocks of GIF and the boxes of AVIF and HEIF: what they carry beside a picture.

The structures follow the WebP Container Specification, GIF89a (CompuServe, 1990) and ISO/IEC 14496-12 (4.2).
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from typing import BinaryIO

from conservator.photo.carried import GAIN_MAP, SIGNATURE, Block, Carried, behind, printable_name

_MOST_PARTS = 10_000
"""Chunks, blocks or boxes that are looked at; a hostile file of empty ones would keep us busy for long."""

_OF_WEBP = {b"VP8 ", b"VP8L", b"VP8X", b"ALPH", b"ANIM", b"ANMF", b"ICCP", b"EXIF", b"XMP "}

_C2PA_BOX = bytes.fromhex("d8fec3d61b0e483c92975828877ec481")
"""The identifier of the box that holds a signature (C2PA 2, A.5.1)."""
_OF_PICTURES = {b"ftyp", b"meta", b"mdat", b"moov", b"free", b"skip", b"idat", b"moof", b"mfra"}
_MOST_META = 1 << 20
_EXTRA_ITEMS = (
    ((b"tmap", b"hdrgainmap", b"iso:std:iso:ts:21496"), GAIN_MAP),
    ((b"auxid:2", b"aux:depth", b"auxiliary:depth"), "a depth map"),
    ((b"aux:semantic",), "masks of what is seen"),
)


def brands(prefix: bytes) -> set[bytes]:
    """The brands in the first box of a file of boxes (14496-12, 4.3); none where it is no such file."""
    if prefix[4:8] != b"ftyp":
        return set()
    end = min(int.from_bytes(prefix[:4], "big"), len(prefix))
    return {prefix[at : at + 4] for at in (8, *range(16, end - 3, 4))}


def webp_carried(file: BinaryIO) -> Carried:
    """What a WebP carries."""
    found, end = Carried(), 12
    for kind, start, length in _webp_chunks(file):
        end = start + length + length % 2
        if kind == b"C2PA":
            found.lost.append(SIGNATURE)
        elif kind not in _OF_WEBP:
            found.lost.append(f"the chunk {printable_name(kind)}")
    return _with_rest(found, file, end)


def is_lossless_webp(file: BinaryIO) -> bool:
    """Whether the picture is in a VP8L chunk."""
    return next((kind for kind, _, _ in _webp_chunks(file) if kind in (b"VP8L", b"VP8 ")), b"") == b"VP8L"


def gif_carried(file: BinaryIO) -> Carried:
    """What a GIF carries; further frames are counted elsewhere."""
    file.seek(10)
    flags = file.read(3)[0]
    found, at = Carried(), 13 + _colours(flags)
    for _ in range(_MOST_PARTS):
        file.seek(at)
        head = file.read(10)
        if head[:1] == b"!" and len(head) >= 3:  # an extension
            _sort_in_extension(found, head[1], _sub_blocks(file, at + 2))
            at = file.tell()
        elif head[:1] == b"," and len(head) == 10:  # a picture: its colours, the size of its codes, its data
            for _ in _sub_blocks(file, at + 10 + _colours(head[9]) + 1):
                pass
            at = file.tell()
        else:
            return _with_rest(found, file, at + 1) if head[:1] == b";" else found
    return found


def boxes_carried(file: BinaryIO) -> Carried:
    """What an AVIF or HEIF carries; its further pictures are counted elsewhere."""
    found, at, size = Carried(), 0, file.seek(0, 2)
    for _ in range(_MOST_PARTS):
        file.seek(at)
        head = file.read(32)
        if len(head) < 8:
            return found
        kind, length = head[4:8], int.from_bytes(head[:4], "big")
        length = int.from_bytes(head[8:16], "big") if length == 1 else length or size - at
        if length < 8:
            return found
        if kind == b"meta":
            file.seek(at)
            meta = file.read(min(length, _MOST_META))
            found.lost += [name for marks, name in _EXTRA_ITEMS if any(mark in meta for mark in marks)]
        elif kind == b"uuid" and head[8:24] == _C2PA_BOX:
            found.lost.append(SIGNATURE)
        elif kind not in _OF_PICTURES:
            found.lost.append(f"the box {printable_name(kind)}")
        at += length
    return found


def _webp_chunks(file: BinaryIO) -> Iterator[tuple[bytes, int, int]]:
    """The kind, the place and the length of the data of every chunk that the header counts in."""
    file.seek(4)
    end = min(8 + int.from_bytes(file.read(4), "little"), file.seek(0, 2))
    at = 12
    for _ in range(_MOST_PARTS):
        if at + 8 > end:
            return
        file.seek(at)
        head = file.read(8)
        length = int.from_bytes(head[4:], "little")
        yield head[:4], at + 8, length
        at += 8 + length + length % 2


def _with_rest(found: Carried, file: BinaryIO, end: int) -> Carried:
    lost, outdated = behind(file, end)
    found.lost += lost
    found.outdated += outdated
    return found


def _colours(flags: int) -> int:
    """Bytes of the colour table that these flags announce (GIF89a, 18 and 20)."""
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _sub_blocks(file: BinaryIO, at: int) -> Iterator[bytes]:
    """The sub-blocks of data from a place on, up to the empty one that ends them (GIF89a, 15)."""
    file.seek(at)
    while (length := file.read(1)) not in (b"", b"\0"):
        yield file.read(length[0])


def _sort_in_extension(found: Carried, label: int, blocks: Iterator[bytes]) -> None:
    """One extension of a GIF: 249 steers a frame, 254 is a comment, 255 an application's own, 1 text that is drawn."""
    data = io.BytesIO()
    first = next(blocks, b"")
    for block in blocks:
        data.write(block)
    if label == 254:
        found.blocks.append(Block("a comment", first + data.getvalue()))
    elif label == 255 and first.startswith(b"XMP Data"):
        found.lost.append("XMP data")  # Pillow reads none from a GIF
    elif label == 255 and not first.startswith((b"NETSCAPE", b"ANIMEXTS")):
        found.lost.append(f"the application's data {printable_name(first[:8])}")
    elif label not in (249, 255):
        found.lost.append("text that is drawn over it" if label == 1 else f"the extension {label}")

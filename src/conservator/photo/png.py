"""PNG: 16 bits per channel, which Pillow cuts to 8, the check of chunks, which Pillow skips, and what chunks carry.

Chunks and their order follow the PNG specification, third edition (W3C, 2025). libpng (through imagecodecs) does the
pixels.
"""

from __future__ import annotations

import struct
import zlib
from typing import BinaryIO, cast

import numpy as np
from numpy.typing import NDArray

from conservator.photo.carried import SIGNATURE, Block, Carried, behind, printable_name
from conservator.photo.meta import without_prefix

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_FOR_PIXELS = {b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND"}
_AFTER_HEADER = 33  # the signature and the IHDR chunk
_CARRIED_ELSEWHERE = _FOR_PIXELS | {b"iCCP", b"pHYs", b"eXIf"}
_OF_FRAMES = {b"acTL", b"fcTL", b"fdAT"}
"""They are counted as frames."""
_KEPT = {
    **dict.fromkeys((b"tEXt", b"zTXt", b"iTXt"), "texts"),
    **dict.fromkeys((b"gAMA", b"cHRM", b"cICP", b"mDCV", b"cLLI"), "how its colours are meant"),
    b"sRGB": "",
    b"sTER": "how it is seen in stereo",
}
_SAY_SRGB = (
    b"gAMA" + struct.pack(">I", 45455),
    b"cHRM" + struct.pack(">8I", 31270, 32900, 64000, 33000, 30000, 60000, 15000, 6000),
    b"cICP\1\x0d\0\1",
)
"""What a picture without a word is taken for; nothing is lost without them."""
_OUTDATED = {
    b"tIME": "the time of its last change",
    b"sBIT": "how many of its bits counted",
    b"hIST": "how often each colour of its palette was used",
    b"sPLT": "a suggested palette",
    b"bKGD": "a colour to show behind it",
    b"iDOT": "where its parts lie",
}
_LOST = {b"caBX": SIGNATURE, b"caNv": "where its canvas lies"}
_INCHES_PER_METRE = 1 / 0.0254


def check_png(file: BinaryIO) -> None:
    """Raise ValueError unless every chunk is whole, its checksum right, and the last one the end chunk."""
    for kind, chunk in _chunks(file):
        if zlib.crc32(chunk[4:-4]) != int.from_bytes(chunk[-4:], "big"):
            raise ValueError(f"wrong checksum in its {kind.decode('latin-1')} chunk")


def png_depth(file: BinaryIO) -> int:
    """Return the bits per channel (or per palette index) that the header names."""
    file.seek(24)
    return file.read(1)[0]


def png_carried(file: BinaryIO) -> Carried:
    """What the chunks of a PNG carry; an unknown one is kept where its name says that it may be copied (5.4)."""
    found, end = Carried(), len(_SIGNATURE)
    for kind, chunk in _chunks(file):
        end += len(chunk)
        word = printable_name(kind)
        if kind in _CARRIED_ELSEWHERE or chunk[8:].startswith(b"XML:com.adobe.xmp\0"):
            continue
        if kind in _KEPT or kind[3] & 0x20:
            name = "" if chunk[4:-4] in _SAY_SRGB else _KEPT.get(kind, f"the chunk {word}")
            found.blocks.append(Block(name, chunk))
        elif kind in _OUTDATED:
            found.outdated.append(_OUTDATED[kind])
        elif kind not in _OF_FRAMES:
            found.lost.append(_LOST.get(kind, f"the chunk {word}"))
    lost, outdated = behind(file, end)
    found.lost += lost
    found.outdated += outdated
    return found


def decode_png(file: BinaryIO) -> NDArray[np.generic]:
    """Decode to (H, W) or (H, W, 2 to 4), uint8 or uint16, transparency as alpha. libpng's errors pass through."""
    import imagecodecs

    # libpng sees no other chunk, so none can make it complain
    data = _SIGNATURE + b"".join(chunk for kind, chunk in _chunks(file) if kind in _FOR_PIXELS)
    return cast("NDArray[np.generic]", imagecodecs.png_decode(data))


def encode_png(
    pixels: NDArray[np.generic],
    *,
    icc: bytes | None,
    exif: bytes | None,
    xmp: bytes | None,
    dpi: tuple[float, float] | None,
    own: bytes = b"",
) -> bytes:
    """Encode (H, W, 1 to 4), uint8 or uint16, with all that the photo carries; ``own`` are whole chunks."""
    import imagecodecs

    levels = np.ascontiguousarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels)
    data = bytes(imagecodecs.png_encode(levels, level=6))
    extra = b""
    if icc:
        extra += _chunk(b"iCCP", b"ICC profile\0\0" + zlib.compress(icc))
    if dpi:
        x, y = (min(max(round(d * _INCHES_PER_METRE), 1), 2**31 - 1) for d in dpi)
        extra += _chunk(b"pHYs", struct.pack(">IIB", x, y, 1))
    if exif:
        extra += _chunk(b"eXIf", without_prefix(exif))
    if xmp:
        extra += _chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + xmp)
    return data[:_AFTER_HEADER] + extra + own + data[_AFTER_HEADER:]


def _chunks(file: BinaryIO) -> list[tuple[bytes, bytes]]:
    """List (kind, whole chunk) up to the end chunk; raise ValueError when the file ends before it."""
    size = file.seek(0, 2)
    at, out = len(_SIGNATURE), []
    while at + 12 <= size:
        file.seek(at)
        length = int.from_bytes(file.read(4), "big") + 12
        if at + length > size:
            break
        file.seek(at)
        chunk = file.read(length)
        out.append((chunk[4:8], chunk))
        at += length
        if chunk[4:8] == b"IEND":
            return out
    raise ValueError("it ends before its end chunk")


def _chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

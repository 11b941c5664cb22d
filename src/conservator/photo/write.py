"""From levels and metadata to a file of one of the formats, and onto the disk in one stroke."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import Image as PillowImage

from conservator.photo.carried import Block
from conservator.photo.png import encode_png
from conservator.photo.tiff_write import encode_tiff


@dataclass(frozen=True)
class Format:
    """What a file format can hold."""

    name: str
    alpha: bool = True
    depth: int = 8
    cmyk: bool = False
    gray: bool = True
    """It can hold a single channel."""
    blocks: bool = False
    """It takes over what a file of its own kind carries in blocks."""
    metadata: frozenset[str] = frozenset({"exif", "xmp", "icc", "dpi"})
    max_side: int = 2**31 - 1
    max_block: int = 2**31 - 1
    """The longest EXIF or XMP block, bytes."""
    rewrites_exif: bool = False
    """EXIF is taken apart and written anew, not stored as a block."""


_JPEG = Format("JPEG", alpha=False, cmyk=True, blocks=True, max_side=65500, max_block=65000)
_TIFF = Format("TIFF", depth=16, cmyk=True, blocks=True, rewrites_exif=True)
WRITABLE = {
    ".jpg": _JPEG,
    ".jpeg": _JPEG,
    ".mpo": _JPEG,  # a JPEG with more pictures behind it, of which none is written
    ".png": Format("PNG", depth=16, blocks=True),
    ".webp": Format("WEBP", gray=False, metadata=frozenset({"exif", "xmp", "icc"}), max_side=16383),
    ".tif": _TIFF,
    ".tiff": _TIFF,
    ".bmp": Format("BMP", alpha=False, metadata=frozenset({"dpi"})),
    ".gif": Format("GIF", blocks=True, metadata=frozenset(), max_side=65535),
    ".avif": Format("AVIF", gray=False, metadata=frozenset({"exif", "xmp", "icc"}), max_side=65536, rewrites_exif=True),
}


@dataclass
class Page:
    """What is written: levels (H, W, 1 to 4), alpha last, or CMYK, with the blocks that the format can hold."""

    pixels: NDArray[np.generic]
    cmyk: bool = False
    icc: bytes | None = None
    exif: bytes | None = None
    xmp: bytes | None = None
    dpi: tuple[float, float] | None = None
    blocks: tuple[Block, ...] = ()
    """What files of this format alone hold."""


def encode(file: BinaryIO, page: Page, form: Format, *, quality: int, lossless: bool) -> None:
    """Write the page; ``lossless`` concerns WebP. Errors of the encoders pass through."""
    own = b"".join(block.data for block in page.blocks)
    if form.name == "PNG":
        file.write(encode_png(page.pixels, icc=page.icc, exif=page.exif, xmp=page.xmp, dpi=page.dpi, own=own))
    elif form.name == "TIFF":
        blocks = {"icc": page.icc, "exif": page.exif, "xmp": page.xmp}
        encode_tiff(file, page.pixels, cmyk=page.cmyk, dpi=page.dpi, blocks=page.blocks, **blocks)
    else:
        image = to_pillow(page.pixels, page.cmyk)
        image.save(file, form.name, **_options(page, form, quality, lossless, own))


def to_pillow(pixels: NDArray[np.generic], cmyk: bool = False) -> PillowImage.Image:
    """Make a Pillow image from (H, W, 1 to 4) uint8."""
    mode = "CMYK" if cmyk else {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}[pixels.shape[2]]
    height, width = pixels.shape[:2]
    return PillowImage.frombytes(mode, (width, height), np.ascontiguousarray(pixels).tobytes())


def _options(page: Page, form: Format, quality: int, lossless: bool, own: bytes) -> dict[str, Any]:
    options: dict[str, Any] = {"exif": page.exif, "xmp": page.xmp, "icc_profile": page.icc, "dpi": page.dpi}
    options = {key: value for key, value in options.items() if value}
    if form.name == "JPEG":
        options |= {"quality": quality, "subsampling": 0 if quality >= 95 else 2, "extra": own}
    elif form.name == "WEBP":
        # exact keeps the colour of transparent pixels
        options |= {"lossless": True, "exact": True} if lossless else {"quality": quality, "exact": True}
    elif form.name == "AVIF":
        options |= {"quality": quality}
    elif form.name == "GIF" and own:
        options |= {"comment": own}
    return options

"""TIFF, the writer: one page, compressed without loss, with all that a photo carries (TIFF 6.0, Adobe, 1992)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray
from PIL import TiffImagePlugin, TiffTags

from conservator.photo.carried import Block
from conservator.photo.directories import from_block
from conservator.photo.meta import described_exif

_WIDTH, _HEIGHT, _BITS, _COMPRESSION, _PHOTOMETRIC = 256, 257, 258, 259, 262
_STRIP_OFFSETS, _ORIENTATION, _SAMPLES, _ROWS_PER_STRIP, _STRIP_BYTES = 273, 274, 277, 278, 279
_X_RESOLUTION, _Y_RESOLUTION, _PLANAR, _RESOLUTION_UNIT, _PREDICTOR = 282, 283, 284, 296, 317
_EXTRA_SAMPLES, _XMP, _ICC = 338, 700, 34675

_DEFLATE, _HORIZONTAL = 8, 2
_STRIP_SIZE = 1 << 20  # bytes before compression


def encode_tiff(
    file: BinaryIO,
    pixels: NDArray[np.generic],
    *,
    cmyk: bool,
    icc: bytes | None,
    exif: bytes | None,
    xmp: bytes | None,
    dpi: tuple[float, float] | None,
    blocks: Sequence[Block] = (),
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
    entries = [(_XMP, xmp, TiffTags.BYTE), (_ICC, icc, TiffTags.UNDEFINED)]
    entries += [(*from_block(block), TiffTags.UNDEFINED) for block in blocks]
    for tag, value, kind in entries:
        if value:
            tags.tagtype[tag] = kind
            tags[tag] = value
    tags.save(file)  # makes the strip offsets count from the end of the directory
    file.writelines(strips)


def _compressed(strip: NDArray[Any]) -> bytes:
    """Horizontal differences per channel (TIFF 6.0, section 14), then Deflate."""
    import imagecodecs

    differences = strip.copy()
    differences[:, 1:] -= strip[:, :-1]
    return bytes(imagecodecs.deflate_encode(differences.astype(f"<u{strip.itemsize}").tobytes(), 6))

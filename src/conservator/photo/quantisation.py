"""How coarsely a JPEG file rounded its picture: the tables that lie in it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, TypeAlias

from PIL import ImageFile
from PIL.JpegImagePlugin import get_sampling

Subsampling: TypeAlias = Literal["4:4:4", "4:2:2", "4:2:0"]

_SAMPLINGS: dict[int, Subsampling] = {0: "4:4:4", 1: "4:2:2", 2: "4:2:0"}
"""By Pillow's numbers."""


@dataclass(frozen=True)
class JpegTables:
    """The steps to which a JPEG rounded the coefficients of its blocks, whose first lies in the picture's corner.

    ``steps`` holds for Y, or for Y, Cb and Cr, 64 steps of an orthonormal 8x8 DCT of levels from 0 to 255, row by row,
    each at least 1. ``subsampling`` says how many pixels share one value of Cb and Cr.
    """

    steps: tuple[tuple[int, ...], ...]
    subsampling: Subsampling


def tables_of(image: ImageFile.ImageFile) -> JpegTables | None:
    """The tables of a JPEG whose header Pillow has read; None where it is none, or does not store gray or YCbCr.

    A file that lacks a table which it names, or has a step of 0, has none either: the decoder says what is wrong.
    """
    found, layers = getattr(image, "quantization", None), getattr(image, "layer", ())
    if not found or len(layers) not in (1, 3) or image.info.get("adobe_transform", 1) == 0:
        return None
    if bytes(layer[0] for layer in layers) == b"RGB":  # so libjpeg knows pictures that were never YCbCr
        return None
    sampling = "4:4:4" if len(layers) == 1 else _SAMPLINGS.get(get_sampling(image))
    steps = tuple(tuple(found.get(layer[3], ())) for layer in layers)
    if sampling is None or any(len(table) != 64 or min(table) < 1 for table in steps):
        return None
    return JpegTables(steps, sampling)

"""A small camera RAW file made from nothing: a DNG whose sensor saw a picture that is known (DNG 1.7)."""

from __future__ import annotations

import io

import numpy as np
import tifffile
from numpy.typing import NDArray

_WHITE = 16383
_TO_CAMERA = [
    [3.2404542, -1.5371385, -0.4985314],
    [-0.9692660, 1.8760108, 0.0415560],
    [0.0556434, -0.2040259, 1.0572252],
]
"""From XYZ to linear sRGB (D65): the camera sees as sRGB does."""


def linear_light(levels: NDArray[np.generic]) -> NDArray[np.float64]:
    """The light of sRGB levels of 8 bits, 0 to 1 (IEC 61966-2-1)."""
    x = np.asarray(levels).astype(np.float64) / 255
    return np.where(x <= 0.04045, x / 12.92, ((x + 0.055) / 1.055) ** 2.4)


def dng(light: NDArray[np.float64], orientation: int = 1, white: tuple[float, ...] = (0.5, 1.0, 0.7)) -> bytes:
    """A DNG of linear sRGB light (H, W, 3) in 0 to 1, behind filters that see a neutral surface as ``white``."""
    seen = light * np.array(white)
    mosaic = np.zeros(light.shape[:2])
    for (row, column), channel in {(0, 0): 0, (0, 1): 1, (1, 0): 1, (1, 1): 2}.items():
        mosaic[row::2, column::2] = seen[row::2, column::2, channel]
    tags = [
        (50706, 1, 4, (1, 4, 0, 0), True),  # the version of DNG, and the one that a reader needs
        (50707, 1, 4, (1, 1, 0, 0), True),
        (33421, 3, 2, (2, 2), True),  # red and green over green and blue
        (33422, 1, 4, (0, 1, 1, 2), True),
        (50708, 2, None, "Zeiss Ikon Digital", True),
        (271, 2, None, "Zeiss Ikon", True),
        (272, 2, None, "Digital", True),
        (306, 2, None, "2020:01:02 03:04:05", True),
        (274, 3, 1, orientation, True),
        (50721, 10, 9, _rationals(np.ravel(_TO_CAMERA)), True),
        (50728, 5, 3, _rationals(white), True),  # what the camera takes for neutral
        (50714, 3, 1, 0, True),
        (50717, 4, 1, _WHITE, True),
        (50778, 3, 1, 21, True),  # the matrix is that of daylight
    ]
    file = io.BytesIO()
    levels = np.rint(mosaic * _WHITE).astype(np.uint16)
    tifffile.imwrite(file, levels, photometric=32803, extratags=tags, metadata=None)
    return file.getvalue()


def _rationals(values: object) -> list[int]:
    return [part for value in np.asarray(values) for part in (round(float(value) * 1_000_000), 1_000_000)]

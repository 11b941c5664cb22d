"""Camera RAW, developed by LibRaw through rawpy, an optional extra. It is read, never written.

What is RAW is told by content: by the marks that makers put first (libraw's and exiftool's lists name them), and by
what a TIFF's directories say.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from conservator.errors import PhotoError

_MARKS = (
    (0, b"FUJIFILMCCD-RAW"),
    (0, b"IIU\0"),  # Panasonic
    (0, b"IIRO"),  # Olympus
    (0, b"IIRS"),
    (0, b"MMOR"),
    (0, b"FOVb"),  # Sigma
    (0, b"\0MRM"),  # Minolta
    (6, b"HEAPCCDR"),  # Canon, until 2004
    (8, b"CR\2"),  # Canon, until 2018, in what is else a TIFF
    (4, b"ftypcrx "),  # Canon, since
    (8, b"IIII"),  # Phase One, in what is else a TIFF
)


def has_raw_mark(prefix: bytes) -> bool:
    """Whether the first 16 bytes are those of a camera's own format; DNG and others say so in their directories."""
    return any(prefix[at : at + len(mark)] == mark for at, mark in _MARKS)


def develop(file: BinaryIO, check_size: Callable[[int, int], None], notes: list[str]) -> NDArray[np.generic]:
    """Develop to sRGB levels (H, W, 3), uint16, upright; ``check_size`` is asked before the picture is decoded.

    The camera's white balance is used, and no brightness is chosen: the photo is as bright as the photographer exposed
    it, the same from frame to frame, since what a program would make brighter is for the treatment to decide, and to
    document. Raises PhotoError without the extra; errors of rawpy pass through.
    """
    try:
        import rawpy
    except ImportError as error:
        raise PhotoError("it is a camera RAW photo, which needs an extra; pip install 'conservator[raw]'") from error
    file.seek(0)
    with rawpy.RawPy() as raw:
        try:
            raw.open_buffer(file)
        except rawpy.LibRawFileUnsupportedError as error:
            version = ".".join(map(str, rawpy.libraw_version))
            raise PhotoError(f"it is camera RAW of a kind that LibRaw {version} does not know, or damaged") from error
        sizes = raw.sizes
        check_size(max(sizes.raw_width, sizes.width), max(sizes.raw_height, sizes.height))
        raw.unpack()
        balanced = bool(any(raw.camera_whitebalance[:3]))
        levels = raw.postprocess(**_development(rawpy, balanced))
    balance = "the camera's white balance" if balanced else "the white balance of daylight, as the camera noted none"
    notes.append(f"developed from camera RAW with {balance}, to sRGB at 16 bits, without brightening")
    found: NDArray[np.generic] = levels if levels.ndim == 3 else levels[..., None]
    return found


def _development(rawpy: Any, balanced: bool) -> dict[str, Any]:
    return {
        "output_bps": 16,
        "use_camera_wb": balanced,
        "no_auto_bright": True,
        "adjust_maximum_thr": 0.0,  # white is where the camera says, not where this photo is brightest
        "output_color": rawpy.ColorSpace.sRGB,
        "gamma": (2.4, 12.92),  # sRGB's own curve (IEC 61966-2-1); LibRaw's default is that of BT.709
    }

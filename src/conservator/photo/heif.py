"""HEIC, what phones write (ISO/IEC 23008-12), through pillow-heif, an optional extra. It is read, never written."""

from __future__ import annotations

from typing import Any, BinaryIO

import numpy as np
from numpy.typing import NDArray

from conservator.errors import PhotoError
from conservator.photo.carried import Carried
from conservator.photo.containers import boxes_carried

BRANDS = {b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"hevm", b"hevs"}
"""What a file of boxes calls itself when its pictures are compressed with HEVC (23008-12, annex B)."""
HDR_CURVES = {16: "PQ", 18: "HLG"}
"""Transfer characteristics of HDR (ITU-T H.273, table 3)."""


def open_heif(file: BinaryIO) -> Any:
    """The main picture, not decoded yet: its size is known, and what libheif refuses was refused.

    Raises PhotoError without the extra; errors of pillow-heif pass through.
    """
    try:
        import pillow_heif
    except ImportError as error:
        raise PhotoError("it is a HEIC photo, which needs an extra; pip install 'conservator[heif]'") from error
    file.seek(0)
    # not stretched to 16 bits by moving bits, which would leave white a little gray
    return pillow_heif.open_heif(file, convert_hdr_to_8bit=False, hdr_to_16bit=False)


def heif_levels(heif: Any, notes: list[str]) -> NDArray[np.generic]:
    """Decode to levels (H, W, 1 to 4), uint8 or uint16, upright as libheif turns them, alpha last and straight."""
    bits, alpha = int(heif.info["bit_depth"]), bool(heif.has_alpha)
    levels = np.asarray(heif)
    if levels.ndim == 2:
        levels = levels[..., None]
    if levels.dtype != np.uint8:
        levels = np.rint(levels.astype(np.float32) * (65535 / (2**bits - 1))).clip(0, 65535).astype(np.uint16)
        notes.append(f"{bits} bits per channel were stretched to 16")
    if alpha and heif.premultiplied_alpha:
        most = np.iinfo(levels.dtype).max
        straight = levels[..., :-1].astype(np.float32) * most / np.maximum(levels[..., -1:], 1)
        levels = np.concatenate([np.rint(straight).clip(0, most).astype(levels.dtype), levels[..., -1:]], axis=2)
    curve = HDR_CURVES.get((heif.info.get("nclx_profile") or {}).get("transfer_characteristics", 0))
    if curve:
        notes.append(hdr_note(curve))
    return levels


def hdr_note(curve: str) -> str:
    """What a result looks like whose numbers were HDR's."""
    return f"its tones are those of HDR ({curve}): they were taken as they are, and look flat on another screen"


def heif_carried(file: BinaryIO, heif: Any) -> Carried:
    """What a HEIC carries beside the main picture."""
    found, others = boxes_carried(file), len(heif) - 1
    if others:
        found.told.append("a further picture" if others == 1 else f"{others} further pictures")
    if heif.info.get("depth_images"):
        found.lost.append("a depth map")
    if heif.info.get("thumbnails"):
        found.outdated.append("a thumbnail")
    return found

"""Small ICC profiles made from nothing, for tests of photos that carry one (ICC.1:2001-04, version 2)."""

from __future__ import annotations

import struct
import warnings

import numpy as np
from numpy.typing import NDArray
from skimage.color import lab2rgb, rgb2lab


def gray_profile(name: str, gamma: float = 2.2) -> bytes:
    """A gray profile with a gamma."""
    return _profile(b"scnr", b"GRAY", b"XYZ ", name, {b"kTRC": b"curv" + struct.pack(">4xIH2x", 1, round(gamma * 256))})


def rgb_profile(name: str) -> bytes:
    """An RGB profile with gamma 1.8 and the primaries of Adobe RGB, adapted to D50."""
    gamma = b"curv" + struct.pack(">4xIH2x", 1, round(1.8 * 256))
    primaries = {
        b"rXYZ": (0.6097, 0.3111, 0.0195),
        b"gXYZ": (0.2053, 0.6257, 0.0609),
        b"bXYZ": (0.1492, 0.0632, 0.7446),
    }
    tags = {tag: _xyz(*values) for tag, values in primaries.items()}
    return _profile(b"mntr", b"RGB ", b"XYZ ", name, tags | dict.fromkeys((b"rTRC", b"gTRC", b"bTRC"), gamma))


def cmyk_profile(name: str) -> bytes:
    """A CMYK profile with tables both ways: ink takes away light, black replaces half of what the three inks share."""
    c, m, y, k = np.meshgrid(*[np.linspace(0, 1, 9)] * 4, indexing="ij")
    rgb = np.stack([1 - c, 1 - m, 1 - y], axis=-1) * (1 - k[..., None])
    to_lab = _lut(4, 3, 9, _lab_to_16(rgb2lab(rgb.reshape(-1, 3))))
    lightness, a, b = np.meshgrid(*[np.linspace(0, 65535, 17)] * 3, indexing="ij")
    lab = np.stack([lightness / 652.8, a / 256 - 128, b / 256 - 128], axis=-1).reshape(-1, 3)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # corners of the Lab cube are no colours
        from_lab = _lut(3, 4, 17, np.rint(_inks(np.clip(lab2rgb(lab), 0, 1)) * 65535))
    tags = {b"A2B0": to_lab, b"A2B1": to_lab, b"B2A0": from_lab, b"B2A1": from_lab}
    return _profile(b"prtr", b"CMYK", b"Lab ", name, tags)


def _inks(rgb: NDArray[np.float64]) -> NDArray[np.float64]:
    k = 0.5 * (1 - rgb.max(axis=1, keepdims=True))
    return np.concatenate([1 - rgb / (1 - k), k], axis=1)


def _lab_to_16(lab: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.clip(
        np.rint(np.stack([lab[:, 0] * 652.8, (lab[:, 1] + 128) * 256, (lab[:, 2] + 128) * 256], 1)), 0, 65535
    )


def _lut(inputs: int, outputs: int, grid: int, table: NDArray[np.float64]) -> bytes:
    head = b"mft2" + struct.pack(">4xBBBx", inputs, outputs, grid)
    matrix = struct.pack(">9i", *(65536 * (i % 4 == 0) for i in range(9)))
    line = struct.pack(">2H", 0, 65535)
    return head + matrix + struct.pack(">2H", 2, 2) + line * inputs + table.astype(">u2").tobytes() + line * outputs


def _xyz(x: float, y: float, z: float) -> bytes:
    return b"XYZ \0\0\0\0" + struct.pack(">3i", *(round(v * 65536) for v in (x, y, z)))


def _profile(device: bytes, space: bytes, pcs: bytes, name: str, tags: dict[bytes, bytes]) -> bytes:
    text = name.encode() + b"\0"
    description = b"desc\0\0\0\0" + struct.pack(">I", len(text)) + text + bytes(12 + 67)
    tags = {b"desc": description, b"cprt": b"text\0\0\0\0none\0", b"wtpt": _xyz(0.9642, 1.0, 0.8249), **tags}
    table, body, at = struct.pack(">I", len(tags)), b"", 128 + 4 + 12 * len(tags)
    for tag, data in tags.items():
        table += tag + struct.pack(">II", at + len(body), len(data))
        body += data + bytes(-len(data) % 4)
    white = struct.pack(">3i", 63190, 65536, 54061)
    head = struct.pack(">I4xI", at + len(body), 0x02400000) + device + space + pcs
    head += struct.pack(">6H", 2026, 1, 1, 0, 0, 0) + b"acsp" + bytes(28) + white
    return head.ljust(128, b"\0") + table + body

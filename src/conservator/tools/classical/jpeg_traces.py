"""What a JPEG leaves behind in the pixels: where its blocks lie, and how coarsely their coefficients were rounded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.image import Image, luma
from conservator.tools.classical.basics import dct_basis

_LUMA_TABLE = (
    (16, 11, 10, 16, 24, 40, 51, 61),
    (12, 12, 14, 19, 26, 58, 60, 55),
    (14, 13, 16, 24, 40, 57, 69, 56),
    (14, 17, 22, 29, 51, 87, 80, 62),
    (18, 22, 37, 56, 68, 109, 103, 77),
    (24, 35, 55, 64, 81, 104, 113, 92),
    (49, 64, 78, 87, 103, 121, 120, 101),
    (72, 92, 95, 98, 112, 100, 103, 99),
)
"""Table K.1 of ITU-T T.81, the luma steps of quality 50."""
_CHROMA_CORNER = ((17, 18, 24), (18, 21, 26), (24, 26, 56))
"""The lowest frequencies of its table K.2."""
_QUALITIES = range(5, 91)
_FREQUENCIES = (1, 2, 8, 9, 16, 3, 10, 17, 24, 4, 11, 18, 25, 32)
_CLEAR = 0.2
"""Least score of a real JPEG; photos that never were one score 0.12 at most."""
_LARGEST = 768  # pixels a side that are looked at


@dataclass(frozen=True)
class JpegTraces:
    """The blocks start at row ``top`` and column ``left`` (0 to 7); ``quality`` is libjpeg's, 5 to 90."""

    top: int
    left: int
    quality: int

    @property
    def luma_steps(self) -> Tensor:
        """Quantisation steps of the luma coefficients, (64,), in units of the range [0, 1]."""
        return _luma_steps(self.quality) / 255

    @property
    def chroma_step(self) -> float:
        """Mean step of the lowest chroma frequencies, in units of the range [0, 1]."""
        return float(_scaled(torch.tensor(_CHROMA_CORNER), self.quality).mean()) / 255


def find_jpeg_traces(image: Image) -> JpegTraces | None:
    """Find the traces of the last JPEG in one image (1, 3, H, W); None where there are none, or quality is above 90.

    The block phase is where steps between pixels are highest; the quality is the one whose steps the luma coefficients
    are multiples of, after the lattice idea of Neelamani et al., "JPEG compression history estimation", IEEE TIP 2006.
    Standard tables only: a photo quantised with others is taken for one without traces.
    """
    height, width = image.shape[-2:]
    if min(height, width) < 32:
        return None
    y0, x0 = (max(0, side - _LARGEST) // 16 * 8 for side in (height, width))
    y = luma(image[..., y0 : y0 + _LARGEST, x0 : x0 + _LARGEST])
    top, left = _phase(y.mT), _phase(y)
    coefficients = F.conv2d(y[..., top:, left:] * 255 - 128, dct_basis(8), stride=8)[0].flatten(1)
    scores = [_lattice_score(coefficients, quality) for quality in _QUALITIES]
    best = max(range(len(scores)), key=scores.__getitem__)
    return JpegTraces(top, left, _QUALITIES[best]) if scores[best] > _CLEAR else None


def _phase(y: Tensor) -> int:
    """Column of the first block boundary (0 to 7) of luma (1, 1, H, W)."""
    step = (y[..., 1:] - y[..., :-1]).abs()
    excess = (step[..., 1:-1] - (step[..., :-2] + step[..., 2:]) / 2).mean(dim=(0, 1, 2))
    whole = excess[: len(excess) // 8 * 8].view(-1, 8)
    return (int(whole.mean(0).argmax()) + 2) % 8


def _lattice_score(coefficients: Tensor, quality: int) -> float:
    """1 where all coefficients (64, N) that are not near zero are multiples of their steps, about 0 for any others."""
    chosen = torch.tensor(_FREQUENCIES)
    values, steps = coefficients[chosen], _luma_steps(quality)[chosen, None]
    large = values.abs() > 0.6 * steps
    near = torch.cos(2 * math.pi / steps * values)
    return float((near * large).sum() / large.sum().clamp_min(200))


@cache
def _luma_steps(quality: int) -> Tensor:
    return _scaled(torch.tensor(_LUMA_TABLE), quality).flatten()


def _scaled(table: Tensor, quality: int) -> Tensor:
    """Steps at this quality from those of quality 50, by libjpeg's rule."""
    percent = 5000 / quality if quality < 50 else 200 - 2 * quality
    return ((table * percent + 50) / 100).floor().clamp(1, 255)

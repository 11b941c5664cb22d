"""Run a restoration function on an image of any size: pad, cut into overlapping tiles, restore, blend, crop, clip."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.errors import ToolFailedError
from conservator.image import Image

_GRID = 16  # tiles start on multiples of it, so JPEG's 8 and 16 pixel blocks keep their phase in every tile
_SMALLEST_IMAGE = 32  # smaller images are padded: filters and wavelets need some room
_SMALLEST_TILE = 64


_NO_MEMORY = ("not enough memory", "can't allocate memory")
"""Of torch's allocator, on Windows and on Linux."""


def run_tiled(
    restore: Callable[[Image], Image],
    image: Image,
    *,
    multiple_of: int = 1,
    scale: int = 1,
    tile: int | None = 512,
    overlap: int = 32,
) -> Image:
    """Restore an image (B, 3, H, W) of any size; return (B, 3, H*scale, W*scale), float32, clipped to [0, 1].

    Neighbouring tiles share ``overlap`` pixels. The outer quarter of the overlap is thrown away and the middle half is
    blended linearly, so a function whose receptive radius is at most ``overlap / 4`` gives the same pixels as without
    tiles. Out of memory halves the tile, down to 64 pixels. ``tile=None`` never cuts.

    Raises ToolFailedError when memory does not suffice, or when ``restore`` returns a wrong shape or NaN.
    """
    height, width = image.shape[-2:]
    step = math.lcm(_GRID, multiple_of)
    while True:
        try:
            if tile is None or (height <= tile and width <= tile):
                result = _restore_padded(restore, image, multiple_of, scale)
            else:
                side = max(tile // step * step, -(-(overlap + step) // step) * step)  # neighbours must overlap fully
                result = _restore_tiles(restore, image, multiple_of, scale, side, overlap, step)
            return result.clamp_(0, 1).contiguous()  # sums over pixels round by how they lie in memory
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            largest = max(height, width) if tile is None else min(tile, max(height, width))
            if tile is None or largest // 2 < max(_SMALLEST_TILE, 2 * overlap):
                raise not_enough_memory(image) from error
            tile = largest // 2


def out_of_memory(error: BaseException) -> bool:
    """Whether an error says that memory did not suffice; torch's for a CPU tell it by their text alone."""
    if isinstance(error, MemoryError | torch.OutOfMemoryError):
        return True
    return isinstance(error, RuntimeError) and any(words in str(error) for words in _NO_MEMORY)


def not_enough_memory(image: Image) -> ToolFailedError:
    """The error for an image (B, 3, H, W) that does not fit into memory."""
    height, width = image.shape[-2:]
    return ToolFailedError(f"not enough memory for an image of {width}x{height} pixels; free some, or reduce the photo")


def pad_to_fit(image: Image, multiple_of: int) -> Image:
    """Lengthen the sides of (B, 3, H, W), to the right and below, to multiples, and to 32 pixels at least."""
    height, width = image.shape[-2:]
    right = max(-width % multiple_of, _SMALLEST_IMAGE + -_SMALLEST_IMAGE % multiple_of - width)
    bottom = max(-height % multiple_of, _SMALLEST_IMAGE + -_SMALLEST_IMAGE % multiple_of - height)
    mode = "reflect" if right < width and bottom < height else "replicate"
    return F.pad(image, (0, right, 0, bottom), mode=mode) if right or bottom else image


def _restore_padded(restore: Callable[[Image], Image], image: Image, multiple_of: int, scale: int) -> Image:
    batch, _, height, width = image.shape
    padded = pad_to_fit(image, multiple_of)
    result = restore(padded)
    expected = (batch, 3, padded.shape[-2] * scale, padded.shape[-1] * scale)
    if tuple(result.shape) != expected:
        raise ToolFailedError(f"the tool returned shape {tuple(result.shape)}, expected {expected}")
    result = result[..., : height * scale, : width * scale].to("cpu", torch.float32)
    if not torch.isfinite(result).all():
        raise ToolFailedError("the tool returned values that are not finite")
    return result.clone() if result.data_ptr() == image.data_ptr() else result


def _restore_tiles(
    restore: Callable[[Image], Image],
    image: Image,
    multiple_of: int,
    scale: int,
    side: int,
    overlap: int,
    step: int,
) -> Image:
    batch, _, height, width = image.shape
    total = torch.zeros(batch, 3, height * scale, width * scale)
    weights = torch.zeros(1, 1, height * scale, width * scale)
    for top, bottom in _spans(height, side, overlap, step):
        for left, right in _spans(width, side, overlap, step):
            piece = _restore_padded(restore, image[..., top:bottom, left:right], multiple_of, scale)
            window = (
                _ramp(top, bottom, height, overlap, scale)[:, None] * _ramp(left, right, width, overlap, scale)[None]
            )
            area = (..., slice(top * scale, bottom * scale), slice(left * scale, right * scale))
            total[area] += piece * window
            weights[area] += window
    return total.div_(weights)


def _spans(length: int, side: int, overlap: int, step: int) -> Iterator[tuple[int, int]]:
    """Start and end of each tile along one axis; starts are multiples of ``step``."""
    stride = max(step, (side - overlap) // step * step)
    start = 0
    while True:
        end = min(start + side, length)
        yield start, end
        if end == length:
            return
        start += stride


def _ramp(start: int, end: int, length: int, overlap: int, scale: int) -> Tensor:
    """Weights of a tile along one axis: 1 inside, falling to 0 towards edges that another tile covers."""
    position = (torch.arange((end - start) * scale) + 0.5) / scale
    weight = torch.ones(len(position))
    rise = max(overlap / 2, 1.0)
    if start > 0:
        weight = torch.minimum(weight, (position - overlap / 4) / rise)
    if end < length:
        weight = torch.minimum(weight, ((end - start) - overlap / 4 - position) / rise)
    return weight.clamp(1e-6, 1.0)

"""Removal of JPEG artefacts. Both tools first find blocks and quality; an image without traces stays as it is."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from conservator.image import Image, luma, to_array
from conservator.kinds import Kind
from conservator.tools.classical.basics import dct_basis, from_opponent, to_opponent
from conservator.tools.classical.jpeg_traces import JpegTraces, find_jpeg_traces
from conservator.tools.classical.measuring import MeasuringTool
from conservator.tools.classical.noise_level import estimate_spectrum
from conservator.tools.classical.shrinkage import shrink_dct
from conservator.tools.tool import ToolSpec


class Deblock(MeasuringTool[JpegTraces]):
    """The mean of the image compressed again on 16 shifts of the block grid."""

    spec = ToolSpec(
        name="deblock",
        removes=frozenset({Kind.JPEG}),
        description="Softens block edges and ringing of a JPEG by compressing it again on shifted grids; cautious.",
        source="Nosratinia, Enhancement of JPEG-compressed images by re-application of JPEG, JVSP 2001",
        license="Apache-2.0",
        tile=1024,
        overlap=64,  # blocks reach 8 pixels; tiles begin at multiples of 16, so the grids are the same in all
    )

    def measure(self, image: Image) -> JpegTraces | None:
        return find_jpeg_traces(image)

    def treat(self, image: Image, found: JpegTraces) -> Image:
        pixels: NDArray[np.uint8] = to_array(image, np.uint8).astype(np.uint8)
        height, width = pixels.shape[:2]
        padded = np.pad(pixels, ((8, 8), (8, 8), (0, 0)), mode="symmetric")
        total = np.zeros(pixels.shape, np.float32)
        shifts = [(dy, dx) for dy in range(8) for dx in range(8) if (dy + 2 * dx) % 4 == 0]
        for dy, dx in shifts:
            again = _compress(padded[dy:, dx:], found.quality)
            total += again[8 - dy : 8 - dy + height, 8 - dx : 8 - dx + width]
        return torch.from_numpy(total / (255 * len(shifts))).permute(2, 0, 1)[None]


@dataclass(frozen=True)
class _Shrinkage:
    """How a JPEG is smoothed: deviations (3, 64, 1, 1) of opponent axes and frequencies; whether they are noise."""

    traces: JpegTraces
    sigma: Tensor
    noisy: bool


class DctDejpeg(MeasuringTool[_Shrinkage]):
    """Shrinkage of overlapping DCT blocks with the deviations that the quantisation tables imply."""

    spec = ToolSpec(
        name="dct_dejpeg",
        removes=frozenset({Kind.JPEG}),
        description="Removes blocks, ringing and compressed noise of a JPEG, guided by its quantisation; strong.",
        source="Foi, Katkovnik, Egiazarian, Pointwise shape-adaptive DCT, IEEE TIP 2007 (deviations from the table); "
        "shrinkage of Yu, Sapiro, IPOL 2011",
        license="Apache-2.0",
        tile=1024,
        overlap=96,  # shrinkage reaches 14 pixels, the JPEG's own blocks 8 more
    )

    def measure(self, image: Image) -> _Shrinkage | None:
        traces = find_jpeg_traces(image)
        if traces is None:
            return None
        quantisation, noise = _quantisation_noise(traces), estimate_spectrum(to_opponent(image)[0][:, None])
        noisy = bool(noise[0].square().mean() > quantisation[0].square().mean())
        sigma = torch.maximum(quantisation, noise) if noisy else quantisation
        return _Shrinkage(traces, sigma.view(3, 64, 1, 1), noisy)

    def treat(self, image: Image, found: _Shrinkage) -> Image:
        smooth = from_opponent(shrink_dct(to_opponent(image)[0][:, None], found.sigma)[:, 0][None])
        return smooth if found.noisy else _keep_to_intervals(smooth, image, found.traces)


def _compress(pixels: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Encode and decode (H, W, 3) as JPEG without chroma subsampling."""
    file = io.BytesIO()
    PIL.Image.fromarray(np.ascontiguousarray(pixels)).save(file, "JPEG", quality=quality, subsampling=0)
    with PIL.Image.open(file, formats=["JPEG"]) as decoded:
        return np.asarray(decoded)


def _quantisation_noise(traces: JpegTraces) -> Tensor:
    """Deviation of the rounding error for each opponent axis and frequency, (3, 64)."""
    steps = traces.luma_steps
    steps = steps.clamp(max=float(3 * steps.view(8, 8)[:3, :3].mean()))
    chroma = torch.full_like(steps, 0.3 * traces.chroma_step)
    return torch.stack([0.4 * steps, chroma, chroma])


def _keep_to_intervals(smooth: Image, image: Image, traces: JpegTraces) -> Image:
    """Let the luma coefficients of the JPEG's own blocks change by 0.3 of a step at most: rounding did no more."""
    change = luma(smooth) - luma(image)
    height, width = change.shape[-2:]
    above, before = -traces.top % 8, -traces.left % 8
    blocks = F.pad(change, (before, -(width + before) % 8, above, -(height + above) % 8), mode="replicate")
    limit = (0.3 * traces.luma_steps).view(1, 64, 1, 1)
    coefficients = F.conv2d(blocks, dct_basis(8), stride=8)
    allowed = F.conv_transpose2d(torch.minimum(torch.maximum(coefficients, -limit), limit), dct_basis(8), stride=8)
    return (smooth - change + allowed[..., above : above + height, before : before + width]).clamp(0, 1)

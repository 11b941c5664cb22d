"""Enlargement. Pixel centres are aligned, borders are mirrored."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.image import Image, luma
from conservator.kinds import Kind
from conservator.resample import bicubic_resize
from conservator.tools.tool import Tool, ToolSpec

_LOBES = 3


class LanczosUpscale(Tool):
    """Windowed sinc interpolation."""

    def __init__(self, scale: int) -> None:
        self.spec = ToolSpec(
            name=f"lanczos_x{scale}",
            removes=frozenset({Kind.LOW_RESOLUTION}),
            description=f"Enlarges {scale} times by plain interpolation; quick and true to the pixels, but soft.",
            source="Duchon, Lanczos filtering in one and two dimensions, J. Appl. Meteor. 1979",
            license="Apache-2.0",
            scale=scale,
        )

    def restore(self, image: Image) -> Image:
        return lanczos(image, self.spec.scale).clamp(0, 1)


class BackprojectionUpscale(Tool):
    """Adds what is missing until the result, made small again, is the input."""

    spec = ToolSpec(
        name="backprojection_x4",
        removes=frozenset({Kind.LOW_RESOLUTION}),
        description="Enlarges 4 times and sharpens until the result, reduced again, is the photo; crisp.",
        source="Irani, Peleg, Improving resolution by image registration, CVGIP 1991",
        license="Apache-2.0",
        scale=4,
        tile=256,
        overlap=64,
    )

    def restore(self, image: Image) -> Image:
        return project_back(lanczos(image, 4), image, rounds=5)


class EdgeDirectedUpscale(Tool):
    """Smooths along edges, where interpolation leaves stairs, and projects back."""

    spec = ToolSpec(
        name="edge_directed_x4",
        removes=frozenset({Kind.LOW_RESOLUTION}),
        description="Enlarges 4 times and smooths along edges, so that lines and outlines come out without stairs.",
        source="Weickert, Coherence-enhancing diffusion filtering, IJCV 1999; Irani, Peleg, CVGIP 1991",
        license="Apache-2.0",
        scale=4,
        tile=256,
        overlap=64,
    )

    def restore(self, image: Image) -> Image:
        large = project_back(lanczos(image, 4), image, rounds=3)
        return project_back(_smoothed_along_edges(large), image, rounds=2)


def lanczos(image: Tensor, scale: int) -> Tensor:
    """Enlarge (B, C, H, W) by a whole factor with a three-lobed Lanczos kernel; not clipped."""
    return _lanczos_rows(_lanczos_rows(image, scale).mT, scale).mT.contiguous()


def _lanczos_rows(image: Tensor, scale: int) -> Tensor:
    """Enlarge the last axis: each of the ``scale`` phases is one small convolution."""
    b, c, height, width = image.shape
    offset = (torch.arange(scale) + 0.5) / scale - 0.5
    distance = torch.arange(-_LOBES, _LOBES + 1) - offset[:, None]
    kernel = torch.sinc(distance) * torch.sinc(distance / _LOBES) * (distance.abs() < _LOBES)
    kernel = kernel / kernel.sum(1, keepdim=True)
    mode = "reflect" if width > _LOBES else "replicate"
    rows = F.pad(image.reshape(1, -1, height, width), (_LOBES, _LOBES, 0, 0), mode=mode).reshape(
        -1, 1, width + 2 * _LOBES
    )
    return F.conv1d(rows, kernel[:, None].to(image)).mT.reshape(b, c, height, width * scale)


def project_back(large: Tensor, image: Image, rounds: int) -> Image:
    """Correct ``large`` (B, 3, 4H, 4W) so that its bicubic reduction comes closer to ``image`` (B, 3, H, W)."""
    large = large.clamp(0, 1)
    for _ in range(rounds):
        large = (large + lanczos(image - bicubic_resize(large, 0.25), 4)).clamp(0, 1)
    return large


def _smoothed_along_edges(image: Image) -> Image:
    """Average 5 samples along the local edge direction, as far as there is one."""
    y = F.pad(luma(image), (1, 1, 1, 1), mode="replicate")
    gx, gy = (y[..., 1:-1, 2:] - y[..., 1:-1, :-2]) / 2, (y[..., 2:, 1:-1] - y[..., :-2, 1:-1]) / 2
    tensor = torch.cat([gx * gx, gy * gy, gx * gy], dim=1)
    xx, yy, xy = F.avg_pool2d(tensor, 7, 1, 3, count_include_pad=False).split(1, dim=1)
    angle = 0.5 * torch.atan2(2 * xy, xx - yy) + torch.pi / 2
    spread = torch.sqrt((xx - yy).square() + 4 * xy.square())
    coherence = (spread / (xx + yy + 1e-4)).square()
    height, width = image.shape[-2:]
    rows, columns = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    total = torch.zeros_like(image)
    weights = (0.06, 0.24, 0.4, 0.24, 0.06)
    for step, weight in zip((-2, -1, 0, 1, 2), weights, strict=True):
        x = (columns + step * torch.cos(angle[:, 0]) + 0.5) * 2 / width - 1
        y = (rows + step * torch.sin(angle[:, 0]) + 0.5) * 2 / height - 1
        grid = torch.stack([x, y], dim=-1)
        total += weight * F.grid_sample(image, grid, mode="bilinear", padding_mode="border", align_corners=False)
    return torch.lerp(image, total, coherence)

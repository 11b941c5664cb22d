"""The network of experts for damage of the whole scene, haze and darkness: it looks at a small picture of all of it.

As in HDRnet (Gharbi et al., "Deep bilateral learning for real-time image enhancement", 2017): a reduced overview gives
a coarse grid over place and brightness of affine colour transforms; every pixel is transformed as the grid says where
it lies. So the cost at full size is that of a look-up, and a photo is treated as one, whatever its size.
"""

from __future__ import annotations

import math
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, nn

CHANNELS = 96
"""Maps that its encoder ends with, with the sides and cells that it has by default; never more."""
SUMMARY = 3 * CHANNELS
"""Numbers that it knows of a scene, with these."""


class BilateralNet(nn.Module):
    """Maps images (B, 3, H, W) of any size to images of the same size. As initialised it is the identity."""

    def __init__(self, side: int = 128, cells: int = 16, bins: int = 8, width: int = 32, slope: float = 0.0) -> None:
        """``side`` of the overview in pixels; the grid is ``cells`` x ``cells`` places by ``bins`` of brightness.

        ``slope`` is that of the activations below zero. With 0 (ReLU) all channels that lead to the grid can die: in
        November 2026 a training of haze came to one transform for every photo within 3,600 steps.
        """
        super().__init__()
        self.side, self.bins = side, bins
        activation = partial(nn.LeakyReLU, slope)
        layers: list[nn.Module] = []
        channels, wide = 3, width
        for _ in range(round(math.log2(side / cells))):
            layers += [nn.Conv2d(channels, wide, 3, stride=2, padding=1), activation()]
            channels, wide = wide, min(CHANNELS, wide * 2)
        self.encoder = nn.Sequential(*layers, nn.Conv2d(channels, channels, 3, padding=1), activation())
        self.scene = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, stride=2, padding=1), activation()),
            *(nn.Conv2d(channels, channels, 3, stride=2, padding=1), activation()),
            *(nn.AdaptiveAvgPool2d(1), nn.Flatten()),
            *(nn.Linear(channels, 128), activation(), nn.Linear(128, channels)),
        )
        self.place = nn.Sequential(
            *(nn.Conv2d(channels, channels, 3, padding=1), activation()), nn.Conv2d(channels, channels, 3, padding=1)
        )
        self.grid = nn.Conv2d(channels, 12 * bins, 1)
        self.guide = nn.Sequential(nn.Conv2d(3, 12, 1), activation(), nn.Conv2d(12, 1, 1))
        self.joined = activation()
        nn.init.normal_(self.grid.weight, std=1e-3)
        nn.init.zeros_(self.grid.bias)  # type: ignore[arg-type]

    def summary(self, image: Tensor) -> Tensor:
        """What it knows of the scenes of (B, 3, H, W): mean and spread of each map, and the scene; (B, SUMMARY)."""
        maps = self.encoder(self._overview(image))
        return torch.cat([maps.mean((2, 3)), maps.std((2, 3), correction=0), self.scene(maps)], 1)

    def _overview(self, image: Tensor) -> Tensor:
        return F.interpolate(image, (self.side, self.side), mode="bilinear", antialias=True)

    def forward(self, image: Tensor) -> Tensor:
        x = self.encoder(self._overview(image))
        x = self.joined(self.place(x) + self.scene(x)[..., None, None])
        grid = self.grid(x).unflatten(1, (12, self.bins)).float()  # (B, 12, bins, cells, cells)
        return torch.cat([self._transformed(*pair) for pair in zip(image.split(1), grid.split(1), strict=True)])

    def _transformed(self, image: Tensor, grid: Tensor) -> Tensor:
        """Slice the grid along strips of rows, which bounds the memory, and apply the colour transforms."""
        height, width = image.shape[-2:]
        columns = torch.linspace(-1, 1, width, device=image.device)
        rows = torch.linspace(-1, 1, height, device=image.device)
        strips = []
        for part, ys in zip(image.split(256, dim=2), rows.split(256), strict=True):
            z = torch.tanh(self._guided(part).float() + 2 * part.mean(1, keepdim=True) - 1)[:, 0]
            place = torch.stack(torch.broadcast_tensors(columns, ys[:, None], z[0]), -1)[None, None]
            sampled = F.grid_sample(grid, place, padding_mode="border", align_corners=True)[:, :, 0]
            matrix, offset = sampled[:, :9].unflatten(1, (3, 3)), sampled[:, 9:]
            strips.append(part + (matrix * part[:, None]).sum(2) + offset)
        return torch.cat(strips, 2)

    def _guided(self, part: Tensor) -> Tensor:
        """Where pixels lie in the grid by what the guide makes of their colours, (1, 1, H, W).

        The last convolution is spelled out, for oneDNN adds up in another order on another number of threads, and the
        same photo must give the same bytes.
        """
        last = self.guide[-1]
        assert isinstance(last, nn.Conv2d)
        assert last.bias is not None
        mixed: Tensor = self.guide[:-1](part) * last.weight
        return mixed.sum(1, keepdim=True) + last.bias

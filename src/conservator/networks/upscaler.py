"""The network that enlarges: residual blocks at the small size, then one pixel shuffle."""

from __future__ import annotations

from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn

from conservator.networks.unet import blocks


class Upscaler(nn.Module):
    """Maps images (B, 3, H, W) to (B, 3, H * scale, W * scale): a bicubic enlargement plus a residual.

    As EDSR-baseline (Lim et al. 2017) and RLFN (Kong et al. 2022) have it: plain 3x3 convolutions where pixels are few,
    no batch normalisation. As initialised it is the bicubic enlargement.
    """

    def __init__(self, scale: int, width: int = 48, depth: int = 10) -> None:
        super().__init__()
        self.scale = scale
        self.enter = nn.Conv2d(3, width, 3, padding=1)
        self.body = blocks(width, depth)
        self.join = nn.Conv2d(width, width, 3, padding=1)
        self.leave = nn.Conv2d(width, 3 * scale**2, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(cast("Tensor", self.leave.bias))

    def forward(self, image: Tensor) -> Tensor:
        x = self.enter(image)
        x = x + self.join(self.body(x))
        enlarged = F.interpolate(image, scale_factor=self.scale, mode="bicubic", align_corners=False)
        return enlarged + F.pixel_shuffle(self.leave(x), self.scale)

"""What a network sees in native crops: the encoder of an expert, its maps summed up to one vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.networks.unet import Encoder

WIDTHS = (32, 64, 128, 192)
FEATURES = 3 * sum(WIDTHS)
"""Numbers per picture."""


class Trunk(Encoder):
    """Maps native crops (B, 3, H, W) to the mean, the spread and its logarithm of every map: (FEATURES,) of them all.

    It takes the weights of an expert and is not trained further: to remove a damage is to know it.
    """

    def __init__(self) -> None:
        super().__init__(WIDTHS)

    def forward(self, crops: Tensor) -> Tensor:
        height, width = crops.shape[-2:]
        crops = F.pad(crops, (0, -width % 16, 0, -height % 16), mode="replicate")
        pooled = []
        for maps in self.levels(crops.contiguous(memory_format=torch.channels_last)):
            values = maps.flatten(2)
            spread = values.std(2, correction=0)
            pooled += [values.mean(2), spread, (spread + 1e-3).log()]
        return torch.cat(pooled, 1).mean(0)

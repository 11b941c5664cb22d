"""What a network sees in native crops: the encoder of an expert, its maps summed up to a short vector."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conservator.networks.assessment import Standardise
from conservator.networks.unet import Encoder

WIDTHS = (32, 64, 128, 192)
ENCODED = 3 * sum(WIDTHS)
"""Numbers per picture that a crop encoder gives."""


class CropEncoder(Encoder):
    """Maps native crops (B, 3, H, W) to the mean, the spread and its logarithm of every map: (ENCODED,) of them all.

    It takes the weights of an expert and is not trained further: to remove a damage is to know it.
    """

    def __init__(self, side: int = 192) -> None:
        """``side`` (pixels, a multiple of 16) is that of the middle of each crop; of a single picture twice as many."""
        super().__init__(WIDTHS)
        self._side = side

    def forward(self, crops: Tensor) -> Tensor:
        most = self._side if len(crops) > 1 else 2 * self._side
        top, left = (max(0, side - most) // 2 // 16 * 16 for side in crops.shape[-2:])
        crops = crops[..., top : top + most, left : left + most]
        height, width = crops.shape[-2:]
        return self.each(F.pad(crops, (0, -width % 16, 0, -height % 16), mode="replicate")).mean(0)

    def each(self, crops: Tensor) -> Tensor:
        """The same of every crop by itself, (B, ENCODED); H and W are multiples of 16."""
        pooled = []
        for maps in self.levels(crops.contiguous(memory_format=torch.channels_last)):
            values = maps.flatten(2)
            spread = values.std(2, correction=0)
            pooled += [values.mean(2), spread, (spread + 1e-3).log()]
        return torch.cat(pooled, 1)


class PrincipalAxes(nn.Module):
    """The axes along which some numbers differ most from picture to picture.

    Some thousand photos teach more by a hundred numbers than by a thousand.
    """

    axes: Tensor

    def __init__(self, width: int, axes: int) -> None:
        """Reduce ``width`` numbers to ``axes``; ``fit`` finds them."""
        super().__init__()
        self.standardise = Standardise(width)
        self.register_buffer("axes", torch.zeros(width, axes))

    def fit(self, values: Tensor) -> None:
        """Find the axes: the principal components of (N, width)."""
        self.standardise.fit(values)
        x = self.standardise(values)
        _, axes = torch.linalg.eigh(x.T @ x)  # from the least to the greatest
        self.axes.copy_(axes[:, -self.axes.shape[1] :])

    def reduce(self, values: Tensor) -> Tensor:
        """Map (N, width) to (N, axes)."""
        reduced: Tensor = self.standardise(values) @ self.axes
        return reduced

    def forward(self, values: Tensor) -> Tensor:
        """Map the numbers of one picture, (width,), to (axes,)."""
        return self.reduce(values[None])[0]


class ReducedEncoder(PrincipalAxes):
    """A crop encoder, and the principal axes of what it gives."""

    def __init__(self, trunk: CropEncoder, axes: int) -> None:
        super().__init__(ENCODED, axes)
        self.trunk = trunk

    def forward(self, crops: Tensor) -> Tensor:
        """Map native crops (B, 3, H, W) to (axes,) of them all."""
        return super().forward(self.trunk(crops))

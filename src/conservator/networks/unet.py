"""The compact network of most experts: a residual U-Net of plain 3x3 convolutions.

Plain convolutions run four times as many operations per second on a CPU as the depthwise convolutions, gates and layer
norms of newer blocks, and the first level works on the 2x pixel-unshuffled image, where a pixel costs a quarter.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import cast

import torch.nn.functional as F
from torch import Tensor, nn


class ResidualBlock(nn.Module):
    """Two 3x3 convolutions around a ReLU, added to the input (B, C, H, W)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first = nn.Conv2d(width, width, 3, padding=1)
        self.second = nn.Conv2d(width, width, 3, padding=1)
        nn.init.zeros_(self.second.weight)
        nn.init.zeros_(cast("Tensor", self.second.bias))

    def forward(self, x: Tensor) -> Tensor:
        return x + cast("Tensor", self.second(self.first(x).relu_()))


def blocks(width: int, count: int) -> nn.Sequential:
    """``count`` residual blocks in a row."""
    return nn.Sequential(*(ResidualBlock(width) for _ in range(count)))


class Encoder(nn.Module):
    """The first half of the U-Net: maps images (B, 3, H, W), H and W multiples of 16, to features of every level.

    ``widths`` are the channels of the levels, each at half the resolution of the one before, the first at half that of
    the image.
    """

    def __init__(
        self, widths: Sequence[int] = (32, 64, 128, 192), depth: int = 1, middle: int = 2, images: int = 1
    ) -> None:
        """``depth`` residual blocks at each level but the lowest, ``middle`` there; it sees ``images`` at once."""
        super().__init__()
        self.images = images
        *upper, lowest = widths
        self.enter = nn.Conv2d(12 * images, widths[0], 3, padding=1)
        self.encoder = nn.ModuleList(blocks(width, depth) for width in upper)
        self.down = nn.ModuleList(nn.Conv2d(a, b, 2, stride=2) for a, b in itertools.pairwise(widths))
        self.middle = blocks(lowest, middle)

    def levels(self, image: Tensor) -> list[Tensor]:
        """The features, from the first level to the lowest."""
        x = self.enter(F.pixel_unshuffle(image, 2))
        found = []
        for encode, down in zip(self.encoder, self.down, strict=True):
            x = encode(x)
            found.append(x)
            x = down(x)
        return [*found, self.middle(x)]


class ResidualUNet(Encoder):
    """Maps images (B, 3, H, W), H and W multiples of 16, to images of the same size: the input plus a residual.

    As initialised it is the identity. With ``images`` it takes so many versions of each image, (B, 3 * images, H, W),
    and adds to the first of them.
    """

    def __init__(
        self, widths: Sequence[int] = (32, 64, 128, 192), depth: int = 1, middle: int = 2, images: int = 1
    ) -> None:
        """``depth`` residual blocks before and after each step in resolution, ``middle`` at the lowest."""
        super().__init__(widths, depth, middle, images)
        self.up = nn.ModuleList(nn.Conv2d(b, 4 * a, 1) for a, b in itertools.pairwise(widths))
        self.decoder = nn.ModuleList(blocks(width, depth) for width in widths[:-1])
        self.leave = nn.Conv2d(widths[0], 12, 3, padding=1)
        nn.init.zeros_(self.leave.weight)
        nn.init.zeros_(cast("Tensor", self.leave.bias))

    def forward(self, image: Tensor) -> Tensor:
        *skips, x = self.levels(image)
        for decode, up in zip(reversed(self.decoder), reversed(self.up), strict=True):
            x = decode(F.pixel_shuffle(up(x), 2) + skips.pop())
        return image[:, :3] + F.pixel_shuffle(self.leave(x), 2)


def seeing_more(tensors: Mapping[str, Tensor], images: int) -> dict[str, Tensor]:
    """The tensors of a ResidualUNet that takes fewer images, for one that takes ``images``.

    It does the same as before with those that it knew; the others add nothing yet.
    """
    enter = tensors["enter.weight"]
    return {**tensors, "enter.weight": F.pad(enter, (0, 0, 0, 0, 0, 12 * images - enter.shape[1]))}

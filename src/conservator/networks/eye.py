"""The eye: a small network that looks at an overview and a few native crops of a photo and grades its damages."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

OVERVIEW = 128
"""Side of the overview in pixels."""


def _layer(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    convolution = nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)
    return nn.Sequential(convolution, nn.BatchNorm2d(outputs), nn.ReLU())


class Trunk(nn.Module):
    """Maps views (B, 3, H, W), sides multiples of 16, to features (B, features): mean, spread and peaks of its maps.

    It gets each view and, four times as strong, what a 3x3 mean takes away: noise, blocks and blur show there.
    """

    def __init__(self, widths: tuple[int, ...] = (32, 64, 96, 128)) -> None:
        super().__init__()
        self.features = 3 * widths[-1]
        layers: list[nn.Module] = [nn.PixelUnshuffle(2), _layer(24, widths[0])]
        for before, width in zip((widths[0], *widths), widths, strict=False):
            layers += [_layer(before, width, 1 if before == width else 2), _layer(width, width)]
        self.layers = nn.Sequential(*layers)

    def forward(self, views: Tensor) -> Tensor:
        fine = 4 * (views - F.avg_pool2d(views, 3, 1, 1, count_include_pad=False))
        x = torch.cat([views - 0.5, fine], 1).contiguous(memory_format=torch.channels_last)
        maps = self.layers(x).flatten(2).float()
        peaks = maps.topk(max(1, maps.shape[2] // 16), dim=2).values.mean(2)
        return torch.cat([maps.mean(2), maps.std(2, correction=0), peaks], 1)


class EyeNet(nn.Module):
    """Grades ``kinds`` damages and estimates the PSNR to the undamaged photo."""

    def __init__(self, kinds: int = 8, hidden: int = 192) -> None:
        super().__init__()
        self.near, self.far = Trunk(), Trunk((24, 48, 64, 96))
        self.crop = nn.Sequential(nn.LayerNorm(self.near.features), nn.Linear(self.near.features, hidden), nn.SiLU())
        self.whole = nn.Sequential(nn.LayerNorm(self.far.features), nn.Linear(self.far.features, hidden), nn.SiLU())
        self.head = nn.Sequential(
            *(nn.Linear(2 * hidden, hidden), nn.SiLU(), nn.Dropout(0.1)), nn.Linear(hidden, 4 * kinds + 1)
        )

    def forward(self, overview: Tensor, crops: Tensor) -> tuple[Tensor, Tensor]:
        """Map overviews (B, 3, 128, 128) and crops (B, N, 3, S, S) to logits and quality.

        Logits (B, kinds, 4) say "the severity is at least 1 to 4"; the quality (B,) is in dB.
        """
        near = self.crop(self.near(crops.flatten(0, 1))).unflatten(0, crops.shape[:2]).mean(1)
        out = self.head(torch.cat([near, self.whole(self.far(overview))], 1))
        return out[:, :-1].unflatten(1, (-1, 4)), 30 + 10 * out[:, -1]


def views(image: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs of an eye from a study (1 + N, 3, S, S), or from one image (1, 3, H, W), which is its own crop."""
    overview = F.interpolate(image[:1], (OVERVIEW, OVERVIEW), mode="bilinear", antialias=True)
    crops = image[1:] if len(image) > 1 else image
    height, width = crops.shape[-2:]
    bottom, right = -height % 16, -width % 16
    crops = F.pad(crops, (0, right, 0, bottom), mode="replicate")
    return overview, crops[None]

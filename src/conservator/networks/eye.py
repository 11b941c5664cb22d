"""The eye: a small network that looks at an overview and a few native crops of a photo and grades its damages.

It is told the statistics of the photo, too: they know noise, blocks and blur without any training, the network sees the
rest.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conservator.networks.unet import Encoder

OVERVIEW = 128
"""Side of the overview in pixels."""


class Trunk(nn.Module):
    """Maps views (B, 3, H, W), sides multiples of 16, to features (B, features): the mean and the spread of each map.

    Its layers are the encoder of an expert, so that it can start from one: to remove a damage is to know it.
    """

    def __init__(self, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.encoder = Encoder(widths)
        self.features = 3 * sum(widths)

    def forward(self, views: Tensor) -> Tensor:
        pooled = []
        for maps in self.encoder.levels(views.contiguous(memory_format=torch.channels_last)):
            values = maps.flatten(2).float()
            spread = values.std(2, correction=0)
            pooled += [values.mean(2), spread, (spread + 1e-3).log()]
        return torch.cat(pooled, 1)


def _projection(inputs: int, outputs: int) -> nn.Sequential:
    return nn.Sequential(nn.BatchNorm1d(inputs), nn.Dropout(0.1), nn.Linear(inputs, outputs), nn.SiLU())


class EyeNet(nn.Module):
    """Grades ``kinds`` damages and estimates the PSNR to the undamaged photo."""

    def __init__(self, statistics: int, kinds: int = 8, hidden: int = 192) -> None:
        """``statistics`` is how many there are (perception/statistics.py)."""
        super().__init__()
        self.near, self.far = Trunk((32, 64, 128, 192)), Trunk((24, 48, 64, 96))
        self.crop = _projection(self.near.features, hidden)
        self.whole = _projection(self.far.features, hidden)
        self.measured = _projection(statistics, hidden)
        self.head = nn.Sequential(
            *(nn.Linear(3 * hidden, hidden), nn.SiLU(), nn.Dropout(0.1)), nn.Linear(hidden, 4 * kinds + 1)
        )

    def forward(self, overview: Tensor, crops: Tensor, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Map overviews (B, 3, 128, 128), crops (B, N, 3, S, S) and statistics (B, statistics) to logits and quality.

        Logits (B, kinds, 4) say "the severity is at least 1 to 4"; the quality (B,) is in dB.
        """
        near = self.crop(self.near(crops.flatten(0, 1))).unflatten(0, crops.shape[:2]).mean(1)
        out = self.head(torch.cat([near, self.whole(self.far(overview)), self.measured(statistics)], 1))
        return out[:, :-1].unflatten(1, (-1, 4)), 30 + 10 * out[:, -1]


def views(image: Tensor) -> tuple[Tensor, Tensor]:
    """The inputs of an eye from a study (1 + N, 3, S, S), or from one image (1, 3, H, W), which is its own crop."""
    overview = F.interpolate(image[:1], (OVERVIEW, OVERVIEW), mode="bilinear", antialias=True)
    crops = image[1:] if len(image) > 1 else image
    height, width = crops.shape[-2:]
    bottom, right = -height % 16, -width % 16
    crops = F.pad(crops, (0, right, 0, bottom), mode="replicate")
    return overview, crops[None]

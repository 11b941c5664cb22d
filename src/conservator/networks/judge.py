"""A small network that turns a vector of image statistics into severities and a quality."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Judge(nn.Module):
    """Two hidden layers on standardised statistics.

    Maps (B, statistics) to logits (B, kinds, 4), the k-th for "severity is at least k + 1", and to a quality (B,) in dB.
    """

    mean: Tensor
    deviation: Tensor

    def __init__(self, statistics: int, kinds: int, hidden: int = 128, dropout: float = 0.0) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(statistics))
        self.register_buffer("deviation", torch.ones(statistics))
        self.body = nn.Sequential(
            nn.Linear(statistics, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.severity = nn.Linear(hidden, kinds * 4)
        self.quality_body = nn.Sequential(
            nn.Linear(statistics, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, hidden), nn.SiLU()
        )
        self.quality = nn.Linear(hidden, 1)

    def forward(self, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Judge a batch of vectors; values are clipped to 6 deviations, so odd pictures cannot run away."""
        x = ((statistics - self.mean) / self.deviation).clamp(-6, 6)
        logits = self.severity(self.body(x)).unflatten(1, (-1, 4))
        return logits, 20 + 10 * self.quality(self.quality_body(x))[:, 0]

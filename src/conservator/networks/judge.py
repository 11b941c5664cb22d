"""Small networks that turn vectors of image statistics into severities, a quality, and the gain of a treatment."""

from __future__ import annotations

import torch
from torch import Tensor, nn


class Standardise(nn.Module):
    """Subtract the mean, divide by the deviation, clip to 6 deviations, so that odd pictures cannot run away."""

    mean: Tensor
    deviation: Tensor

    def __init__(self, width: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(width))
        self.register_buffer("deviation", torch.ones(width))

    def fit(self, values: Tensor) -> None:
        """Take mean and deviation from (N, width)."""
        self.mean.copy_(values.mean(0))
        self.deviation.copy_(values.std(0) + 1e-4)

    def forward(self, values: Tensor) -> Tensor:
        """Map (B, width) to the same; in training a little noise is added, for statistics of photos are few."""
        x = ((values - self.mean) / self.deviation).clamp(-6, 6)
        return x + 0.03 * torch.randn_like(x) if self.training else x


def _perceptron(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Linear(inputs, hidden), nn.SiLU(), nn.Dropout(dropout)),
        *(nn.Linear(hidden, hidden), nn.SiLU(), nn.Dropout(dropout)),
        nn.Linear(hidden, outputs),
    )


_MEMBERS = 5


class Judge(nn.Module):
    """Judges one picture by its statistics, and a treatment by the statistics before it and the change."""

    def __init__(self, statistics: int, changes: int, kinds: int, hidden: int = 128, dropout: float = 0.0) -> None:
        """``statistics`` and ``changes`` are the widths of the two kinds of input vectors."""
        super().__init__()
        self.picture = Standardise(statistics)
        self.change = Standardise(changes)
        self.severity = _perceptron(statistics, hidden, kinds * 4, dropout)
        self.quality = _perceptron(statistics, hidden, 1, dropout)
        self.gains = nn.ModuleList(_perceptron(statistics + changes, hidden, 1, dropout) for _ in range(_MEMBERS))

    def look(self, statistics: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, statistics) to logits (B, kinds, 4), "severity is at least 1 to 4", and to a quality (B,) in dB."""
        x = self.picture(statistics)
        logits: Tensor = self.severity(x)
        return logits.unflatten(1, (-1, 4)), 20 + 10 * self.quality(x)[:, 0]

    def compare(self, statistics: Tensor, changes: Tensor) -> Tensor:
        """Map statistics (B, statistics) before a treatment and its changes (B, changes) to gains (B, members) in dB.

        Where the members differ, the treatment is unlike those of the training.
        """
        x = torch.cat([self.picture(statistics), self.change(changes)], 1)
        return torch.cat([4 * member(x) for member in self.gains], 1)

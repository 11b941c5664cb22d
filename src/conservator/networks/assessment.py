"""The network that assesses: features of a picture in, severities, quality and the gain of a treatment out."""

from __future__ import annotations

from typing import cast

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
        """Map (B, width) to the same; in training a little noise is added, for photos are few."""
        x = ((values - self.mean) / self.deviation).clamp(-6, 6)
        return x + 0.03 * torch.randn_like(x) if self.training else x


def _perceptron(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        *(nn.Dropout(dropout / 2), nn.Linear(inputs, hidden), nn.SiLU(), nn.Dropout(dropout)),
        *(nn.Linear(hidden, hidden), nn.SiLU(), nn.Dropout(dropout)),
        nn.Linear(hidden, outputs),
    )


def ensemble(count: int, inputs: int, hidden: int, outputs: int, dropout: float) -> nn.ModuleList:
    """So many perceptrons of two hidden layers, which differ by what chance began them with."""
    return nn.ModuleList(_perceptron(inputs, hidden, outputs, dropout) for _ in range(count))


class AssessmentNetwork(nn.Module):
    """Grades one picture by its features, and weighs a treatment by the features before it and the change.

    Severities come from an ensemble of three small networks, gains from one of five.
    """

    def __init__(
        self, features: int, changes: int, kinds: int, objectives: int, hidden: int = 128, dropout: float = 0.0
    ) -> None:
        """``features`` and ``changes`` are the widths of the two kinds of input vectors."""
        super().__init__()
        self.kinds, self.objectives = kinds, objectives
        self.picture = Standardise(features)
        self.change = Standardise(changes)
        self.severity = ensemble(3, features, hidden, kinds * 4, dropout)
        self.quality = _perceptron(features, hidden, 1, dropout)
        self.gains = ensemble(5, features + changes + 2 * (kinds * 4 + 1), hidden, objectives, dropout)

    def grade(self, features: Tensor) -> tuple[Tensor, Tensor]:
        """Map (B, features) to logits (B, kinds, 4), "severity is at least 1 to 4", and to a quality (B,) in dB."""
        x = self.picture(features)
        logits = torch.stack([member(x) for member in self.severity]).mean(0)
        return logits.unflatten(1, (self.kinds, 4)), 20 + 10 * cast("Tensor", self.quality(x))[:, 0]

    def weigh(self, features: Tensor, changes: Tensor) -> Tensor:
        """Map features (B, features) before a treatment and its changes (B, changes) to gains in dB.

        (B, members, objectives): where the members differ, the treatment is unlike those of the training.
        """
        with torch.no_grad():  # what is seen serves as evidence here; it is not bent to fit
            seen = [self._seen(x) for x in (features, features + changes[:, : features.shape[1]])]
        x = torch.cat([self.picture(features), self.change(changes), *seen], 1)
        return torch.stack([4 * member(x) for member in self.gains], 1)

    def _seen(self, features: Tensor) -> Tensor:
        logits, quality = self.grade(features)
        return torch.cat([logits.flatten(1).clamp(-6, 6) / 3, quality[:, None] / 10 - 2], 1)

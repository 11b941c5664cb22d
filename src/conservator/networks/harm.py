"""The network that tells harm: what is told of a treatment in, the log odds that it harmed out."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from conservator.networks.assessment import Standardise, ensemble

MEMBERS = 5


class HarmNetwork(nn.Module):
    """An ensemble of small networks over all that is told of a treatment."""

    def __init__(self, inputs: int, hidden: int = 96, dropout: float = 0.0) -> None:
        """``inputs`` is the number of facts that are told of a treatment."""
        super().__init__()
        self.scale = Standardise(inputs)
        self.members = ensemble(MEMBERS, inputs, hidden, 1, dropout)

    def forward(self, facts: Tensor) -> Tensor:
        """Map (B, inputs) to the log odds of harm of each member, (B, members)."""
        x = self.scale(facts)
        return torch.cat([member(x) for member in self.members], 1)

    def chance(self, facts: Tensor) -> Tensor:
        """Map (B, inputs) to one chance of harm each, (B,): of the members' mean log odds."""
        return cast("Tensor", self(facts)).mean(1).sigmoid()

"""The network that tells harm: what is known of a treatment in, the log odds that it harmed out."""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from conservator.networks.assessment import Standardise, ensemble

MEMBERS = 5


class HarmNetwork(nn.Module):
    """An ensemble of small networks over all that is known of a treatment."""

    def __init__(self, inputs: int, hidden: int = 96, dropout: float = 0.0) -> None:
        """``inputs`` is the width of the vector that tells of a treatment."""
        super().__init__()
        self.known = Standardise(inputs)
        self.members = ensemble(MEMBERS, inputs, hidden, 1, dropout)

    def forward(self, known: Tensor) -> Tensor:
        """Map (B, inputs) to the log odds of harm of each member, (B, members)."""
        x = self.known(known)
        return torch.cat([member(x) for member in self.members], 1)

    def chance(self, known: Tensor) -> Tensor:
        """Map (B, inputs) to one chance of harm each, (B,): of the members' mean log odds."""
        return cast("Tensor", self(known)).mean(1).sigmoid()

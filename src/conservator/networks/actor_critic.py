"""An actor and a critic on one small perceptron: chances of the actions, and what a state is worth."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from conservator.networks.assessment import Standardise

HIDDEN = (256, 128)
"""Widths of the two hidden layers: some 160,000 parameters. Trainings begin from a few hundred pictures, and a wider
network knows each of them by heart."""


class ActorCriticNetwork(nn.Module):
    """Maps a state to the logits of all actions and to its value.

    A state is a vector: ``features`` numbers about the picture, which are standardised, then ``more`` that need not be.
    """

    def __init__(self, features: int, more: int, actions: int) -> None:
        super().__init__()
        self.picture = Standardise(features)
        first, second = HIDDEN
        below, above = nn.Linear(features + more, first), nn.Linear(first, second)
        self.actor, self.critic = nn.Linear(second, actions), nn.Linear(second, 1)
        for layer, gain in ((below, 2**0.5), (above, 2**0.5), (self.actor, 0.01), (self.critic, 1.0)):
            nn.init.orthogonal_(layer.weight, gain)  # as is usual for PPO: at first all actions are as likely
            nn.init.zeros_(layer.bias)
        self.trunk = nn.Sequential(below, nn.GELU(), above, nn.GELU())

    def forward(self, states: Tensor, possible: Tensor) -> tuple[Tensor, Tensor]:
        """Map states (B, features + more), and which actions are possible (B, actions), to logits and values (B,).

        The logits (B, actions) of what is not possible are minus infinity.
        """
        width = len(self.picture.mean)
        seen = self.trunk(torch.cat([self.picture(states[:, :width]), states[:, width:]], 1))
        return self.actor(seen).masked_fill(~possible, float("-inf")), self.critic(seen)[:, 0]

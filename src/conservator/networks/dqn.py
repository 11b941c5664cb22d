"""The agent's network of RL-Restore (Yu et al., "Crafting a toolchain for image restoration", CVPR 2018, section 3.2).

It looks at one patch per step of an episode and remembers the patches and tools before it.
"""

from __future__ import annotations

import math
from typing import cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conservator.image import Image

Q_PATCH = 63
"""Side of a patch in pixels."""
Q_FEATURES = 32
"""Numbers that stand for what is seen in a patch."""
_MEMORY = 50


class QNetwork(nn.Module):
    """Maps episodes of patches to the value of each tool and of stopping; 87,863 parameters for twelve tools.

    Four strided convolutions and a linear layer turn a patch into 32 features; with the one-hot of the previous tool
    they enter an LSTM of 50 cells, and a linear layer gives the values. ``duelling`` splits these into the value of the
    state and the advantages of the actions (Wang et al., ICML 2016).
    """

    def __init__(self, tools: int = 12, duelling: bool = False) -> None:
        super().__init__()
        self.tools = tools
        self.convolutions = nn.ModuleList(
            [nn.Conv2d(3, 32, 9, 2, padding=4), *(nn.Conv2d(a, 24, 5, 2) for a in (32, 24, 24))]
        )
        self.project = nn.Linear(384, Q_FEATURES)
        self.gates = nn.Linear(Q_FEATURES + tools + _MEMORY, 4 * _MEMORY)
        """Of the LSTM: input, candidate, forget and output gate."""
        self.values = nn.Linear(_MEMORY, tools + 1)
        self.state = nn.Linear(_MEMORY, 1) if duelling else None
        self._initialise()

    def _initialise(self) -> None:
        """As the authors' code: convolutions of variance 2 / (k^2 out), small linear layers, a forget bias of 1."""
        for layer in self.modules():
            if isinstance(layer, nn.Conv2d):
                deviation = math.sqrt(2 / (layer.kernel_size[0] ** 2 * layer.out_channels))
                nn.init.trunc_normal_(layer.weight, std=deviation, a=-2 * deviation, b=2 * deviation)
            elif isinstance(layer, nn.Linear) and layer is not self.gates:
                nn.init.normal_(layer.weight, std=0.05 if layer is self.project else 1e-3)
            if isinstance(layer, nn.Conv2d | nn.Linear) and layer.bias is not None:
                nn.init.zeros_(layer.bias)
        nn.init.xavier_uniform_(self.gates.weight)
        with torch.no_grad():
            self.gates.bias[2 * _MEMORY : 3 * _MEMORY] = 1.0

    @torch.no_grad()
    def see_contrast(self) -> None:
        """Begin with weights that learn in hundreds of updates what the authors' need tens of thousands for.

        Damage is fine contrast, so the first filters ignore brightness and are as strong as photos are flat; the others
        keep the variance of what enters them (He et al., ICCV 2015), the last ones large enough to pass gradients on.
        """
        for convolution in self.convolutions:
            nn.init.kaiming_normal_(cast("Tensor", convolution.weight))
        nn.init.kaiming_normal_(self.project.weight)
        nn.init.normal_(self.values.weight, std=0.2)
        first = cast("Tensor", self.convolutions[0].weight)
        first -= first.mean((1, 2, 3), keepdim=True)
        first *= 4  # photos deviate by about a quarter from their mean

    def features(self, patches: Image) -> Tensor:
        """What is seen in patches (N, 3, 63, 63): (N, 32)."""
        first, *others = self.convolutions
        x = first(patches).relu_()
        for convolution in others:
            x = convolution(F.pad(x, (1, 2, 1, 2))).relu_()  # TensorFlow's SAME: the odd pixel is at the end
        seen: Tensor = self.project(x.flatten(1)).relu_()
        return seen

    def forward(self, patches: Tensor, previous: Tensor) -> Tensor:
        """Values (B, T, tools + 1) of the actions at each step, the last one of them stopping.

        ``patches``: (B, T, 3, 63, 63) in [0, 1], the patch before each step. ``previous``: (B, T) int64, the tool that
        led to it counted from 1, 0 for none.
        """
        return self.remember(self.features(patches.flatten(0, 1)).unflatten(0, previous.shape), previous)

    def remember(self, seen: Tensor, previous: Tensor) -> Tensor:
        """The same from the features (B, T, 32) of the patches."""
        batch, steps = previous.shape
        came = F.one_hot(previous, self.tools + 1)[..., 1:].to(seen.dtype)
        hidden = cell = seen.new_zeros(batch, _MEMORY)
        values = []
        for step in range(steps):
            gates = self.gates(torch.cat([seen[:, step], came[:, step], hidden], 1))
            enter, candidate, keep, leave = gates.chunk(4, 1)
            cell = keep.sigmoid() * cell + enter.sigmoid() * candidate.tanh()
            hidden = leave.sigmoid() * cell.tanh()
            values.append(self._values(hidden))
        return torch.stack(values, 1)

    def _values(self, hidden: Tensor) -> Tensor:
        advantages: Tensor = self.values(hidden)
        if self.state is None:
            return advantages
        state: Tensor = self.state(hidden)
        return state + advantages - advantages.mean(1, keepdim=True)

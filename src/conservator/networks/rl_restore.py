"""The two networks of RL-Restore's toolbox (Yu et al., "Crafting a toolchain for image restoration", CVPR 2018).

Both map images (B, 3, H, W) to images of the same size: the input plus a learned residual, zero-padded convolutions.
"""

from __future__ import annotations

from torch import Tensor, nn


class ShallowNet(nn.Module):
    """Three convolutions, 21,827 parameters, for the milder half of each kind of damage; receptive radius 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 32, 9, padding=4)
        self.conv2 = nn.Conv2d(32, 16, 5, padding=2)
        self.conv3 = nn.Conv2d(16, 3, 5, padding=2)

    def forward(self, image: Tensor) -> Tensor:
        residual: Tensor = self.conv3(self.conv2(self.conv1(image).relu()).relu())
        return image + residual


class DeepNet(nn.Module):
    """Eight convolutions, 50,851 parameters, for the stronger half; receptive radius 8 pixels."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 5, padding=2)
        self.conv1_2 = nn.Conv2d(64, 32, 1)
        self.conv2 = nn.Conv2d(32, 32, 3, padding=1)
        self.conv2a = nn.Conv2d(32, 32, 3, padding=1)
        self.conv2c = nn.Conv2d(32, 32, 3, padding=1)
        self.conv2d = nn.Conv2d(32, 32, 3, padding=1)
        self.conv2_2 = nn.Conv2d(32, 64, 1)
        self.conv3 = nn.Conv2d(64, 3, 5, padding=2)

    def forward(self, image: Tensor) -> Tensor:
        state = self.conv1_2(self.conv1(image).relu())
        state = state + self.conv2a(self.conv2(state.relu()).relu())
        state = state + self.conv2d(self.conv2c(state.relu()).relu())
        residual: Tensor = self.conv3(self.conv2_2(state).relu())
        return image + residual

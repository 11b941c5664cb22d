"""Networks: plain modules, without weights and without I/O. A new one is one class in its file and one line here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from torch import nn

from conservator.errors import name_not_found
from conservator.networks.bilateral import BilateralNet
from conservator.networks.lway import DegradationTransfer
from conservator.networks.unet import ResidualUNet
from conservator.networks.upscaler import Upscaler

NETWORKS: Mapping[str, Callable[[], nn.Module]] = {
    "unet": ResidualUNet,
    "unet_deblur": partial(ResidualUNet, images=4),  # the photo, and what three filters make of it (tools/deblur.py)
    "bilateral": BilateralNet,  # of the weights that ship, until those of today's courses replace them
    "bilateral_leaky": partial(BilateralNet, slope=0.1),
    "upscaler_x2": lambda: Upscaler(2, width=32, depth=8),
    "upscaler_x4": lambda: Upscaler(4),
    "lway": DegradationTransfer,
}
"""What an expert may be made of: modules that map images (B, 3, H, W) to images; and LWay's degradation transfer."""


def make_network(name: str) -> nn.Module:
    """Build one with random weights. Raises NameNotFoundError for an unknown name."""
    if name not in NETWORKS:
        raise name_not_found("network", name, NETWORKS)
    return NETWORKS[name]()

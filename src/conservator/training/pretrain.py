"""Teach an agent's convolutions to see damage before it plays: patches are cheap, what tools make of them is not."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conservator.degradations import GaussianBlur, GaussianNoise, JpegCompression, Recipe
from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.networks.dqn import FEATURES, QNetwork
from conservator.training.env import Source
from conservator.training.patches import PatchSource

_BATCH, _RATE = 64, 1e-3
_TOLD_EVERY = 500
_HUBER = 0.1
"""Error from which on its size counts, and no more its square."""


def pretrain(network: QNetwork, source: Source, steps: int, seed: int, report: Callable[[str], None] = print) -> None:
    """Let the features of single patches tell how strong blur, noise and JPEG are, and whether there is any damage.

    A linear layer reads the amounts off the features and is thrown away afterwards; the memory and the values learn
    nothing here. ``steps`` batches of 64 patches; Adam at a rate that falls to zero along a cosine. Raises
    ConservatorError for a source that is no ``PatchSource``, and for damage of other kinds.
    """
    if not isinstance(source, PatchSource):
        raise ConservatorError("this source of patches does not tell their damage; train without pretrain")
    device = next(network.parameters()).device
    head = nn.Linear(FEATURES, 4).to(device)
    learning = [*network.convolutions.parameters(), *network.project.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(learning, lr=_RATE)
    losses = list[float]()
    for step in range(steps):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        examples = [_example(source, np.random.default_rng([seed, step, i])) for i in range(_BATCH)]
        patches, wanted = (torch.cat(x).to(device) for x in zip(*examples, strict=True))
        loss = F.huber_loss(head(network.features(patches)), wanted, delta=_HUBER) / _HUBER
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if (step + 1) % _TOLD_EVERY == 0 or step + 1 == steps:
            report(f"batch {step + 1} of {steps}: telling damage, loss {np.mean(losses):.3f}")
            losses.clear()


def _example(source: PatchSource, rng: np.random.Generator) -> tuple[Image, Tensor]:
    """A damaged patch (1, 3, side, side), and its amounts (1, 4)."""
    recipe: Recipe = ()

    def draw(rng: np.random.Generator) -> Recipe:
        nonlocal recipe
        recipe = source.draw(rng)
        return recipe

    damaged, _ = replace(source, draw=draw)(rng)
    return damaged, torch.tensor([amounts(recipe)])


def amounts(recipe: Recipe) -> tuple[float, float, float, float]:
    """How strong blur, noise and JPEG are, each from 0 to about 1 or 2, and 1 where there is no damage at all."""
    blur = noise = jpeg = 0.0
    for damage in recipe:
        match damage:
            case GaussianBlur(sigma):
                blur = sigma / 2
            case GaussianNoise(sigma):
                noise = 255 * sigma / 25
            case JpegCompression(quality):
                jpeg = 1 - quality / 100
            case _:
                raise ConservatorError(f"{damage} is not of RL-Restore's kinds: Gaussian blur and noise, JPEG")
    return blur, noise, jpeg, float(not recipe)

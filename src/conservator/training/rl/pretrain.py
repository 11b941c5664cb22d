"""Teach an agent's convolutions to see damage before it plays: patches are cheap, what tools make of them is not."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import Dataset

from conservator.degradations import GaussianBlur, GaussianNoise, JpegCompression, Recipe
from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.kinds import TAUGHT, Severity
from conservator.networks.dqn import Q_FEATURES, QNetwork
from conservator.training.data.crops import ahead
from conservator.training.data.patches import PatchSource
from conservator.training.data.recipes import severities
from conservator.training.rl.episode import Source

_BATCH, _RATE = 64, 1e-3
_TOLD_EVERY = 500
_HUBER = 0.1
"""Error from which on its size counts, and no more its square."""
TellDamage: TypeAlias = Callable[[Recipe], Sequence[float]]
"""What features must tell of a damage: as many numbers for every recipe, none much above 1."""


def amounts(recipe: Recipe) -> tuple[float, float, float, float]:
    """How strong blur, noise and JPEG are, each from 0 to about 1 or 2, and 1 where there is no damage at all.

    Raises ConservatorError for damage of other kinds than RL-Restore's.
    """
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


def severity_levels(recipe: Recipe) -> tuple[float, ...]:
    """How severe each of TAUGHT is, from 0 to 1, and 1 where there is no damage at all."""
    found = severities(recipe)
    return (*(found.get(kind, 0) / max(Severity) for kind in TAUGHT), float(not recipe))


def pretrain(
    network: QNetwork,
    source: Source,
    steps: int,
    seed: int,
    report: Callable[[str], None] = print,
    workers: int = 0,
    tell: TellDamage = amounts,
) -> None:
    """Let the features of single patches ``tell`` how strong the damage is.

    A linear layer reads it off the features and is thrown away afterwards; the memory and the values learn nothing
    here. ``steps`` batches of 64 patches, made by ``workers`` processes ahead of their use; Adam at a rate that falls
    to zero along a cosine. Raises ConservatorError for a source that is no ``PatchSource``, and for damage of which
    ``tell`` knows nothing.
    """
    if not isinstance(source, PatchSource):
        raise ConservatorError("this source of patches does not tell their damage; train without pretrain")
    device = next(network.parameters()).device
    head = nn.Linear(Q_FEATURES, len(tell(()))).to(device)
    learning = [*network.convolutions.parameters(), *network.project.parameters(), *head.parameters()]
    optimizer = torch.optim.Adam(learning, lr=_RATE)
    losses = list[float]()
    for step, (patches, wanted) in enumerate(ahead(_Examples(source, seed, tell), range(steps), workers)):
        for group in optimizer.param_groups:
            group["lr"] = _RATE * 0.5 * (1 + math.cos(math.pi * step / steps))
        told = head(network.features(patches.to(device)))
        loss = F.huber_loss(told, wanted.to(device), delta=_HUBER) / _HUBER
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        losses.append(float(loss.detach()))
        if (step + 1) % _TOLD_EVERY == 0 or step + 1 == steps:
            report(f"batch {step + 1} of {steps}: telling damage, loss {np.mean(losses):.3f}")
            losses.clear()


@dataclass(frozen=True)
class _Examples(Dataset[tuple[Image, Tensor]]):
    """Item ``step`` is the batch of that step, the same in every run: patches (B, 3, side, side), and what to tell."""

    source: PatchSource
    seed: int
    tell: TellDamage

    def __getitem__(self, step: int) -> tuple[Image, Tensor]:
        examples = [self._example(np.random.default_rng([self.seed, step, i])) for i in range(_BATCH)]
        patches, wanted = (torch.cat(x) for x in zip(*examples, strict=True))
        return patches, wanted

    def _example(self, rng: np.random.Generator) -> tuple[Image, Tensor]:
        """A damaged patch (1, 3, side, side), and what to tell of its damage (1, numbers)."""
        recipe: Recipe = ()

        def draw(rng: np.random.Generator) -> Recipe:
            nonlocal recipe
            recipe = self.source.draw(rng)
            return recipe

        damaged, _ = replace(self.source, draw=draw)(rng)
        return damaged, torch.tensor([self.tell(recipe)])

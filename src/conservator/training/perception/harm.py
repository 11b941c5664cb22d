"""Train the network that tells harm: from treatments that were measured by the truth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.commands import command_line
from conservator.errors import ConservatorError
from conservator.evaluation.rows import toolbox_hash
from conservator.networks.harm import HarmNetwork
from conservator.perception.harm import HARM_FACTS, harm_metadata
from conservator.perception.risk import HARM
from conservator.photo import find_photos
from conservator.tools.catalog import make_toolbox
from conservator.training.data.crops import training_data
from conservator.training.perception.harm_samples import HarmSample, make_harm_samples
from conservator.training.perception.order import HarmOrder
from conservator.training.run import hashes_of_weights, ship_weights

HARM_CAP = 50.0
"""dB; better than that a photo cannot look: an undamaged photo is harmed where it falls 0.1 dB below."""
_HIDDEN, _EPOCHS, _BATCH, _RATE, _DECAY, _DROPOUT = 96, 50, 256, 1e-3, 0.3, 0.5
"""Chosen on photos held out in November 2026; half as wide, or 40 epochs, told harm about as well."""


def harmed(scores: Tensor) -> Tensor:
    """Which of the treatments with these scores (P, 4) of ``HarmSample`` did harm, (P,) bool."""
    before, after = scores[:, 0].clamp(max=HARM_CAP), scores[:, 2].clamp(max=HARM_CAP)
    return after < before - HARM


@dataclass(frozen=True)
class FittedHarm:
    """A trained network, and how it does on photos held out."""

    network: HarmNetwork
    scores: dict[str, float]


def fit_harm(samples: Sequence[HarmSample], held_out: Sequence[HarmSample], seed: int = 0) -> FittedHarm:
    """Train on ``samples`` by cross-entropy; each photo counts alike, however many treatments were tried on it."""
    torch.manual_seed(seed)
    facts, truth, weights = _together(samples)
    network = HarmNetwork(len(HARM_FACTS), _HIDDEN, _DROPOUT)
    network.scale.fit(facts)
    optimizer = torch.optim.AdamW(network.parameters(), lr=_RATE, weight_decay=_DECAY)
    batches = max(1, len(facts) // _BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, _RATE, total_steps=_EPOCHS * batches)
    rng = np.random.default_rng(seed)
    for _ in range(_EPOCHS):
        for part in np.array_split(rng.permutation(len(facts)), batches):
            said, target = network(facts[part]), truth[part][:, None].float()
            loss = F.binary_cross_entropy_with_logits(said, target.expand_as(said), weights[part][:, None])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    return FittedHarm(network, scores_of_harm(network, held_out))


def _together(samples: Sequence[HarmSample]) -> tuple[Tensor, Tensor, Tensor]:
    """Facts (P, HARM_FACTS), truths (P,) and weights (P,), whose mean is 1, of all treatments."""
    some = [sample for sample in samples if len(sample.facts)]
    weights = torch.cat([torch.full((len(s.facts),), len(s.facts) ** -0.5) for s in some])
    scores = torch.cat([s.scores for s in some])
    return torch.cat([s.facts for s in some]), harmed(scores), weights / weights.mean()


def scores_of_harm(network: HarmNetwork, samples: Sequence[HarmSample]) -> dict[str, float]:
    """How well a network tells harm from benefit: AUC, log loss, and what it lets through at chances of harm."""
    facts, truth, _ = _together(samples)
    with torch.inference_mode():
        chance = network.chance(facts)
    helpful = ~truth & (torch.cat([s.scores for s in samples if len(s.facts)])[:, [0, 2]].diff().flatten() > HARM)
    found = {
        "auc": area_under_curve(chance, truth),
        "log_loss": float(F.binary_cross_entropy(chance, truth.float())),
        "harmful": float(truth.float().mean()),
    }
    for most in (0.02, 0.05, 0.1, 0.2):
        admitted = chance <= most
        found[f"harmful_of_admitted_{most:g}"] = float(truth[admitted].float().mean())
        found[f"helpful_that_are_admitted_{most:g}"] = float(admitted[helpful].float().mean())
    return found


def area_under_curve(chance: Tensor, truth: Tensor) -> float:
    """How often a harmful treatment has a higher chance than one that is not; ties count half."""
    order = torch.argsort(chance)
    ranks = torch.empty_like(chance, dtype=torch.float64)
    ranks[order] = torch.arange(1, len(chance) + 1, dtype=torch.float64)
    values, groups, counts = torch.unique(chance, return_inverse=True, return_counts=True)
    ranks = (torch.zeros(len(values), dtype=torch.float64).index_add_(0, groups, ranks) / counts)[groups]
    positive, negative = int(truth.sum()), int((~truth).sum())
    if not positive or not negative:
        return float("nan")
    return float((ranks[truth].sum() - positive * (positive + 1) / 2) / (positive * negative))


def train_harm(order: HarmOrder, into: Path) -> dict[str, float]:
    """Make the samples of an order, train, and store the network in ``into``; returns its scores on held-out photos.

    The samples, which take the time, are kept in the order's folder and used again, so an interrupted run resumes.
    """
    photos, tools = find_photos(order.photos), make_toolbox(order.toolbox)
    if len(photos) < 8:
        raise ConservatorError(
            f"{order.photos} holds {len(photos)} photos, expected at least 8; give a folder of photos"
        )
    made_with = hashes_of_weights(*tools, "perception") | {f"toolbox {order.toolbox}": toolbox_hash(tools)}
    samples = make_harm_samples(photos, order.count, order.toolbox, order.seed, order.jobs, order.output / "harm")
    parts: tuple[list[HarmSample], list[HarmSample]] = [], []
    for i, sample in enumerate(samples):
        parts[i % len(photos) % 8 == 0].append(sample)  # whole photos, those that perception did not learn from either
    result = fit_harm(*parts, seed=order.seed)
    ship_weights(
        into,
        "harm",
        {key: value.half() for key, value in result.network.state_dict().items()},
        data=training_data(order.photos),
        recipe="make_harm_sample in conservator.training.perception.harm_samples",
        command=command_line(
            "train", "harm", settings={"photos": order.photos, "count": order.count, "seed": order.seed}
        ),
        scores=result.scores,
        made_with=made_with,
        metadata=harm_metadata(_HIDDEN),
        seed=order.seed,
    )
    return result.scores

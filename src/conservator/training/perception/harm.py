"""Train the network that tells harm: from treatments that were measured by the truth.

What it is told of a treatment comes from perception, which is surer of photos that it learned from than of others. So
it learns from what perceptions say that never saw the photo (cross-fitting, as in stacked generalisation: Wolpert,
1992): the photos are divided into folds, and each is looked at by a perception that was trained on the others.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.claims import Identity, claim
from conservator.commands import command_line
from conservator.evaluation.rows import content_of, toolbox_hash
from conservator.files import replacing
from conservator.networks.harm import HarmNetwork
from conservator.perception.harm import HARM_FACTS, harm_facts, harm_metadata
from conservator.perception.loading import read_perception
from conservator.perception.risk import HARM
from conservator.photo import find_photos
from conservator.tools.catalog import make_toolbox
from conservator.training.data.crops import training_data
from conservator.training.perception.order import HarmOrder
from conservator.training.perception.samples import ACUITY, Sample
from conservator.training.perception.train import (
    DrawnSamples,
    FittedAssessment,
    Reducing,
    draw_samples,
    fit_assessment,
)
from conservator.training.run import hashes_of_weights, ship_weights

HARM_CAP = 50.0
"""dB; better than that a photo cannot look: an undamaged photo is harmed where it falls 0.1 dB below."""
_HIDDEN, _EPOCHS, _BATCH, _RATE, _DECAY, _DROPOUT = 96, 50, 256, 1e-3, 0.3, 0.5
"""Chosen on photos held out in November 2026; half as wide, or 40 epochs, told harm about as well."""


@dataclass(frozen=True)
class ToldTreatments:
    """The treatments that were tried on one sample, a photo with its damage."""

    facts: Tensor
    """(P, HARM_FACTS): what is told of each."""
    psnr: Tensor
    """(P, 2): before and after, to the truth (RGB, dB)."""


def told_by(fitted: FittedAssessment, samples: Sequence[Sample]) -> list[ToldTreatments]:
    """What a perception tells of the treatments of samples, whose features are reduced."""
    found = []
    for sample in samples:
        before, after = (sample.features[places] for places in sample.pairs.T)
        facts = harm_facts(fitted.network, fitted.thresholds, before, after, sample.moved, sample.traces)
        found.append(ToldTreatments(facts, sample.scores[:, 0][sample.pairs]))
    return found


def cross_fitted(drawn: DrawnSamples, folds: int, seed: int, folder: Path, jobs: int = 1) -> list[ToldTreatments]:
    """What is told of the treatments to learn from, of each sample by a perception that never saw its photo.

    ``jobs`` processes train so many of these perceptions at once. What is told of a fold is kept in ``folder``, which
    must be of these samples, folds and seed alone, and is not found out again.
    """
    fold = {photo: place % folds for place, photo in enumerate(sorted(set(drawn.photos)))}
    places = [[i for i, photo in enumerate(drawn.photos) if fold[photo] == own] for own in range(folds)]
    folder.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as shared, ProcessPoolExecutor(jobs) as processes:
        samples = Path(shared) / "samples.pt"
        torch.save([[astuple(sample) for sample in part] for part in (drawn.training, drawn.held_out)], samples)
        tasks = [(samples, own, seed, folder / f"fold-{number}.pt") for number, own in enumerate(places)]
        told = [torch.load(file, weights_only=True) for file in processes.map(_of_fold, tasks)]
    found = dict[int, ToldTreatments]()
    for own, one in zip(places, told, strict=True):
        found |= {place: ToldTreatments(*parts) for place, parts in zip(own, one, strict=True)}
    return [found[place] for place in range(len(drawn.training))]


def _of_fold(task: tuple[Path, list[int], int, Path]) -> Path:
    """Write what a perception that never saw these samples tells of them, one after another, unless it is written."""
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    shared, own, seed, told = task
    if not told.exists():
        training, held_out = ([Sample(*parts) for parts in part] for part in torch.load(shared, weights_only=True))
        others = set(range(len(training))) - set(own)
        fitted = fit_assessment([training[i] for i in sorted(others)], held_out, len(ACUITY.names), seed=seed)
        with replacing(told) as file:
            torch.save([astuple(one) for one in told_by(fitted, [training[i] for i in own])], file)
        print(f"{told.stem} is looked at by a perception of its own", flush=True)  # noqa: T201
    return told


def harmed(psnr: Tensor) -> Tensor:
    """Which treatments with this PSNR before and after, (P, 2), did harm, (P,) bool."""
    before, after = psnr.clamp(max=HARM_CAP).unbind(1)
    return after < before - HARM


@dataclass(frozen=True)
class FittedHarm:
    """A trained network, and how it does on photos held out."""

    network: HarmNetwork
    scores: dict[str, float]


def fit_harm(treatments: Sequence[ToldTreatments], held_out: Sequence[ToldTreatments], seed: int = 0) -> FittedHarm:
    """Train by cross-entropy; of a sample with n treatments each counts as the root of 1 / n."""
    torch.manual_seed(seed)
    facts, psnr, weights = _together(treatments)
    truth = harmed(psnr)
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


def _together(treatments: Sequence[ToldTreatments]) -> tuple[Tensor, Tensor, Tensor]:
    """Facts (P, HARM_FACTS), PSNR (P, 2) and weights (P,), whose mean is 1, of all treatments."""
    some = [one for one in treatments if len(one.facts)]
    weights = torch.cat([torch.full((len(one.facts),), len(one.facts) ** -0.5) for one in some])
    return torch.cat([one.facts for one in some]), torch.cat([one.psnr for one in some]), weights / weights.mean()


def scores_of_harm(network: HarmNetwork, treatments: Sequence[ToldTreatments]) -> dict[str, float]:
    """How well a network tells harm from benefit: AUC, log loss, and what it lets through at chances of harm."""
    facts, psnr, _ = _together(treatments)
    with torch.inference_mode():
        chance = network.chance(facts)
    truth, helpful = harmed(psnr), psnr.diff().flatten() > HARM
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
    """Train for the perception that ships, and store the network in ``into``; returns its scores on held-out photos.

    The samples are those of ``train_perceptions`` with the same order: what was made for one is not made for the other.
    """
    tools, perception = make_toolbox(order.toolbox), read_perception("perception")
    made_with = hashes_of_weights(*tools, "perception") | {f"toolbox {order.toolbox}": toolbox_hash(tools)}
    reducing, drawn = Reducing.stored(perception), draw_samples(order)  # what is refused is refused before the hours
    drawn = DrawnSamples([*map(reducing, drawn.training)], drawn.photos, [*map(reducing, drawn.held_out)])
    ships = FittedAssessment(perception.assessment(), list(perception.thresholds), perception.strangest, {})
    settings = {"count": order.count, "seed": order.seed, "folds": order.folds, "facts": " ".join(HARM_FACTS)}
    content = content_of(find_photos(order.photos), order.photos, tools, order.toolbox, order.output)
    identity = Identity.of(settings, weights=made_with, photos=content.photos)
    folder = order.output / "harm" / identity.digest()
    claim(folder, identity)
    told = cross_fitted(drawn, order.folds, order.seed, folder, order.jobs)
    result = fit_harm(told, told_by(ships, drawn.held_out), seed=order.seed)
    ship_weights(
        into,
        "harm",
        {key: value.half() for key, value in result.network.state_dict().items()},
        data=training_data(order.photos),
        recipe="make_sample in conservator.training.perception.samples, cross-fitted",
        command=command_line(
            "train",
            "harm",
            settings={"photos": order.photos, "count": order.count, "folds": order.folds, "seed": order.seed},
        ),
        scores=result.scores,
        made_with=made_with,
        metadata=harm_metadata(_HIDDEN),
        seed=order.seed,
    )
    return result.scores

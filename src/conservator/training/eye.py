"""Train the eyes: from samples of treated photos to what grades damages and weighs treatments.

One set of samples trains two: ``statistics``, the baseline, sees the statistics alone, ``eye`` the trunk's features,
too. Severities are learned from the recipes, the quality from the PSNR of the states, the gain of a treatment, per
objective, from PSNR and SSIM before and after, and from which of two states of one photo is the better.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.commands import command_line
from conservator.errors import ConservatorError
from conservator.evaluation.rows import toolbox_hash
from conservator.networks.eye import AXES, FEATURES, Glance
from conservator.networks.judge import Judge
from conservator.perception.eyes import cautious
from conservator.perception.opinions import ASKED, OPINIONS
from conservator.perception.perception import GRADED_KINDS, OBJECTIVES
from conservator.photo import find_photos
from conservator.tools.catalog import make_toolbox
from conservator.training.crops import training_data
from conservator.training.run import hashes_of_weights, ship_weights
from conservator.training.samples import TRUNK, Sample, build, expert_trunk
from conservator.weights import manifest

COUNT, TOOLBOX, CHAINS = 2500, "conservator", 2
"""Of the eyes that ship: damaged photos, the tools that work on them, and toolchains tried on each."""
_UNTREATED = 1.0
"""Damaged photos beside these that no tool works on, as a multiple: they teach severities and take a third as long."""
_SSIM = 25.0
"""dB that a unit of SSIM counts: over toolchains of one photo PSNR spreads 3 dB where SSIM spreads 0.12."""
_WEIGHTS = {"fidelity": (1.0, 0.5), "balanced": (1.0, 1.0), "perceptual": (0.25, 0.5)}
"""PSNR and SSIM in each objective, as in OBJECTIVE_WEIGHTS (evaluation/enumerate.py); others are not at hand."""
_LARGEST = 10.0  # dB; gains beyond it count as this much


def gains(pairs: Tensor, scores: Tensor) -> Tensor:
    """The true gain (P, objectives) in dB of each pair of states (P, 2) with these scores (S, 2)."""
    change = (scores[pairs[:, 1]] - scores[pairs[:, 0]]) * torch.tensor([1.0, _SSIM])
    weights = torch.tensor([_WEIGHTS[objective] for objective in OBJECTIVES])
    return (change @ (weights / weights.sum(1, keepdim=True)).T).clamp(-_LARGEST, _LARGEST)


@dataclass(frozen=True)
class Batch:
    """Samples put together: states one after another, pairs renumbered."""

    features: Tensor
    scores: Tensor
    severities: Tensor
    pairs: Tensor
    changes: Tensor
    first: Tensor
    """(N,): the numbers of the damaged photos, (N,) after them of the clean ones."""
    last: Tensor
    rivals: Tensor
    """(R, 2): pairs that start at the same damaged photo."""


def put_together(samples: Sequence[Sample], features: int) -> Batch:
    """One batch of samples, each with its first ``features`` features only."""
    starts = np.cumsum([0, *(len(s.scores) for s in samples)])
    at = np.cumsum([0, *(len(s.pairs) for s in samples)])
    rivals = []
    for sample, offset in zip(samples, at[:-1], strict=True):
        roots = [int(offset) + i for i, (before, _) in enumerate(sample.pairs.tolist()) if before == 0]
        rivals += [(a, b) for a in roots for b in roots if a < b]
    whole = torch.cat([s.changes for s in samples])
    seen = samples[0].features.shape[1]
    return Batch(
        torch.cat([s.features[:, :features] for s in samples]),
        torch.cat([s.scores for s in samples]),
        torch.cat([s.severities for s in samples]),
        torch.cat([s.pairs + int(start) for s, start in zip(samples, starts, strict=False)]),
        torch.cat([whole[:, :features], whole[:, seen:]], 1),
        torch.from_numpy(starts[:-1]),
        torch.from_numpy(starts[1:] - 1),
        torch.tensor(rivals, dtype=torch.long).reshape(-1, 2),
    )


def loss_of(judge: Judge, batch: Batch) -> Tensor:
    """Cumulative cross-entropy of the severities, Huber losses of quality and gains, and a ranking of rival states."""
    logits, quality = judge.look(batch.features)
    graded = batch.severities[:, 0] >= 0
    target = (batch.severities[graded][..., None] > torch.arange(4)).float()
    loss = 4 * F.binary_cross_entropy_with_logits(logits[graded], target)
    loss = loss + 0.1 * F.huber_loss(quality, batch.scores[:, 0], delta=2.0)
    if not len(batch.pairs):
        return loss
    said, truly = judge.compare(batch.features[batch.pairs[:, 0]], batch.changes), gains(batch.pairs, batch.scores)
    loss = loss + F.huber_loss(said, truly[:, None].expand_as(said), delta=1.0)
    if len(batch.rivals):
        a, b = batch.rivals.T
        better = (truly[a] - truly[b])[:, None]
        ranking = F.softplus(-better.sign() * (said[a] - said[b])) * better.abs().clamp(max=2.0)
        loss = loss + 0.3 * ranking.mean()
    return loss


@dataclass(frozen=True)
class Fit:
    """A trained judge and how it does on the photos held out."""

    judge: Judge
    thresholds: list[float]
    scores: dict[str, float]


def fit(
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    features: int,
    epochs: int = 50,
    hidden: int = 128,
    seed: int = 0,
) -> Fit:
    """Train on ``samples``; set the threshold of each kind on ``held_out`` so that clean photos are left alone."""
    torch.manual_seed(seed)
    everything, unseen = put_together(samples, features), put_together(held_out, features)
    widths = features, everything.changes.shape[1], len(GRADED_KINDS), len(OBJECTIVES)
    judge = Judge(*widths, hidden, dropout=0.3)
    judge.picture.fit(everything.features)
    judge.change.fit(everything.changes)
    optimizer = torch.optim.AdamW(judge.parameters(), lr=1.5e-3, weight_decay=0.1)
    batches = max(1, len(samples) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, epochs * batches)
    for chosen in _batches(len(samples), epochs, batches, seed):
        loss = loss_of(judge, put_together([samples[i] for i in chosen], features))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    judge.eval()
    thresholds = _thresholds(judge, unseen)
    return Fit(judge, thresholds, scores_of(judge, unseen, thresholds))


def _batches(count: int, epochs: int, batches: int, seed: int) -> Iterator[list[int]]:
    rng = np.random.default_rng(seed)
    for _ in range(epochs):
        for part in np.array_split(rng.permutation(count), batches):
            yield part.tolist()


def _probabilities(judge: Judge, features: Tensor) -> Tensor:
    with torch.inference_mode():
        return judge.look(features)[0].sigmoid()


def _thresholds(judge: Judge, batch: Batch) -> list[float]:
    """Per kind the larger of: the best F1, and one false alarm in 100 clean photos."""
    present = _probabilities(judge, batch.features[batch.first])[..., 0].numpy()
    clean = _probabilities(judge, batch.features[batch.last])[..., 0].numpy()
    truth = batch.severities[batch.first].numpy() > 0
    found = []
    for k in range(len(GRADED_KINDS)):
        grid = np.linspace(0.2, 0.95, 76)
        f1 = [
            2 * (truth[:, k] & (present[:, k] > t)).sum() / max(1, truth[:, k].sum() + (present[:, k] > t).sum())
            for t in grid
        ]
        found.append(float(max(grid[int(np.argmax(f1))], min(0.97, np.quantile(clean[:, k], 0.99)))))
    return found


def scores_of(judge: Judge, batch: Batch, thresholds: Sequence[float]) -> dict[str, float]:
    """What a judge sees of damaged and clean photos, and how well it weighs treatments."""
    present = _probabilities(judge, batch.features[batch.first])
    clean = _probabilities(judge, batch.features[batch.last])
    limit, truth = torch.tensor(thresholds), batch.severities[batch.first]
    found = present[..., 0] > limit
    hits = (found & (truth > 0)).sum(0)
    f1 = 2 * hits / (found.sum(0) + (truth > 0).sum(0)).clamp(min=1)
    level = torch.where(found, (present > 0.5).sum(-1).clamp(min=1), 0)
    scores = {f"f1_{kind}": float(v) for kind, v in zip(GRADED_KINDS, f1, strict=True)}
    return scores | {
        "f1_mean": float(f1.mean()),
        "exact_set": float((found == (truth > 0)).all(1).float().mean()),
        "within_one_level": float(((level - truth).abs() <= 1).float().mean()),
        "clean_called_clean": float((clean[..., 0] <= limit).all(1).float().mean()),
        **_scores_of_gains(judge, batch),
    }


def _scores_of_gains(judge: Judge, batch: Batch) -> dict[str, float]:
    with torch.inference_mode():
        members = judge.compare(batch.features[batch.pairs[:, 0]], batch.changes)
    said, truly = cautious(members)[:, 0], gains(batch.pairs, batch.scores)[:, 0]
    accepted, clear = said > 0.35, truly.abs() > 0.5
    found = {
        "gain_sign_right": float(((said > 0) == (truly > 0))[clear].float().mean()),
        "gain_error_dB": float((said - truly).abs().mean()),
        "accepted_gain_dB": float(truly[accepted].mean()),
        "accepted_harm_0.3dB": float((truly[accepted] < -0.3).float().mean()),
    }
    balanced, true = members.mean(1)[:, 1], gains(batch.pairs, batch.scores)[:, 1]
    a, b = batch.rivals.T
    for margin in (1.0, 4.0):
        apart = (true[a] - true[b]).abs() > margin
        agrees = (balanced[a] > balanced[b]) == (true[a] > true[b])
        found[f"better_of_two_{margin:g}dB"] = float(agrees[apart].float().mean())
    return found


def make_eyes(
    folder: Path,
    into: Path,
    output: Path,
    *,
    count: int = COUNT,
    toolbox: str = TOOLBOX,
    chains: int = CHAINS,
    seed: int = 0,
    jobs: int = 2,
) -> dict[str, dict[str, float]]:
    """Train both eyes on ``count`` treated and as many untreated damaged versions of the photos in ``folder``.

    They are stored in ``into``. The samples, which take the time, are kept in ``output`` and used again, so an
    interrupted run resumes. Returns the scores of each eye on held-out photos.
    """
    tools = make_toolbox(toolbox)
    made_with = hashes_of_weights(*tools, *ASKED, TRUNK) | {f"toolbox {toolbox}": toolbox_hash(tools)}
    photos = find_photos(folder)
    if len(photos) < 8:
        raise ConservatorError(f"{folder} holds {len(photos)} photos, expected at least 8; give a folder of photos")
    treated = build(photos, count, chains, toolbox, seed, jobs, output / "eye")
    untreated = build(photos, round(_UNTREATED * count), 0, toolbox, seed + 1, jobs, output / "eye")
    samples = treated + untreated
    unseen = [i % len(photos) % 8 == 0 for part in (treated, untreated) for i in range(len(part))]  # whole photos
    training = [s for s, held in zip(samples, unseen, strict=True) if not held]
    held_out = [s for s, held in zip(samples, unseen, strict=True) if held]
    told = samples[0].features.shape[1] - FEATURES
    glance = Glance(expert_trunk()).eval()
    glance.fit(torch.cat([s.features[:, told:] for s in training]))
    training, held_out = ([reduced(s, glance, told) for s in part] for part in (training, held_out))
    command = command_line("train", "eye", photos=folder, count=count, seed=seed)
    found = {}
    for name, width in (("statistics", told - OPINIONS), ("eye", told + AXES)):
        result = fit(training, held_out, width)
        _store(result, name, into, training_data(folder), command, glance if name == "eye" else None, made_with)
        found[name] = result.scores
    return found


def reduced(sample: Sample, glance: Glance, told: int) -> Sample:
    """The sample with what the trunk saw reduced to its axes; the ``told`` features before it stay as they are."""
    seen = sample.features.shape[1]
    features = torch.cat([sample.features[:, :told], glance.reduce(sample.features[:, told:])], 1)
    difference = features[sample.pairs[:, 1]] - features[sample.pairs[:, 0]]
    return replace(sample, features=features, changes=torch.cat([difference, sample.changes[:, seen:]], 1))


def _store(
    result: Fit, name: str, into: Path, data: str, command: str, glance: Glance | None, made_with: Mapping[str, str]
) -> None:
    """Write the weights of an eye, with the network that it looks through, and the entry in the manifest."""
    judge = result.judge
    metadata = {
        "kinds": json.dumps([str(kind) for kind in GRADED_KINDS]),
        "thresholds": json.dumps(result.thresholds),
        "features": str(len(judge.picture.mean)),
        "changes": str(len(judge.change.mean)),
        "hidden": str(judge.severity[0][1].out_features),  # type: ignore[index]
    }
    tensors = dict(judge.state_dict())
    if glance is not None:
        metadata["asked"] = json.dumps({expert: manifest()[expert]["sha256"] for expert in ASKED})
        tensors |= {f"glance.{key}": value.half() for key, value in glance.state_dict().items()}
    recipe = f"random_recipe and make_sample in conservator.training.samples, trunk {TRUNK}"
    ship_weights(
        into,
        name,
        tensors,
        data=data,
        recipe=recipe,
        command=command,
        scores=result.scores,
        made_with=made_with,
        metadata=metadata,
    )

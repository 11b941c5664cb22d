"""Train perception: from samples of treated photos to what grades damages and weighs treatments.

One set of samples trains two: ``statistics``, the baseline, sees the statistics alone, ``perception`` what experts
would change and what an encoder sees, too. Severities are learned from the recipes, the quality from the PSNR of the
states, the gain of a treatment, per objective, from PSNR and SSIM before and after, and from which of two states of one
photo is the better.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.commands import command_line
from conservator.errors import ConservatorError
from conservator.evaluation.rows import toolbox_hash
from conservator.kinds import OBJECTIVE_WEIGHTS, OBJECTIVES
from conservator.networks.assessment import AssessmentNetwork
from conservator.networks.encoder import ENCODED, PrincipalAxes, ReducedEncoder
from conservator.perception.features import (
    ASKED,
    CHANGES_BESIDE_FEATURES,
    SCENE_SEEN,
    STATISTICS,
    TOLD,
)
from conservator.perception.loading import ENCODER, SCENE_PREFIX, PerceptionWeights, metadata_of
from conservator.perception.network import strangeness
from conservator.perception.perception import GRADED_KINDS
from conservator.photo import find_photos
from conservator.tools.catalog import make_toolbox
from conservator.training.data.crops import training_data
from conservator.training.perception.order import PerceptionOrder
from conservator.training.perception.samples import (
    ACUITY,
    BEST_QUALITY,
    ENCODER_OF,
    Sample,
    expert_encoder,
    make_samples,
)
from conservator.training.run import hashes_of_weights, ship_weights
from conservator.weights import manifest

_UNTREATED = 2.0
"""Damaged photos beside these that no tool works on, as a multiple: they teach severities and take a sixth as long."""
_HELD_OUT = 8
"""One photo of so many trains nothing: thresholds are set, and all is measured, on these."""
_SSIM = 25.0
"""dB that a unit of SSIM counts: over toolchains of one photo PSNR spreads 3 dB where SSIM spreads 0.12."""
_SCORED = ("psnr", "ssim")
"""Of the metrics of an objective, those that samples hold; others are not at hand."""
_RECIPE = (
    "random_scene in conservator.training.data.scenes, make_sample in conservator.training.perception.samples, "
    f"encoder of {ENCODER_OF}"
)
_EPOCHS = 50
_LARGEST = 10.0  # dB; gains beyond it count as this much


def true_gains(pairs: Tensor, scores: Tensor) -> Tensor:
    """The true gain (P, objectives) in dB of each pair of states (P, 2) with these scores (S, 2)."""
    change = (scores[pairs[:, 1]] - scores[pairs[:, 0]]) * torch.tensor([1.0, _SSIM])
    weights = torch.tensor([[OBJECTIVE_WEIGHTS[objective][metric] for metric in _SCORED] for objective in OBJECTIVES])
    return (change @ (weights / weights.sum(1, keepdim=True)).T).clamp(-_LARGEST, _LARGEST)


@dataclass(frozen=True)
class SampleBatch:
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


def put_together(samples: Sequence[Sample], features: int) -> SampleBatch:
    """One batch of samples, each with its first ``features`` features only."""
    starts = np.cumsum([0, *(len(s.scores) for s in samples)])
    at = np.cumsum([0, *(len(s.pairs) for s in samples)])
    rivals = []
    for sample, offset in zip(samples, at[:-1], strict=True):
        roots = [int(offset) + i for i, (before, _) in enumerate(sample.pairs.tolist()) if before == 0]
        rivals += [(a, b) for a in roots for b in roots if a < b]
    told = torch.cat([s.features[:, :features] for s in samples])
    pairs = torch.cat([s.pairs + int(start) for s, start in zip(samples, starts, strict=False)])
    scores = torch.cat([s.scores for s in samples])
    return SampleBatch(
        told,
        torch.cat([scores[:, :1].clamp(max=BEST_QUALITY), scores[:, 1:]], 1),
        torch.cat([s.severities for s in samples]),
        pairs,
        torch.cat([told[pairs[:, 1]] - told[pairs[:, 0]], torch.cat([s.moved for s in samples])], 1),
        torch.from_numpy(starts[:-1]),
        torch.from_numpy(starts[1:] - 1),
        torch.tensor(rivals, dtype=torch.long).reshape(-1, 2),
    )


def assessment_loss(network: AssessmentNetwork, batch: SampleBatch) -> Tensor:
    """Cumulative cross-entropy of the severities, Huber losses of quality and gains, and a ranking of rival states."""
    logits, quality = network.grade(batch.features)
    graded = batch.severities[:, 0] >= 0
    target = (batch.severities[graded][..., None] > torch.arange(4)).float()
    loss = 4 * F.binary_cross_entropy_with_logits(logits[graded], target)
    loss = loss + 0.1 * F.huber_loss(quality, batch.scores[:, 0], delta=2.0)
    if not len(batch.pairs):
        return loss
    said, truly = network.weigh(batch.features[batch.pairs[:, 0]], batch.changes), true_gains(batch.pairs, batch.scores)
    loss = loss + F.huber_loss(said, truly[:, None].expand_as(said), delta=1.0)
    if len(batch.rivals):
        a, b = batch.rivals.T
        better = (truly[a] - truly[b])[:, None]
        ranking = F.softplus(-better.sign() * (said[a] - said[b])) * better.abs().clamp(max=2.0)
        loss = loss + 0.3 * ranking.mean()
    return loss


@dataclass(frozen=True)
class FittedAssessment:
    """A trained assessment network, and how it does on the photos held out."""

    network: AssessmentNetwork
    thresholds: list[float]
    strangest: float
    """What ``strangeness`` says of the strangest picture in a thousand of those that it learned from."""
    scores: dict[str, float]


def fit_assessment(
    samples: Sequence[Sample],
    held_out: Sequence[Sample],
    features: int,
    hidden: int = 128,
    seed: int = 0,
) -> FittedAssessment:
    """Train on ``samples``; set the threshold of each kind on ``held_out`` so that clean photos are left alone."""
    torch.manual_seed(seed)
    everything, unseen = put_together(samples, features), put_together(held_out, features)
    widths = features, features + CHANGES_BESIDE_FEATURES, len(GRADED_KINDS), len(OBJECTIVES)
    network = AssessmentNetwork(*widths, hidden, dropout=0.3)
    network.picture.fit(everything.features)
    network.change.fit(everything.changes)
    optimizer = torch.optim.AdamW(network.parameters(), lr=1.5e-3, weight_decay=0.1)
    batches = max(1, len(samples) // 64)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _EPOCHS * batches)
    for chosen in _batches(len(samples), batches, seed):
        loss = assessment_loss(network, put_together([samples[i] for i in chosen], features))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step()
    network.eval()
    thresholds = _thresholds(network, unseen)
    strangest = float(strangeness(network, everything.features).quantile(0.999).clamp(min=1e-6))
    return FittedAssessment(network, thresholds, strangest, scores_of(network, unseen, thresholds))


def _batches(count: int, batches: int, seed: int) -> Iterator[list[int]]:
    rng = np.random.default_rng(seed)
    for _ in range(_EPOCHS):
        for part in np.array_split(rng.permutation(count), batches):
            yield part.tolist()


def _probabilities(network: AssessmentNetwork, features: Tensor) -> Tensor:
    with torch.inference_mode():
        return network.grade(features)[0].sigmoid()


def _thresholds(network: AssessmentNetwork, batch: SampleBatch) -> list[float]:
    """Per kind the larger of: the best F1, and one false alarm in 100 clean photos."""
    present = _probabilities(network, batch.features[batch.first])[..., 0].numpy()
    clean = _probabilities(network, batch.features[batch.last])[..., 0].numpy()
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


def scores_of(network: AssessmentNetwork, batch: SampleBatch, thresholds: Sequence[float]) -> dict[str, float]:
    """What a network sees of damaged and clean photos, and how well it weighs treatments."""
    present = _probabilities(network, batch.features[batch.first])
    clean = _probabilities(network, batch.features[batch.last])
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
        **_scores_of_gains(network, batch),
    }


def _scores_of_gains(network: AssessmentNetwork, batch: SampleBatch) -> dict[str, float]:
    with torch.inference_mode():
        members = network.weigh(batch.features[batch.pairs[:, 0]], batch.changes)
    said, truly = _cautious(members)[:, 0], true_gains(batch.pairs, batch.scores)[:, 0]
    accepted, clear = said > 0.35, truly.abs() > 0.5
    found = {
        "gain_sign_right": float(((said > 0) == (truly > 0))[clear].float().mean()),
        "gain_error_dB": float((said - truly).abs().mean()),
        "accepted_gain_dB": float(truly[accepted].mean()),
        "accepted_harm_0.3dB": float((truly[accepted] < -0.3).float().mean()),
    }
    balanced, true = members.mean(1)[:, 1], true_gains(batch.pairs, batch.scores)[:, 1]
    a, b = batch.rivals.T
    for margin in (1.0, 4.0):
        apart = (true[a] - true[b]).abs() > margin
        agrees = (balanced[a] > balanced[b]) == (true[a] > true[b])
        found[f"better_of_two_{margin:g}dB"] = float(agrees[apart].float().mean())
    return found


def _cautious(gains: Tensor) -> Tensor:
    """One estimate per objective (B, objectives) from those of the members: the mean less the deviation."""
    return gains.mean(1) - gains.std(1)


def train_perceptions(order: PerceptionOrder, into: Path) -> dict[str, dict[str, float]]:
    """Train both on ``count`` treated and twice as many untreated damaged versions of the photos of an order.

    They are stored in ``into``. The samples, which take the time, are kept in the order's folder and used again, so an
    interrupted run resumes. Returns the scores of each on held-out photos, by the name of its weights.
    """
    tools = make_toolbox(order.toolbox)
    made_with = hashes_of_weights(*tools, *ASKED, ENCODER_OF) | {f"toolbox {order.toolbox}": toolbox_hash(tools)}
    drawn = draw_samples(order)
    reducing = Reducing.of(drawn.training)
    training, held_out = ([reducing(s) for s in part] for part in (drawn.training, drawn.held_out))
    asked = {"photos": order.photos, "count": order.count, "seed": order.seed}
    command = command_line("train", "perception", settings=asked)
    found = {}
    for name, features, looking in (("statistics", STATISTICS, None), ("perception", ACUITY.names, reducing)):
        result = fit_assessment(training, held_out, len(features), seed=order.seed)
        tensors, metadata = stored_perception(result, features, looking)
        ship_weights(
            into,
            name,
            tensors,
            data=training_data(order.photos),
            recipe=_RECIPE,
            command=command,
            scores=result.scores,
            made_with=made_with,
            metadata=metadata,
        )
        found[name] = result.scores
    return found


@dataclass(frozen=True)
class DrawnSamples:
    """The samples of an order, by whole photos."""

    training: list[Sample]
    photos: list[int]
    """Of each of these, the number of its photo."""
    held_out: list[Sample]


def draw_samples(order: PerceptionOrder) -> DrawnSamples:
    """The samples to learn from, and those of the photos held out; what the order's folder holds is not made again.

    Raises ConservatorError for fewer than 8 photos.
    """
    photos, made = find_photos(order.photos), order.output / "perception"
    if len(photos) < _HELD_OUT:
        raise ConservatorError(
            f"{order.photos} holds {len(photos)} photos, expected at least {_HELD_OUT}; give a folder of photos"
        )
    drawn = DrawnSamples([], [], [])
    for treated, count in ((True, order.count), (False, round(_UNTREATED * order.count))):
        seed = order.seed + (not treated)
        for i, sample in enumerate(make_samples(photos, count, treated, order.toolbox, seed, order.jobs, made)):
            photo = i % len(photos)
            if photo % _HELD_OUT == 0:
                drawn.held_out.append(sample)
            else:
                drawn.training.append(sample)
                drawn.photos.append(photo)
    return drawn


@dataclass(frozen=True)
class Reducing:
    """Reduces what is measured of states to the features of ACUITY."""

    encoder: ReducedEncoder
    scene: PrincipalAxes

    @classmethod
    def of(cls, samples: Sequence[Sample]) -> Reducing:
        """With the axes of these samples."""
        encoder = ReducedEncoder(expert_encoder(), ACUITY.axes)
        found = cls(encoder.eval(), PrincipalAxes(SCENE_SEEN, ACUITY.scene_axes).eval())
        seen, known = (torch.cat([_parts(s.features)[i] for s in samples]) for i in (1, 2))
        found.encoder.fit(seen)
        found.scene.fit(known)
        return found

    @classmethod
    def stored(cls, perception: PerceptionWeights) -> Reducing:
        """With the axes of a perception; raises ConservatorError for one that sees otherwise than ACUITY."""
        perception.check_features(ACUITY.names)
        scene = perception.scene()
        assert scene is not None, "it has axes of the scene"
        return cls(perception.encoder(), scene)

    def __call__(self, sample: Sample) -> Sample:
        """The sample with its features reduced."""
        told, seen, known = _parts(sample.features)
        return replace(sample, features=torch.cat([told, self.encoder.reduce(seen), self.scene.reduce(known)], 1))


def _parts(features: Tensor) -> tuple[Tensor, ...]:
    """What is told, what the encoder sees and what is known of the scene, of (S, F)."""
    parts: tuple[Tensor, ...] = features.split([len(TOLD), ENCODED, SCENE_SEEN], 1)
    return parts


def stored_perception(
    result: FittedAssessment, features: Sequence[str], reducing: Reducing | None
) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and metadata of the file of a perception: the network, and what it looks through."""
    hidden: int = result.network.severity[0][1].out_features  # type: ignore[index]
    tensors = dict(result.network.state_dict())
    metadata = metadata_of(
        features, result.thresholds, hidden, result.strangest, (ACUITY.crop_side, ACUITY.native_side)
    )
    if reducing is not None:
        metadata["asked"] = json.dumps({expert: manifest()[expert]["sha256"] for expert in ASKED})
        for beginning, network in ((ENCODER, reducing.encoder), (SCENE_PREFIX, reducing.scene)):
            tensors |= {f"{beginning}{key}": _kept(key, value) for key, value in network.state_dict().items()}
    return tensors, metadata


def _kept(key: str, value: Tensor) -> Tensor:
    """A tensor as it is stored: the trunk, an expert's, in half precision, the axes to the bit as they were fitted."""
    return value.half() if key.startswith("trunk.") else value

"""The eyes that ship: a trained judge turns what is measured of a picture into severities, a quality, and gains."""

from __future__ import annotations

import json
import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.degradations.kinds import Kind, Severity
from conservator.image import Image, luma
from conservator.networks.eye import Glance, Trunk
from conservator.networks.judge import Judge
from conservator.perception.opinions import opinions
from conservator.perception.perception import ENLARGED_GAIN, GRADED_KINDS, OBJECTIVES, Gain, Look, Percept
from conservator.perception.statistics import statistics
from conservator.weights import load_weights

_GLANCE = "glance."  # begins the names of the network's tensors, beside those of the judge
_SMALL_PHOTO = 300  # pixels; AgenticIR adds super-resolution below it


class StatisticalPerception:
    """Severities, quality and gains from image statistics alone: the baseline.

    LOW_RESOLUTION follows from the size alone (long side under 300 pixels, as AgenticIR has it): pixels cannot tell it.
    """

    _weights = "statistics"

    def measure(self, image: Image) -> Percept:
        """What there is to judge by: a percept of statistics and features, without any judgement."""
        measures = statistics(image)
        return Percept(measures=measures, features=torch.tensor(list(measures.values())))

    def grade(self, image: Image) -> Percept:
        """Judge one image (1, 3, H, W), or a study (item 0 an overview, the others native crops)."""
        judge, thresholds = _judge(self._weights)
        seen = self.measure(image)
        with torch.inference_mode():
            logits, quality = judge.look(seen.features[None])
        severities: dict[Kind, Severity] = {}
        confidences: dict[Kind, float] = {}
        probabilities = torch.cummin(logits[0].sigmoid(), dim=1).values
        for kind, probability, threshold in zip(GRADED_KINDS, probabilities, thresholds, strict=True):
            present = float(probability[0])
            # as odds against the threshold, so that 0.5 is where "present" begins
            odds = present / max(1e-6, 1 - present) * (1 - threshold) / threshold
            confidences[kind] = odds / (1 + odds)
            level = max(1, int((probability > 0.5).sum())) if present > threshold else 0
            severities[kind] = Severity(level)
        severities[Kind.LOW_RESOLUTION], confidences[Kind.LOW_RESOLUTION] = _smallness(image)
        return Percept(severities, confidences, float(quality[0]), seen.measures, seen.features)

    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        """Estimate the gain of a treatment; an enlargement counts half a dB."""
        if before.image.shape != after.image.shape:
            return Gain.sure(ENLARGED_GAIN)
        if torch.equal(before.image, after.image):
            return Gain.sure(0.0)
        judge, _ = _judge(self._weights)
        with torch.inference_mode():
            gains = judge.compare(before.percept.features[None], changes(before, after, treated)[None])
        means, deviations = gains[0].mean(0).tolist(), gains[0].std(0).tolist()
        return Gain(dict(zip(OBJECTIVES, means, strict=True)), dict(zip(OBJECTIVES, deviations, strict=True)))


class NetworkPerception(StatisticalPerception):
    """The same from statistics, from what experts would change, and from what the encoder of one sees in the crops."""

    _weights = "eye"

    def measure(self, image: Image) -> Percept:
        """Statistics, and features that begin with them."""
        return with_networks(super().measure(image), image, _glance())


def with_networks(seen: Percept, image: Image, network: Glance | Trunk) -> Percept:
    """Add the experts' opinions, and what a network sees in a picture or in a study's native crops."""
    with torch.inference_mode():
        found = network(image[1:] if len(image) > 1 else image)
    return Percept(measures=seen.measures, features=torch.cat([seen.features, opinions(image), found]))


def changes(before: Look, after: Look, treated: frozenset[Kind]) -> Tensor:
    """What a treatment changed, (C,): each feature, how far pixels and large areas moved, what it is meant for."""
    difference = after.image - before.image
    side = min(16, *difference.shape[-2:])
    moved = (difference, F.avg_pool2d(difference, side), luma(difference))
    rest = [
        *(math.log10(float(d.pow(2).mean().sqrt()) + 1e-4) for d in moved),
        float(difference.mean()),
        *(float(kind in treated) for kind in (*GRADED_KINDS, Kind.LOW_RESOLUTION)),
    ]
    return torch.cat([after.percept.features - before.percept.features, torch.tensor(rest)])


def cautious(gains: Tensor) -> Tensor:
    """One estimate per objective (B, objectives) from those of the members: the mean less the deviation."""
    return gains.mean(1) - gains.std(1)


def _smallness(image: Image) -> tuple[Severity, float]:
    small = len(image) == 1 and max(image.shape[-2:]) < _SMALL_PHOTO
    return (Severity.HIGH, 1.0) if small else (Severity.NONE, 0.0)


@cache
def _judge(weights: str) -> tuple[Judge, tuple[float, ...]]:
    tensors, metadata = load_weights(weights)
    if json.loads(metadata["kinds"]) != [str(kind) for kind in GRADED_KINDS]:
        raise ValueError(f"the shipped judge {weights} was trained for other kinds; run conservator train eye")
    features, changed, hidden = (int(metadata[name]) for name in ("features", "changes", "hidden"))
    judge = Judge(features, changed, len(GRADED_KINDS), len(OBJECTIVES), hidden)
    judge.load_state_dict({key: value.float() for key, value in tensors.items() if not key.startswith(_GLANCE)})
    judge.eval()
    return judge, tuple(json.loads(metadata["thresholds"]))


@cache
def _glance() -> Glance:
    tensors, _ = load_weights("eye")
    glance = Glance(Trunk())
    glance.load_state_dict({k.removeprefix(_GLANCE): v.float() for k, v in tensors.items() if k.startswith(_GLANCE)})
    glance.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return glance

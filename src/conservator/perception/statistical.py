"""The eye that works from statistics: a small trained judge turns them into severities, a quality, and gains."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.degradations.kinds import Kind, Severity
from conservator.image import Image, luma
from conservator.networks.judge import Judge
from conservator.perception.perception import GRADED_KINDS, Look, Percept
from conservator.perception.statistics import statistics
from conservator.weights import load_weights

_SMALL_PHOTO = 300  # pixels; AgenticIR adds super-resolution below it
_ENLARGED = 0.5  # dB; pictures of two sizes cannot be compared, so an enlargement that was asked for counts this much


class StatisticalPerception:
    """Severities, quality and gains from image statistics, through the shipped judge ``statistics``.

    LOW_RESOLUTION follows from the size alone (long side under 300 pixels, as AgenticIR has it): pixels cannot tell it.
    """

    def perceive(self, image: Image) -> Percept:
        """Judge one image (1, 3, H, W), or a study (item 0 an overview, the others native crops)."""
        judge, names, thresholds = _judge()
        measures = statistics(image)
        with torch.inference_mode():
            logits, quality = judge.look(torch.tensor([[measures[name] for name in names]]))
        probabilities = torch.cummin(logits[0].sigmoid(), dim=1).values
        severities: dict[Kind, Severity] = {}
        confidences: dict[Kind, float] = {}
        for kind, probability, threshold in zip(GRADED_KINDS, probabilities, thresholds, strict=True):
            present = float(probability[0])
            # as odds against the threshold, so that 0.5 is where "present" begins
            odds = present / max(1e-6, 1 - present) * (1 - threshold) / threshold
            confidences[kind] = odds / (1 + odds)
            level = max(1, int((probability > 0.5).sum())) if present > threshold else 0
            severities[kind] = Severity(level)
        severities[Kind.LOW_RESOLUTION], confidences[Kind.LOW_RESOLUTION] = smallness(image)
        return Percept(severities, confidences, float(quality[0]), measures)

    def compare(self, before: Look, after: Look, treated: frozenset[Kind]) -> float:
        """Estimate the gain of a treatment in dB, cautiously; an enlargement counts half a dB."""
        if before.image.shape != after.image.shape:
            return _ENLARGED
        if torch.equal(before.image, after.image):
            return 0.0
        judge, names, _ = _judge()
        statistics = torch.tensor([[before.percept.measures[name] for name in names]])
        with torch.inference_mode():
            gains = judge.compare(statistics, torch.tensor([changes(before, after, treated, names)]))
        return float(cautious(gains))


def smallness(image: Image) -> tuple[Severity, float]:
    """Severity and confidence of low resolution, which follow from the size alone."""
    small = len(image) == 1 and max(image.shape[-2:]) < _SMALL_PHOTO
    return (Severity.HIGH, 1.0) if small else (Severity.NONE, 0.0)


def cautious(gains: Tensor) -> Tensor:
    """One estimate (B,) from those of the judge's members (B, members): the mean less the deviation."""
    return gains.mean(1) - gains.std(1)


def changes(before: Look, after: Look, treated: frozenset[Kind], names: Sequence[str]) -> list[float]:
    """What a treatment changed: each statistic, how far pixels and large areas moved, and the kinds it is meant for."""
    was: Mapping[str, float] = before.percept.measures
    now: Mapping[str, float] = after.percept.measures
    difference = after.image - before.image
    side = min(16, *difference.shape[-2:])
    moved = (difference, F.avg_pool2d(difference, side), luma(difference))
    return [
        *(now[name] - was[name] for name in names),
        *(math.log10(float(d.pow(2).mean().sqrt()) + 1e-4) for d in moved),
        float(difference.mean()),
        *(float(kind in treated) for kind in Kind),
    ]


@cache
def _judge() -> tuple[Judge, tuple[str, ...], tuple[float, ...]]:
    tensors, metadata = load_weights("statistics")
    names = tuple(json.loads(metadata["statistics"]))
    if json.loads(metadata["kinds"]) != [str(kind) for kind in GRADED_KINDS]:
        raise ValueError("the shipped judge was trained for other kinds; run conservator train judge")
    widths = len(names), int(metadata["changes"]), len(GRADED_KINDS)
    judge = Judge(*widths, hidden=int(metadata["hidden"]))
    judge.load_state_dict(tensors)
    judge.eval()
    return judge, names, tuple(json.loads(metadata["thresholds"]))

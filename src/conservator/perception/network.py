"""The eye that learned to see: a small network grades the damages; the judge of statistics weighs treatments."""

from __future__ import annotations

import json
from functools import cache

import torch

from conservator.degradations.kinds import Kind, Severity
from conservator.image import Image
from conservator.networks.eye import EyeNet, views
from conservator.perception.perception import GRADED_KINDS, Look, Percept
from conservator.perception.statistical import StatisticalPerception, smallness
from conservator.perception.statistics import statistics
from conservator.weights import load_weights


class NetworkPerception:
    """Severities, confidences and quality by the shipped network ``eye``; gains as StatisticalPerception has them."""

    def __init__(self) -> None:
        self._judge = StatisticalPerception()

    def perceive(self, image: Image) -> Percept:
        """Judge one image (1, 3, H, W), or a study (item 0 an overview, the others native crops)."""
        eye, names, thresholds = _eye()
        measures = statistics(image)
        with torch.inference_mode():
            logits, quality = eye(*views(image), torch.tensor([[measures[name] for name in names]]))
            probabilities = torch.cummin(logits[0].sigmoid(), dim=1).values
        severities: dict[Kind, Severity] = {}
        confidences: dict[Kind, float] = {}
        for kind, probability, threshold in zip(GRADED_KINDS, probabilities, thresholds, strict=True):
            present = float(probability[0])
            confidences[kind] = present
            level = max(1, int((probability > 0.5).sum())) if present > threshold else 0
            severities[kind] = Severity(level)
        severities[Kind.LOW_RESOLUTION], confidences[Kind.LOW_RESOLUTION] = smallness(image)
        return Percept(severities, confidences, float(quality[0]), measures)

    def compare(self, before: Look, after: Look, treated: frozenset[Kind]) -> float:
        """Estimate the gain of a treatment in dB, cautiously; an enlargement counts half a dB."""
        return self._judge.compare(before, after, treated)


@cache
def _eye() -> tuple[EyeNet, tuple[str, ...], tuple[float, ...]]:
    tensors, metadata = load_weights("eye")
    if json.loads(metadata["kinds"]) != [str(kind) for kind in GRADED_KINDS]:
        raise ValueError("the shipped eye was trained for other kinds; train it again")
    names = tuple(json.loads(metadata["statistics"]))
    eye = EyeNet(len(names), len(GRADED_KINDS))
    eye.load_state_dict({name: value.float() for name, value in tensors.items()})
    eye.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    return eye, names, tuple(json.loads(metadata["thresholds"]))

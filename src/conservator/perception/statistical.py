"""The eye that works from statistics: a small trained judge turns them into severities and a quality."""

from __future__ import annotations

import json
import math
from functools import cache

import torch

from conservator.degradations.kinds import Kind, Severity
from conservator.image import Image
from conservator.networks.judge import Judge
from conservator.perception.perception import Percept
from conservator.perception.statistics import statistics
from conservator.weights import load_weights

JUDGED_KINDS = tuple(kind for kind in Kind if kind is not Kind.LOW_RESOLUTION)
_SMALL_PHOTO = 300  # pixels; AgenticIR adds super-resolution below it


class StatisticalPerception:
    """Severities and quality from image statistics, through the shipped judge ``statistics``.

    LOW_RESOLUTION follows from the size alone (long side under 300 pixels, as AgenticIR has it): pixels cannot tell it.
    """

    def perceive(self, image: Image) -> Percept:
        """Judge one image (1, 3, H, W), or a study (item 0 an overview, the others native crops)."""
        judge, names, thresholds = _judge()
        measures = statistics(image)
        with torch.inference_mode():
            logits, quality = judge(torch.tensor([[measures[name] for name in names]]))
        probabilities = torch.cummin(logits[0].sigmoid(), dim=1).values
        severities: dict[Kind, Severity] = {}
        confidences: dict[Kind, float] = {}
        for kind, probability, threshold in zip(JUDGED_KINDS, probabilities, thresholds, strict=True):
            present = float(probability[0])
            # as odds against the threshold, so that 0.5 is where "present" begins
            odds = present / max(1e-6, 1 - present) * (1 - threshold) / threshold
            confidences[kind] = odds / (1 + odds)
            level = max(1, int((probability > 0.5).sum())) if present > threshold else 0
            severities[kind] = Severity(level)
        small = len(image) == 1 and max(image.shape[-2:]) < _SMALL_PHOTO
        severities[Kind.LOW_RESOLUTION] = Severity.HIGH if small else Severity.NONE
        confidences[Kind.LOW_RESOLUTION] = 1.0 if small else 0.0
        clean = math.prod(1 - confidences[kind] for kind in JUDGED_KINDS)
        return Percept(severities, confidences, float(quality[0]), {**measures, "clean": clean})


@cache
def _judge() -> tuple[Judge, tuple[str, ...], tuple[float, ...]]:
    tensors, metadata = load_weights("statistics")
    names = tuple(json.loads(metadata["statistics"]))
    if json.loads(metadata["kinds"]) != [str(kind) for kind in JUDGED_KINDS]:
        raise ValueError("the shipped judge was trained for other kinds; run make weights")
    judge = Judge(len(names), len(JUDGED_KINDS), hidden=int(metadata["hidden"]))
    judge.load_state_dict(tensors)
    judge.eval()
    return judge, names, tuple(json.loads(metadata["thresholds"]))

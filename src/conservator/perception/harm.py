"""The chance that a treatment did harm, told from the pictures before and after alone: a network that ships."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.image import Image, decibels
from conservator.kinds import OBJECTIVES, Kind
from conservator.metrics.consistency import noise_structure, streaks
from conservator.networks.assessment import AssessmentNetwork
from conservator.networks.harm import HarmNetwork
from conservator.perception.features import CHANGE, EXPERT_CHANGES, OF_THE_WHOLE, TOLD, change
from conservator.perception.loading import Once
from conservator.perception.network import NetworkPerception, grades
from conservator.perception.perception import GRADED_KINDS, Look
from conservator.weights import load_weights, parse_weights

_CLOSEST = 60.0
"""dB between two pictures beyond which a change tells nothing more: a fifth of a level of 8 bits."""
_ODDS = 1e-4
"""A confidence nearer to 0 or 1 is taken for this near: odds stay finite."""

_SEEN: tuple[str, ...] = (*OF_THE_WHOLE, *EXPERT_CHANGES)
"""Features of the picture before that are told. All of them, or their differences, told harm worse on photos held out
when there were 800 photos to learn from, in November 2026: AUC 0.87 instead of 0.90."""
_PLACES = [TOLD.index(name) for name in _SEEN]

TRACES: tuple[str, ...] = (
    *("closeness", "noise_structure", "no_noise_structure", "streaks", "no_streaks", "one_picture"),
)
"""What ``traces`` tells."""
HARM_FACTS: tuple[str, ...] = (
    *(f"seen_before_{kind}" for kind in GRADED_KINDS),
    *(f"seen_after_{kind}" for kind in GRADED_KINDS),
    *("quality_before", "quality_after"),
    *(f"gain_{objective}" for objective in OBJECTIVES),
    *(f"deviation_{objective}" for objective in OBJECTIVES),
    *TRACES,
    *CHANGE,
    *_SEEN,
)
"""What is told of a treatment, in the order in which the network takes it."""


def traces(before: Image, after: Image) -> Tensor:
    """What a treatment left in the pixels: how near both pictures are, and how the change agrees with noise and rain.

    (TRACES,) float32. What cannot be told of a picture is 0, and the number after it 1.
    """
    near = float(decibels((before - after).square().mean(), _CLOSEST))
    found = [
        (0.0, 1.0) if math.isnan(value) else (value, 0.0)
        for value in (noise_structure(before, after), streaks(before, after))
    ]
    return torch.tensor([near, *(number for told in found for number in told), float(len(before) == 1)])


def harm_facts(
    assessment: AssessmentNetwork,
    thresholds: Sequence[float],
    before: Tensor,
    after: Tensor,
    moved: Tensor,
    found: Tensor,
) -> Tensor:
    """All that is told of treatments, (P, HARM_FACTS) float32.

    By a perception's assessment and its thresholds, of features (P, F) before and after, of ``moved`` (P, CHANGE), what
    ``change`` of perception/features.py tells, and of ``found`` (P, TRACES), what ``traces`` does.
    """
    device = assessment.picture.mean.device
    with torch.inference_mode():
        seen = [[part.cpu() for part in assessment.grade(features.to(device))] for features in (before, after)]
        gains = assessment.weigh(before.to(device), torch.cat([after - before, moved], 1).to(device)).cpu()
    odds = [grades(logits, thresholds)[1].clamp(_ODDS, 1 - _ODDS).logit() for logits, _ in seen]
    qualities = [quality[:, None] for _, quality in seen]
    return torch.cat([*odds, *qualities, gains.mean(1), gains.std(1), found, moved, before[:, _PLACES]], 1)


class NetworkHarm:
    """Estimates the chance of harm from what a perception sees. Safe to use from many threads."""

    def __init__(self, perception: NetworkPerception, weights: str | Path) -> None:
        """As in ``load``."""
        self._perception, self._weights = perception, weights
        self._network = Once(lambda: _read(weights))

    @classmethod
    def load(cls, perception: NetworkPerception, weights: str | Path = "harm") -> Self:
        """Use a file of weights, by its name in the package or by its path, with the perception it was made with.

        The file is read when it is first needed; ConservatorError is then raised for one that is none of harm, or that
        was trained on other features.
        """
        return cls(perception, weights)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).load, (self._perception, self._weights)

    def setup(self) -> None:
        """Read the weights now, once."""
        self._network()

    def chance(self, before: Look, after: Look, treated: frozenset[Kind]) -> float:
        """The chance, 0 to 1, that ``after`` is worse than ``before`` by more than HARM dB; 0 where they are equal."""
        if torch.equal(before.image, after.image):
            return 0.0
        perception = self._perception
        pictures = [perception.measured(look).features[None] for look in (before, after)]
        moved, found = change(before.image, after.image, treated), traces(before.image, after.image)
        facts = harm_facts(
            perception.assessment, perception.thresholds, pictures[0], pictures[1], moved[None], found[None]
        )
        with torch.inference_mode():
            return float(self._network().chance(facts)[0])


def harm_metadata(hidden: int) -> dict[str, str]:
    """What a file of weights says of itself."""
    return {"facts": json.dumps(HARM_FACTS), "hidden": str(hidden)}


def _read(weights: str | Path) -> HarmNetwork:
    path = Path(weights)
    if isinstance(weights, Path) or path.suffix == ".safetensors":
        where = str(path)
        try:
            tensors, metadata = parse_weights(path.read_bytes(), where)
        except OSError as error:
            raise ConservatorError(f"{path} cannot be read: {error.strerror}; give a file of weights") from error
    else:
        where = f"the shipped file of weights {weights}"
        tensors, metadata = load_weights(weights)
    again = "train it again with conservator train harm"
    if metadata.get("facts") != json.dumps(HARM_FACTS):
        raise ConservatorError(f"{where} tells no harm, or from other facts than these; {again}")
    try:
        network = HarmNetwork(len(HARM_FACTS), int(metadata["hidden"]))
        network.load_state_dict({key: value.float() for key, value in tensors.items()})
    except (KeyError, ValueError, RuntimeError) as error:
        raise ConservatorError(f"{where} does not hold the tensors of a network of harm ({error}); {again}") from error
    return network.eval().requires_grad_(False)

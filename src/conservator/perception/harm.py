"""The chance that a treatment did harm, told from the pictures before and after alone: a network that ships."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.image import decibels
from conservator.kinds import OBJECTIVES, Kind
from conservator.metrics.consistency import noise_structure, streaks
from conservator.networks.harm import HarmNetwork
from conservator.perception.features import CHANGES_BESIDE_FEATURES, NETWORK_FEATURES, changes
from conservator.perception.loading import Once
from conservator.perception.network import NetworkPerception
from conservator.perception.perception import GRADED_KINDS, Gain, Look
from conservator.weights import load_weights, parse_weights

_CLOSEST = 60.0
"""dB between two pictures beyond which a change tells nothing more: a fifth of a level of 8 bits."""
_ODDS = 1e-4
"""A confidence nearer to 0 or 1 is taken for this near: odds stay finite."""

HARM_FACTS: tuple[str, ...] = (
    *(f"seen_before_{kind}" for kind in GRADED_KINDS),
    *(f"seen_after_{kind}" for kind in GRADED_KINDS),
    *("quality_before", "quality_after"),
    *(f"gain_{objective}" for objective in OBJECTIVES),
    *(f"deviation_{objective}" for objective in OBJECTIVES),
    *("closeness", "noise_structure", "no_noise_structure", "streaks", "no_streaks", "one_picture"),
)
"""What is told of a treatment beside the features of the picture and what changed of them."""


def harm_inputs(perception: NetworkPerception, before: Look, after: Look, treated: frozenset[Kind]) -> Tensor:
    """All that is known of a treatment: HARM_FACTS, the features before, what changed; (HARM_INPUTS,) float32."""
    first, then = perception.measured(before), perception.measured(after)
    facts = harm_facts(before, after, perception.weigh(before, after, treated))
    return torch.cat([facts, first.features, changes(first, then, treated)])


HARM_INPUTS = len(HARM_FACTS) + 2 * len(NETWORK_FEATURES) + CHANGES_BESIDE_FEATURES


def harm_facts(before: Look, after: Look, gain: Gain) -> Tensor:
    """HARM_FACTS of a treatment, (HARM_FACTS,) float32; ``gain`` is what perception estimates of it."""
    error = (before.image - after.image).square().mean()
    structures = noise_structure(before.image, after.image), streaks(before.image, after.image)
    told = [number for value in structures for number in ((0.0, 1.0) if math.isnan(value) else (value, 0.0))]
    return torch.tensor(
        [
            *(_log_odds(look.percept.confidences[kind]) for look in (before, after) for kind in GRADED_KINDS),
            *(before.percept.quality, after.percept.quality),
            *(gain.mean[objective] for objective in OBJECTIVES),
            *(gain.deviation[objective] for objective in OBJECTIVES),
            *(float(decibels(error, _CLOSEST)), *told, float(len(before.image) == 1)),
        ]
    )


def _log_odds(chance: float) -> float:
    chance = min(max(chance, _ODDS), 1 - _ODDS)
    return math.log(chance / (1 - chance))


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
        with torch.inference_mode():
            return float(self._network().chance(harm_inputs(self._perception, before, after, treated)[None])[0])


def harm_metadata(hidden: int) -> dict[str, str]:
    """What a file of weights says of itself."""
    return {"facts": json.dumps(HARM_FACTS), "features": json.dumps(NETWORK_FEATURES), "hidden": str(hidden)}


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
    expected = harm_metadata(0)
    if any(metadata.get(name) != expected[name] for name in ("facts", "features")):
        raise ConservatorError(f"{where} tells no harm, or from other features than these; {again}")
    try:
        network = HarmNetwork(HARM_INPUTS, int(metadata["hidden"]))
        network.load_state_dict({key: value.float() for key, value in tensors.items()})
    except (KeyError, ValueError, RuntimeError) as error:
        raise ConservatorError(f"{where} does not hold the tensors of a network of harm ({error}); {again}") from error
    return network.eval().requires_grad_(False)

"""How a trained perception lies on disk, and how it is read: once, when it is first needed."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

from torch import Tensor, nn

from conservator.errors import ConservatorError
from conservator.forking import Lock
from conservator.networks.assessment import AssessmentNetwork
from conservator.networks.encoder import CropEncoder, PrincipalAxes, ReducedEncoder
from conservator.perception.features import CHANGES_BESIDE_FEATURES, FIRST_ACUITY, SCENE_SEEN, Acuity, names_differ
from conservator.perception.perception import GRADED_KINDS, OBJECTIVES
from conservator.weights import load_weights, manifest, parse_weights

ENCODER = "glance."
"""Begins the names of the encoder's tensors in a file, as it has since the first one was stored."""
SCENE_PREFIX = "scene."
"""Begins the names of the tensors of the axes of what experts know of the scene."""
_AGAIN = "train it again with conservator train perception"

_Made = TypeVar("_Made")
_Network = TypeVar("_Network", bound=nn.Module)


class Once(Generic[_Made]):
    """Makes something when it is first asked for, and once, however many threads ask; where that fails, again."""

    def __init__(self, make: Callable[[], _Made]) -> None:
        self._lock = Lock()
        self._make: Callable[[], _Made] | None = make
        self._made: _Made

    def __call__(self) -> _Made:
        with self._lock:
            if self._make is not None:
                self._made = self._make()
                self._make = None  # what it holds is not needed any more
            return self._made


@dataclass(frozen=True)
class PerceptionWeights:
    """What a file of weights holds."""

    where: str
    """The file, in words."""
    tensors: Mapping[str, Tensor]
    features: tuple[str, ...]
    """The names of the features that it was trained on, in their order."""
    thresholds: tuple[float, ...]
    """For each of GRADED_KINDS, the probability from which a damage is present."""
    hidden: int
    """Width of the hidden layers of its networks."""
    strangest: float
    """What ``strangeness`` of network.py says of the strangest picture in a thousand of the training. It is infinite
    where the file does not tell: nothing is strange then."""
    sides: tuple[int, int]
    """Of native crops, as in ``Acuity``."""

    def check_features(self, expected: Sequence[str]) -> None:
        """Raise ConservatorError where it was trained on other features than ``expected``, or on another order."""
        if wrong := names_differ(self.features, expected):
            raise ConservatorError(f"{self.where} was trained on other features: {wrong}; {_AGAIN}")

    def assessment(self) -> AssessmentNetwork:
        """The network that grades and weighs, float32, ready to run."""
        width = len(self.features)
        network = AssessmentNetwork(
            width, width + CHANGES_BESIDE_FEATURES, len(GRADED_KINDS), len(OBJECTIVES), self.hidden
        )
        own = {key: value.float() for key, value in self.tensors.items() if not key.startswith((ENCODER, SCENE_PREFIX))}
        self._fill(network.load_state_dict, own)
        return network.eval().requires_grad_(False)

    @property
    def acuity(self) -> Acuity:
        """How much it sees, where it is more than statistics; raises ConservatorError for features of another kind."""
        acuity = Acuity.of(self.features, self.sides)
        self.check_features((acuity if acuity.axes else Acuity()).names)
        return acuity

    def encoder(self) -> ReducedEncoder:
        """The network that looks at native crops, float32, ready to run."""
        return self._begun(ENCODER, ReducedEncoder(CropEncoder(self.acuity.crop_side), self.acuity.axes))

    def scene(self) -> PrincipalAxes | None:
        """What reduces what experts know of the scene, ready to run; None where it is not looked at."""
        axes = self.acuity.scene_axes
        return self._begun(SCENE_PREFIX, PrincipalAxes(SCENE_SEEN, axes)) if axes else None

    def _begun(self, beginning: str, network: _Network) -> _Network:
        """A network with the tensors whose names begin so."""
        names = [key for key in self.tensors if key.startswith(beginning)]
        self._fill(network.load_state_dict, {key.removeprefix(beginning): self.tensors[key].float() for key in names})
        return network.eval().requires_grad_(False)

    def _fill(self, load: Callable[[Mapping[str, Tensor]], object], tensors: Mapping[str, Tensor]) -> None:
        try:
            load(tensors)
        except RuntimeError as error:
            raise ConservatorError(
                f"{self.where} does not hold the tensors of a perception ({error}); {_AGAIN}"
            ) from error


def read_perception(weights: str | Path) -> PerceptionWeights:
    """Read a trained perception: a file of the package by its name, or any file by its path.

    Raises NameNotFoundError for an unknown name, ConservatorError for a file that cannot be read, or that is no trained
    perception of these kinds of damage.
    """
    path = Path(weights)
    if isinstance(weights, Path) or path.suffix == ".safetensors":
        where = str(path)
        tensors, metadata = parse_weights(_bytes(path), where)
    else:
        where = f"the shipped file of weights {weights}"
        tensors, metadata = load_weights(weights)
    try:
        kinds, thresholds = json.loads(metadata["kinds"]), tuple(map(float, json.loads(metadata["thresholds"])))
        features, hidden = json.loads(metadata["features"]), int(metadata["hidden"])
        strangest = float(metadata.get("strangest", "inf"))
        crop, native = json.loads(metadata.get("sides", json.dumps([FIRST_ACUITY.crop_side, FIRST_ACUITY.native_side])))
    except (KeyError, ValueError, TypeError) as error:
        raise ConservatorError(f"{where} is no trained perception: it does not say its {error}; {_AGAIN}") from None
    if kinds != [str(kind) for kind in GRADED_KINDS] or len(thresholds) != len(kinds):
        raise ConservatorError(
            f"{where} was trained for {', '.join(kinds)}, expected {', '.join(GRADED_KINDS)}; {_AGAIN}"
        )
    if isinstance(features, int):  # the first files say how many alone; the manifest knows their names
        features = manifest().get(str(weights), {}).get("features")
    if not isinstance(features, list | tuple):
        raise ConservatorError(f"{where} does not name the features that it was trained on; {_AGAIN}")
    return PerceptionWeights(where, tensors, tuple(map(str, features)), thresholds, hidden, strangest, (crop, native))


def metadata_of(
    features: Sequence[str], thresholds: Sequence[float], hidden: int, strangest: float, sides: tuple[int, int]
) -> dict[str, str]:
    """What a file says of itself, as ``read_perception`` expects it."""
    return {
        "kinds": json.dumps([str(kind) for kind in GRADED_KINDS]),
        "thresholds": json.dumps(list(thresholds)),
        "features": json.dumps(list(features)),
        "hidden": str(hidden),
        "strangest": str(strangest),
        "sides": json.dumps(sides),
    }


def _bytes(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise ConservatorError(f"{path} cannot be read: {error.strerror}; give a file of weights") from error

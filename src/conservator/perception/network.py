"""The perceptions that ship: trained networks turn what is measured of a picture into severities, quality and gains."""

from __future__ import annotations

import hashlib
from abc import abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import torch
from torch import Tensor

from conservator.files import sha256
from conservator.image import Image
from conservator.kinds import OBJECTIVES, Kind, Severity
from conservator.networks.assessment import AssessmentNetwork
from conservator.networks.store import NetworkStore
from conservator.perception.features import ASKED, STATISTICS, TOLD, Measured, changes
from conservator.perception.loading import Once, PerceptionWeights, read_perception
from conservator.perception.measuring import Measuring, NetworkMeasuring, measure_statistics
from conservator.perception.perception import ENLARGED_GAIN, GRADED_KINDS, Gain, Look, Percept, Perception
from conservator.weights import manifest

_SMALL_PHOTO = 300  # pixels; AgenticIR adds super-resolution below it


@dataclass(frozen=True)
class _MeasuredPercept(Percept):
    """A percept that keeps the features it was graded by, so that weighing need not measure the picture again."""

    names: tuple[str, ...] = field(default=(), repr=False, compare=False)
    features: Tensor = field(default_factory=lambda: torch.zeros(0), repr=False, compare=False)


@dataclass(frozen=True)
class _Loaded:
    """What a perception runs."""

    measure: Measuring
    assessment: AssessmentNetwork
    features: tuple[str, ...]
    thresholds: tuple[float, ...]
    strangest: float


def grades(logits: Tensor, thresholds: Sequence[float]) -> tuple[Tensor, Tensor]:
    """Severities (B, kinds) and confidences (B, kinds) by the logits (B, kinds, 4) of an assessment network.

    A damage is present where its probability passes its threshold, and then its confidence passes 0.5.
    """
    probabilities, limits = torch.cummin(logits.sigmoid(), dim=2).values, torch.tensor(thresholds)
    present = probabilities[..., 0]
    odds = present / (1 - present).clamp(min=1e-6) * (1 - limits) / limits
    levels = (probabilities > 0.5).sum(2).clamp(min=1)
    return levels.where(present > limits, 0), odds / (1 + odds)


def strangeness(assessment: AssessmentNetwork, features: Tensor) -> Tensor:
    """How far pictures (B, F) lie from those of the training, (B,): the mean square of their distances, in deviations.

    The distances are along the axes of what networks see. Those of one analysis are not correlated, so that this is
    nearly the square of Mahalanobis' distance, for each axis. Zeros where statistics are all that is measured.
    """
    axes = ((features - assessment.picture.mean) / assessment.picture.deviation)[:, len(TOLD) :]
    return axes.square().sum(1) / max(1, axes.shape[1])


class TrainedPerception(Perception):
    """Grades and weighs by an assessment network, from features that it measures.

    Its weights are read when they are first needed, once, and kept. Safe to use from many threads; pickled, it is the
    name of its file, and reads it again. LOW_RESOLUTION follows from the size alone (long side under 300 pixels, as
    AgenticIR has it): pixels cannot tell it.
    """

    def __init__(self, weights: str | Path, device: str, stored: PerceptionWeights | None = None) -> None:
        """``weights`` and ``device`` as in ``load``; ``stored``: the weights, where they are read already."""
        self._weights, self._device = weights, device
        self._loaded = Once(lambda: self._load(stored or read_perception(weights)))

    def setup(self) -> None:
        """Read the weights now, once."""
        self._loaded()

    def grade(self, image: Image) -> Percept:
        """Grade one image (1, 3, H, W), or a study (item 0 an overview, the others native crops)."""
        return self.graded(image, self.measure(image))

    def measure(self, image: Image) -> tuple[Mapping[str, float], Tensor]:
        """Of an image, or a study, its statistics by name and all features (F,): nearly all the work of grading."""
        return self._loaded().measure(image)

    def graded(self, image: Image, measured: tuple[Mapping[str, float], Tensor]) -> Percept:
        """The percept of what ``measure`` says of an image."""
        loaded, (measures, features) = self._loaded(), measured
        with torch.inference_mode():
            logits, quality = loaded.assessment.grade(features[None].to(self._device))
            strange = float(strangeness(loaded.assessment, features[None].to(self._device))[0]) / loaded.strangest
        levels, sure = (found[0].tolist() for found in grades(logits.cpu(), loaded.thresholds))
        severities: dict[Kind, Severity] = dict(zip(GRADED_KINDS, map(Severity, levels), strict=True))
        confidences: dict[Kind, float] = dict(zip(GRADED_KINDS, sure, strict=True))
        severities[Kind.LOW_RESOLUTION], confidences[Kind.LOW_RESOLUTION] = _smallness(image)
        said = severities, confidences, float(quality[0]), measures, strange
        return _MeasuredPercept(*said, self.features, features)

    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        """Estimate the gain of a treatment; an enlargement counts half a dB."""
        if before.image.shape != after.image.shape:
            return Gain.sure(ENLARGED_GAIN)
        if torch.equal(before.image, after.image):
            return Gain.sure(0.0)
        assessment = self._loaded().assessment
        first, then = self.measured(before), self.measured(after)
        change = changes(first, then, treated)[None]
        with torch.inference_mode():
            assessed = first.features[None].to(self._device), change.to(self._device)
            gains = assessment.weigh(*assessed).cpu()
        means, deviations = gains[0].mean(0).tolist(), gains[0].std(0).tolist()
        return Gain(dict(zip(OBJECTIVES, means, strict=True)), dict(zip(OBJECTIVES, deviations, strict=True)))

    @property
    def features(self) -> tuple[str, ...]:
        """The names of what it measures, in the order in which its networks take them."""
        return self._loaded().features

    @property
    def assessment(self) -> AssessmentNetwork:
        """The network that assesses features; for reading only."""
        return self._loaded().assessment

    @property
    def thresholds(self) -> tuple[float, ...]:
        """For each of GRADED_KINDS, the probability from which a damage is present."""
        return self._loaded().thresholds

    def measured(self, look: Look) -> Measured:
        """The features of a look: those that it was graded by, unless another perception did."""
        seen = look.percept
        if isinstance(seen, _MeasuredPercept) and seen.names == self.features:
            return Measured(look.image, seen.features)
        return Measured(look.image, self.measure(look.image)[1])

    @property
    def hash(self) -> str:
        """Of what its measurements depend on: its weights, those of the experts that it may ask, and the device."""
        entries, path = manifest(), Path(self._weights)
        a_file = isinstance(self._weights, Path) or path.suffix == ".safetensors"
        own = sha256(path) if a_file else str(entries[str(self._weights)]["sha256"])
        asked = (str(entries.get(name, {}).get("sha256")) for name in ASKED)
        return hashlib.sha256(" ".join((own, *asked, self._device)).encode()).hexdigest()

    def _load(self, stored: PerceptionWeights) -> _Loaded:
        measuring, assessment = self._measuring(stored), stored.assessment().to(self._device)
        return _Loaded(measuring, assessment, stored.features, stored.thresholds, stored.strangest)

    @abstractmethod
    def _measuring(self, stored: PerceptionWeights) -> Measuring:
        """What measures the features of a file; raises ConservatorError for features of another kind."""


class StatisticalPerception(TrainedPerception):
    """Severities, quality and gains from image statistics alone: the baseline."""

    @classmethod
    def load(cls, weights: str | Path = "statistics", device: str = "cpu") -> Self:
        """Use a file of weights, by its name in the package or by its path, on a torch device; it is read when needed.

        What is wrong with the file is then raised: NameNotFoundError for an unknown name, ConservatorError for a file
        that is no perception, or was trained on other features.
        """
        return cls(weights, device)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).load, (self._weights, self._device)

    def _measuring(self, stored: PerceptionWeights) -> Measuring:
        stored.check_features(STATISTICS)
        return measure_statistics


class NetworkPerception(TrainedPerception):
    """The same from statistics, from what experts would change and know, and from what an encoder sees in the crops."""

    def __init__(
        self,
        weights: str | Path,
        device: str,
        stored: PerceptionWeights | None = None,
        networks: NetworkStore | None = None,
    ) -> None:
        """As in ``load``."""
        super().__init__(weights, device, stored)
        self._networks = networks or NetworkStore()

    @classmethod
    def load(
        cls, weights: str | Path = "perception", device: str = "cpu", networks: NetworkStore | None = None
    ) -> Self:
        """Use a file of weights, by its name in the package or by its path, on a torch device; it is read when needed.

        The experts that it asks are taken from ``networks``: give the store that the tools share, and each is in memory
        once. Errors as in ``StatisticalPerception.load``.
        """
        return cls(weights, device, networks=networks)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self).load, (self._weights, self._device, self._networks)

    def _measuring(self, stored: PerceptionWeights) -> Measuring:
        looking = stored.encoder(), stored.scene()
        return NetworkMeasuring(*looking, self._networks, self._device, stored.acuity.native_side)


def load_perception(
    weights: str | Path, device: str = "cpu", networks: NetworkStore | None = None
) -> StatisticalPerception | NetworkPerception:
    """Read a file of weights, by its name in the package or by its path, and make the perception that it belongs to.

    ``networks`` as in ``NetworkPerception.load``. Raises NameNotFoundError for an unknown name, ConservatorError for a
    file that cannot be read, is no perception, or was trained on features that no perception here measures.
    """
    stored = read_perception(weights)
    if stored.features == STATISTICS:
        return StatisticalPerception(weights, device, stored)
    stored.acuity  # noqa: B018 - it says what is wrong
    return NetworkPerception(weights, device, stored, networks)


def _smallness(image: Image) -> tuple[Severity, float]:
    small = len(image) == 1 and max(image.shape[-2:]) < _SMALL_PHOTO
    return (Severity.HIGH, 1.0) if small else (Severity.NONE, 0.0)

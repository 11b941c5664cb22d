"""What can be told from an image alone."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field

from conservator.image import Image
from conservator.kinds import OBJECTIVES as OBJECTIVES
from conservator.kinds import TAUGHT, Kind, Severity
from conservator.kinds import Objective as Objective

GRADED_KINDS = tuple(kind for kind in Kind if kind in TAUGHT)
"""What is graded by looking; low resolution follows from the size alone."""


ENLARGED_GAIN = 0.5
"""dB. Pictures of two sizes cannot be compared, so an enlargement, which the user must ask for, counts this much."""


STRANGE = "This picture is unlike the photos that perception learned from; what is said of it is a guess."
"""What is told of a strange picture."""


@dataclass(frozen=True)
class Percept:
    """The judgement on one image, or on one study of a photo, without any reference."""

    severities: Mapping[Kind, Severity] = field(default_factory=dict)
    """Every kind that was looked for; NONE where nothing was found."""
    confidences: Mapping[Kind, float] = field(default_factory=dict)
    """Probability, 0 to 1, that the damage is present."""
    quality: float = float("nan")
    """No-reference quality, higher is better, in dB: an estimate of the PSNR to the undamaged photo."""
    measures: Mapping[str, float] = field(default_factory=dict)
    """The statistics behind the judgement, by name."""
    strangeness: float = 0.0
    """How unlike the picture is to those that were learned from; of these, one in a thousand has more than 1."""

    @property
    def strange(self) -> bool:
        """Whether the picture is unlike those that were learned from, so that little of what is said of it is known."""
        return self.strangeness > 1

    @property
    def damages(self) -> tuple[Kind, ...]:
        """The kinds of damage seen, the most severe first; a small size is none."""
        return tuple(kind for kind in self.present if kind is not Kind.LOW_RESOLUTION)

    @property
    def present(self) -> tuple[Kind, ...]:
        """Kinds that are present, the most severe first."""
        found = [kind for kind, severity in self.severities.items() if severity > Severity.NONE]
        return tuple(sorted(found, key=lambda kind: (-self.severities[kind], -self.confidences.get(kind, 0.0))))


@dataclass(frozen=True)
class Look:
    """A picture and what was seen in it."""

    image: Image = field(repr=False)
    percept: Percept


@dataclass(frozen=True)
class Gain:
    """What a treatment is estimated to have gained towards the undamaged photo: dB by objective.

    For ``fidelity`` that is mostly PSNR; the other objectives count structure (SSIM) for more.
    """

    mean: Mapping[Objective, float]
    deviation: Mapping[Objective, float]
    """How far the members of the ensemble that was asked disagree: their standard deviation."""

    def cautious(self, objective: Objective) -> float:
        """The mean less the deviation: what is promised when the members disagree."""
        return self.mean[objective] - self.deviation[objective]

    @classmethod
    def sure(cls, gain: float) -> Gain:
        """The same gain for every objective, without any doubt."""
        return cls(dict.fromkeys(OBJECTIVES, gain), dict.fromkeys(OBJECTIVES, 0.0))


class Perception(ABC):
    """Looks at an image, or at a study of a photo, without any reference. Deterministic, and safe from many threads.

    ``check_perception`` checks all that is said here.
    """

    @abstractmethod
    def grade(self, image: Image) -> Percept:
        """Grade (B, 3, H, W): one image for B = 1; for more, a study (item 0 an overview, the others native crops).

        Every kind is graded, by a severity and a probability; the image, of any size, stays as it is.
        """

    @abstractmethod
    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        """Estimate what a treatment of ``treated`` gained towards the undamaged photo; equal pictures gain 0."""

    def setup(self) -> None:  # noqa: B027 - it may be left out
        """Load what it needs, where that is not done when it is first asked; nothing unless overridden."""


class Blind(Perception):
    """Looks at nothing, for those who go by a reference or by the pixels alone; it grades no kind of damage."""

    def grade(self, image: Image) -> Percept:
        """Nothing is seen."""
        return Percept()

    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        """Nothing is gained."""
        return Gain.sure(0.0)

"""Too little light."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self, TypeAlias, get_args

import numpy as np

from conservator.degradations.degradation import Degradation, by_severity, grade
from conservator.degradations.fields import Range
from conservator.image import Image
from conservator.kinds import Kind, Severity

Mode: TypeAlias = Literal["shift", "gamma", "linear"]


@dataclass(frozen=True)
class LowLight(Degradation):
    """A darker V of HSV, hue and saturation kept, in AgenticIR's three ways; V is in [0, 1].

    ``shift``: V - amount (30-50 of 255 in AgenticIR), not below 0. ``gamma``: V ** (1 / amount) (amount 0.5-0.7).
    ``linear``: amount * V, so that white becomes ``amount`` (100-150 of 255).
    Samples a mode, then LOW: shift 10-20, gamma 0.85-0.95, linear 210-235; MEDIUM: 20-30, 0.7-0.85, 150-200;
    HIGH: 30-40, 0.6-0.7, 125-150; VERY_HIGH: 40-50, 0.5-0.6, 100-125 (shift and linear of 255).
    """

    kind: ClassVar[Kind] = Kind.LOW_LIGHT
    mode: Mode
    amount: Annotated[float, Range(0.01, 1)]

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        mode: Mode = get_args(Mode)[int(rng.integers(3))]
        if mode == "gamma":
            return cls(mode, rng.uniform(*by_severity(severity, (0.85, 0.95), (0.7, 0.85), (0.6, 0.7), (0.5, 0.6))))
        if mode == "shift":
            return cls(mode, rng.uniform(*by_severity(severity, (10, 20), (20, 30), (30, 40), (40, 50))) / 255)
        return cls(mode, rng.uniform(*by_severity(severity, (210, 235), (150, 200), (125, 150), (100, 125))) / 255)

    @property
    def severity(self) -> Severity:
        match self.mode:
            case "shift":
                return grade(255 * self.amount, 20, 30, 40)
            case "gamma":
                return grade(self.amount, 0.85, 0.7, 0.6)
            case "linear":
                return grade(255 * self.amount, 205, 150, 125)

    def __call__(self, image: Image) -> Image:
        value = image.amax(dim=1, keepdim=True)
        match self.mode:
            case "shift":
                target = (value - self.amount).clamp_(min=0)
            case "gamma":
                target = value ** (1 / self.amount)
            case "linear":
                target = value * self.amount
        # scaling RGB by V'/V changes V alone; a black pixel stays black
        return (image * (target / value.clamp(min=1e-6))).clamp_(0, 1)

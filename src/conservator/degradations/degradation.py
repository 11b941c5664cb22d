"""A degradation is a frozen value that can be called; a recipe is a tuple of them."""

from __future__ import annotations

import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import ClassVar, Self, TypeAlias, TypeVar

import numpy as np

from conservator.degradations.fields import checked, field_types
from conservator.image import Image, check_image
from conservator.kinds import Kind, Severity

T = TypeVar("T")


class Degradation(ABC):
    """One way to spoil an image: a frozen dataclass whose fields hold every number it needs, its seed too.

    Equal values give equal pixels. Fields are plain JSON values (float, int, str, bool), so a recipe is its own record;
    their annotations say which values are allowed (fields.py), and any other raises RecipeError. A batch shares the
    parameters, but random fields (noise, streaks, depth) are drawn for each item; item 0 looks as it would alone.
    """

    kind: ClassVar[Kind]
    name: ClassVar[str]
    """Snake case of the class name; the ``type`` of its JSON form."""

    def __init_subclass__(cls) -> None:
        super().__init_subclass__()
        cls.name = re.sub(r"(?<!^)(?=[A-Z])", "_", cls.__name__).lower()

    def __post_init__(self) -> None:
        for name, annotation in field_types(type(self)).items():
            object.__setattr__(self, name, checked(self.name, name, annotation, getattr(self, name)))

    @classmethod
    @abstractmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        """Draw the parameters of one damage of this severity (LOW to VERY_HIGH; NONE raises ValueError)."""

    @property
    @abstractmethod
    def severity(self) -> Severity:
        """The severity that these parameters amount to: what ``sample`` was asked for, LOW to VERY_HIGH."""

    @abstractmethod
    def __call__(self, image: Image) -> Image:
        """Spoil an image (B, 3, H, W) in [0, 1]; the result is clipped to [0, 1]."""


def by_severity(severity: Severity, low: T, medium: T, high: T, very_high: T) -> T:
    """The one of four parameter ranges that belongs to a severity; ValueError for NONE, which is no damage."""
    if severity == Severity.NONE:
        raise ValueError(
            "severity is none, expected low, medium, high or very high; to do no damage, apply no degradation"
        )
    return (low, medium, high, very_high)[Severity(severity) - 1]


def grade(value: float, medium: float, high: float, very_high: float) -> Severity:
    """LOW, or the highest severity whose bound ``value`` reaches. Bounds that fall are for values that get worse so."""
    sign = 1 if medium < very_high else -1
    return Severity(1 + sum(sign * value >= sign * bound for bound in (medium, high, very_high)))


Recipe: TypeAlias = tuple[Degradation, ...]


def degrade(image: Image, recipe: Sequence[Degradation]) -> Image:
    """Apply the degradations of a recipe from first to last."""
    check_image(image)
    for degradation in recipe:
        image = degradation(image)
    return image

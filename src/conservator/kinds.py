"""The vocabulary that the whole program shares: kinds of damage, their severities, what a restoration is for."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from enum import IntEnum, StrEnum
from typing import Literal, TypeAlias

from conservator.errors import name_not_found


class Kind(StrEnum):
    """What can be wrong with a photo."""

    NOISE = "noise"
    JPEG = "jpeg"
    MOTION_BLUR = "motion_blur"
    DEFOCUS_BLUR = "defocus_blur"
    GAUSSIAN_BLUR = "gaussian_blur"
    RAIN = "rain"
    HAZE = "haze"
    LOW_LIGHT = "low_light"
    LOW_RESOLUTION = "low_resolution"
    SNOW = "snow"

    @property
    def label(self) -> str:
        """The name a reader sees, "motion blur"."""
        special = {"jpeg": "JPEG artefacts", "gaussian_blur": "Gaussian blur"}
        return special.get(self.value, self.value.replace("_", " "))


NATURE = (
    *(Kind.LOW_LIGHT, Kind.HAZE, Kind.RAIN, Kind.SNOW, Kind.DEFOCUS_BLUR),
    *(Kind.GAUSSIAN_BLUR, Kind.MOTION_BLUR, Kind.NOISE, Kind.JPEG),
)
"""The order in which damage befalls a photo: scene, optics, sensor, codec."""

TAUGHT = tuple(kind for kind in NATURE if kind is not Kind.SNOW)
"""What perception and the experts that ship have learned. Snow came later: docs/mllm.md adds it as a user would."""

TONAL = frozenset({Kind.HAZE, Kind.LOW_LIGHT})
"""Damage whose treatment changes what the scene looks like. A veil or darkness may be the scene's own."""


class Severity(IntEnum):
    """How wrong: AgenticIR's five levels, its "very low" being our NONE (nothing a viewer would notice)."""

    NONE = 0
    LOW = 1
    MEDIUM = 2
    HIGH = 3
    VERY_HIGH = 4

    @property
    def label(self) -> str:
        """The name a reader sees, "very high"."""
        return self.name.lower().replace("_", " ")


Objective: TypeAlias = Literal["fidelity", "balanced", "perceptual"]
OBJECTIVES: tuple[Objective, ...] = ("fidelity", "balanced", "perceptual")
"""What a restoration is for: near to the undamaged photo, good to look at, or both. Gains are estimated for each."""
OBJECTIVE_WEIGHTS: Mapping[str, Mapping[str, float]] = {
    "fidelity": {"psnr": 1.0, "ssim": 0.5},
    "balanced": {"psnr": 1.0, "ssim": 1.0, "lpips": 1.0, "dists": 1.0, "st_lpips": 1.0},
    "perceptual": {"psnr": 0.25, "ssim": 0.5, "lpips": 1.0, "dists": 1.0, "st_lpips": 1.0},
}
"""Weights of the z-scores whose sum is the score of a toolchain, by metric. Those where lower is better count
negatively. ST-LPIPS is measured only where LPIPS and DISTS cannot be had."""


Preference: TypeAlias = Literal["neither", "sharp", "smooth"]
"""What counts more where both cannot be had: detail that is kept, or noise that is gone."""


@dataclass(frozen=True)
class Wish:
    """What a user wants beside the objective: a model is told it in words, and a session offers nothing against it."""

    only: frozenset[Kind] | None = None
    """The damages to treat; None: all."""
    never: frozenset[Kind] = frozenset()
    """Damages to leave alone."""
    prefer: Preference = "neither"


NO_WISH = Wish()


def parse_kinds(text: str) -> frozenset[Kind]:
    """Kinds from their names joined by commas, "noise,jpeg"; raises NameNotFoundError for an unknown one."""
    kinds = set()
    for name in text.split(","):
        try:
            kinds.add(Kind(name.strip().lower().replace("-", "_").replace(" ", "_")))
        except ValueError:
            raise name_not_found("kind of damage", name.strip(), Kind) from None
    return frozenset(kinds)


def kinds_in_words(kinds: Iterable[Kind]) -> str:
    """The kinds as a person lists them, "noise, rain and haze"; "" where there is none."""
    *first, last = [kind.label for kind in kinds] or [""]
    return f"{', '.join(first)} and {last}" if first else last


def purpose_in_words(removes: Collection[Kind]) -> str:
    """What a tool that removes these kinds is for; "" where it is not known."""
    return "several kinds of damage" if len(removes) > 3 else kinds_in_words(removes)

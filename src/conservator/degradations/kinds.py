"""The vocabulary that tools, perception and synthesis share."""

from __future__ import annotations

from enum import IntEnum, StrEnum


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
"""What the eye and the experts that ship have learned. Snow came later: docs/mllm.md adds it as a user would."""


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

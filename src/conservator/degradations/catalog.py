"""Every degradation there is. A new one is one line here."""

from __future__ import annotations

from conservator.degradations.blur import DefocusBlur, GaussianBlur, MotionBlur
from conservator.degradations.codec import JpegCompression, LowResolution
from conservator.degradations.degradation import Degradation
from conservator.degradations.kinds import Kind
from conservator.degradations.light import LowLight
from conservator.degradations.noise import CameraNoise, GaussianNoise, PoissonNoise
from conservator.degradations.weather import Downpour, Haze, Rain, Snow, UnevenHaze

DEGRADATIONS: tuple[type[Degradation], ...] = (
    GaussianNoise,
    PoissonNoise,
    CameraNoise,
    JpegCompression,
    MotionBlur,
    DefocusBlur,
    GaussianBlur,
    Rain,
    Downpour,
    Haze,
    UnevenHaze,
    LowLight,
    LowResolution,
    Snow,
)

BY_NAME: dict[str, type[Degradation]] = {cls.name: cls for cls in DEGRADATIONS}

BY_KIND: dict[Kind, tuple[type[Degradation], ...]] = {
    kind: tuple(cls for cls in DEGRADATIONS if cls.kind == kind) for kind in Kind
}
"""The classes of each kind; the first is the one to sample when only the kind is given."""

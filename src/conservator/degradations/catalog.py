"""Every degradation there is. A new one is one line here."""

from __future__ import annotations

from conservator.degradations.blur import DefocusBlur, GaussianBlur, LineBlur, MotionBlur
from conservator.degradations.codec import AreaReduction, JpegCompression, LowResolution, ShiftedJpeg
from conservator.degradations.degradation import Degradation
from conservator.degradations.held_out import (
    BlurredReduction,
    EnlargedNoise,
    HexagonBlur,
    ReducedJpeg,
    RowBanding,
    ShakenHand,
    WebpCompression,
)
from conservator.degradations.light import LowLight
from conservator.degradations.noise import CameraNoise, FilmGrain, GaussianNoise, LuminanceNoise, PoissonNoise
from conservator.degradations.sensor import RawNoise, Underexposure
from conservator.degradations.weather import Downpour, Haze, Rain, RoomHaze, Snow, UnevenHaze, VeiledRain
from conservator.kinds import Kind

SAMPLED: tuple[type[Degradation], ...] = (
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
"""What a kind of damage is drawn from. One more changes what every seed draws."""

FURTHER: tuple[type[Degradation], ...] = (
    LuminanceNoise,
    FilmGrain,
    RawNoise,
    ShiftedJpeg,
    LineBlur,
    VeiledRain,
    RoomHaze,
    AreaReduction,
)
"""What trainings draw besides, by name."""

HELD_OUT: tuple[type[Degradation], ...] = (
    EnlargedNoise,
    RowBanding,
    ReducedJpeg,
    WebpCompression,
    ShakenHand,
    HexagonBlur,
    Underexposure,
    BlurredReduction,
)
"""What benches alone may use: no training, no threshold and no draw by kind has seen it."""

DEGRADATIONS = (*SAMPLED, *FURTHER, *HELD_OUT)

BY_NAME: dict[str, type[Degradation]] = {cls.name: cls for cls in DEGRADATIONS}

BY_KIND: dict[Kind, tuple[type[Degradation], ...]] = {
    kind: tuple(cls for cls in SAMPLED if cls.kind == kind) for kind in Kind
}
"""The classes of each kind; the first is the one to sample when only the kind is given."""

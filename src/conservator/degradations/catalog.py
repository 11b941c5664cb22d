"""Every degradation there is. A new one is one line here."""

from __future__ import annotations

from collections.abc import Iterable

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
from conservator.extensions import offered
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
"""What no training may use, and no draw by kind has seen: benches have rows of their own for it, and risk thresholds
are set on it besides the others, since damage in the world is not of the makes that were learned."""

DEGRADATIONS = (*SAMPLED, *FURTHER, *HELD_OUT)

BY_NAME: dict[str, type[Degradation]] = {cls.name: cls for cls in DEGRADATIONS}

DEGRADATION_GROUP = "conservator.degradations"
"""The group of entry points by which installed packages offer degradations: each names a class, or several."""


def known_degradations() -> dict[str, type[Degradation]]:
    """Every degradation by name: those that ship, then those that installed packages offer.

    What is offered is used by its name; no kind is drawn from it. Raises ConservatorError, which names the package, for
    one that cannot be loaded, is no degradation, or has the name of another or of a kind.
    """
    found = dict(BY_NAME)
    for offer in offered(DEGRADATION_GROUP):
        value = offer.value
        for cls in [value] if isinstance(value, type) or not isinstance(value, Iterable) else value:
            if not (isinstance(cls, type) and issubclass(cls, Degradation)):
                raise offer.refused(f"{cls!r} is no degradation; expected a class that derives from Degradation")
            if cls.name in found or cls.name in set(Kind):
                raise offer.refused(f"there is a degradation {cls.name} already")
            found[cls.name] = cls
    return found


BY_KIND: dict[Kind, tuple[type[Degradation], ...]] = {
    kind: tuple(cls for cls in SAMPLED if cls.kind == kind) for kind in Kind
}
"""The classes of each kind; the first is the one to sample when only the kind is given."""

MAKES: dict[Kind, tuple[type[Degradation], ...]] = {
    kind: tuple(cls for cls in DEGRADATIONS if cls.kind == kind) for kind in Kind
}
"""All that ship of each kind: those of BY_KIND, what trainings draw besides, and what is held out from them."""

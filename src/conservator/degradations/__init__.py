"""Damage: ten kinds, their severities, and recipes that spoil an image the same way every time."""

from __future__ import annotations

from conservator.degradations.blur import DefocusBlur, GaussianBlur, LineBlur, MotionBlur
from conservator.degradations.catalog import BY_KIND, BY_NAME, DEGRADATIONS, FURTHER, HELD_OUT, MAKES, SAMPLED
from conservator.degradations.check import check_degradation
from conservator.degradations.codec import AreaReduction, JpegCompression, LowResolution, ShiftedJpeg
from conservator.degradations.degradation import Degradation, Recipe, by_severity, degrade
from conservator.degradations.fields import Range, Seed
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
from conservator.degradations.protocols import (
    MIO_GROUPS,
    RESTORE_R1_SETTINGS,
    RESTOREAGENT_COMBINATIONS,
    RL_RESTORE_PRESETS,
    mio_recipe,
    rl_restore_levels,
    rl_restore_recipe,
)
from conservator.degradations.recipe import load_recipe, parse_recipe, recipe_from_json, recipe_to_json, save_recipe
from conservator.degradations.sensor import RawNoise, Underexposure
from conservator.degradations.weather import Downpour, Haze, Rain, RoomHaze, Snow, UnevenHaze, VeiledRain
from conservator.kinds import NATURE, TAUGHT, Kind, Severity

__all__ = [
    "BY_KIND",
    "BY_NAME",
    "DEGRADATIONS",
    "FURTHER",
    "HELD_OUT",
    "MAKES",
    "MIO_GROUPS",
    "NATURE",
    "RESTOREAGENT_COMBINATIONS",
    "RESTORE_R1_SETTINGS",
    "RL_RESTORE_PRESETS",
    "SAMPLED",
    "TAUGHT",
    "AreaReduction",
    "BlurredReduction",
    "CameraNoise",
    "DefocusBlur",
    "Degradation",
    "Downpour",
    "EnlargedNoise",
    "FilmGrain",
    "GaussianBlur",
    "GaussianNoise",
    "Haze",
    "HexagonBlur",
    "JpegCompression",
    "Kind",
    "LineBlur",
    "LowLight",
    "LowResolution",
    "LuminanceNoise",
    "MotionBlur",
    "PoissonNoise",
    "Rain",
    "Range",
    "RawNoise",
    "Recipe",
    "ReducedJpeg",
    "RoomHaze",
    "RowBanding",
    "Seed",
    "Severity",
    "ShakenHand",
    "ShiftedJpeg",
    "Snow",
    "Underexposure",
    "UnevenHaze",
    "VeiledRain",
    "WebpCompression",
    "by_severity",
    "check_degradation",
    "degrade",
    "load_recipe",
    "mio_recipe",
    "parse_recipe",
    "recipe_from_json",
    "recipe_to_json",
    "rl_restore_levels",
    "rl_restore_recipe",
    "save_recipe",
]

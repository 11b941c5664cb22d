"""The numbers that perception works on, and their names: the order in which networks take them.

The names are stored with the weights of a perception and compared when it is loaded, so that no number is ever read as
another one. A statistic that is new is one name here; perception must then be trained again.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conservator.image import Image, luma
from conservator.kinds import Kind
from conservator.networks.bilateral import SUMMARY
from conservator.perception.perception import GRADED_KINDS
from conservator.tools.classical.basics import block_mean

# of native crops: the mean over them, the value of the calmest one, the value of the busiest one
_LOCAL = [
    "noise_luma_05",
    "noise_luma_25",
    "noise_luma_50",
    "noise_chroma_05",
    "noise_chroma_25",
    "noise_chroma_50",
    "noise_coarse_05",
    "noise_coarse_25",
    "noise_coarse_50",
    "noise_coarse_chroma_05",
    "noise_coarse_chroma_25",
    "noise_coarse_chroma_50",
    "noise_signal_dependence",
    "grid",
    "grid_chroma",
    "vanishing_dct",
    "vanishing_dct_on_grid",
    "vanishing_dct_chroma",
    "band_0",
    "band_1",
    "band_2",
    "band_3",
    "band_slope_0",
    "band_slope_1",
    "band_slope_2",
    "gradient_peak",
    "gradient_peakedness",
    "edge_steepness",
    "ring_0",
    "ring_spread_0",
    "ring_across_0",
    "ring_diagonal_0",
    "ring_1",
    "ring_spread_1",
    "ring_across_1",
    "ring_diagonal_1",
    "ring_2",
    "ring_spread_2",
    "ring_across_2",
    "ring_diagonal_2",
    "ring_3",
    "ring_spread_3",
    "ring_across_3",
    "ring_diagonal_3",
    "ring_4",
    "ring_spread_4",
    "ring_across_4",
    "ring_diagonal_4",
    "ring_5",
    "ring_spread_5",
    "ring_across_5",
    "ring_diagonal_5",
    "autocorrelation_3",
    "autocorrelation_spread_3",
    "autocorrelation_trough_3",
    "autocorrelation_5",
    "autocorrelation_spread_5",
    "autocorrelation_trough_5",
    "autocorrelation_7",
    "autocorrelation_spread_7",
    "autocorrelation_trough_7",
    "autocorrelation_10",
    "autocorrelation_spread_10",
    "autocorrelation_trough_10",
    "autocorrelation_14",
    "autocorrelation_spread_14",
    "autocorrelation_trough_14",
    "autocorrelation_20",
    "autocorrelation_spread_20",
    "autocorrelation_trough_20",
    "line_even_60",
    "line_even_bright_60",
    "line_flat_60",
    "line_even_80",
    "line_even_bright_80",
    "line_flat_80",
    "line_even_95",
    "line_even_bright_95",
    "line_flat_95",
    "line_plain_60",
    "line_plain_bright_60",
    "line_plain_80",
    "line_plain_bright_80",
    "line_plain_95",
    "line_plain_bright_95",
    "line_strength",
    "line_angle",
]
_KERNELS = [
    "line_gain_1",
    "line_misfit_1",
    "line_extent_1",
    "line_shown_1",
    "line_gain_6",
    "line_misfit_6",
    "line_extent_6",
    "line_shown_6",
    "disk_gain_1",
    "disk_misfit_1",
    "disk_extent_1",
    "disk_shown_1",
    "disk_gain_6",
    "disk_misfit_6",
    "disk_extent_6",
    "disk_shown_6",
    "gaussian_gain_1",
    "gaussian_misfit_1",
    "gaussian_extent_1",
    "gaussian_shown_1",
    "gaussian_gain_6",
    "gaussian_misfit_6",
    "gaussian_extent_6",
    "gaussian_shown_6",
]
_LIGHT = [
    "luminance",
    "luminance_deviation",
    "saturation",
    "saturation_deviation",
    "dark_channel",
    "dark_channel_deviation",
    "dark_channel_top",
    "dark_channel_bottom",
    "luminance_trend",
    "local_contrast",
    "black",
    "white",
    "value_02",
    "value_25",
    "value_50",
    "value_75",
    "value_98",
    "dark_channel_02",
    "dark_channel_50",
    "dark_channel_98",
]

OF_THE_WHOLE: tuple[str, ...] = (*_KERNELS, *_LIGHT)
"""Statistics of all crops together, and of the scene."""
STATISTICS: tuple[str, ...] = (
    *(f"{name}{crop}" for name in _LOCAL for crop in ("", "_calm", "_busy")),
    *OF_THE_WHOLE,
)
"""What ``statistics`` measures."""

SCENE = ("brighten_mild", "brighten_dark", "dehaze")
"""The experts that are asked about the whole scene."""
NATIVE = (("derain", "textured"), ("derain", "smooth"), ("deblur_defocus", "textured"))
"""Those that are asked about a native crop, and about which: the most textured one, or a smooth one."""
ASKED = tuple(dict.fromkeys((*SCENE, *(name for name, _ in NATIVE))))
"""All of them; perception must be trained again when one of them is."""
EXPERT_CHANGES: tuple[str, ...] = tuple(
    f"{name}_{place}_{what}"
    for name, place in (*((name, "scene") for name in SCENE), *NATIVE)
    for what in ("size", "direction", "peak", "beside_texture")
)
"""What experts would change in a picture."""

TOLD: tuple[str, ...] = (*STATISTICS, *EXPERT_CHANGES)
"""What is measured before an encoder looks."""
SCENE_SEEN = SUMMARY * len(SCENE)
"""Numbers that the experts of SCENE know of a scene, all together."""


@dataclass(frozen=True)
class Acuity:
    """How much a network perception sees: how many axes of what networks see, and the sides of what they look at.

    The defaults are those that are trained now. With them looking takes 0.58 of the time that it takes with
    FIRST_ACUITY, and of 2,600 samples more axes taught less (docs/results/perception.md).
    """

    axes: int = 48
    """Numbers that are left of what the encoder sees in native crops."""
    scene_axes: int = 16
    """Numbers that are left of what the experts of SCENE know of the overview."""
    crop_side: int = 112
    """Pixels of the middle of a native crop that the encoder looks at; of a single picture, twice as many."""
    native_side: int = 96
    """Pixels of the middle of a native crop that the experts of NATIVE are asked about."""

    @property
    def names(self) -> tuple[str, ...]:
        """The names of all its features, in their order."""
        counts = zip(_BEGINNINGS, (self.axes, self.scene_axes), strict=True)
        return (*TOLD, *(f"{beginning}{axis:03d}" for beginning, count in counts for axis in range(count)))

    @classmethod
    def of(cls, names: Sequence[str], sides: Sequence[int]) -> Acuity:
        """The acuity with as many axes as ``names`` holds, and these sides; its names may still be others."""
        return cls(*(sum(name.startswith(beginning) for name in names) for beginning in _BEGINNINGS), *sides)


_BEGINNINGS = "encoder_", "scene_"
FIRST_ACUITY = Acuity(128, 0, 192, 160)
"""Of the perceptions whose files do not say their sides; so does the one that ships."""


def as_features(measures: Mapping[str, float]) -> Tensor:
    """The statistics in their order, (STATISTICS,) float32. Raises KeyError where one was not measured."""
    return torch.tensor([measures[name] for name in STATISTICS])


@dataclass(frozen=True)
class Measured:
    """A picture (B, 3, H, W) and its features (F,), as an assessment network takes them."""

    image: Image
    features: Tensor


def changes(before: Measured, after: Measured, treated: frozenset[Kind]) -> Tensor:
    """What a treatment changed, (C,): each feature, how far pixels and large areas moved, what it is meant for."""
    return torch.cat([after.features - before.features, change(before.image, after.image, treated)])


def change(before: Image, after: Image, treated: frozenset[Kind]) -> Tensor:
    """How far a treatment moved pixels and large areas, and what it is meant for: (CHANGE,) float32."""
    difference = after - before
    side = min(16, *difference.shape[-2:])
    moved = (difference, block_mean(difference, side), luma(difference))
    return torch.tensor(
        [
            *(math.log10(float(d.square().mean().sqrt()) + 1e-4) for d in moved),
            float(difference.mean()),
            *(float(kind in treated) for kind in (*GRADED_KINDS, Kind.LOW_RESOLUTION)),
        ]
    )


CHANGE: tuple[str, ...] = (
    *("moved", "areas_moved", "luma_moved", "brightened"),
    *(f"treats_{kind}" for kind in (*GRADED_KINDS, Kind.LOW_RESOLUTION)),
)
"""What ``change`` tells."""
CHANGES_BESIDE_FEATURES = len(CHANGE)
"""Numbers that ``changes`` adds to the differences of the features."""


def names_differ(found: Sequence[str], expected: Sequence[str]) -> str:
    """In which way the names of features differ, "found ..., expected ..."; "" where they do not."""
    if tuple(found) == tuple(expected):
        return ""
    if len(found) != len(expected):
        return f"found {len(found)} features, expected {len(expected)}"
    place = next(i for i, (a, b) in enumerate(zip(found, expected, strict=True)) if a != b)
    return f"found {found[place]} as feature {place + 1} of {len(found)}, expected {expected[place]}"

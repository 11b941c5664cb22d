"""The classical tools: the public contract, real gains on real photos, and restraint on what is not damaged."""

from __future__ import annotations

import pytest
import torch

from conservator.degradations import TAUGHT, Kind, degrade, parse_recipe
from conservator.degradations.light import LowLight
from conservator.image import Image
from conservator.metrics.fidelity import psnr
from conservator.resample import bicubic_resize
from conservator.tools import Tool, check_tool
from conservator.tools.classical import CLASSICAL

BY_NAME = {tool.spec.name: tool for tool in CLASSICAL}
GAINS = [  # recipe, tool, dB on the astronaut that a change must not lose
    ("noise:high", "dct_denoise", 6.0),
    ("noise:high", "wavelet_denoise", 5.0),
    ("noise:high", "nlm_denoise", 5.0),
    ("noise:high", "tv_denoise", 4.0),
    ("jpeg:very_high", "dct_dejpeg", 0.5),
    ("jpeg:very_high", "deblock", 0.3),
    ("defocus_blur:high", "wiener_deblur_defocus", 1.5),
    ("defocus_blur:high", "richardson_lucy_defocus", 1.0),
    ("gaussian_blur:high", "wiener_deblur_gaussian", 1.0),
    ("gaussian_blur:high", "richardson_lucy_gaussian", 0.7),
    ("motion_blur:high", "wiener_deblur_motion", 2.0),
    ("motion_blur:high", "richardson_lucy_motion", 2.0),
]


@pytest.mark.parametrize("tool", CLASSICAL, ids=lambda tool: tool.spec.name)
def test_every_tool_holds_the_contract(tool: Tool) -> None:
    check_tool(tool)


@pytest.mark.parametrize(("recipe", "name", "least"), GAINS)
def test_a_tool_gains_on_its_damage(recipe: str, name: str, least: float, astronaut: Image) -> None:
    clean = astronaut[..., 60:316, 130:386]
    damaged = degrade(clean, parse_recipe(recipe, seed=5))
    assert psnr(BY_NAME[name](damaged), clean) > psnr(damaged, clean) + least


@pytest.mark.parametrize(
    ("damage", "name"),
    [(LowLight("linear", 0.45), "stretch_brighten"), (LowLight("shift", 0.18), "shift_brighten")],
)
def test_brightening_undoes_its_kind_of_darkness(damage: LowLight, name: str, astronaut: Image) -> None:
    dark = damage(astronaut)
    assert psnr(BY_NAME[name](dark), astronaut) > psnr(dark, astronaut) + 5


@pytest.mark.parametrize("name", ["gamma_brighten", "retinex_brighten", "clahe_brighten"])
def test_brightening_gains_on_a_dark_photo(name: str, coffee: Image) -> None:
    dark = LowLight("gamma", 0.45)(coffee)
    assert psnr(BY_NAME[name](dark), coffee) > psnr(dark, coffee) + 1


@pytest.mark.parametrize("name", ["lanczos_x4", "lanczos_x2", "backprojection_x4"])
def test_enlarging_beats_bicubic(name: str, astronaut: Image) -> None:
    clean, scale = astronaut[..., 60:316, 130:386], BY_NAME[name].spec.scale
    small = bicubic_resize(clean, 1 / scale)
    assert psnr(BY_NAME[name](small), clean) > psnr(bicubic_resize(small, scale), clean) + 0.1


GENTLE = {*Kind} - {Kind.HAZE, Kind.RAIN, Kind.LOW_LIGHT, Kind.LOW_RESOLUTION}
"""Damage whose tools can tell that there is none."""


@pytest.mark.parametrize("name", [t.spec.name for t in CLASSICAL if t.spec.removes <= GENTLE])
def test_tools_leave_an_undamaged_photo_nearly_alone(name: str, coffee: Image) -> None:
    clean = coffee[..., 60:316, 130:386]
    assert psnr(BY_NAME[name](clean), clean) > 38


def test_every_kind_has_two_tools() -> None:
    for kind in (*TAUGHT, Kind.LOW_RESOLUTION):
        assert sum(kind in tool.spec.removes for tool in CLASSICAL) >= 2, kind


def test_brightening_keeps_hues(astronaut: Image) -> None:
    dark = astronaut * 0.4
    bright = BY_NAME["gamma_brighten"](dark)
    safe = (bright.amax(1, keepdim=True) < 0.99) & (dark.amin(1, keepdim=True) > 0.02)
    before, after = dark / dark.sum(1, keepdim=True), bright / bright.sum(1, keepdim=True)
    assert float(((after - before).abs() * safe).nan_to_num().max()) < 0.01
    assert torch.all(bright >= dark - 1e-6)

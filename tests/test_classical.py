"""The classical tools: the public contract, real gains on real photos, and restraint on what is not damaged."""

from __future__ import annotations

import pytest
import torch

from conservator.degradations import TAUGHT, Kind, degrade, parse_recipe
from conservator.degradations.light import LowLight
from conservator.image import Image
from conservator.metrics.fidelity import psnr
from conservator.pool import LocalPool
from conservator.resample import bicubic_resize
from conservator.tools import Tool, check_tool
from conservator.tools.classical import CLASSICAL
from conservator.tools.classical.deblur import DEBLUR
from conservator.tools.tiling import run_tiled

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


MEASURING = [  # recipe, tool that measures the whole photo and treats its tiles
    ("noise:high", "dct_denoise"),
    ("noise:high", "nlm_denoise"),
    ("jpeg:very_high", "deblock"),
    ("jpeg:very_high", "dct_dejpeg"),
    ("noise:high,jpeg:low", "dct_dejpeg"),
    ("", "gamma_brighten"),
    ("", "stretch_brighten"),
    ("", "shift_brighten"),
]
DEBLURRING = [(f"{tool.spec.name.split('_')[-1]}_blur:high", tool.spec.name) for tool in DEBLUR]


@pytest.mark.parametrize(("recipe", "name"), MEASURING)
def test_tiles_are_treated_as_the_whole_is(recipe: str, name: str, coffee: Image) -> None:
    """What is measured is that of the whole photo, whose halves differ, so no tile may measure for itself."""
    clean = torch.cat([coffee[..., :320, :200], coffee[..., :320, 200:400] * 0.3], -1) * 0.8
    photo = degrade(clean, parse_recipe(recipe, seed=5)) if recipe else clean
    tool = BY_NAME[name]
    fit = tool.fitted(photo)
    with torch.inference_mode():
        whole = fit.restore(photo)
        tiled = run_tiled(fit.restore, photo, tile=192, overlap=tool.spec.overlap)
        by_itself = run_tiled(tool.restore, photo, tile=192, overlap=tool.spec.overlap)
    assert (whole - photo).abs().mean() > 1 / 255
    assert (tiled - whole).abs().max() < 1e-5
    assert torch.equal(tool(photo), whole)  # it fits into one tile, and the bytes are those without tiles
    if recipe != "jpeg:very_high":  # a tile's JPEG traces are those of the whole
        assert (by_itself - whole).abs().max() > 1 / 255


@pytest.mark.parametrize(("recipe", "name"), DEBLURRING)
def test_a_photo_no_larger_than_a_tile_is_deblurred_as_without_tiles(recipe: str, name: str, astronaut: Image) -> None:
    photo = degrade(astronaut[..., 60:316, 130:386], parse_recipe(recipe, seed=5))
    tool = BY_NAME[name]
    with torch.inference_mode():
        whole = tool.restore(photo)
    assert max(photo.shape[-2:]) <= (tool.spec.tile or 0)
    assert torch.equal(tool(photo), whole)
    assert not torch.equal(whole, photo)


@pytest.mark.parametrize("name", ["wiener_deblur_motion", "richardson_lucy_motion"])
def test_one_motion_is_undone_alike_in_all_tiles(name: str, astronaut: Image) -> None:
    """A large photo, whose right part is so smooth that it would not tell the motion by itself."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 512), torch.linspace(0, 1, 512), indexing="ij")
    smooth = (0.3 + 0.3 * x + 0.2 * torch.sin(3 * y)).expand(1, 3, -1, -1).clone()
    smooth[..., 200:204, :] = 0.9  # a wire before the sky, which shows what the motion did
    clean = torch.cat([astronaut, smooth], -1)
    blurred = degrade(clean, parse_recipe("motion_blur:high", seed=5))
    tool = BY_NAME[name]
    fit = tool.fitted(blurred)
    result = tool(blurred)
    assert max(blurred.shape[-2:]) > (tool.spec.tile or 0)
    with torch.inference_mode():
        whole = fit.restore(blurred)
    inner = (..., slice(32, -32), slice(32, -32))
    assert float((result - whole)[inner].abs().mean()) < 0.2 / 255
    assert torch.equal(tool(blurred[..., 600:]), blurred[..., 600:])  # by itself it does not tell
    sky = (..., slice(160, 250), slice(600, 900))
    assert psnr(result[sky], clean[sky]) > psnr(blurred[sky], clean[sky]) + 2


def test_a_large_photo_without_damage_comes_back_as_it_is(astronaut: Image) -> None:
    """Blending tiles would round its pixels, and it would seem to have been changed."""
    large = torch.cat([astronaut, astronaut.flip(-1), astronaut], -1)
    for name in ("wiener_deblur_motion", "deblock", "dct_dejpeg", "gamma_brighten", "stretch_brighten"):
        assert torch.equal(BY_NAME[name](large), large), name


def test_two_blurs_on_two_threads_are_undone_each_by_its_own_kernel(astronaut: Image, coffee: Image) -> None:
    photos = [
        degrade(astronaut[..., :256, 128:384], parse_recipe("motion_blur:high", seed=5)),
        degrade(coffee[..., :256, 128:384], parse_recipe("motion_blur:medium", seed=8)),
    ]
    tool = BY_NAME["wiener_deblur_motion"]
    before = dict(vars(tool))
    alone = [tool(photo) for photo in photos]
    with LocalPool({"one": tool, "two": tool}, max_batch=1) as pool:  # two names, so that two threads call the tool
        calls = [(i, pool.submit(("one", "two")[i], photos[i])) for _ in range(6) for i in range(2)]
        assert all(torch.equal(call.result(), alone[i]) for i, call in calls)
    assert not any(torch.equal(a, photo) for a, photo in zip(alone, photos, strict=True))
    assert vars(tool) == before


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

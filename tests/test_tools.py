"""The tool contract: tiling, padding, memory, the public check, and the README's worked example."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import BoxBlur, Gamma
from hypothesis import given, settings
from hypothesis import strategies as st

from conservator.errors import ConservatorError, ImageError, NameNotFoundError, ToolFailedError
from conservator.image import Image
from conservator.tools import Tool, Toolbox, check_tool, make_toolbox
from conservator.tools.catalog import shipped_names
from conservator.tools.tiling import run_tiled


def blur(radius: int) -> Callable[[Image], Image]:
    def restore(image: Image) -> Image:
        padded = F.pad(image, (radius,) * 4, mode="replicate")
        return F.avg_pool2d(padded, 2 * radius + 1, 1)

    return restore


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(33, 220),
    width=st.integers(33, 220),
    tile=st.integers(64, 130),
    multiple=st.sampled_from([1, 3, 8]),
    seed=st.integers(0, 9),
)
def test_tiled_equals_whole(height: int, width: int, tile: int, multiple: int, seed: int) -> None:
    image = torch.rand(1, 3, height, width, generator=torch.Generator().manual_seed(seed))
    whole = run_tiled(blur(4), image, multiple_of=multiple, tile=None)
    tiled = run_tiled(blur(4), image, multiple_of=multiple, tile=tile, overlap=32)
    # padding at the right and bottom edge reflects, which only the last pixels see
    inner = (..., slice(0, height - 8), slice(0, width - 8))
    assert (whole - tiled)[inner].abs().max() <= 1 / 255


def test_tiled_upscaling_has_no_seams(astronaut: Image) -> None:
    def double(image: Image) -> Image:
        return F.interpolate(image, scale_factor=2, mode="bicubic", align_corners=False)

    whole = run_tiled(double, astronaut, scale=2, tile=None)
    tiled = run_tiled(double, astronaut, scale=2, tile=128, overlap=32)
    assert tiled.shape == (1, 3, 1024, 1024)
    assert (whole - tiled).abs().max() <= 1 / 255


def test_out_of_memory_halves_the_tile(astronaut: Image) -> None:
    sides: list[int] = []

    def hungry(image: Image) -> Image:
        sides.append(max(image.shape[-2:]))
        if max(image.shape[-2:]) > 150:
            torch.zeros(10**14)  # the allocator's own error, whatever it says on this system
        return image * 0.5

    result = run_tiled(hungry, astronaut, tile=512)
    assert torch.allclose(result, astronaut * 0.5, atol=1e-6)
    assert sides[:3] == [512, 256, 128]


def test_out_of_memory_without_tiles_is_a_tool_failure(astronaut: Image) -> None:
    def hungry(image: Image) -> Image:
        raise MemoryError

    with pytest.raises(ToolFailedError, match="not enough memory for an image of 512x512"):
        run_tiled(hungry, astronaut, tile=None)


def test_wrong_results_are_tool_failures(astronaut: Image) -> None:
    with pytest.raises(ToolFailedError, match="not finite"):
        run_tiled(lambda image: image * float("nan"), astronaut)
    with pytest.raises(ToolFailedError, match=r"shape \(1, 3, 256, 512\)"):
        run_tiled(lambda image: image[..., ::2, :], astronaut)


@pytest.mark.parametrize(
    ("bad", "words"),
    [
        (torch.rand(3, 8, 8), "shape"),
        (torch.rand(1, 4, 8, 8), "shape"),
        (torch.rand(1, 3, 8, 8, dtype=torch.float64), "float32"),
        (torch.rand(1, 3, 8, 8) + 1, r"\[0, 1\]"),
        (torch.full((1, 3, 8, 8), float("nan")), r"\[0, 1\]"),
        (torch.rand(1, 3, 0, 8), "empty"),
    ],
)
def test_a_tool_refuses_what_is_no_image(bad: Image, words: str) -> None:
    with pytest.raises(ImageError, match=words):
        Gamma()(bad)


def test_check_tool_accepts_good_tools_and_finds_bad_ones() -> None:
    check_tool(Gamma())
    check_tool(BoxBlur())

    with pytest.raises(AssertionError, match="tile"):
        check_tool(MeanOfAll())
    with pytest.raises(AssertionError, match="in place"):
        check_tool(InPlace())


class MeanOfAll(Tool):
    spec = BoxBlur.spec

    def restore(self, image: Image) -> Image:
        return (image - image.mean((1, 2, 3), keepdim=True) + 0.5).clamp(0, 1)


class InPlace(Tool):
    spec = Gamma.spec

    def restore(self, image: Image) -> Image:
        return image.mul_(0.9)


def test_toolbox_is_ordered_and_helpful(small_toolbox: Toolbox) -> None:
    assert list(small_toolbox) == ["gamma", "box_blur", "broken"]
    assert [spec.name for spec in small_toolbox.only("broken", "gamma").specs] == ["broken", "gamma"]
    with pytest.raises(NameNotFoundError, match="did you mean gamma"):
        small_toolbox["gama"]
    with pytest.raises(ValueError, match="twice: gamma"):
        Toolbox(Gamma(), Gamma())


def test_a_tool_of_two_toolboxes_is_there_once() -> None:
    assert set(make_toolbox("conservator+classical")) == {*make_toolbox("conservator"), *make_toolbox("classical")}


def test_a_tool_with_the_name_of_another_is_refused_in_a_sentence(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CONSERVATOR_HOME", str(tmp_path))
    (tmp_path / "tools").mkdir()
    record = {"name": "derain", "removes": ["rain"], "network": "unet", "description": "Mine.", "type": "expert"}
    weights = {"name": "derain.safetensors", "sha256": "0" * 64}
    (tmp_path / "tools" / "derain.json").write_text(json.dumps(record | {"weights": weights}))
    with pytest.raises(ConservatorError, match="conservator and user both have a tool derain"):
        make_toolbox("conservator+user")
    assert {"derain", "tv_denoise", "rl_noise_1"} <= shipped_names()

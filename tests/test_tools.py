"""The tool contract: tiling, padding, memory, the public check, and the README's worked example."""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from conftest import BoxBlur, Gamma
from hypothesis import given, settings
from hypothesis import strategies as st

from conservator.errors import ConservatorError, ImageError, NameNotFoundError, ToolFailedError
from conservator.image import Image, to_image
from conservator.tools import Tool, Toolbox, check_tool, make_toolbox
from conservator.tools.shipped import shipped_names
from conservator.tools.tiling import run_tiled


def blur(radius: int) -> Callable[[Image], Image]:
    def restore(image: Image) -> Image:
        padded = F.pad(image, (radius,) * 4, mode="replicate")
        return F.avg_pool2d(padded, 2 * radius + 1, 1)

    return restore


@settings(max_examples=25)
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


class Centre(Tool):
    """Subtracts what the whole photo's mean exceeds 0.4 by, as it should be done: measured once, on a copy."""

    spec = replace(Gamma.spec, name="centre", tile=64)

    def __init__(self) -> None:
        self._mean = 0.4

    def fitted(self, image: Image) -> Tool:
        assert len(image) == 1
        fit = copy.copy(self)
        fit._mean = float(image.mean())
        return fit

    def restore(self, image: Image) -> Image:
        return (image - self._mean + 0.4).clamp(0, 1)


class CentreInPlace(Centre):
    """Keeps what it measured in the tool that all threads share."""

    def fitted(self, image: Image) -> Tool:
        self._mean = float(image.mean())
        return self


class CentreInPassing(Centre):
    """Hands out a copy, but measures into the shared tool first."""

    def fitted(self, image: Image) -> Tool:
        self._mean = float(image.mean())
        return copy.copy(self)


class CentreInAList(Centre):
    """Hands out a copy that shares a list with the tool."""

    def __init__(self) -> None:
        self._means = [0.4]

    def fitted(self, image: Image) -> Tool:
        self._means[0] = float(image.mean())
        return copy.copy(self)

    def restore(self, image: Image) -> Image:
        return (image - self._means[0] + 0.4).clamp(0, 1)


class CentreEachTile(Centre):
    """Measures again in each tile."""

    def restore(self, image: Image) -> Image:
        return (image - image.mean((1, 2, 3), keepdim=True) + 0.4).clamp(0, 1)


class CentreOfAnother(Centre):
    def fitted(self, image: Image) -> Tool:
        return Gamma()


class Unhashed(Gamma):
    weights_sha256 = "abc"


def test_what_is_fitted_to_the_whole_photo_is_measured_once(astronaut: Image) -> None:
    dark, tool = astronaut * 0.8, Centre()
    photo = torch.cat([dark[..., :256], dark[..., 256:] * 0.3], -1)  # whose tiles differ in what would be measured
    result = tool(photo)
    assert (result - (photo - photo.mean() + 0.4).clamp(0, 1)).abs().max() < 1e-5
    batch = torch.cat([photo[..., :100, :100], photo[..., 300:400, 300:400]])
    assert torch.equal(tool(batch), torch.cat([tool(item[None]) for item in batch]))
    assert tool._mean == 0.4


@pytest.mark.parametrize(
    ("tool", "words"),
    [
        (CentreInPlace(), "fitted changed the tool"),
        (CentreInPassing(), "fitted changed the tool"),
        (CentreInAList(), "what was fitted to a photo changed with the next photo"),
        (CentreEachTile(), "tiled and whole differ"),
        (CentreOfAnother(), "fitted changed the name"),
        (Unhashed(), "weights_sha256 is 'abc'"),
    ],
)
def test_check_tool_finds_tools_that_measure_wrongly(tool: Tool, words: str) -> None:
    check_tool(Centre())
    with pytest.raises(AssertionError, match=words):
        check_tool(tool)


def test_photos_on_two_threads_are_measured_each_for_itself(astronaut: Image, coffee: Image) -> None:
    tool = Centre()
    photos = [astronaut * 0.7, coffee]
    alone = [tool(photo) for photo in photos]
    together: list[list[Image]] = [[], []]

    def restore(which: int) -> None:
        together[which] = [tool(photos[which]) for _ in range(20)]

    threads = [threading.Thread(target=restore, args=(i,)) for i in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for expected, results in zip(alone, together, strict=True):
        assert len(results) == 20
        assert all(torch.equal(expected, result) for result in results)


class Mistaken(Tool):
    """Its own code makes an image that is none; another measures more than memory holds."""

    spec = replace(Gamma.spec, name="mistaken")

    def fitted(self, image: Image) -> Tool:
        if image.shape[-1] > 300:
            torch.zeros(10**14)  # the allocator's own error, whatever it says on this system
        return self

    def restore(self, image: Image) -> Image:
        return to_image(image[0].numpy())


def test_only_the_image_that_was_given_is_the_callers_mistake(astronaut: Image) -> None:
    with pytest.raises(ToolFailedError, match="mistaken failed: ImageError: expected an array of shape"):
        Mistaken()(astronaut[..., :64, :64])
    with pytest.raises(ToolFailedError, match="not enough memory for an image of 512x512"):
        Mistaken()(astronaut)
    with pytest.raises(ImageError, match="mistaken takes one image, got 2"):
        Mistaken()(astronaut, astronaut)


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

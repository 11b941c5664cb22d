"""Enumeration: counts against the formula, scores against running each toolchain alone, memory, ranks."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from conftest import BoxBlur, Gamma

from conservator.degradations import Kind, degrade, parse_recipe
from conservator.errors import ConservatorError, ToolFailedError
from conservator.evaluation import enumerate as enumerate_module
from conservator.evaluation.enumerate import AnyUpTo, EachKindOnce, Enumeration, enumerate_toolchains
from conservator.image import Image
from conservator.metrics import make_metric
from conservator.pool import LocalPool
from conservator.tools import Tool, Toolbox, ToolSpec, make_toolbox

NOISE, JPEG, DARK = Kind.NOISE, Kind.JPEG, Kind.LOW_LIGHT


def walk(space: EachKindOnce | AnyUpTo) -> int:
    def below(toolchain: tuple[str, ...]) -> int:
        return 1 + sum(below((*toolchain, name)) for name in space.following(toolchain))

    return below(())


@pytest.mark.parametrize("tools", [(1,), (3, 2), (3, 2, 1), (3, 2, 1, 2)])
def test_the_formula_counts_every_toolchain(tools: tuple[int, ...]) -> None:
    kinds = (NOISE, JPEG, DARK, Kind.RAIN)
    treats = {f"t{k}{i}": frozenset({kinds[k]}) for k, number in enumerate(tools) for i in range(number)}
    space = EachKindOnce(treats)
    assert space.count() == walk(space)
    by_hand = sum(math.prod(chosen) for j in range(len(tools) + 1) for chosen in itertools.permutations(tools, j))
    assert space.count() == by_hand


def test_any_sequence_up_to_a_length() -> None:
    space = AnyUpTo(("a", "b", "c"), 3)
    assert space.count() == walk(space) == 1 + 3 + 9 + 27


def test_a_tool_for_two_kinds_treats_both() -> None:
    space = EachKindOnce({"both": frozenset({NOISE, JPEG}), "noise": frozenset({NOISE}), "dark": frozenset({DARK})})
    assert space.following(("both",)) == ("dark",)
    assert space.following(("noise",)) == ("dark",)
    with pytest.raises(ConservatorError, match="one kind each"):
        space.count()


@pytest.fixture(scope="module")
def toolbox() -> Toolbox:
    return make_toolbox("classical").only(
        "wavelet_denoise", "tv_denoise", "deblock", "gamma_brighten", "clahe_brighten"
    )


@pytest.fixture(scope="module")
def damaged(request: pytest.FixtureRequest) -> tuple[Image, Image]:
    clean = request.getfixturevalue("coffee")[..., 100:196, 200:328].contiguous()
    return degrade(clean, parse_recipe("dark,noise,jpeg", 1)), clean


@pytest.mark.slow
@pytest.mark.parametrize("memory", [1, 2**30])
def test_every_toolchain_scores_as_it_does_alone(toolbox: Toolbox, damaged: tuple[Image, Image], memory: int) -> None:
    image, clean = damaged
    space = EachKindOnce.of(toolbox.specs, frozenset({NOISE, JPEG, DARK}))
    seen: list[int] = []
    with LocalPool(toolbox, max_batch=1) as pool:  # a batch rounds otherwise, and what makes one depends on the clock
        found = enumerate_toolchains(image, clean, space, pool, memory=memory, progress=seen.append)
    assert len(found.toolchains) == space.count() == seen[-1]
    assert found.toolchains[0] == ()
    assert 0 < found.calls <= len(found.toolchains) - 1
    for toolchain, row in zip(found.toolchains, found.scores, strict=True):
        result = image
        for name in toolchain:
            result = toolbox[name](result)
        assert row.tolist() == [make_metric(name).score(result, clean) for name in found.metrics]


def test_a_failing_tool_fails_its_branch_only(coffee: Image) -> None:
    class Fails(Tool):
        spec = ToolSpec("fails", frozenset({NOISE}), "Fails on a dark picture.", "none", "Apache-2.0")

        def restore(self, image: Image) -> Image:
            if float(image.mean()) < 0.6:
                raise ToolFailedError("too dark")
            return image

    image = coffee[..., :64, :64].contiguous() * 0.5
    toolbox = Toolbox(Gamma(), Fails(), BoxBlur())
    with LocalPool(toolbox) as pool:
        found = enumerate_toolchains(image, image, AnyUpTo(("gamma", "fails"), 2), pool, metrics=("psnr",))
    failed = {t for t, value in zip(found.toolchains, found.column("psnr"), strict=True) if math.isnan(value)}
    assert failed == {("fails",), ("fails", "gamma"), ("fails", "fails"), ("gamma", "fails")}
    assert len(found.toolchains) == 7


def test_objectives_name_the_metrics_at_hand() -> None:
    scores = np.array([[20.0, 0.5], [22.0, 0.6], [24.0, 0.7], [math.nan, math.nan]])
    found = Enumeration(((), ("a",), ("b",), ("c",)), ("psnr", "ssim"), scores, 3)
    values, used = found.objective("balanced")
    assert used == ("psnr", "ssim")
    assert np.argsort(values[:3]).tolist() == [0, 1, 2]
    assert values[:3].sum() == pytest.approx(0)
    assert math.isnan(values[3])
    assert found.percentile(("b",), values) == 1
    assert found.percentile(("a",), values) == 0.5
    assert found.percentile((), values) == 0
    with pytest.raises(KeyError):
        found.percentile(("d",), values)


def test_a_metric_without_a_reference_is_refused(coffee: Image) -> None:
    with LocalPool(Toolbox(Gamma())) as pool, pytest.raises(ConservatorError, match="piqe"):
        enumerate_toolchains(coffee, coffee, AnyUpTo(("gamma",), 1), pool, metrics=("piqe",))


def test_equal_pictures_are_scored_once(coffee: Image, monkeypatch: pytest.MonkeyPatch) -> None:
    class Nothing(Tool):
        spec = ToolSpec("nothing", frozenset({NOISE}), "Does nothing.", "none", "Apache-2.0")

        def restore(self, image: Image) -> Image:
            return image

    scored: list[Image] = []

    def counting(image: Image, *others: object) -> tuple[float, ...]:
        scored.append(image)
        return (0.0,)

    monkeypatch.setattr(enumerate_module, "_scores", counting)
    image = coffee[..., :64, :64].contiguous()
    with LocalPool(Toolbox(Nothing())) as pool:
        found = enumerate_toolchains(image, torch.rand_like(image), AnyUpTo(("nothing",), 3), pool, metrics=("psnr",))
    assert len(found.toolchains) == 4
    assert len(scored) == 1

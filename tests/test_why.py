"""Why agents: panels count what they say they count, on tools whose effect is known; and what a large planner needs."""

from __future__ import annotations

from collections.abc import Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import get_args

import numpy as np
import pytest
import torch
from conftest import BoxBlur, Gamma
from PIL import Image as PillowImage
from skimage import data
from typer.testing import CliRunner

from conservator.apps.cli import app
from conservator.apps.cli.bench_why import Panel
from conservator.apps.strips import save_strips
from conservator.errors import ConservatorError
from conservator.evaluation import why
from conservator.evaluation.why import PANELS, Bench, Strip
from conservator.image import Image
from conservator.kinds import Kind
from conservator.metrics.fidelity import psnr
from conservator.pool import LocalPool
from conservator.tools import Tool, Toolbox, ToolSpec
from conservator.training.planner.needs import SHAPES, estimate_needs, needs_table
from conservator.training.planner.orders import DryRunOrder

ROOT = Path(__file__).resolve().parents[1]


class Named(Tool):
    """A tool for some kinds that brings a picture a part of the way to another one: how far is known."""

    def __init__(self, name: str, kinds: set[Kind], gamma: float) -> None:
        self.spec = ToolSpec(name, frozenset(kinds), "For a test.", "none", "Apache-2.0")
        self._gamma = gamma

    def restore(self, image: Image) -> Image:
        return image.clamp(0, 1) ** self._gamma


KINDS = (Kind.NOISE, Kind.JPEG, Kind.RAIN, Kind.HAZE, Kind.MOTION_BLUR, Kind.LOW_LIGHT)
TOOLS = Toolbox(
    *(Named(f"one_{kind}", {kind}, 1 + 0.02 * place) for place, kind in enumerate(KINDS)),
    Named("two_noise", {Kind.NOISE}, 0.9),
    BoxBlur(),
    Named("generalist", set(KINDS), 0.97),
)


@pytest.fixture(scope="module")
def bench(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    folder = tmp_path_factory.mktemp("photos")
    for name, top in (("a.png", 0), ("b.png", 80)):
        PillowImage.fromarray(data.coffee()[top : top + 64, 100:180]).save(folder / name)
    with LocalPool(TOOLS, max_batch=1) as pool:
        yield Bench(sorted(folder.iterdir()), TOOLS, pool)


def test_a_gain_is_what_the_toolchain_adds(bench: Bench) -> None:
    damaged = bench.clean[1] * 0.8
    expected = psnr(TOOLS["two_noise"](TOOLS["generalist"](damaged)), bench.clean[1]) - psnr(damaged, bench.clean[1])
    assert bench.gain(1, damaged, ("generalist", "two_noise")) == pytest.approx(expected)
    assert bench.gain(1, damaged, ()) == 0
    assert "generalist" not in bench.for_kind(Kind.NOISE)
    assert bench.usual(Kind.NOISE) in bench.for_kind(Kind.NOISE)
    assert bench.usual(Kind.HAZE) == "one_haze"


@pytest.mark.parametrize("name", sorted(PANELS))
def test_every_panel_fills_its_table_and_shows_pictures(name: str, bench: Bench, tmp_path: Path) -> None:
    shown = PANELS[name](bench)
    for grid in shown.grids:
        assert grid.rows
        assert all(len(row) == len(grid.head) and all(row) for row in grid.rows)
    assert shown.strips
    assert all(image.shape[-2:] == (64, 80) for strip in shown.strips for _, image in strip.pictures)
    captions = [caption for caption, _ in shown.strips[0].pictures]
    assert captions[0] == "damaged"
    assert captions[-1] == "undamaged"
    save_strips(shown.strips, tmp_path / "panel.png")
    with PillowImage.open(tmp_path / "panel.png") as sheet:
        assert sheet.width > 80 * 3
        assert sheet.height > 64 * len(shown.strips)


def test_the_best_order_is_the_best_of_all(bench: Bench) -> None:
    (grid,) = why.orders(bench).grids
    row = next(row for row in grid.rows if row[1] == "6")
    best, usual, mean, worst, apart = (float(cell) for cell in row[2:])
    assert best >= usual >= mean >= worst
    assert apart == pytest.approx(best - worst, abs=0.011)
    (patterns,) = why.patterns(bench).grids
    assert [line[2] for line in patterns.rows if line[1].startswith("1 of")] == ["2 of 2"] * sum(
        line[1].startswith("1 of") for line in patterns.rows
    )


def test_the_command_offers_the_panels() -> None:
    assert get_args(Panel) == tuple(PANELS)


def test_what_a_panel_needs_is_said_before_any_work(tmp_path: Path) -> None:
    with LocalPool(Toolbox(Gamma()), max_batch=1) as pool:
        with pytest.raises(ConservatorError, match="generalist"):
            Bench([tmp_path / "a.png"], Toolbox(Gamma()), pool)
        with pytest.raises(ConservatorError, match="no photos"):
            Bench([], TOOLS, pool)


def test_strips_keep_pictures_as_they_are(tmp_path: Path) -> None:
    image = torch.rand(1, 3, 20, 30, generator=torch.Generator().manual_seed(0))
    save_strips([Strip("title", (("a", image), ("b", 1 - image)))], tmp_path / "strip.png")
    with PillowImage.open(tmp_path / "strip.png") as sheet:
        pixels = np.asarray(sheet)
    own = (image[0].permute(1, 2, 0) * 255).round().byte().numpy()
    places = [
        (top, left)
        for top in range(pixels.shape[0] - 19)
        for left in range(pixels.shape[1] - 29)
        if (pixels[top, left] == own[0, 0]).all() and (pixels[top : top + 20, left : left + 30] == own).all()
    ]
    assert len(places) == 1


# --- a large planner --------------------------------------------------------------------------------------------------


def test_shapes_have_about_the_parameters_that_their_names_say() -> None:
    for name, shape in SHAPES.items():
        assert shape.parameters / 1e9 == pytest.approx(float(name[:-1]), rel=0.15)
        needs = estimate_needs(shape)
        assert needs.weights < needs.adapters < needs.whole
        assert estimate_needs(shape, batch=8).adapters > needs.adapters
        assert estimate_needs(shape, questions=40_000).hours == pytest.approx(2 * needs.hours)
        assert 0.001 < shape.adapter(16) / shape.parameters < 0.02
        assert shape.adapter(32) == pytest.approx(2 * shape.adapter(16))


def test_the_guide_quotes_the_estimate() -> None:
    assert "\n".join(needs_table()) in (ROOT / "docs" / "mllm.md").read_text("utf-8")


@pytest.mark.slow
@pytest.mark.skipif(find_spec("trl") is None, reason="needs the extra: pip install 'conservator[sft]'")
def test_the_recipe_of_a_large_planner_runs_from_photos_to_a_plan(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    PillowImage.fromarray(data.coffee()[:240, :320]).save(photos / "coffee.png")
    out = tmp_path / "out"
    command = ["train", "dry-run", "--photos", str(photos), "-o", str(out), "--count", "1", "--steps", "1"]
    done = CliRunner().invoke(app, command)
    assert done.exit_code == 0, done.output
    assert "4. for coffee.png they plan: " in done.output
    assert "\n".join(needs_table()) in done.output
    assert (out / "sft" / "model" / "adapter_model.safetensors").exists()
    assert DryRunOrder(photos).count == 2

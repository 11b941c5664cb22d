"""Measured exploration and compared trainings, at a tiny size: what is counted, what is paired, what goes on."""

from __future__ import annotations

import json
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from planner_lessons import SIZE
from skimage import data as photos
from typer.testing import CliRunner

from conservator.apps.cli import app
from conservator.errors import ConservatorError, NameNotFoundError
from conservator.evaluation.intervals import ratio_cell
from conservator.kinds import Kind
from conservator.perception.perception import Blind
from conservator.pool import LocalPool
from conservator.session import Session
from conservator.tools import make_toolbox
from conservator.training.data.recipes import severities

if find_spec("transformers") is None:
    pytest.skip("needs the extra: pip install 'conservator[mllm]'", allow_module_level=True)

from conservator.policies.dialects import ToolDialect
from conservator.training.planner.comparing import (
    BEFORE,
    ComparedRewards,
    left_out_grid,
    normalised_gain,
    reward_grids,
)
from conservator.training.planner.exploration import Explored, exploration_grids, short_names
from conservator.training.planner.exploring import only_pair, without_pairs
from conservator.training.planner.nano import new_nano
from conservator.training.planner.trials import Tried


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with random weights that calls the classical tools."""
    dialect, toolbox = ToolDialect(), make_toolbox("classical")
    start = Session(torch.rand(1, 3, 32, 32), toolbox, LocalPool(toolbox), Blind()).observe()
    texts = [message.text for message in dialect.ask(start, "balanced")]
    texts += [str(function).replace("'", '"') for function in dialect.functions(start)]
    folder = tmp_path_factory.mktemp("tiny")
    tiny = new_nano(texts, **SIZE)
    tiny.network.eval()
    tiny.save(folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def album(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two clean photos."""
    folder = tmp_path_factory.mktemp("photos")
    for name, picture in (("coffee", photos.coffee()), ("cat", photos.chelsea())):
        PillowImage.fromarray(picture[:240, :240]).save(folder / f"{name}.png")
    return folder


def command(*words: object) -> str:
    result = CliRunner().invoke(app, [str(word) for word in words], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def tried(crop: int, called: dict[str, int] | None = None, **values: float) -> Tried:
    return Tried(crop, f"photo{crop}", {"harm": 0.0, "cost": -1.0, **values}, called or {})


def test_damage_is_drawn_without_pairs_or_of_one_alone() -> None:
    rng = np.random.default_rng(0)
    draw = without_pairs(("noise+jpeg", "rain+noise"))
    drawn = [severities(draw(rng)).keys() for _ in range(200)]
    assert not any({Kind.NOISE, Kind.JPEG} <= kinds or {Kind.NOISE, Kind.RAIN} <= kinds for kinds in drawn)
    assert any(Kind.NOISE in kinds for kinds in drawn)
    assert any(Kind.JPEG in kinds for kinds in drawn)
    assert all(severities(only_pair("haze+noise")(rng)).keys() == {Kind.HAZE, Kind.NOISE} for _ in range(10))
    with pytest.raises(NameNotFoundError, match="noise"):
        only_pair("haze+niose")


def test_shares_of_a_control_have_an_interval_by_photo() -> None:
    rng = np.random.default_rng(0)
    control = rng.uniform(2, 4, 40)
    cell = ratio_cell(0.8 * control, control, [str(i) for i in range(40)])
    assert cell == "80% (80, 80)"
    noisy = ratio_cell(0.8 * control + rng.normal(0, 1, 40), control, [str(i) for i in range(40)])
    low, high = (float(x) for x in noisy[noisy.index("(") + 1 : -1].split(","))
    assert low < 80 < high
    assert ratio_cell(control, -control, ["a"] * 40) == ""


def test_tables_of_exploration_count_calls_and_pair_crops() -> None:
    varied = {"trajectories": 3.0, "orders": 2.0, "tools": 1.0}
    drawn = [tried(i, {"a": 3, "b": 1}, psnr=1.0, **varied) for i in range(2)]
    decided = [tried(0, psnr=5.0), tried(1, psnr=3.0)]
    explored = Explored(drawn, decided, {"a": [tried(1, psnr=1.0)], "b": [tried(0, psnr=5.5), tried(1, psnr=3.5)]})
    rollouts, calls, worth = exploration_grids({"tiny": explored}, ("psnr",))
    assert rollouts.rows == (("tiny", "2", "3.00", "2.00", "1.00", "+1.000", "+0.000", "1.00"),)
    assert calls.rows == (("a", "75.0%"), ("b", "25.0%"))
    assert worth.rows == (("a", "1", "+2.000"), ("b", "2", "-0.500"))  # of the first only one crop is known
    assert short_names(["out/plain/model", "out/more/model"]) == {
        "out/plain/model": "plain/model",
        "out/more/model": "more/model",
    }


def test_tables_of_rewards_mark_what_is_not_paid_and_compare_with_the_first() -> None:
    gains = {BEFORE: (0.0, 0.0), "adaptive": (2.0, 0.2), "static": (3.0, 0.1)}
    every = {name: [tried(i, psnr=a + i, ssim=b) for i in range(2)] for name, (a, b) in gains.items()}
    found = ComparedRewards(every, {})
    whole, beside = reward_grids(found, ("psnr", "ssim"), "ssim")
    assert whole.head[2:4] == ("psnr", "ssim (not paid)")
    assert beside.rows == (
        ("adaptive less static", "2", "-1.000", "+0.100"),
        ("adaptive less before", "2", "+2.000", "+0.200"),
    )
    mean = {name: normalised_gain(found, name, ("psnr", "ssim")).mean() for name in gains}
    assert mean["adaptive"] > mean["static"] > mean[BEFORE]  # a deviation of SSIM counts as much as one of PSNR
    grid = left_out_grid({"rain+noise": (every["adaptive"], every["static"]), "x+y": (every[BEFORE], every["static"])})
    assert [row[-1] for row in grid.rows] == ["71%", "14%", "43%"]


@pytest.mark.slow
def test_exploration_by_command_goes_on(checkpoint: Path, album: Path, tmp_path: Path) -> None:
    order = ("bench", "exploration", "--photos", album, "--model", checkpoint, "-o", tmp_path, "--crops", 2)
    order += ("--rollouts", 3, "--longest", 2, "--toolbox", "classical")
    command(*order, "--worth")
    told = (tmp_path / "summary.md").read_text()
    assert "### Rollouts of one crop" in told
    assert "What is lost without a tool" in told
    lines = (tmp_path / "trials.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["crop"] for row in rows[:2]] == [0, 1]
    withheld = {row["key"].split(" ")[2] for row in rows if row["key"].startswith("decided")} - {""}
    assert withheld == {tool for row in rows[:2] for tool in row["called"]}
    for row in rows:
        assert row["key"].split(" ")[-1] not in row["called"]  # what is withheld cannot be called
    assert "<svg" in (tmp_path / "report.html").read_text()
    (tmp_path / "trials.jsonl").write_text("".join(line + "\n" for line in lines[:-1]))
    command(*order, "--worth")
    assert (tmp_path / "summary.md").read_text() == told
    assert (tmp_path / "trials.jsonl").read_text().splitlines() == lines
    with pytest.raises(ConservatorError, match="longest"):
        CliRunner().invoke(app, [str(w) for w in (*order, "--longest", 3)], catch_exceptions=False)


@pytest.mark.slow
def test_rewards_are_compared_by_command(checkpoint: Path, album: Path, tmp_path: Path) -> None:
    tested, out = tmp_path / "tested", tmp_path / "out"
    tested.mkdir()
    PillowImage.fromarray(photos.rocket()[:240, :240]).save(tested / "rocket.png")
    order = ("bench", "rewards", "--photos", album, "--model", checkpoint, "-o", out, "--tested", tested)
    order += ("--tried", 2, "--steps", 1, "--crops", 1, "--starts", 1, "--rollouts", 2, "--longest", 1)
    order += ("--held-out", 1, "--toolbox", "classical", "--weightings", "adaptive", "--weightings", "gdpo")
    told = command(*order)
    assert "adaptive less gdpo" in told
    assert "ssim (not paid)" in told
    assert {path.name for path in out.iterdir()} >= {"adaptive", "gdpo", "tested", "summary.md", "report.html"}
    with pytest.raises(NameNotFoundError, match="gpdo"):
        command(*order[:-1], "gpdo")
    with pytest.raises(ConservatorError, match=r"2 photos of .* are among those that train"):
        command(*order, "--tested", album)

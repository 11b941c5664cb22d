"""The one table of all policies: a line for each policy, toolbox and risk, from results that resume."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from PIL import Image as PillowImage
from skimage import data
from typer.testing import CliRunner

from conservator.apps.cli import app
from conservator.degradations import MIO_GROUPS
from conservator.errors import ConservatorError
from conservator.evaluation.every_policy import MeasuredWith, policies_table
from conservator.evaluation.rows import BenchmarkRow

ROW = BenchmarkRow(
    group="A",
    combination="noise",
    photo="a.png",
    policy="greedy",
    toolchain="denoise_light",
    calls=4,
    treatments=1,
    examining=0.1,
    deciding=0.2,
    treating=0.3,
    scores={"psnr_in": 20.0, "psnr": 22.0},
)


def test_the_risks_of_a_policy_stand_below_each_other_and_what_is_held_to_none_once() -> None:
    lowered = replace(ROW, photo="b.png", scores={"psnr_in": 20.0, "psnr": 19.0})
    oracle, untouched = replace(ROW, policy="oracle"), replace(ROW, policy="none", toolchain="")
    careful = replace(ROW, toolchain="", scores={"psnr_in": 20.0, "psnr": 20.0})
    table = policies_table(
        {
            MeasuredWith("conservator", 0.02): [untouched, careful, oracle],
            MeasuredWith("conservator", 1): [ROW, lowered],
            MeasuredWith("mine", 1): [replace(ROW, policy="dqn")],
        }
    )
    assert [row[:3] for row in table.rows] == [
        ("none", "conservator", ""),
        ("greedy", "conservator", "0.02"),
        ("greedy", "conservator", "1"),
        ("oracle", "conservator", ""),
        ("dqn", "mine", "1"),
    ]
    cells = dict(zip(table.head, table.rows[2], strict=True))
    assert (cells["cases"], cells["gain, dB (95 % CI)"][:5], cells["0.1 dB worse"][:5]) == ("2", "+0.50", "50.0%")
    assert (cells["calls"], cells["deciding, s"], cells["all, s"]) == ("4.0", "0.20", "0.60")


def test_the_command_measures_every_toolbox_at_every_risk_and_resumes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conservator.evaluation.cases.MIO_GROUPS", {"A": MIO_GROUPS["A"][:2]})  # of sixteen
    folder = tmp_path / "photos"
    folder.mkdir()
    PillowImage.fromarray(data.coffee()[100:196, 200:296]).save(folder / "coffee.png")
    asked = ["bench", "policies", "--photos", str(folder), "-o", str(tmp_path / "out")]
    asked += ["--policies", "none,predefined", "--entry", "classical=none,rules"]
    asked += ["--entry", "conservator=random_both"]
    first = CliRunner().invoke(app, asked)
    assert first.exit_code == 0, first.output
    assert "4/4" in first.output
    assert "2/2" in first.output
    written = (tmp_path / "out" / "policies.md").read_text()
    lines = [line.split(" | ")[:3] for line in written.splitlines() if line.startswith("| ")][1:]
    assert [[cell.strip("| ") for cell in line] for line in lines] == [
        ["none", "conservator", ""],
        ["predefined", "conservator", ""],
        ["random_both", "conservator", ""],
        ["none", "classical", ""],
        ["rules", "classical", "0.02"],
        ["rules", "classical", "1"],
    ]
    folders = sorted(path.parent.name for path in (tmp_path / "out").glob("*/results.csv"))
    assert folders == ["classical_0.02", "classical_1", "conservator_0.02"]
    assert "--entry classical=none,rules --entry conservator=random_both --risks 0.02,1" in written
    again = CliRunner().invoke(app, asked)
    assert "4/4" not in again.output  # nothing is measured twice
    assert (tmp_path / "out" / "policies.md").read_text() == written


@pytest.mark.parametrize(
    ("options", "said"),
    [
        (["--risks", "0.02,2"], "--risks 0.02,2 are no risks above 0"),
        (["--risks", "much"], "--risks much are no risks above 0"),
        (["--entry", "dqn:compact"], "--entry dqn:compact names no toolbox and policy; say rl-restore:compact="),
    ],
)
def test_what_cannot_be_measured_is_refused_before_any_work(tmp_path: Path, options: list[str], said: str) -> None:
    found = CliRunner().invoke(
        app, ["bench", "policies", "--photos", str(tmp_path), "-o", str(tmp_path / "o"), *options]
    )
    assert isinstance(found.exception, ConservatorError)
    assert said in str(found.exception)
    assert not (tmp_path / "o").exists()

"""The benchmark of harmful steps: what harms is found by the reference, what policies do about it is told truly."""

from __future__ import annotations

import csv
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image as PillowImage
from skimage import data
from test_bench import cells
from test_cli import conservator

from conservator.degradations import MIO_GROUPS, degrade, parse_recipe
from conservator.errors import ConservatorError, NameNotFoundError
from conservator.evaluation.cases import make_cases
from conservator.evaluation.rollback import (
    HARMFUL,
    NEAR,
    Repair,
    harmful_step,
    measure_repairs,
    repair_summary,
    repeated,
    rolled_back,
)
from conservator.evaluation.rows import BenchmarkSettings, read_rows
from conservator.image import Image
from conservator.metrics.fidelity import psnr
from conservator.perception import Blind, StatisticalPerception
from conservator.pool import LocalPool, MemoPool, Pool
from conservator.session import Action, Apply, Decision, Rollback, Session, Trajectory
from conservator.tools import make_toolbox

EYE = StatisticalPerception.load()
TOOLBOX = make_toolbox("classical").only("shift_brighten", "deblock", "wavelet_denoise", "lanczos_x2")
SETTINGS = BenchmarkSettings("rollback", "photos", "classical", "statistics", 0, risk=1.0, metrics=("psnr",))


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with MemoPool(LocalPool(TOOLBOX, max_batch=1)) as pool:
        yield pool


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("photos")
    PillowImage.fromarray(data.coffee()[:128, :160]).save(path / "coffee.png")
    PillowImage.fromarray(data.astronaut()[:128, 160:288]).save(path / "astronaut.png")
    return path


def test_a_harmful_step_costs_a_decibel_and_keeps_the_size(coffee: Image, pool: Pool) -> None:
    photo = coffee[..., :128, :160]
    noisy = degrade(photo, parse_recipe("noise:low", 1))
    harm = harmful_step(noisy, photo, TOOLBOX, pool)
    assert harm is not None
    assert TOOLBOX[harm](noisy).shape == noisy.shape
    assert psnr(noisy, photo) - psnr(TOOLBOX[harm](noisy), photo) >= HARMFUL
    assert harmful_step(noisy, photo, TOOLBOX, pool) == harm
    brightened = TOOLBOX["shift_brighten"](photo)
    assert harmful_step(photo, brightened, TOOLBOX.only("shift_brighten"), pool) is None  # it does good


def walked(image: Image, pool: Pool, *actions: Action) -> Trajectory:
    session = Session(image[..., :64, :64], TOOLBOX, pool, Blind())
    for action in (Apply("shift_brighten"), *actions):
        session.step(Decision(action))
    return session.trajectory


def test_returning_and_repeating_are_told_from_going_on(coffee: Image, pool: Pool) -> None:
    harm, other = Apply("shift_brighten"), Apply("deblock")
    told = {
        (): (False, False),
        (harm,): (False, False),  # twice as bright, but on another picture
        (other, Rollback(1)): (False, False),
        (other, Rollback(0), other): (True, False),
        (Rollback(0), other, harm): (True, False),
        (Rollback(0), other, Rollback(2), harm): (True, True),
    }
    for actions, expected in told.items():
        trajectory = walked(coffee, pool, *actions)
        assert (rolled_back(trajectory), repeated(trajectory, "shift_brighten")) == expected, actions


def test_a_run_resumes_where_it_was_cut(folder: Path, tmp_path: Path) -> None:
    cases = [case for case in make_cases("mio", folder, 0, 1) if "haze" in case.combination][:3]

    def measured(output: Path, number: int = 3) -> list[Repair]:
        return measure_repairs(cases[:number], ["none", "rules"], TOOLBOX, EYE, SETTINGS, output)

    whole = measured(tmp_path / "whole")
    assert len(whole) >= 2
    for row in whole:
        assert row.psnr_harmed <= row.psnr_in - HARMFUL
        assert row.repaired == (row.psnr_end >= row.psnr_in - NEAR)
        if row.policy == "none":
            assert (row.toolchain, row.rolled_back, row.psnr_end) == (row.harm, False, row.psnr_harmed)
        if row.rolled_back and not row.toolchain:
            assert row.psnr_end == row.psnr_in
    measured(tmp_path / "cut", 2)
    table = tmp_path / "cut" / "results.csv"
    table.write_text(table.read_text()[:-20])  # the last line is half written
    assert sorted(measured(tmp_path / "cut"), key=repr) == sorted(whole, key=repr)
    assert sorted(read_rows(table, Repair), key=repr) == sorted(whole, key=repr)


def test_a_policy_that_cannot_be_made_is_refused_before_any_work(folder: Path, tmp_path: Path) -> None:
    cases = make_cases("mio", folder, 0, 1)
    for name, error in (("gredy", NameNotFoundError), ("oracle", ConservatorError)):
        with pytest.raises(error):
            measure_repairs(cases, ["none", name], TOOLBOX, EYE, SETTINGS, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def row(policy: str, photo: str, end: float, rolled: bool, again: bool = False) -> Repair:
    return Repair(
        group="A",
        combination="rain",
        photo=photo,
        policy=policy,
        harm="shift_brighten",
        toolchain="",
        decisions=2,
        rolled_back=rolled,
        repeated=again,
        psnr_in=20.0,
        psnr_harmed=18.0,
        psnr_end=end,
    )


def test_the_table_tells_shares_of_the_right_cases() -> None:
    rows = [row("rules", "x", 20.5, True), row("rules", "y", 18.5, True, again=True)]
    rows += [row("rules", "z", 19.95, False), row("rules", "w", 18.5, False), row("none", "x", 18.0, False)]
    lines = repair_summary(rows, cases=16)
    rules, none = cells(lines, "rules"), cells(lines, "none")
    assert rules["cases"] == "4"
    assert rules["rolled back (95 % CI)"] == "50.0% (6.8, 93.2)"
    assert rules["repaired (95 % CI)"] == "50.0% (6.8, 93.2)"
    assert rules["repeated, of those rolled back (95 % CI)"] == "50.0% (1.3, 98.7)"
    assert (rules["PSNR in"], rules["harmed"], rules["end"]) == ("20.00", "18.00", "19.36")
    assert none["rolled back (95 % CI)"] == "0.0% (0.0, 97.5)"
    assert none["repeated, of those rolled back (95 % CI)"] == "–"
    assert any(line.startswith("4 of 16 cases") for line in lines)
    assert "| shift_brighten | 4 |" in lines


@pytest.mark.slow
def test_the_command_measures_two_photos(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("conservator.evaluation.cases.MIO_GROUPS", {"A": MIO_GROUPS["A"]})  # eight of sixteen
    command = ("bench", "rollback", "--photos", folder, "-o", tmp_path / "out", "--policies", "none,rules,reflect")
    result = conservator(*command, "--toolbox", "experts", "--threads", 1)
    assert result.returncode == 0, result.stderr
    rows = read_rows(tmp_path / "out" / "results.csv", Repair)
    assert {row.photo for row in rows} == {"coffee", "astronaut"}
    assert {row.policy for row in rows} == {"none", "rules", "reflect"}
    assert not any(row.rolled_back or row.repaired for row in rows if row.policy == "none")
    assert any(row.rolled_back and row.repaired for row in rows if row.policy == "rules")
    assert "`conservator bench rollback --photos" in (tmp_path / "out" / "summary.md").read_text()
    with (tmp_path / "out" / "results.csv").open() as file:
        assert len(list(csv.DictReader(file))) == len(rows)
    again = conservator(*command, "--toolbox", "experts", "--threads", 1)
    assert " none:" not in again.stdout  # all is there

"""What tables say of harm: intervals by photograph, policies in pairs, doing nothing beside what it spares."""

from __future__ import annotations

import math
import subprocess
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_bench import cells

from conservator import claims
from conservator.claims import Identity, claim, read_claim, source_commit
from conservator.errors import NameNotFoundError
from conservator.evaluation.cases import Case
from conservator.evaluation.evaluate import evaluate
from conservator.evaluation.grid import Grid
from conservator.evaluation.harm import by_stratum, differences, touched
from conservator.evaluation.intervals import interval, mean_cell, share_cell, share_interval
from conservator.evaluation.rows import BenchmarkRow, BenchmarkSettings, read_rows
from conservator.evaluation.tables import grids
from conservator.image import Image
from conservator.kinds import Kind, Severity
from conservator.perception import Percept, StatisticalPerception
from conservator.resample import bicubic_resize
from conservator.tools import make_toolbox


def row(
    policy: str, photo: str, gain: float, stratum: str = "noise", group: str = "real", scene: str = ""
) -> BenchmarkRow:
    """A case; of the group "clean" ``gain`` is that over 100 dB."""
    before = 100.0 if group == "clean" else 30.0
    return BenchmarkRow(
        group=group,
        combination=stratum,
        photo=photo,
        policy=policy,
        toolchain="" if gain == 0 else "tool",
        calls=1,
        treatments=1,
        examining=0.1,
        deciding=0.1,
        treating=0.1,
        scores={"psnr_in": before, "psnr": before + gain},
        scene=scene,
    )


def line(grid: Grid | None, *names: str) -> dict[str, str]:
    """A line of a table by its first cells, by heading."""
    assert grid is not None
    found = next(cells for cells in grid.rows if cells[: len(names)] == names)
    return dict(zip(grid.head, found, strict=True))


# --- intervals --------------------------------------------------------------------------------------------------------


def test_shares_of_photos_have_the_intervals_of_clopper_and_pearson() -> None:
    """Limits that can be had by hand: of none in n the upper one is 1 - 0.025^(1/n)."""
    photos = [str(n) for n in range(20)]
    assert share_interval([False] * 20, photos) == pytest.approx((0, 1 - 0.025 ** (1 / 20)))
    assert share_interval([True] * 20, photos) == pytest.approx((0.025 ** (1 / 20), 1))
    assert share_interval([True] * 8 + [False] * 12, photos) == pytest.approx((0.1912, 0.6395), abs=1e-4)
    assert share_cell([True] + [False] * 9, photos[:10]) == "10.0% (0.3, 44.5)"


def test_cases_of_one_photo_are_drawn_together() -> None:
    rng = np.random.default_rng(0)
    level = rng.normal(1, 1, 20)
    values, origins = np.repeat(level, 16), [str(n) for n in range(20) for _ in range(16)]
    low, high = interval(values, origins=origins)
    assert (low, high) == pytest.approx(interval(level), abs=0.1)
    assert high - low > 3 * np.subtract(*interval(values)[::-1])  # as if there were 320 photos
    held = np.repeat(level > 1.5, 16)
    low, high = share_interval(held, origins)
    assert high - low == pytest.approx(2 * 1.96 * held.std() / math.sqrt(20), rel=0.15)
    shuffled = rng.permutation(len(values))
    assert share_interval(held[shuffled], [origins[n] for n in shuffled]) == pytest.approx((low, high), abs=0.05)


def test_the_interval_by_photo_covers_the_mean_95_times_in_100() -> None:
    rng, covered = np.random.default_rng(1), []
    for seed in range(200):
        values = (rng.normal(0, 1, 40)[:, None] + rng.normal(0, 0.3, (40, 5))).ravel()
        low, high = interval(values, seed, [str(n // 5) for n in range(200)])
        covered.append(low <= 0 <= high)
    assert 0.89 <= np.mean(covered) <= 0.99  # by case it would be 0.65


def test_what_a_bootstrap_does_not_know_it_does_not_say() -> None:
    few = [str(n // 4) for n in range(20)]
    assert all(map(math.isnan, share_interval([True] + [False] * 19, few)))  # five photos, four cases each
    assert share_interval([False] * 20, few) == pytest.approx((0, 1 - 0.025 ** (1 / 5)))  # not 20 photos
    assert mean_cell(np.arange(20.0), few) == "+9.50"
    assert mean_cell(np.zeros(20), [str(n) for n in range(20)]) == "+0.00"
    assert mean_cell(np.array([1.0, math.nan, 3.0]), list("abc")) == "+2.00"
    assert mean_cell(np.array([math.nan]), ["a"]) == ""


# --- tables -----------------------------------------------------------------------------------------------------------


def test_harm_stands_beside_what_was_treated_in_every_stratum() -> None:
    gains = {"noise": [1.0, -0.2, -0.7, 0.0], "blur": [0.0, 0.0, 0.0, 0.0]}
    rows = [row("rules", f"{s}{n}", gain, s) for s, found in gains.items() for n, gain in enumerate(found)]
    rows += [row("none", one.photo, 0.0, one.combination) for one in rows]
    noise, blur = line(by_stratum(rows), "noise", "rules"), line(by_stratum(rows), "blur", "rules")
    assert [noise[h][:5] for h in ("treated", "0.1 dB worse", "0.5 dB worse")] == ["75.0%", "50.0%", "25.0%"]
    assert noise["worst, dB"] == "-0.70: noise2"
    assert [blur[h][:4] for h in ("treated", "0.1 dB worse", "0.5 dB worse")] == ["0.0%"] * 3
    for grid in grids(rows):
        if any("worse" in heading for heading in grid.head):
            assert any(heading.startswith("treated") for heading in grid.head), grid.title
    pooled = cells([text for grid in grids(rows) for text in grid.markdown()], "rules")
    assert (pooled["cases"], pooled["0.5 dB worse"][:5]) == ("8", "12.5%")


def test_parts_of_a_photograph_count_as_one_photo() -> None:
    rows = [row("rules", f"desk_{n}", 1.0, scene="desk") for n in range(12)] + [row("rules", "toy", -2.0)]
    pooled = cells([text for grid in grids(rows) for text in grid.markdown()], "rules")
    assert (pooled["cases"], pooled["photos"]) == ("13", "2")
    assert pooled["gain, dB (95 % CI)"] == "+0.77"  # two photos have no interval


def test_policies_are_compared_by_photo_and_not_by_their_means() -> None:
    """Photos differ by many dB, two policies on one of them by a tenth: only pairs can tell them apart."""
    rng = np.random.default_rng(0)
    levels = rng.normal(3, 4, 30)
    rows = [row("oracle", str(n), 9.0) for n in range(30)]
    rows += [row("rules", str(n), gain) for n, gain in enumerate(levels)]
    rows += [row("greedy", str(n), gain + 0.1 + rng.normal(0, 0.02)) for n, gain in enumerate(levels)]
    rows += [row("half", str(n), levels[n] - 1) for n in range(10)]
    grid = differences(rows)
    assert grid is not None
    assert grid.title == "Each policy less rules, paired by photo"  # not the oracle, which knows the truth
    found = line(grid, "greedy")["gain, dB"]
    mean, low, high = (float(text.strip("(,)")) for text in found.split())
    assert mean == pytest.approx(0.1, abs=0.011)
    assert 0.05 < low < high < 0.15
    assert (line(grid, "half")["cases"], line(grid, "half")["gain, dB"]) == ("10", "-1.00")
    other = differences(rows, "greedy")
    assert line(other, "rules")["gain, dB"].startswith("-0.1")
    with pytest.raises(NameNotFoundError, match="greedy"):
        differences(rows, "gredy")
    assert differences([one for one in rows if one.policy == "rules"]) is None


def test_undamaged_photos_are_counted_by_how_far_they_were_moved() -> None:
    moved = [0.0, -10.0, -55.0, -70.0]  # to 100, 90, 45 and 30 dB
    rows = [row("rules", f"p{n}", by, "photos", "clean") for n, by in enumerate(moved)]
    rows += [row("rules", f"p{n}", 0.0, "sepia", "clean") for n in range(4)]
    rows += [row("rules", f"g{n}", -80.0, "film grain", "clean") for n in range(4)]
    rows += [row("none", one.photo, 0.0, one.combination, "clean") for one in rows]
    every, strata = touched(rows)
    photos, grain, pooled = line(strata, "photos", "rules"), line(strata, "film grain", "rules"), line(every, "rules")
    assert [photos[h][:5] for h in ("treated", "below 50 dB", "below 35 dB")] == ["75.0%", "50.0%", "25.0%"]
    assert photos["below 35 dB"] == "25.0% (0.6, 80.6)"
    assert photos["worst, dB"] == "30.0: p3, photos"
    assert grain["below 35 dB"].startswith("100.0%")
    assert (pooled["cases"], pooled["photos"], pooled["below 35 dB"]) == ("8", "4", "12.5%")  # grain is not in it
    assert pooled["worst, dB"].startswith("30.0")
    assert line(differences(rows), "none")["below 50 dB, points"] == "-25.00"
    titles = [grid.title for grid in grids(rows)]
    assert not any("gain" in title.lower() for title in titles)  # 100 dB is a convention, and nothing to gain over


# --- what a policy may do, and what is recorded -----------------------------------------------------------------------


def test_enlarging_is_off_however_small_a_photo_was_made_and_on_if_asked_for(coffee: Image, tmp_path: Path) -> None:
    clean = coffee[..., :128, :192]
    case = Case("x", "low resolution", "coffee", lambda: (bicubic_resize(clean, 0.5).clamp(0, 1), clean))
    toolbox = make_toolbox("classical").only("lanczos_x2")
    names = ["predefined", "random_both", "random_order:predefined"]
    for upscale in (False, True):
        settings = BenchmarkSettings("mio", "photos", "classical", "statistics", 0, risk=1.0, upscale=upscale)
        output = tmp_path / str(upscale)
        rows = evaluate([case], names, toolbox, Suspicious.load(), settings, output)
        chains = {one.policy: one.toolchain for one in rows}
        assert chains == dict.fromkeys(names, "lanczos_x2" if upscale else "")
        assert read_rows(output / "results.csv", BenchmarkRow)[0].scene == ""


class Suspicious(StatisticalPerception):
    """Takes every photo for one that was reduced."""

    def grade(self, image: Image) -> Percept:
        seen = super().grade(image)
        return replace(
            seen,
            severities={**seen.severities, Kind.LOW_RESOLUTION: Severity.HIGH},
            confidences={**seen.confidences, Kind.LOW_RESOLUTION: 1.0},
        )


def test_rows_of_before_a_column_was_added_are_read(tmp_path: Path) -> None:
    path = tmp_path / "results.csv"
    head = "group,combination,photo,policy,toolchain,calls,treatments,examining,deciding,treating,psnr_in,psnr,rank"
    path.write_text(f"{head},toolchains\nA,rain,x,rules,a,1,1,0.1,0.1,0.1,20,21,,0\n")
    (one,) = read_rows(path, BenchmarkRow)
    assert (one.gain, one.scene, one.origin) == (1.0, "", "x")


def git(folder: Path, *words: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@example.org")
    done = subprocess.run(["git", "-C", folder, *who, *words], capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_run_says_of_which_commit_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = tmp_path / "package" / "claims.py"
    source.parent.mkdir()
    source.write_text("# source")
    monkeypatch.setattr(claims, "__file__", str(source))
    commit = source_commit.__wrapped__
    assert commit() is None  # no checkout
    git(tmp_path, "init", "--quiet")
    (tmp_path / "other.txt").write_text("theirs")
    git(tmp_path, "add", "other.txt")
    git(tmp_path, "commit", "--quiet", "-m", "theirs")
    assert commit() is None  # installed below somebody's checkout, whose commit says nothing of it
    git(tmp_path, "add", "package")
    git(tmp_path, "commit", "--quiet", "-m", "ours")
    assert commit() == git(tmp_path, "rev-parse", "--short=10", "HEAD")
    source.write_text("# changed")
    assert commit() == git(tmp_path, "rev-parse", "--short=10", "HEAD") + "+"


def test_a_run_that_goes_on_with_other_source_says_both(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for commit in ("1111", "2222", "2222", None):
        monkeypatch.setattr(claims, "source_commit", lambda commit=commit: commit)
        claim(tmp_path, Identity.of({"seed": 0}))
    assert read_claim(tmp_path)[1]["commits"] == ["1111", "2222"]

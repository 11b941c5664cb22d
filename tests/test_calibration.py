"""Calibration of risk control: the law itself, outcomes at every threshold, the natural mixture, files, refusals."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from test_parts import crop, save

from conservator.degradations import HELD_OUT, NATURE, TAUGHT
from conservator.errors import ConservatorError, NameNotFoundError
from conservator.evaluation.calibration import at, curve_of, errors_of, gain, loss
from conservator.evaluation.cases import make_cases
from conservator.evaluation.descent import GRID, CaseOutcome, descend
from conservator.evaluation.mixture import MIXED, SINGLE, UNDAMAGED, fate_of
from conservator.kinds import Kind
from conservator.perception.risk import RiskControl, RiskCurve
from conservator.perception.risk_files import load_risk, save_risk, stored_risk

# --- the law ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("photos", "risk"), [(49, 0.041), (99, 0.021), (120, 0.1)])
def test_the_share_of_photos_harmed_at_the_chosen_threshold_is_the_risk(photos: int, risk: float) -> None:
    """One photo more than those that calibrate, in many draws: harmed as often as was asked for, and hardly less often.

    With harmed / photos <= risk for (harmed + 1) / (photos + 1) <= risk, the first would be harmed 6 times in 100.
    """
    rng, grid, draws = np.random.default_rng(0), np.linspace(0, 1, 201), 6000
    harmed = 0
    for _ in range(draws):
        begins = rng.beta(0.7, 2, photos + 1)  # the chance from which on each photo is harmed
        counts = (begins[:-1, None] <= grid).sum(0)
        threshold = RiskCurve(photos, tuple(grid.tolist()), tuple(counts.tolist())).threshold(risk)
        harmed += begins[-1] <= threshold
    error = 3.5 * np.sqrt(risk * (1 - risk) / draws)
    assert risk - 1 / (photos + 1) - 0.01 - error < harmed / draws < risk + error


def outcome(low: float, high: float, gained: float, photo: str = "a", **more: object) -> CaseOutcome:
    scores = {"psnr_in": 30.0, "psnr": 30.0 + gained, "st_lpips_in": 0.1, "st_lpips": 0.1}
    told = {"stratum": SINGLE, "objective": "balanced", "toolchain": "x", "estimated": 1.0}
    given = {"photo": photo, "low": low, "high": high, "seconds": 0.0, "scores": scores} | told | more
    return CaseOutcome(**given)  # type: ignore[arg-type]


def test_a_photo_harmed_at_a_threshold_counts_at_all_higher_ones() -> None:
    """Better again at a higher threshold: without that a threshold could be chosen beyond one that does harm."""
    grid = (0.0, 0.1, 0.2, 0.3, 1.0)
    found = [outcome(0.3, 1.0, +2), outcome(0.2, 0.2, -2), outcome(0.0, 0.1, 0)]
    unharmed = [outcome(0.0, 1.0, +1, photo="b")]
    assert curve_of([*found, *unharmed], "balanced", grid).harmed == (0, 0, 1, 1, 1)
    assert [o.scores["psnr"] for o in at(found, 0.2)] == [28.0]


def test_pairs_of_one_photograph_share_one_loss() -> None:
    grid = (0.0, 0.5, 1.0)
    parts = [outcome(0.0, 1.0, -1 * (n == 0), photo=f"desk_{n}", scene="desk") for n in range(4)]
    assert curve_of(parts, "balanced", grid).harmed == (0.25, 0.25, 0.25)
    other = [outcome(0.0, 1.0, -1, photo="desk_0", scene="desk", objective="fidelity")]
    assert curve_of([*parts, *other], "balanced", grid).harmed == curve_of(parts, "balanced", grid).harmed


def test_outcomes_that_lack_a_threshold_are_refused() -> None:
    with pytest.raises(ConservatorError, match="not known what became of it at all thresholds"):
        curve_of([outcome(0.2, 1.0, 0)], "balanced", (0.0, 0.1, 0.2, 1.0))


def scored(judge: str, **scores: float) -> CaseOutcome:
    objective = {"psnr": "fidelity", "st_lpips": "perceptual"}[judge]
    return outcome(0, 1, 0, objective=objective, scores={"psnr_in": 30.0, "psnr": 30.0} | scores)


def test_harm_is_what_somebody_could_see() -> None:
    def harmed(before: float, after: float) -> float:
        return loss(scored("psnr", psnr_in=before, psnr=after))

    assert [harmed(30, 29.91), harmed(30, 29.89), harmed(30, 35)] == [0, 1, 0]
    assert [harmed(100, 60), harmed(100, 49.95), harmed(100, 49.85)] == [0, 0, 1]  # undamaged
    assert gain(scored("psnr", psnr_in=100, psnr=40)) == -10
    assert loss(scored("st_lpips", psnr=20, st_lpips_in=0.2, st_lpips=0.1)) == 0
    assert loss(scored("st_lpips", psnr=40, st_lpips_in=0.1, st_lpips=0.2)) == 1
    with pytest.raises(ConservatorError, match="st_lpips of a is not known"):
        loss(scored("st_lpips"))


# --- every threshold from few restorations ----------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(20))
def test_the_descent_finds_what_an_attempt_at_each_threshold_finds(seed: int) -> None:
    """A random walk that goes one way where a chance is admitted, and another where it is not."""
    rng = np.random.default_rng(seed)
    chances = rng.choice([*rng.random(20), *GRID[::40]], 256)  # some fall on thresholds

    def attempt(threshold: float) -> tuple[int, list[float]]:
        state, met = 1, []
        while state < 128:
            met.append(float(chances[state]))
            state = 2 * state + (chances[state] <= threshold)
        return state, met

    found = descend(attempt)
    assert [(low, high) for low, high, _ in found] == sorted(((low, high) for low, high, _ in found), reverse=True)
    for threshold in GRID:
        inside = [result for low, high, result in found if low <= threshold <= high]
        assert inside == [attempt(threshold)[0]]
    assert len(found) < len(GRID)


def test_the_grid_is_fixed_and_ascends() -> None:
    assert len(GRID) == 243
    assert list(GRID) == sorted(set(GRID))
    assert (GRID[0], GRID[-1]) == (0, 1)
    assert GRID[1] == pytest.approx(1 / (1 + np.exp(8)))
    assert GRID[-2] == pytest.approx(1 / (1 + np.exp(-4)))


# --- the natural mixture ----------------------------------------------------------------------------------------------


def test_shares_of_the_mixture() -> None:
    fates = [fate_of(f"{n}.jpg", 3) for n in range(4000)]
    counted = Counter(fate.stratum for fate in fates)
    assert counted[UNDAMAGED] == pytest.approx(2000, abs=110)
    assert counted[SINGLE] == pytest.approx(1000, abs=100)
    assert sum(bool(fate.tone) for fate in fates) == pytest.approx(200, abs=50)
    assert {fate.tone for fate in fates} == {"", "black and white", "sepia"}
    assert {(fate.stratum, len(fate.recipe)) for fate in fates} == {(UNDAMAGED, 0), (SINGLE, 1), (MIXED, 2), (MIXED, 3)}
    assert all(not fate.recipe for fate in fates if fate.tone)
    used = [degradation for fate in fates for degradation in fate.recipe]
    kinds = Counter(degradation.kind for degradation in used)
    assert kinds.keys() == set(TAUGHT)
    assert max(kinds.values()) < 1.25 * min(kinds.values())
    assert Counter(d.severity for d in used).keys() == {1, 2, 3, 4}
    held_out = {cls for cls in HELD_OUT if cls.kind is not Kind.LOW_RESOLUTION}
    assert held_out <= {type(d) for d in used}
    for fate in fates:
        order = [NATURE.index(degradation.kind) for degradation in fate.recipe]
        assert order == sorted(set(order))


@pytest.fixture
def album(tmp_path: Path) -> Path:
    for n in range(12):
        save(crop(n), tmp_path / "album" / f"p{n}.png")
    return tmp_path / "album"


def pictures(folder: Path, seed: int = 0) -> dict[str, tuple[str, bytes, bytes]]:
    cases = make_cases("mixture", folder, seed)
    return {c.photo: (c.combination, *(x.numpy().tobytes() for x in c.make())) for c in cases}


def test_a_photo_more_changes_no_other(album: Path) -> None:
    before = pictures(album)
    assert pictures(album) == before
    save(crop(50), album / "a_first_one.png")
    after = pictures(album)
    assert after.keys() - before.keys() == {"a_first_one"}
    assert {name: after[name] for name in before} == before
    assert pictures(album, seed=1) != after


def test_the_mixture_is_of_8_bits_and_undamaged_photos_are_their_own_reference(album: Path) -> None:
    for case in make_cases("mixture", album, 0):
        damaged, clean = case.make()
        assert clean is not None
        for image in (damaged, clean):
            assert torch.equal((image * 255).round() / 255, image)
        assert torch.equal(damaged, clean) == (case.combination == UNDAMAGED) == (not case.kinds)


# --- files ------------------------------------------------------------------------------------------------------------

_BOUNDS = tuple(None if n < 9 else (-n / 8, n / 16) for n in range(243))
CONTROL = RiskControl(
    {
        "balanced": RiskCurve(419, GRID, tuple(float(n) / 2 for n in range(243)), _BOUNDS),
        "fidelity": RiskCurve(419, GRID, GRID),
    },
    "greedy",
    "conservator",
    {"perception": "ab", "toolbox conservator": "cd"},
)


def test_a_file_of_thresholds_gives_back_what_was_written(tmp_path: Path) -> None:
    path = tmp_path / "new" / "my.safetensors"
    save_risk(CONTROL, path)
    assert load_risk(path) == load_risk(str(path)) == replace(CONTROL, name=str(path))
    with pytest.raises(NameNotFoundError, match="no weights file"):
        load_risk("riks")


def changed(**tensors: torch.Tensor) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        own, metadata = stored_risk(CONTROL)
        save_file({**own, **{name.replace("__", "."): value for name, value in tensors.items()}}, path, metadata)

    return write


def told(**metadata: str | None) -> Callable[[Path], None]:
    def write(path: Path) -> None:
        own, told = stored_risk(CONTROL)
        save_file(own, path, {key: value for key, value in {**told, **metadata}.items() if value is not None})

    return write


LENGTH = len(GRID)
HOSTILE: dict[str, Callable[[Path], object]] = {
    "no file": lambda path: None,
    "a folder": lambda path: path.mkdir(),
    "no safetensors": lambda path: path.write_bytes(b"thresholds"),
    "nothing in it": lambda path: save_file({}, path, {"format": "conservator risk 3"}),
    "weights of something else": lambda path: save_file({"weight": torch.zeros(3)}, path),
    "another format": told(format="conservator risk 4"),
    "doubts of another kind": told(format="conservator risk 2"),
    "no policy": told(policy=None),
    "photos are no number": told(photos="many"),
    "fewer photos than harmed": told(photos="3"),
    "hashes are no table": told(made_with=json.dumps(["ab"])),
    "hashes are no JSON": told(made_with="{"),
    "hashes are numbers": told(made_with=json.dumps({"perception": 3})),
    "one tensor too many": changed(perceptual__thresholds=torch.zeros(3)),
    "thresholds of another length": changed(balanced__thresholds=torch.linspace(0, 1, 7)),
    "thresholds that fall": changed(balanced__thresholds=torch.tensor(GRID[::-1])),
    "thresholds above 1": changed(balanced__thresholds=torch.linspace(0, 2, LENGTH)),
    "thresholds that are none": changed(balanced__thresholds=torch.full((LENGTH,), torch.nan)),
    "a table of thresholds": changed(balanced__thresholds=torch.zeros(1, 1, LENGTH)),
    "harm that falls": changed(balanced__harmed=torch.linspace(5, 0, LENGTH)),
    "harm below 0": changed(balanced__harmed=torch.linspace(-5, 0, LENGTH)),
    "no end of harm": changed(balanced__harmed=torch.full((LENGTH,), torch.inf)),
}


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_file_is_one_clear_sentence(name: str, tmp_path: Path) -> None:
    path = tmp_path / "my.safetensors"
    HOSTILE[name](path)
    with pytest.raises(ConservatorError, match=r"my\.safetensors") as caught:
        load_risk(path)
    assert type(caught.value) is ConservatorError
    assert "\n" not in str(caught.value)


def test_a_risk_that_the_photos_cannot_certify_is_refused_with_the_least_that_can() -> None:
    curve = RiskCurve(99, (0.0, 0.5), (0, 1))
    assert curve.threshold(0.01) == 0.0
    assert curve.threshold(0.02) == 0.5
    with pytest.raises(ConservatorError, match=r"99 calibration photos; the least that can is 0\.01"):
        curve.threshold(0.009)


def test_errors_of_the_estimate_hold_for_nine_in_ten_more() -> None:
    """With one error fewer left out at each end, or counted by n instead of n + 1, too few would be held."""
    rng = np.random.default_rng(5)
    held = 0
    for _ in range(4000):
        errors = rng.standard_normal(40)
        bounds = errors_of([outcome(0, 1, error + 1.0, photo=str(n)) for n, error in enumerate(errors[:-1])])
        assert bounds is not None
        low, high = bounds
        held += low <= errors[-1] <= high
    assert held / 4000 == pytest.approx(0.9, abs=0.02)
    assert errors_of([outcome(0, 1, 0.0, photo=str(n)) for n in range(18)]) is None
    assert errors_of([outcome(0, 1, n / 10, photo=str(n)) for n in range(19)]) == pytest.approx((-1.0, 0.8))
    assert errors_of([outcome(0, 1, 9.0, toolchain="")] * 40) is None

"""What becomes of photos at every threshold: the same as a restoration of its own at each, kept on disk, resumed."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from skimage import data
from test_cli import conservator

from conservator.errors import ConservatorError
from conservator.evaluation.calibration import at, curve_of, gain, loss
from conservator.evaluation.cases import Case
from conservator.evaluation.descent import GRID, OFF, CaseOutcome, Trial
from conservator.evaluation.outcomes import CurveSettings, curve_identity, measure_outcomes
from conservator.evaluation.rows import Content, read_rows
from conservator.image import Image, digest, in_8_bits, to_image
from conservator.kinds import Kind
from conservator.metrics.fidelity import psnr
from conservator.perception import StatisticalPerception
from conservator.perception.perception import Look
from conservator.perception.risk import Admission
from conservator.photo import Photo
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.tools import Toolbox, make_toolbox

TOOLS = ("shift_brighten", "nlm_denoise", "tv_denoise", "stretch_brighten", "gamma_brighten", "dct_denoise")


class Hashed:
    """A chance of harm that pixels decide and nobody can foresee."""

    def __init__(self) -> None:
        self.asked = 0

    def chance(self, before: Look, after: Look, treated: frozenset[Kind]) -> float:
        self.asked += 1
        return int(digest(before.image)[:4] + digest(after.image)[:4], 16) % 9973 / 9973


def toolbox() -> Toolbox:
    return make_toolbox("conservator+classical").only(*TOOLS)


def trial(harm: Hashed, **more: object) -> Trial:
    tools, perception = toolbox(), StatisticalPerception.load()
    models = Restorer(toolbox=tools, perception=perception).models
    given = {"policy": "greedy", "objectives": ("balanced", "fidelity")} | more
    return Trial(tools, perception, harm, models, **given)  # type: ignore[arg-type]


def dark_and_noisy(number: int) -> tuple[Image, Image]:
    clean = to_image(data.coffee()[40 * number : 40 * number + 120, 60 * number : 60 * number + 150])
    noise = torch.from_numpy(np.random.default_rng(number).normal(0, 0.1, clean.shape)).float()
    return in_8_bits((0.45 * clean + noise).clamp(0, 1)), clean


def case(make: Callable[[], tuple[Image, Image | None]], name: str = "a") -> Case:
    return Case("mixture", "single", name, make)


@pytest.mark.parametrize(("number", "policy"), [(0, "greedy"), (1, "greedy"), (2, "rules")])
def test_outcomes_are_those_of_a_restoration_of_its_own_at_each_threshold(number: int, policy: str) -> None:
    damaged, clean = dark_and_noisy(number)
    one = trial(harm := Hashed(), policy=policy)
    found = one.outcomes(case(lambda: (damaged, clean)))
    asked = harm.asked
    balanced = [outcome for outcome in found if outcome.objective == "balanced"]
    assert len({outcome.toolchain for outcome in balanced}) >= 2, "or this tests nothing"
    for threshold in (*GRID[::40], 1.0, OFF):
        eye = StatisticalPerception.load()
        admission = None if threshold == OFF else Admission(Hashed(), threshold, weighing=eye)
        request = Request(policy=policy, risk=1.0 if threshold == OFF else 0.02)
        own = Restorer(request, toolbox=toolbox(), perception=eye, admission=admission)
        with own:
            restored = own.restore(Photo(damaged))
        (outcome,) = at(balanced, threshold)
        assert outcome.toolchain == ">".join(restored.toolchain), threshold
        assert outcome.scores["psnr"] == pytest.approx(psnr(restored.photo.image, clean), abs=1e-4)
    assert asked < 4 * len(balanced) * len(TOOLS), "chances were not remembered"
    curve_of(found, "fidelity")  # which refuses outcomes that lack a threshold


def test_at_threshold_0_nothing_is_done_and_without_control_nothing_is_asked() -> None:
    harm = Hashed()
    found = trial(harm, objectives=("balanced",), grid=(0.0,)).outcomes(case(lambda: dark_and_noisy(0)))
    assert [(outcome.low, outcome.high) for outcome in found] == [(OFF, OFF), (0.0, 0.0)]
    assert found[0].treated
    if not found[1].treated:  # a chance of exactly 0 may be admitted
        assert gain(found[1]) == loss(found[1]) == 0


def test_outcomes_of_other_doubts_are_others(monkeypatch: pytest.MonkeyPatch) -> None:
    settings = CurveSettings("mixture", "photos")
    now = curve_identity(settings, Content()).digest()
    assert curve_identity(settings, Content()).digest() == now
    monkeypatch.setattr("conservator.evaluation.outcomes.DOUBT", "4")
    assert curve_identity(settings, Content()).digest() != now


def test_a_case_without_a_reference_is_refused() -> None:
    with pytest.raises(ConservatorError, match="no undamaged reference"):
        trial(Hashed()).outcomes(case(lambda: (dark_and_noisy(0)[0], None)))


# --- on disk ----------------------------------------------------------------------------------------------------------


def hashed_trial(settings: CurveSettings) -> Trial:
    """At module level, so that other processes find it."""
    return trial(Hashed(), objectives=settings.objectives, grid=GRID[::220])


@pytest.fixture
def album(tmp_path: Path) -> Path:
    folder = tmp_path / "album"
    folder.mkdir()
    for number in range(4):
        PillowImage.fromarray(data.chelsea()[40 * number :][:96, 50 : 50 + 128]).save(folder / f"p{number}.png")
    return folder


SETTINGS = CurveSettings("mixture", "album", objectives=("balanced",))


def told(outcomes: list[CaseOutcome]) -> list[CaseOutcome]:
    """Without what the clock says."""
    return [replace(outcome, seconds=0.0) for outcome in outcomes]


def test_processes_and_a_run_that_was_killed_change_nothing(album: Path, tmp_path: Path) -> None:
    whole = measure_outcomes(SETTINGS, album, tmp_path / "one", 1, making=hashed_trial)
    assert {outcome.photo for outcome in whole} == {"p0", "p1", "p2", "p3"}
    assert told(measure_outcomes(SETTINGS, album, tmp_path / "two", 2, making=hashed_trial)) == told(whole)
    table = tmp_path / "two" / "results.csv"
    lines = table.read_text().splitlines(keepends=True)
    rows = read_rows(table, CaseOutcome)
    killed = next(place for place, row in enumerate(rows) if row.photo == "p2" and row.low == OFF) + 2
    table.write_text("".join(lines[:killed]) + lines[killed][:9])  # in the midst of a case, and of a line
    counted: list[tuple[int, int]] = []
    again = measure_outcomes(
        SETTINGS,
        album,
        tmp_path / "two",
        1,
        lambda done, total, newest: counted.append((done, total)),
        making=hashed_trial,
    )
    assert told(again) == told(whole)
    assert counted == [(2, 4), (3, 4), (4, 4)]


def test_results_of_other_settings_are_refused(album: Path, tmp_path: Path) -> None:
    measure_outcomes(replace(SETTINGS, limit=1), album, tmp_path / "out", 1, making=hashed_trial)
    with pytest.raises(ConservatorError, match="belongs to a run with seed 0, now 1"):
        measure_outcomes(replace(SETTINGS, limit=1, seed=1), album, tmp_path / "out", 1, making=hashed_trial)


# --- commands ---------------------------------------------------------------------------------------------------------


def test_too_few_photos_are_refused(album: Path, tmp_path: Path) -> None:
    done = conservator("calibrate", "--photos", album, "-o", tmp_path / "my.safetensors", "--work", tmp_path / "work")
    assert done.returncode == 2
    assert "holds 4 photos, and thresholds are made of at least 100" in done.stderr
    assert not (tmp_path / "my.safetensors").exists()
    assert not (tmp_path / "work").exists()


def test_thresholds_go_into_a_file_that_says_what_it_is(album: Path, tmp_path: Path) -> None:
    done = conservator("calibrate", "--photos", album, "-o", tmp_path / "my.json")
    assert done.returncode == 2
    assert "give a file that ends in .safetensors" in done.stderr


def test_a_test_part_is_not_opened_without_a_reason(shared: Path, tmp_path: Path) -> None:
    done = conservator("bench", "risk", shared / "data", "--part", "test_1", "--limit", 1, "-o", tmp_path / "out")
    assert done.returncode == 2
    assert "say why by --open" in done.stderr

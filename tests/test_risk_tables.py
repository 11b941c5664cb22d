"""What a risk curve says: harm counted by photograph, held against what was promised, beside what was gained."""

from __future__ import annotations

from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest

from conservator.apps.risk_report import risk_notes, write_risk_report
from conservator.errors import ConservatorError
from conservator.evaluation.calibration import curve_of
from conservator.evaluation.descent import GRID, OFF, CaseOutcome
from conservator.evaluation.mixture import MIXED, SINGLE, UNDAMAGED
from conservator.evaluation.risk_tables import AtRisk, at_risks, risk_grids
from conservator.evaluation.undamaged import FILM_GRAIN
from conservator.perception.risk import RiskCurve


def outcome(low: float, high: float, gained: float, photo: str, stratum: str = SINGLE, scene: str = "") -> CaseOutcome:
    before = 100.0 if stratum == UNDAMAGED else 30.0
    after = before + gained if stratum != UNDAMAGED or not gained else 50 + gained
    return CaseOutcome(
        stratum=stratum,
        photo=photo,
        scene=scene,
        objective="balanced",
        low=low,
        high=high,
        toolchain="denoise_light" if gained else "",
        estimated=gained,
        seconds=1.0,
        scores={"psnr_in": before, "psnr": after},
    )


def photos(count: int, seed: int = 0) -> list[CaseOutcome]:
    """Each is treated from some threshold on, gains 2 dB, and from a higher one on loses 1 dB."""
    rng, found = np.random.default_rng(seed), []
    for number in range(count):
        first, second = sorted(rng.integers(1, len(GRID), 2))
        kind = (UNDAMAGED, UNDAMAGED, SINGLE, MIXED)[number % 4]
        good = 0.0 if kind == UNDAMAGED else 2.0
        found += [outcome(OFF, OFF, -1.0, f"p{number}", kind), outcome(GRID[second], 1.0, -1.0, f"p{number}", kind)]
        if second > first:
            found.append(outcome(GRID[first], GRID[second - 1], good, f"p{number}", kind))
        found.append(outcome(0.0, GRID[first - 1], 0.0, f"p{number}", kind))
    return found


def test_the_photos_that_set_thresholds_are_harmed_no_more_than_was_asked() -> None:
    outcomes = photos(400)
    curve = curve_of(outcomes, "balanced")
    found = at_risks(outcomes, curve)
    assert [one.risk for one in found] == [0.01, 0.02, 0.05, 0.1, 1.0]
    assert all(one.harmed <= one.risk for one in found)
    assert all(one.kept == "within" for one in found if 0.02 <= one.risk < 1)
    assert [len(one.losses) for one in found] == [400] * 5
    assert (found[-1].threshold, found[-1].harmed, found[-1].kept) == (OFF, 1.0, "")


def test_harm_beyond_and_far_below_the_promise_is_said() -> None:
    def kept(harmed: int) -> str:
        made = [outcome(0, 1, -1.0 if n < harmed else 0.0, f"p{n}") for n in range(200)]
        return AtRisk(0.05, 0.3, made).kept

    assert [kept(3), kept(4), kept(10), kept(16), kept(17)] == ["below", "within", "within", "within", "above"]
    # binomial, 200 draws of 5 %: 2.5 % lie below 4, and 2.5 % above 16


def test_parts_of_a_photograph_count_as_one() -> None:
    made = [outcome(0, 1, -1.0 * (n == 0), f"desk_{n}", scene="desk") for n in range(4)]
    one = AtRisk(0.1, 0.5, [*made, outcome(0, 1, 0.0, "tree")])
    assert one.losses == {"desk": 0.25, "tree": 0.0}
    assert one.harmed == 0.125


def test_harm_stands_beside_the_share_treated_and_the_gain() -> None:
    made = [outcome(0, 1, 2.0, f"a{n}") for n in range(30)] + [outcome(0, 1, -1.0, f"b{n}") for n in range(10)]
    made += [outcome(0, 1, 0.0, f"c{n}", UNDAMAGED) for n in range(40)]
    made += [outcome(0, 1, -3.0, f"g{n}", FILM_GRAIN) for n in range(5)]
    whole, damaged, strata = risk_grids([AtRisk(0.1, 0.5, made)])
    cells = dict(zip(whole.head, whole.rows[0], strict=True))
    assert cells["harmed photos"].startswith("10 of 80, 12.5%"), "without film grain"
    assert cells["treated"].startswith("50.0%")
    assert cells["gain, dB (95 % CI)"].startswith("+0.62")
    assert cells["of the treated, gain, dB"].startswith("+1.25")
    assert cells["of the treated, worse"].startswith("25.0%")
    assert cells["0.5 dB worse"].startswith("12.5%")
    assert cells["worst, dB"].startswith("-1.00: b")
    assert dict(zip(damaged.head, damaged.rows[0], strict=True))["cases"] == "40"
    assert [row[:2] for row in strata.rows] == [(SINGLE, "0.1"), (UNDAMAGED, "0.1"), (FILM_GRAIN, "0.1")]


def test_thresholds_of_another_grid_are_refused() -> None:
    curve = RiskCurve(400, (0.0, 0.123), (0.0, 0.0))
    with pytest.raises(ConservatorError, match=r"0\.123 is not one of those that were tried"):
        at_risks(photos(8), curve)


class _Text(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.opened: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self.opened.append(tag)

    def handle_data(self, data: str) -> None:
        self.text += data


def test_summary_and_page_say_the_same(tmp_path: Path) -> None:
    outcomes = photos(400)
    found = at_risks(outcomes, curve_of(outcomes, "balanced"))
    notes = risk_notes("calibration", 400, "risk", 400)
    lines = write_risk_report(tmp_path, "Risk <control>", "conservator bench risk ROOT", notes, outcomes, found)
    assert (tmp_path / "summary.md").read_text() == "\n".join(lines)
    said = f"{found[1].harmed:.1%} where 2% was allowed (within)"
    assert any(said in line for line in lines)
    page = _Text()
    page.feed((tmp_path / "report.html").read_text())
    assert page.opened.count("svg") >= 3
    assert said in page.text
    assert "Risk <control>" in page.text
    assert "the harm is what was asked for by construction" in page.text


def test_clean_cases_make_a_page_too(tmp_path: Path) -> None:
    outcomes = [
        outcome(low, high, 0.0, f"p{n}", UNDAMAGED) for n in range(12) for low, high in ((OFF, OFF), (0.0, 1.0))
    ]
    found = at_risks(outcomes, curve_of(photos(400), "balanced"))
    write_risk_report(
        tmp_path, "clean", "conservator bench risk ROOT", risk_notes(None, 12, "risk", 400), outcomes, found
    )
    assert "0 of 12, 0.0%" in (tmp_path / "summary.md").read_text()

"""What a risk curve says: summary.md with its tables, and report.html with its plots."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape
from pathlib import Path

from conservator.apps.bench_report import code_of, html_example, html_table
from conservator.apps.examples import Example
from conservator.apps.plots import Point, lines
from conservator.evaluation.calibration import at, gain
from conservator.evaluation.cases import Case
from conservator.evaluation.descent import GRID, OFF, CaseOutcome
from conservator.evaluation.mixture import UNDAMAGED
from conservator.evaluation.risk_tables import AtRisk, mean_gain, risk_grids
from conservator.files import write_text
from conservator.pages import make_page
from conservator.photo import Photo
from conservator.request import Request
from conservator.restorer import Restorer

_WORST = 10
"""Cases to look at."""
_MOST_STRATA = 10
"""Lines that a plot can tell apart by colour."""


def write_risk_report(
    folder: Path,
    title: str,
    command: str,
    notes: Sequence[str],
    outcomes: Sequence[CaseOutcome],
    found: Sequence[AtRisk],
    worst: Sequence[Example] = (),
) -> list[str]:
    """Write ``summary.md`` and ``report.html`` of a folder of outcomes; the lines of the summary.

    ``found`` is what became of the outcomes at each risk that is told, ``worst`` the worst cases at the default risk.
    """
    grids = risk_grids(found)
    summary = [f"# {title}", "", promise_kept(found), "", f"`{command}`", "", *(f"- {note}" for note in notes), ""]
    for grid in grids:
        summary += grid.markdown()
    write_text(folder / "summary.md", "\n".join(summary))
    page = make_page(
        "risk",
        title,
        verdict=escape(promise_kept(found)),
        command=escape(command),
        notes="\n".join(f"<li>{code_of(escape(note))}</li>" for note in notes),
        plots="\n".join(_plots(outcomes, found)),
        tables="\n".join(map(html_table, grids)),
        risk=f"{Request.risk:g}",
        examples="\n".join(map(html_example, worst)) or "<p>None.</p>",
    )
    write_text(folder / "report.html", page)
    return summary


def promise_kept(found: Sequence[AtRisk]) -> str:
    """Whether the promise was kept at each risk, in words."""
    told = [f"{one.harmed:.1%} where {one.risk:.0%} was allowed ({one.kept})" for one in found if one.kept]
    return (
        f"Photos that came out worse: {', '.join(told)}. In brackets: whether that is within, below or above what "
        "chance makes of exactly the share that was allowed."
    )


def worst_examples(found: Sequence[AtRisk], cases: Iterable[Case], toolbox: str) -> list[Example]:
    """The ten cases that gained least of those treated at the default risk, to look at; their toolchains are replayed.

    ``cases`` are those of the outcomes. None where the default risk is not among those found.
    """
    made = {(case.combination, case.photo): case for case in cases}
    at_default = [one for one in found if one.risk == Request.risk]
    with Restorer(Request(toolbox=toolbox)) as restorer:
        return [
            _example(made[outcome.stratum, outcome.photo], outcome, restorer)
            for one in at_default
            for outcome in one.worst(_WORST)
        ]


def _example(case: Case, outcome: CaseOutcome, restorer: Restorer) -> Example:
    """The photo as it came, the result, and the undamaged photo."""
    damaged, clean = case.make()
    tools = outcome.toolchain.split(">")
    pictures = [("as it came", damaged), ("result", restorer.replay(Photo(damaged), tools).image)]
    pictures += [("undamaged", clean)] if clean is not None else []
    words = f"{outcome.stratum}: {', then '.join(tools)}; {outcome.estimated:+.2f} dB was estimated"
    return Example(f"{gain(outcome):+.2f} dB, {outcome.photo}", words, tuple(pictures))


def _plots(outcomes: Sequence[CaseOutcome], found: Sequence[AtRisk]) -> list[str]:
    controlled = [one for one in found if one.risk < 1]
    percent = [Point(100 * one.risk, 100 * one.harmed, *(100 * bound for bound in one.interval)) for one in controlled]
    asked = [Point(point.x, point.x, point.x, point.x) for point in percent]
    harm = lines(
        "Harm, and the risk that was asked for",
        ("risk asked for, %", "photos that came out worse, %"),
        {"came out worse": percent, "asked for": asked},
        ["came out worse", "asked for"],
        logarithmic=True,
    )
    return [harm, _bought(outcomes, found), _treated(controlled)]


def _bought(outcomes: Sequence[CaseOutcome], found: Sequence[AtRisk]) -> str:
    """Gain against harm: the whole curve, and the risks of the tables on it."""
    everywhere = [AtRisk(math.nan, threshold, at(outcomes, threshold)) for threshold in (*GRID, OFF)]
    whole = {"every threshold": [_price(one) for one in everywhere]}
    marked = {f"risk {one.risk:g}": [_price(one)] for one in found}
    names = [*whole, *marked]
    axes = "photos that came out worse, %", "mean gain of damaged photos, dB"
    return lines("What a risk buys", axes, whole | marked, names)


def _price(one: AtRisk) -> Point:
    gained = mean_gain(one.outcomes)
    return Point(100 * one.harmed, 0.0 if math.isnan(gained) else gained, 0, 0)


def _treated(found: Sequence[AtRisk]) -> str:
    """The share of each stratum that is treated at each risk."""
    strata = list(dict.fromkeys(outcome.stratum for outcome in found[0].outcomes))[:_MOST_STRATA]
    shares = {}
    for stratum in strata:
        of_it = [(one, [outcome.treated for outcome in one.outcomes if outcome.stratum == stratum]) for one in found]
        shares[stratum] = [Point(100 * one.risk, 100 * sum(held) / len(held), 0, 0) for one, held in of_it]
    axes = "risk asked for, %", "treated, %"
    return lines("How many photos are treated", axes, shares, strata, logarithmic=True)


def risk_notes(part: str | None, photos: int, thresholds: str, calibrated: int) -> list[str]:
    """What a reader must know to read the tables, as sentences."""
    notes = [
        f"Thresholds: {thresholds}, certified by {calibrated} photos. A photo came out worse where it lost more than "
        "0.1 dB of PSNR (RGB), both values at most 50 dB; by --objective perceptual, where it lost more ST-LPIPS than "
        "the margin of docs/risk.md. Parts of one photograph count as one photo.",
        "What was promised is the share of photos that come out worse, of all photos like these, in the mean over many "
        f'draws of calibration photos. "Within" says that {photos} photos do not contradict it: the binomial interval '
        "of the risk holds what was seen.",
        "In brackets: 95 % intervals by photo, exact for shares where each photo is one case. Gains are PSNR (RGB) in "
        f"dB, of inputs and results at most 50; the stratum {UNDAMAGED} has nothing to gain.",
        "At risk 1 there is no risk control.",
    ]
    if part == "calibration":
        notes.append("These photos set the thresholds, so the harm is what was asked for by construction.")
    return notes

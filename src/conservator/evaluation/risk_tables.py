"""Tables of a risk curve: at each risk the harm, and beside it how many photos were treated and what they gained.

Harm is counted by photograph, as the promise is; parts of one share one count. A row of a table is a risk.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from conservator.errors import ConservatorError
from conservator.evaluation.calibration import at, gain, loss
from conservator.evaluation.descent import GRID, OFF, CaseOutcome
from conservator.evaluation.grid import Grid, tabulate
from conservator.evaluation.harm import LOWERED
from conservator.evaluation.intervals import interval, mean_cell, share_cell, share_interval
from conservator.evaluation.mixture import UNDAMAGED
from conservator.evaluation.undamaged import FILM_GRAIN
from conservator.perception.risk import RiskCurve

RISKS = (0.01, 0.02, 0.05, 0.1, 1.0)
"""The risks of the tables; at 1 there is no risk control."""
Outcomes = Sequence[CaseOutcome]


@dataclass(frozen=True)
class AtRisk:
    """What became of the cases at the threshold of one risk."""

    risk: float
    threshold: float
    """The largest doubt that is admitted; OFF at risk 1."""
    outcomes: Outcomes

    @property
    def losses(self) -> dict[str, float]:
        """Of each photograph whether it came out worse, 0 or 1, or what share of its cases."""
        found: dict[str, list[float]] = {}
        for outcome in self.outcomes:
            found.setdefault(outcome.unit, []).append(loss(outcome))
        return {unit: float(np.mean(losses)) for unit, losses in found.items()}

    @property
    def harmed(self) -> float:
        """The share of photographs that came out worse."""
        return float(np.mean(list(self.losses.values())))

    @property
    def interval(self) -> tuple[float, float]:
        """The 95 % interval of ``harmed``, exact where each photograph came out worse or did not."""
        losses = self.losses
        if set(losses.values()) <= {0.0, 1.0}:
            return share_interval([bool(value) for value in losses.values()], list(losses))
        return interval(list(losses.values()))

    def worst(self, count: int) -> list[CaseOutcome]:
        """The treated cases that gained least, the worst first."""
        return sorted((outcome for outcome in self.outcomes if outcome.treated), key=gain)[:count]

    @property
    def expected(self) -> tuple[float, float]:
        """Between which shares of harmed photographs 95 % of all draws lie, were the risk exactly what was asked for.

        The exact binomial interval of the risk.
        """
        from scipy.stats import binom

        count = len(self.losses)
        low, high = binom.ppf((0.025, 0.975), count, self.risk) / count
        return float(low), float(high)

    @property
    def kept(self) -> str:
        """Whether the harm is what was promised: "within", "below" or "above" what chance explains; "" at risk 1."""
        if self.risk == 1:
            return ""
        low, high = self.expected
        return "below" if self.harmed < low else "above" if self.harmed > high else "within"


def at_risks(outcomes: Outcomes, curve: RiskCurve, risks: Sequence[float] = RISKS) -> list[AtRisk]:
    """What became of the cases at the threshold that ``curve`` certifies for each risk that it can certify.

    Raises ConservatorError for thresholds of another grid than that at which the outcomes are known.
    """
    found = []
    for risk in risks:
        if risk < curve.least:
            continue
        threshold = OFF if risk == 1 else curve.threshold(risk)
        if threshold not in (*GRID, OFF):
            raise ConservatorError(
                f"the threshold {threshold:g} is not one of those that were tried; make the thresholds again with this "
                "version (conservator calibrate)"
            )
        found.append(AtRisk(risk, threshold, at(outcomes, threshold)))
    return found


def risk_grids(found: Sequence[AtRisk]) -> list[Grid]:
    """All cases but film grain, which an artist may have wanted; the damaged ones; each stratum: a line for a risk."""
    summed = _only(found, lambda outcome: outcome.stratum != FILM_GRAIN)
    head: list[tuple[str, Callable[[AtRisk], str]]] = [("largest doubt", _threshold)]
    promise: list[tuple[str, Callable[[AtRisk], str]]] = [("harmed photos", _harmed), ("of the promise", _kept)]
    damaged = _only(summed, lambda outcome: outcome.stratum != UNDAMAGED)
    grids = [_grid("All cases", summed, [*head, *promise, *_COLUMNS])]
    if damaged and len(damaged[0].outcomes) < len(summed[0].outcomes):
        grids.append(_grid("All but the undamaged", damaged, _COLUMNS))
    strata = list(dict.fromkeys(outcome.stratum for one in found for outcome in one.outcomes))
    parts: dict[tuple[str, ...], AtRisk] = {
        (stratum, f"{one.risk:g}"): one for stratum in strata for one in _only(found, partial(_is_of, stratum=stratum))
    }
    return [*grids, tabulate("Each stratum", ("stratum", "risk"), parts, _COLUMNS)]


def _is_of(outcome: CaseOutcome, stratum: str) -> bool:
    return outcome.stratum == stratum


def _only(found: Sequence[AtRisk], held: Callable[[CaseOutcome], bool]) -> list[AtRisk]:
    """The cases for which something holds."""
    kept = [(one, [outcome for outcome in one.outcomes if held(outcome)]) for one in found]
    return [AtRisk(one.risk, one.threshold, outcomes) for one, outcomes in kept if outcomes]


def _grid(title: str, found: Sequence[AtRisk], columns: Sequence[tuple[str, Callable[[AtRisk], str]]]) -> Grid:
    parts: Mapping[tuple[str, ...], AtRisk] = {(f"{one.risk:g}",): one for one in found}
    return tabulate(title, ("risk",), parts, columns)


# --- cells ------------------------------------------------------------------------------------------------------------


def _threshold(one: AtRisk) -> str:
    return "any" if one.threshold == OFF else f"{one.threshold:.4f}"


def _harmed(one: AtRisk) -> str:
    (low, high), count = one.interval, len(one.losses)
    return f"{one.harmed * count:.4g} of {count}, {one.harmed:.1%} ({100 * low:.1f}, {100 * high:.1f})"


def _kept(one: AtRisk) -> str:
    if not one.kept:
        return ""
    low, high = one.expected
    return f"{one.kept} {low:.1%} to {high:.1%}"


def _gain(outcomes: Outcomes) -> str:
    return mean_cell(np.array([gain(outcome) for outcome in outcomes]), _units(outcomes))


def _share(outcomes: Outcomes, held: Callable[[CaseOutcome], bool]) -> str:
    return share_cell([held(outcome) for outcome in outcomes], _units(outcomes))


def _units(outcomes: Outcomes) -> list[str]:
    return [outcome.unit for outcome in outcomes]


def _treated(one: AtRisk) -> list[CaseOutcome]:
    return [outcome for outcome in one.outcomes if outcome.treated]


def _lowered(one: AtRisk, decibel: float) -> str:
    return _share(one.outcomes, lambda outcome: gain(outcome) < -decibel)


def _worst(one: AtRisk) -> str:
    worst = min(one.outcomes, key=gain)
    return f"{gain(worst):+.2f}: {worst.photo}" if gain(worst) < 0 else "none lowered"


_COLUMNS: tuple[tuple[str, Callable[[AtRisk], str]], ...] = (
    ("cases", lambda one: str(len(one.outcomes))),
    ("photos", lambda one: str(len(set(_units(one.outcomes))))),
    ("treated", lambda one: _share(one.outcomes, lambda outcome: outcome.treated)),
    ("gain, dB (95 % CI)", lambda one: _gain(one.outcomes)),
    *((f"{limit} dB worse", partial(_lowered, decibel=limit)) for limit in LOWERED),
    ("of the treated, gain, dB", lambda one: _gain(_treated(one))),
    ("of the treated, worse", lambda one: _share(_treated(one), lambda outcome: bool(loss(outcome)))),
    ("worst, dB", _worst),
)


def mean_gain(outcomes: Outcomes) -> float:
    """The mean gain (PSNR, dB) of damaged cases; NaN where there are none."""
    gains = [gain(outcome) for outcome in outcomes if outcome.stratum != UNDAMAGED]
    return float(np.mean(gains)) if gains else math.nan

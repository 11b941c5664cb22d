"""RestoreAgent's tables: what every strategy reaches by each metric, and where it ranks among all decisions.

Its paper (NeurIPS 2024) compares random orders and models, a pre-defined order and a human expert with its planner, by
every metric, by a balanced score of all of them, and by the rank among all possible decisions. Intervals are by photo.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

import numpy as np
from numpy.typing import NDArray

from conservator.errors import name_not_found
from conservator.evaluation.grid import Column, Grid, Rows, by_policy, origins_of, policies_of, tabulate
from conservator.evaluation.intervals import mean_cell, ratio_cell
from conservator.evaluation.rows import BenchmarkRow
from conservator.evaluation.strategies import is_baseline
from conservator.metrics import METRICS

_Measure = Callable[[BenchmarkRow], float]
_METRICS: Mapping[str, str] = {"psnr": ".2f", "ssim": ".4f", "lpips": ".4f", "dists": ".4f", "st_lpips": ".4f"}
"""Those of the paper, and ST-LPIPS, which stands in for two that may not be at hand; with the form of a number."""


def is_ranked(rows: Rows) -> bool:
    """Whether toolchains were enumerated."""
    return any(row.toolchains for row in rows)


def strategies(rows: Rows) -> Grid:
    """One line a strategy: means of the metrics, of the score by the objective, and of the rank."""
    columns: list[Column] = [
        (_heading(name), partial(_mean, measure=measure, form=form)) for name, measure, form in _measures(rows)
    ]
    least, most = ({row.case: row.value for row in rows if row.policy == name} for name in ("none", "best"))
    if least and most:
        columns.append(("share of the score gain of the best", partial(_of_best, least=least, most=most)))
    return tabulate("Strategies, by every metric", ("strategy",), by_policy(rows), columns)


def strategies_paired(rows: Rows, against: str | None = None) -> Grid | None:
    """One line a strategy: by how much the policy ``against`` is above it, on the cases that both have.

    By itself the first policy that ships is compared; None where there are not two. Raises NameNotFoundError for a
    policy that the rows do not have.
    """
    names = policies_of(rows)
    chosen = against or next((name for name in names if not is_baseline(name)), None)
    if against is not None and against not in names:
        raise name_not_found("policy", against, names)
    if chosen is None or len(names) < 2:
        return None
    mine = {row.case: row for row in rows if row.policy == chosen}
    others: dict[tuple[str, ...], Rows] = {
        (name,): [row for row in rows if row.policy == name and row.case in mine] for name in names if name != chosen
    }
    columns: list[Column] = [
        (_heading(name), partial(_difference, mine=mine, measure=measure, form="+" + form))
        for name, measure, form in _measures(rows)
    ]
    return tabulate(f"{chosen} minus each strategy, case by case", ("strategy",), others, columns)


def _measures(rows: Rows) -> list[tuple[str, _Measure, str]]:
    """Name, measure and form of a number."""
    there = {name for row in rows for name in row.scores}
    found: list[tuple[str, _Measure, str]] = [
        (name, partial(_score, name=name), form) for name, form in _METRICS.items() if name in there
    ]
    return [*found, ("score", lambda row: row.value, ".2f"), ("rank, %", lambda row: 100 * row.rank, ".1f")]


def _score(row: BenchmarkRow, name: str) -> float:
    return row.score(name)


def _heading(name: str) -> str:
    return name + (" ↓" if name in METRICS and not METRICS[name].higher_is_better else "")


def _mean(rows: Rows, measure: _Measure, form: str) -> str:
    return mean_cell(np.array([measure(row) for row in rows]), origins_of(rows), form)


def _of_best(rows: Rows, least: Mapping[str, float], most: Mapping[str, float]) -> str:
    """What part of what the best toolchain adds to the score of the untouched photo these rows add."""
    rows = [row for row in rows if row.case in least and row.case in most]
    parts = np.array([row.value - least[row.case] for row in rows])
    wholes = np.array([most[row.case] - least[row.case] for row in rows])
    return ratio_cell(parts, wholes, origins_of(rows))


def _difference(rows: Rows, mine: Mapping[str, BenchmarkRow], measure: _Measure, form: str) -> str:
    found: NDArray[np.float64] = np.array([measure(mine[row.case]) - measure(row) for row in rows])
    return mean_cell(found, origins_of(rows), form)

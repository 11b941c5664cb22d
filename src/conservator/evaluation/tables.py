"""Tables of a benchmark: what policies gain, what they cost, where they rank; as Markdown, or as cells for a page."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from conservator.evaluation.grid import (
    Column,
    Grid,
    Rows,
    by_policy,
    cases_cell,
    combinations_of,
    finite_mean,
    gain_cell,
    gains_of,
    mean_of,
    number,
    photos_cell,
    policies_of,
    score_cell,
    tabulate,
)
from conservator.evaluation.harm import HARM_COLUMNS, by_stratum, differences, is_clean, touched
from conservator.evaluation.ranked import is_ranked, strategies, strategies_paired
from conservator.metrics import METRICS, Metric


def grids(rows: Rows, metrics: Mapping[str, Metric] = METRICS, against: str | None = None) -> list[Grid]:
    """All tables of a benchmark: all cases, each group, each stratum, policies in pairs, every metric, the cost.

    ``metrics`` knows the direction of what was measured: give it those that are your own. ``against`` names the policy
    that all others are compared with (NameNotFoundError where there is none of that name).
    """
    if is_clean(rows):
        found = touched(rows)
    else:
        groups = list(dict.fromkeys(row.group for row in rows))
        found = [quality(rows, "All cases")]
        if len(groups) > 1:
            found += [quality([row for row in rows if row.group == group], f"Group {group}") for group in groups]
    ranked = [strategies(rows), strategies_paired(rows, against)] if is_ranked(rows) else []
    more = [*ranked, differences(rows, against), scores(rows, "Every metric, means", metrics), cost(rows)]
    if not is_clean(rows):
        more = [by_stratum(rows), *more, combinations(rows)]
    return found + [grid for grid in more if grid is not None]


def quality(rows: Rows, title: str) -> Grid:
    """One line per policy: gain with its interval, share of the oracles' gain, rank, and harm."""
    columns: list[Column] = [
        ("cases", cases_cell),
        ("photos", photos_cell),
        ("PSNR in", score_cell("psnr_in", ".2f")),
        ("PSNR out", score_cell("psnr", ".2f")),
        ("gain, dB (95 % CI)", gain_cell),
    ]
    columns += [_share(rows, name) for name in ("oracle", "best")]
    columns += [
        ("rank", lambda part: _percent(finite_mean([row.rank for row in part]), 1)),
        ("SSIM", score_cell("ssim", ".4f")),
        ("ST-LPIPS ↓", score_cell("st_lpips", ".4f")),
        *HARM_COLUMNS,
    ]
    return tabulate(title, ("policy",), by_policy(rows), columns)


def share_of(rows: Rows, ideal: Rows) -> float:
    """What part of the mean gain of ``ideal`` these rows reach, over the cases that both have; NaN without any."""
    reached = {row.case: row.gain for row in ideal}
    common = [(row.gain, reached[row.case]) for row in rows if row.case in reached]
    whole = sum(best for _, best in common)
    return sum(gain for gain, _ in common) / whole if whole > 0 else float("nan")


def cost(rows: Rows) -> Grid:
    """One line per policy: tool calls and seconds per photo."""
    columns: list[Column] = [
        ("calls on the study", mean_of("calls", ".1f")),
        ("calls on the photo", mean_of("treatments", ".1f")),
        ("examining, s", mean_of("examining", ".2f")),
        ("deciding, s", mean_of("deciding", ".2f")),
        ("treating, s", mean_of("treating", ".2f")),
    ]
    return tabulate("Cost per photo, means", ("policy",), by_policy(rows), columns)


def scores(rows: Rows, title: str, metrics: Mapping[str, Metric] = METRICS) -> Grid:
    """One line per policy: every metric that was measured; better is up, or down for those that are marked so.

    ``metrics`` tells which are better when lower; one that is not among them has no mark.
    """
    names = dict.fromkeys(name for row in rows for name in row.scores)
    outputs = [name for name in names if not (name.endswith("_in") and name.removesuffix("_in") in names)]
    down = {name for name, metric in metrics.items() if not metric.higher_is_better}
    columns = [(name + (" ↓" if name in down else ""), score_cell(name, ".4f")) for name in outputs]
    return tabulate(title, ("policy",), by_policy(rows), columns)


def combinations(rows: Rows) -> Grid | None:
    """The mean gain of every policy on every combination of damages; None where there is one only."""
    policies, names = policies_of(rows), combinations_of(rows)
    if len(names) < 2 or np.isnan(gains_of(rows)).all():
        return None
    lines = []
    for group, combination in names:
        part = [row for row in rows if (row.group, row.combination) == (group, combination)]
        cells = [mean_of("gain", "+.2f")([row for row in part if row.policy == policy]) for policy in policies]
        lines.append((group, combination, score_cell("psnr_in", ".2f")(part), *cells))
    head = ("group", "combination", "input", *policies)
    return Grid("Gain per combination, PSNR (RGB) in dB", head, tuple(lines))


def _share(rows: Rows, name: str) -> Column:
    ideal = [row for row in rows if row.policy == name]
    return f"of {name}'s", lambda part: _percent(share_of(part, ideal), 0)


def _percent(value: float, digits: int) -> str:
    return number(value, f".{digits}%")

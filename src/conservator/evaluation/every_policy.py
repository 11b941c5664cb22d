"""The one table of all policies: gain, harm, calls and seconds, at several risks and with several toolboxes."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from conservator.evaluation.grid import Column, Grid, Rows, by_policy, gain_cell, mean_of, number, tabulate
from conservator.evaluation.harm import HARM_COLUMNS
from conservator.evaluation.strategies import is_baseline


@dataclass(frozen=True)
class MeasuredWith:
    """What policies were measured with."""

    toolbox: str
    risk: float


def policies_table(measured: Mapping[MeasuredWith, Rows]) -> Grid:
    """One line a policy, toolbox and risk; a policy's risks stand below each other.

    What is carried out as it is, chance and the oracle among it, is held to no risk: it has one line.
    """
    parts: dict[tuple[str, ...], Rows] = {}
    for setting, rows in measured.items():
        for (policy,), own in by_policy(rows).items():
            risk = "" if is_baseline(policy) else f"{setting.risk:g}"
            parts.setdefault((policy, setting.toolbox, risk), own)
    first = {key[:2]: place for place, key in reversed(list(enumerate(parts)))}
    order = sorted(parts, key=lambda key: first[key[:2]])
    columns: list[Column] = [
        ("cases", lambda rows: str(len(rows))),
        ("gain, dB (95 % CI)", gain_cell),
        *HARM_COLUMNS,
        ("calls", mean_of("calls", ".1f")),
        ("deciding, s", mean_of("deciding", ".2f")),
        ("all, s", lambda rows: number(sum(row.seconds for row in rows) / len(rows), ".2f")),
    ]
    return tabulate("All policies", ("policy", "toolbox", "risk"), {key: parts[key] for key in order}, columns)

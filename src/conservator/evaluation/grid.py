"""A table of text, and what its cells say of the rows of a benchmark."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias, TypeVar

import numpy as np
from numpy.typing import NDArray

from conservator.evaluation.intervals import mean_cell, share_cell
from conservator.evaluation.rows import BenchmarkRow


@dataclass(frozen=True)
class Grid:
    """A table of text: a title, a head, and rows of as many cells."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]

    def markdown(self) -> list[str]:
        """The table, its title above it, an empty line after it."""
        lines = [f"| {' | '.join(row)} |" for row in (self.head, *self.rows)]
        return [f"### {self.title}", "", lines[0], "|---" * len(self.head) + "|", *lines[1:], ""]


Rows: TypeAlias = Sequence[BenchmarkRow]
_Part = TypeVar("_Part")
Column: TypeAlias = tuple[str, Callable[[Rows], str]]
"""A heading, and the cell for some rows; "" where there is nothing to say."""


def tabulate(
    title: str,
    names: tuple[str, ...],
    parts: Mapping[tuple[str, ...], _Part],
    columns: Sequence[tuple[str, Callable[[_Part], str]]],
) -> Grid:
    """One line for each part, after what it is called; a column without any content is left out."""
    filled = [
        (heading, cells) for heading, cell in columns if any(cells := tuple(cell(part) for part in parts.values()))
    ]
    lines = ((*name, *(cells[place] for _, cells in filled)) for place, name in enumerate(parts))
    return Grid(title, (*names, *(heading for heading, _ in filled)), tuple(lines))


def by_policy(rows: Rows) -> dict[tuple[str, ...], Rows]:
    """The rows of each policy, in the order in which they were asked for."""
    return {(policy,): [row for row in rows if row.policy == policy] for policy in policies_of(rows)}


def policies_of(rows: Rows) -> list[str]:
    """The policies, in the order in which they were asked for."""
    return list(dict.fromkeys(row.policy for row in rows))


def combinations_of(rows: Rows) -> list[tuple[str, str]]:
    """(group, combination), in the order of the benchmark."""
    return list(dict.fromkeys((row.group, row.combination) for row in rows))


def gains_of(rows: Iterable[BenchmarkRow]) -> NDArray[np.float64]:
    """Gain in PSNR (RGB, dB) over the untouched input, (N,); NaN without a reference."""
    return np.array([row.gain for row in rows])


def origins_of(rows: Iterable[BenchmarkRow]) -> list[str]:
    """The photograph that each row is of."""
    return [row.origin for row in rows]


def cases_cell(rows: Rows) -> str:
    """How many cases there are."""
    return str(len(rows))


def photos_cell(rows: Rows) -> str:
    """How many photographs there are."""
    return str(len(set(origins_of(rows))))


def gain_cell(rows: Rows) -> str:
    """The mean gain with its interval by photo."""
    return mean_cell(gains_of(rows), origins_of(rows))


def share_where(rows: Rows, held: Callable[[BenchmarkRow], bool]) -> str:
    """The share of rows for which something holds, with its interval by photo."""
    return share_cell([held(row) for row in rows], origins_of(rows))


def score_cell(name: str, form: str) -> Callable[[Rows], str]:
    """The mean of a score."""
    return lambda rows: number(finite_mean([row.score(name) for row in rows]), form)


def mean_of(field: str, form: str) -> Callable[[Rows], str]:
    """The mean of a field of the rows, without an interval."""
    return lambda rows: number(finite_mean([getattr(row, field) for row in rows]), form)


def number(value: float, form: str) -> str:
    """A number as text; NaN is an empty cell."""
    return "" if np.isnan(value) else format(value, form)


def finite_mean(values: Sequence[float]) -> float:
    """The mean of the values that could be computed, NaN where none could."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")

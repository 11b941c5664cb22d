"""Tables of a benchmark: what policies gain, what they cost, where they rank; as Markdown, or as cells for a page."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from conservator.evaluation.rows import BenchmarkRow
from conservator.metrics import METRICS, Metric

_DRAWS = 2000
_HARM = 0.1
"""A photo that loses more dB of PSNR than this was made worse."""


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


Column: TypeAlias = tuple[str, Callable[[Sequence[BenchmarkRow]], str]]
"""A heading, and the cell for the rows of one policy; "" where there is nothing to say."""


def interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap confidence interval of the mean."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(_DRAWS, len(values)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def gains_of(rows: Iterable[BenchmarkRow]) -> NDArray[np.float64]:
    """Gain in PSNR (RGB, dB) over the untouched input, (N,); NaN without a reference."""
    return np.array([row.gain for row in rows])


def policies_of(rows: Sequence[BenchmarkRow]) -> list[str]:
    """The policies, in the order in which they were asked for."""
    return list(dict.fromkeys(row.policy for row in rows))


def share_of(rows: Sequence[BenchmarkRow], ideal: Sequence[BenchmarkRow]) -> float:
    """What part of the mean gain of ``ideal`` these rows reach, over the cases that both have; NaN without any."""
    reached = {row.case: row.gain for row in ideal}
    common = [(row.gain, reached[row.case]) for row in rows if row.case in reached]
    whole = sum(best for _, best in common)
    return sum(gain for gain, _ in common) / whole if whole > 0 else float("nan")


def quality(rows: Sequence[BenchmarkRow], title: str) -> Grid:
    """One line per policy: gain with its interval, share of the oracles' gain, rank, harm."""
    columns: list[Column] = [
        ("cases", lambda part: str(len(part))),
        ("PSNR in", _score("psnr_in", ".2f")),
        ("PSNR out", _score("psnr", ".2f")),
        ("gain, dB (95 % CI)", _gain),
    ]
    columns += [_share(rows, name) for name in ("oracle", "best")]
    columns += [
        ("rank", lambda part: _percent(_finite_mean([row.rank for row in part]), 1)),
        ("SSIM", _score("ssim", ".4f")),
        ("0.1 dB worse", lambda part: _worse(part, _HARM)),
        ("0.3 dB worse", lambda part: _worse(part, 0.3)),
        ("untouched", lambda part: _percent(float(np.mean([not row.toolchain for row in part])), 0)),
    ]
    return _grid(rows, title, columns)


def cost(rows: Sequence[BenchmarkRow], title: str) -> Grid:
    """One line per policy: tool calls and seconds per photo."""
    return _grid(
        rows,
        title,
        [
            ("calls on the study", _mean("calls", ".1f")),
            ("calls on the photo", _mean("treatments", ".1f")),
            ("examining, s", _mean("examining", ".2f")),
            ("deciding, s", _mean("deciding", ".2f")),
            ("treating, s", _mean("treating", ".2f")),
        ],
    )


def scores(rows: Sequence[BenchmarkRow], title: str, metrics: Mapping[str, Metric] = METRICS) -> Grid:
    """One line per policy: every metric that was measured; better is up, or down for those that are marked so.

    ``metrics`` tells which are better when lower; one that is not among them has no mark.
    """
    names = dict.fromkeys(name for row in rows for name in row.scores)
    outputs = [name for name in names if not (name.endswith("_in") and name.removesuffix("_in") in names)]
    down = {name for name, metric in metrics.items() if not metric.higher_is_better}
    columns = [(name + (" ↓" if name in down else ""), _score(name, ".4f")) for name in outputs]
    return _grid(rows, title, columns)


def combinations(rows: Sequence[BenchmarkRow]) -> Grid | None:
    """The mean gain of every policy on every combination of damages; None where there is one only."""
    policies, names = policies_of(rows), combinations_of(rows)
    if len(names) < 2 or np.isnan(gains_of(rows)).all():
        return None
    lines = []
    for group, combination in names:
        part = [row for row in rows if (row.group, row.combination) == (group, combination)]
        cells = [_mean("gain", "+.2f")([row for row in part if row.policy == policy]) for policy in policies]
        lines.append((group, combination, _score("psnr_in", ".2f")(part), *cells))
    head = ("group", "combination", "input", *policies)
    return Grid("Gain per combination, PSNR (RGB) in dB", head, tuple(lines))


def combinations_of(rows: Sequence[BenchmarkRow]) -> list[tuple[str, str]]:
    """(group, combination), in the order of the benchmark."""
    return list(dict.fromkeys((row.group, row.combination) for row in rows))


def grids(rows: Sequence[BenchmarkRow], metrics: Mapping[str, Metric] = METRICS) -> list[Grid]:
    """All tables of a benchmark: all cases, each group, every metric, the cost, the gain per combination.

    ``metrics`` knows the direction of what was measured: give it those that are your own.
    """
    groups = list(dict.fromkeys(row.group for row in rows))
    found = [quality(rows, "All cases")] if len(groups) > 1 else []
    found += [quality([row for row in rows if row.group == group], f"Group {group}") for group in groups]
    found += [scores(rows, "Every metric, means", metrics), cost(rows, "Cost per photo, means")]
    gain = combinations(rows)
    return found if gain is None else [*found, gain]


def _grid(rows: Sequence[BenchmarkRow], title: str, columns: Sequence[Column]) -> Grid:
    """One line per policy; a column without any content is left out."""
    parts = {policy: [row for row in rows if row.policy == policy] for policy in policies_of(rows)}
    filled = [
        (heading, cells) for heading, cell in columns if any(cells := tuple(cell(part) for part in parts.values()))
    ]
    lines = zip(parts, *(cells for _, cells in filled), strict=True)
    return Grid(title, ("policy", *(heading for heading, _ in filled)), tuple(lines))


def _share(rows: Sequence[BenchmarkRow], name: str) -> Column:
    ideal = [row for row in rows if row.policy == name]
    return f"of {name}'s", lambda part: _percent(share_of(part, ideal), 0)


def _score(name: str, form: str) -> Callable[[Sequence[BenchmarkRow]], str]:
    return lambda rows: _number(_finite_mean([row.score(name) for row in rows]), form)


def _mean(field: str, form: str) -> Callable[[Sequence[BenchmarkRow]], str]:
    return lambda rows: _number(_finite_mean([getattr(row, field) for row in rows]), form)


def _number(value: float, form: str) -> str:
    return "" if np.isnan(value) else format(value, form)


def _finite_mean(values: Sequence[float]) -> float:
    """The mean of the values that could be computed, NaN where none could."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def _gain(rows: Sequence[BenchmarkRow]) -> str:
    values = gains_of(rows)
    values = values[~np.isnan(values)]
    if not len(values):
        return ""
    low, high = interval(values)
    return f"{values.mean():+.2f} ({low:+.2f}, {high:+.2f})"


def _worse(rows: Sequence[BenchmarkRow], decibel: float) -> str:
    values = gains_of(rows)
    values = values[~np.isnan(values)]
    return _percent(float((values < -decibel).mean()), 1) if len(values) else ""


def _percent(value: float, digits: int) -> str:
    return "" if np.isnan(value) else f"{value:.{digits}%}"

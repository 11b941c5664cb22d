"""What a policy keeps of its gain on mixtures of damage that it never met, beside one that was trained on them."""

from __future__ import annotations

import math
from collections.abc import Sequence

from conservator.errors import name_not_found
from conservator.evaluation.intervals import statistic_interval
from conservator.evaluation.rows import BenchmarkRow
from conservator.evaluation.tables import share_of


def kept_table(rows: Sequence[BenchmarkRow], policy: str, control: str) -> list[str]:
    """For each group of a benchmark, and for all, the mean gains of both and the share that is kept; Markdown.

    The share is the policy's summed gain by that of the control on the same cases, with a 95 % interval by photo.
    Raises NameNotFoundError for a policy that was not measured.
    """
    known = list(dict.fromkeys(row.policy for row in rows))
    for name in (policy, control):
        if name not in known:
            raise name_not_found("policy", name, known)
    lines = ["| setting | cases | gain, dB | control's gain, dB | share kept |", "|---|---|---|---|---|"]
    for group in [*dict.fromkeys(row.group for row in rows), ""]:
        ours, theirs = (
            [row for row in rows if row.policy == name and group in ("", row.group)] for name in (policy, control)
        )
        cells = [group or "all", str(len(ours)), _mean(ours), _mean(theirs), _kept(ours, theirs)]
        lines.append(f"| {' | '.join(cells)} |")
    return lines


def _mean(rows: Sequence[BenchmarkRow]) -> str:
    return f"{sum(row.gain for row in rows) / len(rows):+.2f}" if rows else ""


def _kept(ours: Sequence[BenchmarkRow], theirs: Sequence[BenchmarkRow]) -> str:
    share = share_of(ours, theirs)
    if math.isnan(share):
        return ""
    low, high = statistic_interval(lambda drawn: share_of([ours[i] for i in drawn], theirs), [r.origin for r in ours])
    return f"{share:.0%}" if math.isnan(low) else f"{share:.0%} ({low:.0%}, {high:.0%})"

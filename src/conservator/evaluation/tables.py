"""Tables of a benchmark: gain with its confidence interval, harm, cost, and the share of the oracle's gain."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from conservator.evaluation.evaluate import Row

_DRAWS = 2000


def interval(values: NDArray[np.float64], seed: int = 0) -> tuple[float, float]:
    """95 % bootstrap confidence interval of the mean."""
    rng = np.random.default_rng(seed)
    means = values[rng.integers(len(values), size=(_DRAWS, len(values)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def gains(rows: Sequence[Row]) -> NDArray[np.float64]:
    """Gain in PSNR (RGB, dB) over the untouched input, (N,)."""
    return np.array([row.psnr - row.psnr_in for row in rows])


def by_policy(rows: Sequence[Row], title: str) -> list[str]:
    """One row per policy over these rows, as Markdown."""
    policies = list(dict.fromkeys(row.policy for row in rows))
    oracle = [row for row in rows if row.policy == "oracle"]
    best = float(gains(oracle).mean()) if oracle else float("nan")
    lines = [
        f"### {title}",
        "",
        "| policy | cases | PSNR in | PSNR out | gain, dB (95 % CI) | of the oracle's | SSIM | 0.1 dB worse "
        "| 0.3 dB worse | untouched | calls | examining | deciding | treating, s |",
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|---|",
    ]
    for policy in policies:
        part = [row for row in rows if row.policy == policy]
        gain = gains(part)
        low, high = interval(gain)
        share = f"{gain.mean() / best:.0%}" if oracle else ""
        mean = {
            name: float(np.mean([getattr(row, name) for row in part]))
            for name in ("psnr_in", "psnr", "ssim", "calls", "examining", "deciding", "treating")
        }
        untouched = float(np.mean([not row.toolchain for row in part]))
        lines.append(
            f"| {policy} | {len(part)} | {mean['psnr_in']:.2f} | {mean['psnr']:.2f} "
            f"| {gain.mean():+.2f} ({low:+.2f}, {high:+.2f}) | {share} | {mean['ssim']:.4f} "
            f"| {(gain < -0.1).mean():.1%} | {(gain < -0.3).mean():.1%} | {untouched:.0%} | {mean['calls']:.1f} "
            f"| {mean['examining']:.2f} | {mean['deciding']:.2f} | {mean['treating']:.2f} |"
        )
    return [*lines, ""]


def summary(rows: Sequence[Row]) -> list[str]:
    """All cases, each group, and the gain of every policy per combination, as Markdown."""
    groups = list(dict.fromkeys(row.group for row in rows))
    lines = by_policy(rows, "All cases") if len(groups) > 1 else []
    for group in groups:
        lines += by_policy([row for row in rows if row.group == group], f"Group {group}")
    return lines + _combinations(rows)


def _combinations(rows: Sequence[Row]) -> list[str]:
    policies = list(dict.fromkeys(row.policy for row in rows))
    names = list(dict.fromkeys((row.group, row.combination) for row in rows))
    if len(names) < 2:
        return []
    head = f"| group | combination | input | {' | '.join(policies)} |"
    lines = ["### Gain per combination, PSNR (RGB) in dB", "", head, "|---|---|---|" + "---|" * len(policies)]
    for group, combination in names:
        part = [row for row in rows if (row.group, row.combination) == (group, combination)]
        cells = [f"{gains([row for row in part if row.policy == policy]).mean():+.2f}" for policy in policies]
        before = np.mean([row.psnr_in for row in part])
        lines.append(f"| {group} | {combination} | {before:.2f} | " + " | ".join(cells) + " |")
    return [*lines, ""]

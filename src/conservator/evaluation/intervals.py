"""95 % intervals of means and of shares, where what chance drew are photos and not the cases made of them."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

FEWEST = 6
"""Photos below which a bootstrap is not shown: of four or five it is far too narrow, and would be believed."""
_DRAWS = 2000


def interval(values: ArrayLike, seed: int = 0, origins: Sequence[str] | None = None) -> tuple[float, float]:
    """95 % bootstrap confidence interval of the mean.

    ``origins`` names what chance drew for each value, say its photo: values of one origin are drawn together. Without
    it each value is drawn by itself.
    """
    numbers = np.asarray(values, np.float64)
    _, places = np.unique(np.arange(len(numbers)) if origins is None else np.array(origins), return_inverse=True)
    sums, counts = np.bincount(places, numbers), np.bincount(places)
    drawn = np.random.default_rng(seed).integers(len(sums), size=(_DRAWS, len(sums)))
    means = sums[drawn].sum(1) / counts[drawn].sum(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def statistic_interval(
    statistic: Callable[[NDArray[np.intp]], float], origins: Sequence[str], seed: int = 0
) -> tuple[float, float]:
    """95 % bootstrap interval of any statistic of rows, such as a correlation or a ratio of sums.

    ``statistic`` is told the numbers of the rows, some of them several times: those of one origin are drawn together.
    Draws of which it is NaN are left out. NaN where there are fewer origins than a bootstrap needs.
    """
    names, places = np.unique(np.array(origins), return_inverse=True)
    if len(names) < FEWEST:
        return math.nan, math.nan
    rows = [np.flatnonzero(places == i) for i in range(len(names))]
    drawn = np.random.default_rng(seed).integers(len(names), size=(_DRAWS, len(names)))
    found = np.array([statistic(np.concatenate([rows[i] for i in draw])) for draw in drawn])
    found = found[~np.isnan(found)]
    return (float(np.quantile(found, 0.025)), float(np.quantile(found, 0.975))) if len(found) else (math.nan, math.nan)


def share_interval(held: ArrayLike, origins: Sequence[str]) -> tuple[float, float]:
    """95 % interval of the share of values that are true, each value's origin as ``interval`` has it.

    It is exact (Clopper and Pearson, 1934) where each origin has one value. Where some have several, origins are
    resampled; where all values agree, which says nothing to a bootstrap, it is the exact interval of as many origins.
    NaN where there are fewer origins than a bootstrap needs.
    """
    true = np.asarray(held, bool)
    count = len(set(origins))
    if count == len(true):
        return _exact(int(true.sum()), count)
    if true.all() or not true.any():
        return _exact(count * int(true.all()), count)
    return interval(true, origins=origins) if count >= FEWEST else (math.nan, math.nan)


def _exact(true: int, count: int) -> tuple[float, float]:
    from scipy.stats import binomtest

    found = binomtest(true, count).proportion_ci(0.95, "exact")
    return float(found.low), float(found.high)


def mean_cell(values: NDArray[np.float64], origins: Sequence[str], form: str = "+.2f") -> str:
    """A mean with its interval by origin, "+1.20 (+0.31, +2.15)"; NaN is left out, and all NaN is an empty cell.

    There is no interval where origins are few, nor where all values are equal, for then a bootstrap knows none.
    """
    known = ~np.isnan(values)
    if not known.any():
        return ""
    kept = [origin for origin, there in zip(origins, known, strict=True) if there]
    mean = format(float(values[known].mean()), form)
    if len(set(kept)) < FEWEST or not np.ptp(values[known]):
        return mean
    low, high = interval(values[known], origins=kept)
    return f"{mean} ({low:{form}}, {high:{form}})"


def share_cell(held: Sequence[bool], origins: Sequence[str]) -> str:
    """A share with its interval, "6.2% (3.1, 11.0)"; an empty cell where there are no values."""
    if not len(held):
        return ""
    low, high = share_interval(held, origins)
    share = f"{np.mean(held):.1%}"
    return share if math.isnan(low) else f"{share} ({100 * low:.1f}, {100 * high:.1f})"


def ratio_cell(parts: NDArray[np.float64], wholes: NDArray[np.float64], origins: Sequence[str]) -> str:
    """What all parts are of all wholes, with its interval by origin, "81% (62, 97)"; empty where the wholes are not
    above 0 together. Some draws of the bootstrap may have wholes near 0, so a wide interval says: too few.
    """
    if not len(parts) or wholes.sum() <= 0:
        return ""
    share = f"{parts.sum() / wholes.sum():.0%}"
    _, places = np.unique(np.array(origins), return_inverse=True)
    if len(set(origins)) < FEWEST:
        return share
    sums = [np.bincount(places, values) for values in (parts, wholes)]
    drawn = np.random.default_rng(0).integers(len(sums[0]), size=(_DRAWS, len(sums[0])))
    part, whole = (values[drawn].sum(1) for values in sums)
    ratios = np.where(whole > 0, part / np.where(whole > 0, whole, 1), np.inf)
    low, high = np.quantile(ratios, (0.025, 0.975))
    return f"{share} ({100 * low:.0f}, {100 * high:.0f})"

"""Calibration of risk control: whether photos came out worse at each threshold, and what that certifies.

Conformal risk control (Angelopoulos et al., "Conformal Risk Control", ICLR 2024) needs of each photo a loss between 0
and 1 that never falls when the threshold rises. Ours is 1 where a photo came out worse than it went in by more than a
margin, at this threshold *or at a lower one*: a higher threshold may plan otherwise and happen to do well again, and
the loss is kept at 1 all the same. That is more than the photos harmed, never less, so what is certified for it holds
for them. Photos that are parts of one photograph share one loss, the mean of theirs: chance drew the photograph.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from conservator.errors import ConservatorError
from conservator.evaluation.descent import GRID, CaseOutcome
from conservator.kinds import Objective
from conservator.perception.risk import HARM, RiskCurve

CAP = 50.0
"""dB. Nobody sees a difference that is smaller, so PSNR counts up to here alone: an undamaged photo came out worse
where the result is below 49.9 dB."""
COVERAGE = 0.9
"""Of treated photos whose true gain lies in the interval that is told."""
PERCEPTUAL_HARM = 0.0025
"""ST-LPIPS that a photo may lose before it counts as harmed: the median of what a loss of exactly 0.1 dB of PSNR is on
damaged photos (the damage of 60 crops of development photos, drawn by the natural mixture and amplified by that; 10th
to 90th percentile -0.0004 to 0.0059). An undamaged photo under white noise of 40 dB has 0.0036, of 45 dB 0.0007, of
50 dB 0.0001. Measured in November 2026."""
FEWEST_PHOTOS = 100
"""Photos below which nothing is calibrated: with 99 the least risk would be 1 %, with 49 2 %, and one photo more that
happens to be harmed would move every threshold."""


def loss(outcome: CaseOutcome) -> float:
    """1 where a photo came out worse than it went in, by more than the margin of its objective; else 0.

    Raises ConservatorError where the metric was not measured, or cannot be, as of the smallest pictures.
    """
    if outcome.objective == "perceptual":
        metric, better, margin = "st_lpips", -1.0, PERCEPTUAL_HARM
    else:
        metric, better, margin = "psnr", 1.0, HARM
    change = better * (_score(outcome, metric) - _score(outcome, f"{metric}_in"))
    return float(change < -margin)


def gain(outcome: CaseOutcome) -> float:
    """PSNR (RGB, dB) gained over the input, both at most CAP."""
    return _score(outcome, "psnr") - _score(outcome, "psnr_in")


def _score(outcome: CaseOutcome, name: str) -> float:
    value = outcome.scores.get(name, math.nan)
    if math.isnan(value):
        raise ConservatorError(
            f"{name} of {outcome.photo} is not known; leave photos of less than 32 pixels a side out, and let "
            "thresholds be made of results that were measured with it"
        )
    return min(value, CAP) if name.startswith("psnr") else value


def curve_of(outcomes: Iterable[CaseOutcome], objective: Objective, grid: Sequence[float] = GRID) -> RiskCurve:
    """How many photos of one objective came out worse at each threshold of the grid, or at a lower one.

    And how far what they gained was from the estimate. Raises ConservatorError where the outcomes of a photo are not
    those of the whole grid.
    """
    photos: dict[str, dict[tuple[str, str], list[CaseOutcome]]] = {}
    of_it = [outcome for outcome in outcomes if outcome.objective == objective]
    for outcome in of_it:
        cases = photos.setdefault(outcome.unit, {})
        cases.setdefault((outcome.stratum, outcome.photo), []).append(outcome)
    harmed = np.zeros(len(grid))
    for cases in photos.values():
        harmed += np.mean([_losses(found, grid) for found in cases.values()], axis=0)
    errors = tuple(errors_of(at(of_it, threshold)) for threshold in grid)
    return RiskCurve(len(photos), tuple(grid), tuple(harmed.tolist()), errors)


def errors_of(outcomes: Iterable[CaseOutcome]) -> tuple[float, float] | None:
    """Bounds of what treated photos gained (PSNR, dB) less what was estimated, which hold for nine in ten more.

    Split conformal prediction (Vovk et al., "Algorithmic Learning in a Random World", 2005): the k-th smallest and the
    k-th largest of n errors, k the whole part of (n + 1) / 20. None for fewer than 19, of which none can be left out.
    """
    errors = sorted(gain(outcome) - outcome.estimated for outcome in outcomes if outcome.treated)
    place = int((len(errors) + 1) * (1 - COVERAGE) / 2 + 1e-9)
    return (errors[place - 1], errors[-place]) if place else None


def _losses(found: Sequence[CaseOutcome], grid: Sequence[float]) -> np.ndarray:
    """The loss of one case at each threshold of the grid, kept from the lowest one at which there is one."""
    losses = np.full(len(grid), np.nan)
    for outcome in found:
        places = [place for place, threshold in enumerate(grid) if outcome.low <= threshold <= outcome.high]
        losses[places] = loss(outcome)
    if np.isnan(losses).any():
        raise ConservatorError(
            f"of {found[0].photo} it is not known what became of it at all thresholds; measure it again"
        )
    return np.maximum.accumulate(losses)


def at(outcomes: Iterable[CaseOutcome], threshold: float) -> list[CaseOutcome]:
    """What became of the cases at one threshold of the grid."""
    return [outcome for outcome in outcomes if outcome.low <= threshold <= outcome.high]

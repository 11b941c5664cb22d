"""How well perceptions see: kinds, exact sets, severities, calibration, on the public protocols' combinations."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conservator.degradations import MIO_GROUPS, RESTOREAGENT_COMBINATIONS, Kind, Severity, degrade, mio_recipe
from conservator.degradations.protocols import Combination
from conservator.errors import ConservatorError
from conservator.image import Image, in_8_bits
from conservator.perception.perception import GRADED_KINDS, Perception
from conservator.perception.study import study
from conservator.photo import load_photo

COMBINATIONS: tuple[Combination, ...] = (
    *(combination for group in MIO_GROUPS.values() for combination in group),
    *RESTOREAGENT_COMBINATIONS,
)
_KINDS = (*GRADED_KINDS, Kind.LOW_RESOLUTION)
_BINS = 10


@dataclass(frozen=True)
class Graded:
    """What was there and what a perception said, for N pictures: severities (N, 9), confidences (N, 9)."""

    truth: NDArray[np.int64]
    severities: NDArray[np.int64]
    confidences: NDArray[np.float64]


def graded_cases(photos: list[Path], seed: int) -> Iterator[tuple[Image, dict[Kind, Severity]]]:
    """Each photo clean, then under each of the 16 MiO and RestoreAgent's 7 combinations."""
    for p, path in enumerate(photos):
        clean = load_photo(path).image
        yield clean, {}
        for c, combination in enumerate(COMBINATIONS):
            recipe = mio_recipe(combination, np.random.default_rng([seed, c, p]))
            yield in_8_bits(degrade(clean, recipe)), {degradation.kind: degradation.severity for degradation in recipe}


def grade_all(perceptions: Mapping[str, Perception], photos: list[Path], seed: int = 0) -> dict[str, Graded]:
    """Show every case to every perception."""
    rows: dict[str, list[tuple[list[int], list[int], list[float]]]] = {name: [] for name in perceptions}
    for image, truth in graded_cases(photos, seed):
        small = study(image)
        for name, perception in perceptions.items():
            percept = perception.grade(small)
            rows[name].append(
                (
                    [int(truth.get(kind, Severity.NONE)) for kind in _KINDS],
                    [int(percept.severities[kind]) for kind in _KINDS],
                    [float(percept.confidences[kind]) for kind in _KINDS],
                )
            )
    return {name: Graded(*(np.array(column) for column in zip(*seen, strict=True))) for name, seen in rows.items()}


def grading_summary(seen: Graded) -> dict[str, float]:
    """F1 of presence (per kind, and over all decisions), exact sets, severities, clean photos, calibration error."""
    truth, found = seen.truth > 0, seen.severities > 0
    damaged = truth.any(1)
    hits, said, there = (truth & found).sum(0), found.sum(0), truth.sum(0)
    per_kind = {
        f"f1 {kind.label}": float(2 * h / (s + t)) if t else math.nan  # a kind that no photo has cannot be found
        for kind, h, s, t in zip(_KINDS, hits, said, there, strict=True)
    }
    graded = truth & found
    return {
        "f1": float(2 * hits.sum() / (said.sum() + there.sum())),
        **per_kind,
        "exact set": float((truth == found)[damaged].all(1).mean()),
        "severity within one level": float((np.abs(seen.severities - seen.truth) <= 1)[damaged].mean()),
        "severity within one level where seen": float((np.abs(seen.severities - seen.truth) <= 1)[graded].mean()),
        "clean called clean": float((~found[~damaged]).all(1).mean()),
        "calibration error": _calibration_error(seen),
    }


def reliability(seen: Graded) -> list[tuple[float, float, int]]:
    """Per tenth of confidence that holds any: mean confidence, share that is there, count. Low resolution left out."""
    columns = [i for i, kind in enumerate(_KINDS) if kind is not Kind.LOW_RESOLUTION]
    confidence, truth = seen.confidences[:, columns].ravel(), (seen.truth[:, columns] > 0).ravel()
    bins = np.minimum((confidence * _BINS).astype(int), _BINS - 1)
    return [
        (float(confidence[bins == b].mean()), float(truth[bins == b].mean()), int((bins == b).sum()))
        for b in range(_BINS)
        if (bins == b).any()
    ]


def _calibration_error(seen: Graded) -> float:
    """Expected calibration error: how far confidence is from frequency, on average."""
    rows = reliability(seen)
    total = sum(count for *_, count in rows)
    return sum(abs(said - there) * count for said, there, count in rows) / total


def bench_perception(
    perceptions: Mapping[str, Perception], photos: list[Path], report: Callable[[str], None], seed: int = 0
) -> list[str]:
    """Compare perceptions, by their names; the lines of a Markdown report."""
    if not photos:
        raise ConservatorError("there are no photos; give a folder of clean photos")
    seen = grade_all(perceptions, photos, seed)
    tables = {name: grading_summary(value) for name, value in seen.items()}
    lines = ["| | " + " | ".join(tables) + " |", "|---|" + "---|" * len(tables)]
    lines.extend(
        f"| {row} | " + " | ".join(f"{table[row]:.3f}" for table in tables.values()) + " |"
        for row in next(iter(tables.values()))
    )
    for name, value in seen.items():
        lines += ["", f"Reliability of `{name}`:", "", "| confidence | share present | decisions |", "|---|---|---|"]
        lines += [f"| {said:.2f} | {there:.2f} | {count} |" for said, there, count in reliability(value)]
    for line in lines:
        report(line)
    return lines

"""Tables of harm: how many photos policies lower, by how much, and beside it how many they treat.

Doing nothing harms nothing, so every figure of harm stands beside the share that was treated.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np

from conservator.errors import name_not_found
from conservator.evaluation.grid import (
    Column,
    Grid,
    Rows,
    by_policy,
    cases_cell,
    combinations_of,
    gain_cell,
    origins_of,
    photos_cell,
    policies_of,
    share_where,
    tabulate,
)
from conservator.evaluation.intervals import mean_cell
from conservator.evaluation.rows import BenchmarkRow
from conservator.evaluation.strategies import is_baseline
from conservator.evaluation.undamaged import FILM_GRAIN

LOWERED = (0.1, 0.5)
"""dB of PSNR that a photo may lose before it counts as lowered, and as lowered much."""
TOUCHED = (50.0, 35.0)
"""dB to the input below which an undamaged photo counts as visibly touched, and as changed much: half a level of 8 bits
in all pixels is 54 dB, four and a half levels are 35 dB."""


_Paired: TypeAlias = Sequence[tuple[BenchmarkRow, BenchmarkRow]]
"""What two policies made of the same cases."""


def is_clean(rows: Rows) -> bool:
    """Whether nothing was wrong with any photo, so that there is nothing to gain."""
    return all(row.group == "clean" for row in rows)


def _referenced(rows: Rows) -> Rows:
    return [row for row in rows if not np.isnan(row.gain)]


def _treated(rows: Rows) -> str:
    return share_where(rows, lambda row: row.treated)


def _lowered(rows: Rows, decibel: float) -> str:
    return share_where(_referenced(rows), lambda row: row.gain < -decibel)


def _worst_gain(rows: Rows) -> str:
    worst = min(_referenced(rows), key=lambda row: row.gain, default=None)
    if worst is None:
        return ""
    return f"{worst.gain:+.2f}: {worst.photo}" if worst.gain < 0 else "none lowered"


def _below(rows: Rows, decibel: float) -> str:
    return share_where(_referenced(rows), lambda row: row.score("psnr") < decibel)


def _worst_level(rows: Rows) -> str:
    worst = min(_referenced(rows), key=lambda row: row.score("psnr"), default=None)
    if worst is None or not worst.treated:
        return ""
    return f"{worst.score('psnr'):.1f}: {worst.photo}, {worst.combination}"


HARM_COLUMNS: tuple[Column, ...] = (
    ("treated", _treated),
    *((f"{limit} dB worse", partial(_lowered, decibel=limit)) for limit in LOWERED),
    ("worst, dB", _worst_gain),
)
_TOUCHED_COLUMNS: tuple[Column, ...] = (
    ("cases", cases_cell),
    ("photos", photos_cell),
    ("treated", _treated),
    *((f"below {limit:g} dB", partial(_below, decibel=limit)) for limit in TOUCHED),
    ("worst, dB", _worst_level),
)


def by_stratum(rows: Rows) -> Grid | None:
    """Gain and harm in each stratum, a set or a combination of damages, by policy; None where there is one only."""
    columns: list[Column] = [
        ("cases", cases_cell),
        ("photos", photos_cell),
        ("gain, dB (95 % CI)", gain_cell),
        *HARM_COLUMNS,
    ]
    parts = _strata([row for row in rows if row.policy != "none"])
    if len(combinations_of(rows)) < 2 or not parts:
        return None
    return tabulate("Gain and harm per stratum", ("stratum", "policy"), parts, columns)


def touched(rows: Rows) -> list[Grid]:
    """What became of undamaged photos: all but those with film grain, and each stratum."""
    summed = _summed(rows)
    found = [tabulate("Undamaged photos", ("policy",), by_policy(summed), _TOUCHED_COLUMNS)] if summed else []
    if len(combinations_of(rows)) > 1 and (parts := _strata([row for row in rows if row.policy != "none"])):
        found.append(tabulate("Undamaged photos, each stratum", ("stratum", "policy"), parts, _TOUCHED_COLUMNS))
    return found


def _summed(rows: Rows) -> Rows:
    return [row for row in rows if row.combination != FILM_GRAIN]


def _strata(rows: Rows) -> dict[tuple[str, ...], Rows]:
    names, groups = combinations_of(rows), {row.group for row in rows}
    parts: dict[tuple[str, ...], Rows] = {}
    for group, combination in names:
        label = combination if len(groups) == 1 else f"{group}: {combination}"
        some = [row for row in rows if (row.group, row.combination) == (group, combination)]
        parts |= {(label, policy): part for (policy,), part in by_policy(some).items()}
    return parts


def differences(rows: Rows, against: str | None = None) -> Grid | None:
    """What every other policy gains, lowers and treats more than one, on the cases that both have, by photo.

    ``against`` names the one, which else is the first that decides without knowing the truth. None where there is none,
    or nothing to compare. Raises NameNotFoundError for a name that is not among the policies.
    """
    policies = policies_of(rows)
    if against is not None and against not in policies:
        raise name_not_found("policy", against, policies)
    one = against or next((policy for policy in policies if not is_baseline(policy)), None)
    if one is None or len(policies) < 2:
        return None
    rows = _summed(rows) if is_clean(rows) else rows
    known = {row.case: row for row in rows if row.policy == one}
    pairs: dict[tuple[str, ...], _Paired] = {
        (policy,): [(row, known[row.case]) for row in rows if row.policy == policy and row.case in known]
        for policy in policies
        if policy != one
    }
    columns: list[tuple[str, Callable[[_Paired], str]]] = [("cases", lambda found: str(len(found)))]
    columns += [(name, partial(_difference, of=measure)) for name, measure in _measures(is_clean(rows)).items()]
    return tabulate(f"Each policy less {one}, paired by photo", ("policy",), pairs, columns)


def _measures(clean: bool) -> dict[str, Callable[[BenchmarkRow], float]]:
    """What is compared, by heading; shares in percentage points."""
    treated = {"treated, points": lambda row: 100.0 * row.treated}
    if clean:
        return treated | {f"below {level:g} dB, points": partial(_level_below, level=level) for level in TOUCHED}
    lowered = {f"{limit} dB worse, points": partial(_gain_below, limit=-limit) for limit in LOWERED}
    return {"gain, dB": lambda row: row.gain} | treated | lowered


def _gain_below(row: BenchmarkRow, limit: float) -> float:
    return math.nan if math.isnan(row.gain) else 100.0 * (row.gain < limit)


def _level_below(row: BenchmarkRow, level: float) -> float:
    return 100.0 * (row.score("psnr") < level)


def _difference(pairs: _Paired, of: Callable[[BenchmarkRow], float]) -> str:
    less = np.array([of(row) - of(other) for row, other in pairs])
    return mean_cell(less, origins_of(row for row, _ in pairs))

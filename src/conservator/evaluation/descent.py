"""What becomes of a photo at every threshold of risk control, from few restorations.

A restoration is deterministic, and the threshold enters it only where a chance of harm is compared with it. So its
result is the same at every threshold down to the largest chance that it met and admitted; the next restoration is at
the threshold just below. Tool calls, what perception saw and the chances are remembered for as long as the photo lasts.
"""

from __future__ import annotations

import math
import time
import weakref
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from torch import Tensor

from conservator.evaluation.cases import Case
from conservator.evaluation.rows import Scores, measured
from conservator.image import Image, digest
from conservator.kinds import Kind, Objective
from conservator.metrics import Metric
from conservator.perception.perception import Gain, Look, Percept, Perception
from conservator.perception.risk import Admission, HarmEstimate
from conservator.photo import Photo
from conservator.pool import MemoPool, Pool
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.tools.tool import Toolbox

_STEP, _LOWEST, _HIGHEST = 0.25, -8.0, 4.0  # log-odds: chances of 0.03 % to 98 %, each 1.28 times the odds before it
GRID: tuple[float, ...] = (
    0.0,
    *(1 / (1 + math.exp(-_LOWEST - _STEP * place)) for place in range(round((_HIGHEST - _LOWEST) / _STEP) + 1)),
    1.0,
)
"""The thresholds that are tried, ascending. They are fixed beforehand: a grid that was made from the chances of the
photos would be chosen by what is to be certified. At 0 nothing is admitted, at 1 everything."""

OFF = math.inf
"""The threshold of a restoration without risk control, as at risk 1: nothing is refused, and another check of the whole
photo takes its place (restoration.py)."""

Found = TypeVar("Found")


def descend(
    attempt: Callable[[float], tuple[Found, Collection[float]]], grid: Sequence[float] = GRID
) -> list[tuple[float, float, Found]]:
    """What ``attempt`` finds at each threshold of ``grid``: (lowest threshold, highest threshold, what it found).

    It is given a threshold, and returns what it found and all chances that it compared with the threshold. The highest
    thresholds come first; together they are the whole grid.
    """
    found, place = [], len(grid) - 1
    while place >= 0:
        result, chances = attempt(grid[place])
        admitted = max((chance for chance in chances if chance <= grid[place]), default=-math.inf)
        low = bisect_left(grid, admitted)
        found.append((grid[low], grid[place], result))
        place = low - 1
    return found


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one case at the thresholds from ``low`` to ``high``: the same at each of them. Both may be OFF."""

    stratum: str
    photo: str
    scene: str = ""
    """The photograph that its photo is a part of, where several are parts of one."""
    objective: str
    low: float
    """Of the grid, as ``high``."""
    high: float
    toolchain: str
    """Tools whose effect is in the result, joined by ">"."""
    seconds: float
    """That its restoration took, with what was remembered of those before it."""
    scores: Scores
    """Of the result by metric, and of the input as NAME_in."""

    @property
    def unit(self) -> str:
        """What chance drew as one: the photograph."""
        return self.scene or self.photo

    @property
    def treated(self) -> bool:
        """Whether any tool's effect is in the result."""
        return bool(self.toolchain)


@dataclass(frozen=True)
class Trial:
    """Restores cases at every threshold."""

    toolbox: Toolbox
    perception: Perception
    harm: HarmEstimate
    pool: Pool
    """Where tools run; it is not closed."""
    policy: str
    metrics: Sequence[Metric]
    """What is measured of a result, first ``psnr``."""
    objectives: Sequence[Objective]
    seed: int = 0
    """Of the policy."""
    grid: Sequence[float] = GRID

    def outcomes(self, case: Case) -> list[Outcome]:
        """What becomes of a case, objective by objective: without risk control, then the highest thresholds first."""
        damaged, clean = case.make()
        memory = _Memory(MemoPool(self.pool), self.perception, self.harm)
        photo, scores = Photo(damaged), dict[str, Scores]()
        found = []
        for objective in self.objectives:

            def attempt(
                threshold: float, objective: Objective = objective
            ) -> tuple[tuple[str, Scores, float], set[float]]:
                start = time.perf_counter()
                memory.met.clear()
                restored = self._restorer(objective, threshold, memory).restore(photo)
                result = restored.photo.image
                known = scores.get(key := memory.keys(result))
                if known is None:
                    known = scores[key] = measured(self.metrics, damaged, result, clean)
                return (">".join(restored.toolchain), known, time.perf_counter() - start), set(memory.met)

            found += [
                Outcome(
                    stratum=case.combination,
                    photo=case.photo,
                    scene=case.scene,
                    objective=objective,
                    low=low,
                    high=high,
                    toolchain=toolchain,
                    seconds=round(seconds, 3),
                    scores=measures,
                )
                for low, high, (toolchain, measures, seconds) in (
                    (OFF, OFF, attempt(OFF)[0]),
                    *descend(attempt, self.grid),
                )
            ]
        return found

    def _restorer(self, objective: Objective, threshold: float, memory: _Memory) -> Restorer:
        request = Request(policy=self.policy, objective=objective, seed=self.seed)
        if threshold == OFF:
            request, admission = replace(request, risk=1.0), None
        else:
            admission = Admission(memory, threshold)
        return Restorer(
            request, toolbox=self.toolbox, perception=memory.perception, pool=memory.pool, admission=admission
        )


class _Keys:
    """Digests of pictures; each is computed once for as long as the picture lives."""

    def __init__(self) -> None:
        self._known: dict[int, tuple[weakref.ref[Tensor], str]] = {}

    def __call__(self, tensor: Tensor) -> str:
        known = self._known.get(id(tensor))
        if known is None or known[0]() is not tensor:  # a number is given again when its picture is gone
            known = self._known[id(tensor)] = (weakref.ref(tensor), digest(tensor))
        return known[1]


class _Memory:
    """All that was computed of one photo, and the chances that the restoration at work has met; a HarmEstimate."""

    def __init__(self, pool: Pool, perception: Perception, harm: HarmEstimate) -> None:
        self.keys, self.met = _Keys(), set[float]()
        self.pool, self.perception = pool, _Remembering(perception, self.keys)
        self._harm, self._chances = harm, dict[tuple[str, str, frozenset[Kind]], float]()

    def chance(self, before: Look, after: Look, treated: frozenset[Kind]) -> float:
        key = self.keys(before.image), self.keys(after.image), treated
        if key not in self._chances:
            chance = self._harm.chance(before, after, treated)
            self._chances[key] = 1.0 if math.isnan(chance) else chance  # as Admission takes it
        self.met.add(self._chances[key])
        return self._chances[key]


@dataclass(frozen=True)
class _Remembering(Perception):
    """A perception that looks at each picture once."""

    inner: Perception
    keys: _Keys
    percepts: dict[str, Percept] = field(default_factory=dict)
    gains: dict[tuple[str, str, frozenset[Kind]], Gain] = field(default_factory=dict)

    def grade(self, image: Image) -> Percept:
        key = self.keys(image)
        if key not in self.percepts:
            self.percepts[key] = self.inner.grade(image)
        return self.percepts[key]

    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        key = self.keys(before.image), self.keys(after.image), treated
        if key not in self.gains:
            self.gains[key] = self.inner.weigh(before, after, treated)
        return self.gains[key]

    def setup(self) -> None:
        self.inner.setup()

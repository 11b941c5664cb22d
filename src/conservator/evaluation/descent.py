"""What becomes of a photo at every threshold of risk control, from few restorations.

A restoration is deterministic, and the threshold enters it only where a doubt is compared with it. So its
result is the same at every threshold down to the largest doubt that it met and admitted; the next restoration is at
the threshold just below. Tool calls, what perception saw and the chances are remembered for as long as the photo lasts.
"""

from __future__ import annotations

import math
import time
import weakref
from bisect import bisect_left
from collections.abc import Callable, Collection, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from typing import TypeVar

from torch import Tensor

from conservator.errors import ConservatorError
from conservator.evaluation.cases import Case
from conservator.evaluation.rows import Scores, score_of
from conservator.image import Image, digest
from conservator.kinds import Kind, Objective
from conservator.metrics import FULL_REFERENCE
from conservator.perception.perception import Gain, Look, Percept, Perception
from conservator.perception.risk import Admission, HarmEstimate, Verdict
from conservator.photo import Photo
from conservator.pool import Pool
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.tools.tool import Toolbox

_ODDS = [place / 20 for place in range(-160, 81)]
"""Log-odds from 0.03 % to 98 %: each has 1.05 times the odds of the one before it. What lies between two thresholds is
lost, and a restoration is made for each doubt that is met, not for each threshold: a fine grid costs nothing."""
GRID: tuple[float, ...] = (0.0, *(1 / (1 + math.exp(-odds)) for odds in _ODDS), 1.0)
"""The thresholds that are tried, ascending. They are fixed beforehand: a grid that was made from the doubts of the
photos would be chosen by what is to be certified. At 0 nothing is admitted, at 1 everything."""

OFF = math.inf
"""The threshold of a restoration without risk control, as at risk 1: nothing is refused, and another check of the whole
photo takes its place (restoration.py)."""

_REFERENCED = {metric.name: metric for metric in FULL_REFERENCE}
_Found = TypeVar("_Found")


def harm_metric(objective: str) -> str:
    """The metric that says whether a photo came out worse by an objective."""
    return "st_lpips" if objective == "perceptual" else "psnr"


def descend(
    attempt: Callable[[float], tuple[_Found, Collection[float]]], grid: Sequence[float] = GRID
) -> list[tuple[float, float, _Found]]:
    """What ``attempt`` finds at each threshold of ``grid``: (lowest threshold, highest threshold, what it found).

    It is given a threshold, and returns what it found and all doubts that it compared with the threshold. The highest
    thresholds come first; together they are the whole grid.
    """
    found, place = [], len(grid) - 1
    while place >= 0:
        result, doubts = attempt(grid[place])
        admitted = max((doubt for doubt in doubts if doubt <= grid[place]), default=-math.inf)
        low = bisect_left(grid, admitted)
        found.append((grid[low], grid[place], result))
        place = low - 1
    return found


@dataclass(frozen=True, kw_only=True)
class CaseOutcome:
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
    estimated: float
    """What it is estimated to have gained, dB (Restored.gain)."""
    seconds: float
    """That its restoration took, with what was remembered of those before it."""
    scores: Scores
    """Of the result by metric, and of the input as NAME_in; NaN where the objective needs it not."""

    @property
    def judge(self) -> str:
        """The metric that says whether it came out worse."""
        return harm_metric(self.objective)

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
    objectives: Sequence[Objective]
    seed: int = 0
    """Of the policy."""
    grid: Sequence[float] = GRID

    def outcomes(self, case: Case) -> list[CaseOutcome]:
        """What becomes of a case, objective by objective: without risk control, then the highest thresholds first.

        Raises ConservatorError for a case without a reference.
        """
        return self.outcomes_of(case, *self.begun(case))

    def begun(self, case: Case) -> tuple[Photo, Memory]:
        """The photo of a case, and a memory for it, which trials by the same perception, tools and harm may share."""
        damaged, clean = case.make()
        if clean is None:
            raise ConservatorError(f"{case.photo} has no undamaged reference; whether it came out worse is not known")
        return Photo(damaged), Memory(self.pool, self.perception, self.harm, clean)

    def outcomes_of(self, case: Case, photo: Photo, memory: Memory) -> list[CaseOutcome]:
        """What becomes of a case that has begun."""
        found = []
        for objective in self.objectives:
            attempt = partial(self._attempt, case, photo, objective, memory)
            outcomes = [(OFF, OFF, attempt(OFF)[0]), *descend(attempt, self.grid)]
            found += [replace(outcome, low=low, high=high) for low, high, outcome in outcomes]
        return found

    def admission(self, memory: Memory, threshold: float) -> Admission:
        """What restorations are held to at a threshold, and what notes the doubts in ``memory.met``."""
        return Recording(memory, threshold, weighing=memory.perception, met=memory.met)

    def _attempt(
        self, case: Case, photo: Photo, objective: Objective, memory: Memory, threshold: float
    ) -> tuple[CaseOutcome, set[float]]:
        """What becomes of a case at one threshold, and the doubts that were compared with it."""
        start = time.perf_counter()
        memory.met.clear()
        restored = self._restorer(objective, threshold, memory).restore(photo)
        seconds = time.perf_counter() - start
        scores = dict[str, float]()
        for metric in dict.fromkeys(("psnr", *map(harm_metric, self.objectives))):
            needed = metric in ("psnr", harm_metric(objective))
            for name, image in {f"{metric}_in": photo.image, metric: restored.photo.image}.items():
                scores[name] = memory.score(metric, image) if needed else math.nan
        outcome = CaseOutcome(
            stratum=case.combination,
            photo=case.photo,
            scene=case.scene,
            objective=objective,
            low=threshold,
            high=threshold,
            toolchain=">".join(restored.toolchain),
            estimated=round(restored.gain, 4),
            seconds=round(seconds, 3),
            scores=scores,
        )
        return outcome, set(memory.met)

    def _restorer(self, objective: Objective, threshold: float, memory: Memory) -> Restorer:
        request = Request(policy=self.policy, objective=objective, seed=self.seed)
        if threshold == OFF:
            request, admission = replace(request, risk=1.0), None
        else:
            admission = self.admission(memory, threshold)
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


@dataclass(frozen=True)
class Recording(Admission):
    """Notes the doubts that it compares with its threshold."""

    met: set[float] = field(default_factory=set)

    def judge(
        self,
        start: Look,
        before: Look,
        after: Look,
        treated: frozenset[Kind],
        since_start: frozenset[Kind],
        part: bool = False,
    ) -> Verdict:
        verdict = super().judge(start, before, after, treated, since_start, part)
        self.met.add(verdict.doubt)
        return verdict


class Memory:
    """All that was computed of one photo, and the doubts that the restoration at work has met; a HarmEstimate."""

    def __init__(self, pool: Pool, perception: Perception, harm: HarmEstimate, clean: Image) -> None:
        self.keys, self.met = _Keys(), set[float]()
        self._clean, self._scores = clean, dict[tuple[str, str], float]()
        self.pool, self.perception = _Calls(pool, self.keys), _Remembering(perception, self.keys)
        self._harm, self._chances = harm, dict[tuple[str, str, frozenset[Kind]], float]()

    def chance(self, before: Look, after: Look, treated: frozenset[Kind]) -> float:
        key = self.keys(before.image), self.keys(after.image), treated
        if key not in self._chances:
            self._chances[key] = self._harm.chance(before, after, treated)
        return self._chances[key]

    def score(self, metric: str, image: Image) -> float:
        """What a metric says of a picture and the undamaged photo."""
        key = metric, self.keys(image)
        if key not in self._scores:
            self._scores[key] = round(score_of(_REFERENCED[metric], image, self._clean), 5)
        return self._scores[key]


class _Calls(Pool):
    """Remembers what tools made, or why they could not, for as long as the photo lasts."""

    def __init__(self, pool: Pool, keys: _Keys) -> None:
        self._pool, self._keys, self._known = pool, keys, dict[tuple[str, ...], Future[Tensor]]()

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        key = name, *map(self._keys, tensors)
        if key not in self._known:
            self._known[key] = self._pool.submit(name, *tensors)
        return self._known[key]

    def identity(self, name: str) -> str:
        return self._pool.identity(name)

    def close(self) -> None:
        """The pool beneath is another's."""


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

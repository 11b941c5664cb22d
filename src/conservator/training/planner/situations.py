"""What a planner can be asked, and the right answer: RestoreAgent's five situations, read off an enumeration.

RestoreAgent (NeurIPS 2024) teaches its model to plan from the start, to go on from an intermediate state, to see that
a step did harm and roll back, not to repeat that step, and to know that nothing more helps.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from enum import StrEnum

import numpy as np
from numpy.typing import NDArray

from conservator.evaluation.enumerate import Enumeration, Toolchain
from conservator.session.trajectory import Action, Apply, Decision, Rollback, Stop

TIE = 0.1
"""Plans whose scores (sums of z-scores) differ by less are equally good."""
_PLANS = 24
"""Plans that a question keeps at most, the shortest first: of four kinds of damage hundreds may tie."""
LOST = 0.5
"""A toolchain after which the best that can still be reached scores this much less did harm."""


class Situation(StrEnum):
    """What a planner is asked."""

    PLAN = "plan"
    ADJUST = "adjust"
    ROLLBACK = "rollback"
    AVOID = "avoid"
    STOP = "stop"


@dataclass(frozen=True)
class Question:
    """A history, the state it leads to, and what is best to do there."""

    situation: Situation
    history: tuple[Action, ...]
    toolchain: Toolchain
    """Of the current state."""
    answer: Decision
    plans: Mapping[Toolchain, float] = field(hash=False)
    """The plans from here that are as good as the best, with their scores, the answer's first; the empty one is to
    stop. None where a rollback is right."""
    values: Mapping[Action, float] = field(hash=False)
    """The best score that can still be reached by each action: the enumerated tools, rollbacks to other states, stop.

    The first step of a state stands for all steps that show it. Tools that no enumerated toolchain has next are absent.
    """


class Outlook:
    """Which toolchain is best from every prefix, by one objective."""

    def __init__(self, found: Enumeration, scores: NDArray[np.float64], tie: float = TIE) -> None:
        """``scores`` (N,): of the enumeration's toolchains; NaN where a tool failed.

        Plans within a ``tie`` of the best are as good. It is 0 where what calls cost was taken off the scores: else a
        tool that gains little would pay twice.
        """
        self._tie = tie
        self.scores = {chain: float(s) for chain, s in zip(found.toolchains, scores, strict=True) if not np.isnan(s)}
        self.reach: dict[Toolchain, float] = {}
        """The best score of any toolchain that begins so."""
        self.following: dict[Toolchain, list[str]] = {}
        for chain, score in self.scores.items():
            for length in range(len(chain) + 1):
                prefix = chain[:length]
                self.reach[prefix] = max(score, self.reach.get(prefix, -np.inf))
            if chain:
                self.following.setdefault(chain[:-1], []).append(chain[-1])

    def completions(self, prefix: Toolchain) -> list[Toolchain]:
        """The plans from a state that are as good as the best, the shortest first: no tool without need."""
        at, goal = len(prefix), self.reach[prefix] - self._tie
        good = [chain[at:] for chain, score in self.scores.items() if chain[:at] == prefix and score >= goal]
        return sorted(good, key=lambda chain: (len(chain), -self.scores[prefix + chain]))

    def lost(self, prefix: Toolchain) -> bool:
        """Whether a toolchain has done harm that no tool undoes: the best from the start is out of reach."""
        return self.reach[prefix] < self.reach[()] - LOST


def questions(outlook: Outlook, rng: np.random.Generator, cost: float = 0.0) -> Iterator[Question]:
    """At most one question of each situation about one photo; which states are asked about is drawn.

    ``cost`` is what the outlook's scores were lowered by for each call (``values_at``).
    """
    plans = outlook.completions(())
    if plans[0]:
        yield _question(outlook, Situation.PLAN, (), (), cost)
    states = [prefix for prefix in outlook.reach if prefix]
    on_the_way = [p for p in states if not outlook.lost(p) and outlook.completions(p)[0]]
    if on_the_way:
        prefix = _draw(on_the_way, rng)
        yield _question(outlook, Situation.ADJUST, applied(prefix), prefix, cost)
    wrong = [p for p in states if outlook.lost(p) and not outlook.lost(p[:-1])]
    if wrong:
        lost = wrong if rng.random() < 0.7 else [p for p in states if outlook.lost(p)]  # mostly seen at once
        prefix = _draw(lost, rng)
        yield _question(outlook, Situation.ROLLBACK, applied(prefix), prefix, cost)
        prefix = _draw(wrong, rng)
        history = (*applied(prefix), Rollback(len(prefix) - 1))
        yield _question(outlook, Situation.AVOID, history, prefix[:-1], cost, without=prefix[-1])
    done = [p for p in outlook.reach if not outlook.completions(p)[0] and not outlook.lost(p)]
    if done:
        prefix = _draw(done, rng)
        yield _question(outlook, Situation.STOP, applied(prefix), prefix, cost)


def _draw(toolchains: list[Toolchain], rng: np.random.Generator) -> Toolchain:
    return toolchains[int(rng.integers(len(toolchains)))]


def applied(toolchain: Toolchain) -> tuple[Action, ...]:
    """The history of a toolchain without detours."""
    return tuple(Apply(tool) for tool in toolchain)


def _question(
    outlook: Outlook,
    situation: Situation,
    history: tuple[Action, ...],
    state: Toolchain,
    cost: float,
    without: str = "",
) -> Question:
    """The right answer at a state; ``without`` names a tool that was rolled back and is not to be repeated."""
    values = values_at(outlook, history, state, cost)
    if situation is Situation.ROLLBACK:
        to = max(length for length in range(len(state)) if not outlook.lost(state[:length]))
        return Question(situation, history, state, Decision(Rollback(to)), {}, values)
    plans = [plan for plan in outlook.completions(state) if plan[:1] != (without,)][:_PLANS]
    best = plans[0]
    answer = Decision(Apply(best[0]), best[1:]) if best else Decision(Stop())
    sunk = cost * len(state)
    scores = {plan: outlook.scores[(*state, *plan)] + sunk for plan in plans}
    return Question(situation, history, state, answer, scores, values)


def values_at(
    outlook: Outlook, history: tuple[Action, ...], state: Toolchain, cost: float = 0.0
) -> dict[Action, float]:
    """What each action reaches after a history that led to a state.

    Where the outlook's scores were lowered by ``cost`` for each call of their toolchain, calls that were made already
    do not count, and a rollback costs as much as a call.
    """
    following = outlook.following.get(state, [])
    sunk = cost * len(state)
    values: dict[Action, float] = {Apply(tool): outlook.reach[(*state, tool)] + sunk for tool in following}
    states: list[Toolchain] = [()]
    for action in history:
        match action:
            case Apply(tool):
                states.append((*states[-1], tool))
            case Rollback(to):
                states.append(states[to])
    for number, earlier in enumerate(states):
        if earlier != state and states.index(earlier) == number:
            values[Rollback(number)] = outlook.reach[earlier] + cost * (len(earlier) - 1)
    return values | {Stop(): outlook.scores[state] + sunk}

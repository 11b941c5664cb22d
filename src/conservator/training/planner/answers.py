"""Which answers to a question are right, and how likely a model shall give each: by what they are worth.

The enumeration knows the score of every toolchain, so a label need not name one answer of several that are as good.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

from conservator.policies.planning import legal_actions
from conservator.session.trajectory import Action, Apply, Decision, Rollback, Stop
from conservator.training.planner.lessons import PlannerLesson
from conservator.training.planner.situations import TIE

_WARMTH = TIE / 2
"""By how much less good an answer may be that is learned 1/e times as much; beyond a tie it is not learned."""

_Answer = TypeVar("_Answer", bound=Hashable)


def right_answers(lesson: PlannerLesson, plans: bool) -> dict[Decision, float]:
    """How likely each answer shall be, together 1; ``plans`` where an answer may name more tools than the next one.

    Of plans, those that are worth nearly as much as the best are right, a tool being worth what counts as a tie: of
    two that are as good, the shorter one is given more often. To stop is the plan without a tool. Rollbacks are right
    only where harm was done; they throw calls away, so elsewhere they are never nearly as good.
    """
    if not (plans and lesson.plans):
        return {_answered(lesson, action): share for action, share in right_calls(lesson).items()}
    legal = set(legal_actions(lesson.observation))
    worth = {
        decision: score - TIE * len(plan)
        for plan, score in lesson.plans.items()
        if (decision := _planned(plan)).action in legal
    }
    if lesson.answer not in worth:
        return {lesson.answer: 1.0}
    return _beside_stop(_shared(worth, lesson.answer), Decision(Stop()))


def right_calls(lesson: PlannerLesson) -> dict[Action, float]:
    """How likely each next action shall be, together 1: the legal ones nearly as good as the best, the better the more.

    They are of the type of the lesson's answer, but that to stop may be as good as a tool. Of rollbacks, those are
    right that reach as far as the answer and throw away no more calls than it does.
    """
    answer = lesson.answer.action
    assert answer is not None
    alike = (Apply, Stop) if isinstance(answer, Apply) else type(answer)
    legal = [a for a in legal_actions(lesson.observation) if isinstance(a, alike) and a in lesson.values]
    if answer not in legal:
        return {answer: 1.0}
    if isinstance(answer, Rollback):
        legal = [a for a in legal if isinstance(a, Rollback) and _kept(lesson, a) >= _kept(lesson, answer)]
    return _beside_stop(_shared({action: lesson.values[action] for action in legal}, answer), Stop())


def is_right(lesson: PlannerLesson, decision: Decision) -> bool:
    """Whether the next action begins a right answer, one worth nearly as much as the best, less what calls cost."""
    if lesson.plans:
        return decision.action in {answer.action for answer in right_answers(lesson, plans=True)}
    match decision.action:
        case Rollback():
            return decision.action in right_calls(lesson)
        case Apply() | Stop():
            return lesson.values.get(decision.action, float("-inf")) >= lesson.best - TIE
        case _:
            return False


def _planned(plan: Sequence[str]) -> Decision:
    return Decision(Apply(plan[0]), tuple(plan[1:])) if plan else Decision(Stop())


def _answered(lesson: PlannerLesson, action: Action) -> Decision:
    """A next action as an answer, with the rest of the lesson's plan where it is the lesson's own."""
    return lesson.answer if action == lesson.answer.action else Decision(action)


def _kept(lesson: PlannerLesson, rollback: Rollback) -> int:
    """How many calls are in effect after a rollback."""
    trajectory = lesson.observation.trajectory
    return len(trajectory.toolchain(trajectory.steps[rollback.to]))


def _beside_stop(shares: dict[_Answer, float], stop: _Answer) -> dict[_Answer, float]:
    """The shares with that of ``stop`` beside the best of the others, not beside all of them together.

    Ten answers that are as good are not ten times as right.
    """
    others = {one: share for one, share in shares.items() if one != stop}
    if stop not in shares or not others:
        return shares
    stops = shares[stop] / (shares[stop] + max(others.values()))
    left = (1 - stops) / sum(others.values())
    return {one: left * share for one, share in others.items()} | {stop: stops}


def _shared(worth: Mapping[_Answer, float], answer: _Answer) -> dict[_Answer, float]:
    """The shares of those within a tie of the best, and of the lesson's answer."""
    best = max(worth.values())
    good = [one for one, value in worth.items() if one == answer or value > best - TIE]
    weights = {one: math.exp((worth[one] - best) / _WARMTH) for one in good}
    total = sum(weights.values())
    return {one: weight / total for one, weight in weights.items()}

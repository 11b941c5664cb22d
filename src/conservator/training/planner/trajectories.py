"""What a model that calls tools learns from: whole trajectories, perturbed, with the value of every call on the way.

TIR-Agent (arXiv 2603.27742) perturbs its trajectories at random, in the order of tasks and in the tools for a task,
because supervision by the one best sequence leaves nothing to explore. How was not published; here neighbours are
swapped and tools are replaced, each with its probability, and a change is kept when the result loses little. The
enumeration knows the score of every toolchain, so each step also knows what all the other calls would be worth.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from conservator.evaluation.enumerate import Enumeration, Toolchain
from conservator.kinds import Kind
from conservator.session.trajectory import Apply, Decision, Stop
from conservator.training.planner.situations import (
    TIE,
    Outlook,
    Question,
    Situation,
    applied,
    questions,
    values_at,
)

CALL_COST = TIE
"""By what every call lowers a score: a tool that gains no more than a tie is not worth its call."""
_BY_HARM = (Situation.ROLLBACK, Situation.AVOID)


@dataclass(frozen=True)
class Perturbation:
    """How trajectories differ from the best one."""

    swaps: float = 0.3
    """The probability that two neighbours change places."""
    substitutes: float = 0.3
    """The probability that a tool is replaced by another one for the same damage."""
    tolerance: float = 0.02
    """By how much the score may fall, as a share of the range of all toolchains' scores."""


def trajectory_questions(
    found: Enumeration,
    scores: NDArray[np.float64],
    removes: Mapping[str, frozenset[Kind]],
    perturbation: Perturbation,
    rng: np.random.Generator,
) -> Iterator[Question]:
    """The questions of one perturbed trajectory, a call each and the stop; and those that a harmful step leads to.

    ``scores`` (N,) are of the enumeration's toolchains, ``removes`` the kinds that each tool is for.
    """
    outlook = Outlook(found, scores - CALL_COST * np.array([len(chain) for chain in found.toolchains]), tie=0.0)
    toolchain = perturbed(outlook.completions(())[0], outlook, removes, perturbation, rng)
    toolchain += outlook.completions(toolchain)[0]  # another tool may have left more to do
    for place in range(len(toolchain) + 1):
        state, next_ = toolchain[:place], toolchain[place : place + 1]
        situation = (Situation.ADJUST if place else Situation.PLAN) if next_ else Situation.STOP
        history = applied(state)
        answer = Decision(Apply(next_[0]) if next_ else Stop())
        yield Question(situation, history, state, answer, {}, values_at(outlook, history, state, CALL_COST))
    by_harm = (q for q in questions(outlook, rng, CALL_COST) if q.situation in _BY_HARM)
    yield from (replace(question, plans={}) for question in by_harm)  # what calls cost is in the values


def perturbed(
    toolchain: Toolchain,
    outlook: Outlook,
    removes: Mapping[str, frozenset[Kind]],
    perturbation: Perturbation,
    rng: np.random.Generator,
) -> Toolchain:
    """A toolchain with neighbours swapped and tools replaced by chance; each change is kept if little is lost by it.

    It loses no more than the tolerance in all, by the outlook's scores.
    """
    scores = outlook.scores
    least = scores[toolchain] - perturbation.tolerance * (max(scores.values()) - min(scores.values()))

    def kept(changed: Toolchain) -> Toolchain:
        return changed if scores.get(changed, -np.inf) >= least else toolchain

    for i in range(len(toolchain) - 1):
        if rng.random() < perturbation.swaps:
            toolchain = kept((*toolchain[:i], toolchain[i + 1], toolchain[i], *toolchain[i + 2 :]))
    for i, tool in enumerate(toolchain):
        alike = [other for other, kinds in removes.items() if kinds == removes[tool] and other != tool]
        if alike and rng.random() < perturbation.substitutes:
            toolchain = kept((*toolchain[:i], alike[int(rng.integers(len(alike)))], *toolchain[i + 1 :]))
    return toolchain

"""Constrained decoding: only legal replies can be said, and each gets the chance that the model gives it.

The tree of the replies is grown tool by tool. Where it forks the model is asked, and only the tokens that lead on
count; the chance of a branch is the product of its forks.
"""

from __future__ import annotations

import heapq
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias, TypeVar

import numpy as np
import torch
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.policies.dialects import Dialect
from conservator.policies.planning import legal_actions
from conservator.session.session import Observation
from conservator.session.trajectory import Action, Apply, Decision

Tokens: TypeAlias = tuple[int, ...]
Next: TypeAlias = Callable[[Tokens], Tensor]
"""(tokens so far) -> the logarithms (V,) of the probabilities of the next one."""
Option = TypeVar("Option", bound=Hashable)
_LEAST = 0.01
"""Chance below which a branch is not followed."""


@dataclass(frozen=True)
class Replied:
    """A model's choice, and how likely it found the others."""

    decision: Decision
    chances: Mapping[Action, float] = field(hash=False)
    """Of every next action that is not out of the question: the chosen one first, then others of its type (tools,
    rollbacks, stop), then the other types; within a type the most likely first. Together at most 1."""


class Speaker:
    """How decisions are written in a model's tokens, in a dialect."""

    def __init__(self, tokens: Callable[[str], Tokens], end: int, dialect: Dialect) -> None:
        """``end`` is the token after the last one of a reply."""
        self.dialect, self._tokens, self._end = dialect, tokens, end
        self._written: dict[str, Tokens] = {}

    def write(self, decision: Decision) -> Tokens:
        """The whole reply that stands for a decision."""
        reply = self.dialect.write(decision)
        if reply not in self._written:
            self._written[reply] = (*self._tokens(reply), self._end)
        return self._written[reply]


def choose(observation: Observation, next_: Next, speaker: Speaker, rollbacks: bool = True) -> Replied:
    """The likeliest next action, and when it is a tool, the likeliest tools to follow it; ``rollbacks`` if they may be.

    First whether to go on, to go back, or to stop: else many tools, each likely, would lose to one stop.
    """
    names = [spec.name for spec in observation.tools]

    def replies(action: Action) -> list[Tokens]:
        if isinstance(action, Apply) and speaker.dialect.plans:
            return _beginning((action.tool,), names, speaker)
        return [speaker.write(Decision(action))]

    chances = likeliest({action: replies(action) for action in legal_actions(observation, rollbacks)}, next_)
    together: dict[type, float] = {}
    for action, chance in chances.items():
        together[type(action)] = together.get(type(action), 0.0) + chance
    chances = dict(sorted(chances.items(), key=lambda item: (-together[type(item[0])], -item[1])))
    best = next(iter(chances))
    plan: tuple[str, ...] = ()
    if isinstance(best, Apply) and speaker.dialect.plans:
        plan = _continue((best.tool,), names, observation.steps_left, next_, speaker)
    decision = Decision(best, plan[1:])
    return Replied(replace(decision, reply=speaker.dialect.write(decision)), chances)


@dataclass(frozen=True)
class Fork:
    """Where a reply could have gone on in several ways."""

    place: int
    """How many tokens of the reply stand before it."""
    tokens: Tokens
    """Those that could follow."""
    shares: tuple[float, ...]
    """How they are divided between: the model's chances, or what it is to learn; together 1."""
    chosen: int
    """The number of the one that did follow."""


def draw(replies: Sequence[Tokens], next_: Next, rng: np.random.Generator, temperature: float = 1.0) -> list[Fork]:
    """Draw one of these replies by the model's chances, fork by fork; the way that was taken.

    ``temperature`` above 0 divides the logarithms of the chances. No reply may be the beginning of another. The reply
    is that of which ``follow`` says that it takes the way. Raises ConservatorError when the model's numbers are none.
    """
    way, path, left = list[Fork](), Tokens(), list(replies)
    while len(left) > 1:
        tokens = sorted({reply[len(path)] for reply in left})
        shares = _shares(path, tokens, lambda here: next_(here) / temperature)
        chosen = int(rng.choice(len(tokens), p=np.array(shares) / sum(shares))) if len(tokens) > 1 else 0
        if len(tokens) > 1:
            way.append(Fork(len(path), tuple(tokens), tuple(shares), chosen))
        path = (*path, tokens[chosen])
        left = [reply for reply in left if reply[len(path) - 1] == tokens[chosen]]
    return way


def follow(replies: Iterable[Tokens], way: Sequence[Fork]) -> Tokens:
    """The one of these replies that takes a way."""
    return next(reply for reply in replies if all(reply[f.place : f.place + 1] == (f.tokens[f.chosen],) for f in way))


def forks_of(wanted: Mapping[Tokens, float], reply: Tokens) -> list[Fork]:
    """The forks on the way of a reply between those that are ``wanted``, by what share each is.

    Learning these shares on ways that are drawn by them is learning the whole distribution (the chain rule).
    """
    way, left = list[Fork](), dict(wanted)
    for place, token in enumerate(reply):
        shares: dict[int, float] = {}
        for other, share in left.items():
            shares[other[place]] = shares.get(other[place], 0.0) + share
        if len(shares) > 1:
            total = sum(shares.values())
            parts = tuple(share / total for share in shares.values())
            way.append(Fork(place, tuple(shares), parts, list(shares).index(token)))
        left = {other: share for other, share in left.items() if other[place] == token}
    return way


def _continue(plan: tuple[str, ...], names: Sequence[str], most: int, next_: Next, speaker: Speaker) -> tuple[str, ...]:
    """A plan with the tools that the model adds, each once, ``most`` in all."""
    while len(plan) < most:
        options = {"": [_plan(plan, speaker)]}
        options |= {name: _beginning((*plan, name), names, speaker) for name in names if name not in plan}
        added = next(iter(likeliest(options, next_)))
        if not added:
            break
        plan = (*plan, added)
    return plan


def _plan(plan: Sequence[str], speaker: Speaker) -> Tokens:
    return speaker.write(Decision(Apply(plan[0]), tuple(plan[1:])))


def _beginning(plan: Sequence[str], names: Sequence[str], speaker: Speaker) -> list[Tokens]:
    """The plan, and plans that go on, where only they tell its last tool from one whose name begins with that one's."""
    further = [name for name in names if name not in plan]
    if not any(name != plan[-1] and name.startswith(plan[-1]) for name in names):
        further = []
    return [_plan(plan, speaker), *(_plan((*plan, name), speaker) for name in further)]


def likeliest(options: Mapping[Option, Sequence[Tokens]], next_: Next, least: float = _LEAST) -> dict[Option, float]:
    """The chance of each option, the likeliest first; branches below ``least`` are left out.

    Each option is a set of token sequences; no sequence may be the beginning of another. Raises ConservatorError when
    the model's numbers are none.
    """
    found: dict[Option, float] = {}
    everything = [(option, tokens) for option, sequences in options.items() for tokens in sequences]
    branches: list[tuple[float, int, Tokens, list[tuple[Option, Tokens]]]] = [(-1.0, 0, (), everything)]
    pushed = 0
    while branches and (-branches[0][0] >= least or not found):
        negative, _, path, below = heapq.heappop(branches)
        if len({option for option, _ in below}) == 1:
            found[below[0][0]] = found.get(below[0][0], 0.0) - negative
            continue
        forks: dict[int, list[tuple[Option, Tokens]]] = {}
        for option, tokens in below:
            forks.setdefault(tokens[len(path)], []).append((option, tokens))
        for (token, rest), share in zip(forks.items(), _shares(path, list(forks), next_), strict=True):
            pushed += 1
            heapq.heappush(branches, (negative * share, pushed, (*path, token), rest))
    return dict(sorted(found.items(), key=lambda item: -item[1]))


def _shares(path: Tokens, tokens: list[int], next_: Next) -> list[float]:
    """How the model divides between these next tokens; together 1."""
    if len(tokens) == 1:
        return [1.0]
    shares = next_(path)[tokens].softmax(0)
    if not bool(torch.isfinite(shares).all()):
        raise ConservatorError("the model's probabilities are no numbers; its weights, or their precision, are broken")
    found: list[float] = shares.tolist()
    return found

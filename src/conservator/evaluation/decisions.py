"""What a decision costs beside perception: the time of ``act`` alone, and of ``act_together`` for each of many."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial

from conservator.session import Observation, Policy, decide_together
from conservator.session.together import TogetherPolicy


@dataclass(frozen=True)
class DecisionTime:
    """Medians over observations, in milliseconds of wall time."""

    policy: str
    alone: float
    """For one session."""
    together: float
    """For each of ``company`` sessions that are decided in one pass, where the policy can."""
    company: int


def time_decisions(
    policy: Policy, observations: Sequence[Observation], company: int = 64, repeats: int = 5
) -> DecisionTime:
    """Time a policy on observations whose pictures were graded before; the first decision, which loads, is not timed.

    With a policy that tries tools it is their time, too: give it a pool that remembers nothing. A model that remembers
    what prompts began with forgets it before each.
    """
    policy.act(observations[0])
    many = [observations[i % len(observations)] for i in range(company)]
    alone = [_seconds(partial(forgetful(policy).act, one)) for one in observations for _ in range(repeats)]
    together = [_seconds(partial(_decide_all, policy, many)) / company for _ in range(repeats)]
    return DecisionTime(policy.name, 1e3 * statistics.median(alone), 1e3 * statistics.median(together), company)


def _decide_all(policy: Policy, observations: Sequence[Observation]) -> None:
    if isinstance(policy, TogetherPolicy):
        decide_together(forgetful(policy), observations)
    else:  # one by one: the observations come again and again, and would be remembered
        for observation in observations:
            forgetful(policy).act(observation)


def forgetful(policy: Policy) -> Policy:
    """The policy, after it forgot what it remembers of prompts: what it was asked before makes it no faster."""
    forget = getattr(policy, "forget", None)
    if forget is not None:
        forget()
    return policy


def decisions_table(times: Sequence[DecisionTime]) -> list[str]:
    """The times as a Markdown table."""
    lines = ["| policy | one session, ms | each of many, ms | many |", "|---|---|---|---|"]
    return [*lines, *(f"| {t.policy} | {t.alone:.2f} | {t.together:.2f} | {t.company} |" for t in times)]


def _seconds(call: Callable[[], object]) -> float:
    begin = time.perf_counter()
    call()
    return time.perf_counter() - begin

"""Many sessions in step: their policy decides on all of them at once, and their tools run in batches."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from typing import Protocol, runtime_checkable

import torch

from conservator.errors import ImageError, InvalidActionError, PoolError, ToolFailedError
from conservator.image import Image
from conservator.session.session import Observation, Policy, Session
from conservator.session.trajectory import Apply, Decision, Step, Trajectory

LARGEST_BATCH = 64
"""Images in one call of a tool: more of them gain nothing on a CPU, where they leave the caches."""


@runtime_checkable
class TogetherPolicy(Policy, Protocol):
    """A policy that decides on many observations in one pass of its network."""

    def act_together(self, observations: Sequence[Observation]) -> Sequence[Decision]:
        """One decision for each observation, in their order: the same as ``act`` gives for each alone."""


def run_together(policy: Policy, sessions: Sequence[Session]) -> list[Trajectory]:
    """Run each session to its end, all in step; gives what ``run`` gives for each, where tools treat images alike.

    Alike means that a tool makes of an image in a batch what it makes of it alone, which holds to the bit for some
    tools and to rounding for all. A policy with ``act_together`` (``TogetherPolicy``) decides on all live sessions at
    once; calls of one tool on images of one shape run as one batch. Sessions may differ in toolbox, pool, perception
    and budget, and those that are over take no part; giving one session twice raises InvalidActionError.

    A PoolError is of one session alone: that one stays as it was, the others go on to their ends, and the error is
    raised then. Called again with the same sessions it goes on with the one that failed.
    """
    if len({id(session) for session in sessions}) < len(sessions):
        raise InvalidActionError("one session was given twice; give each its own")
    failed: dict[int, PoolError] = {}
    while live := [i for i, session in enumerate(sessions) if not session.over and i not in failed]:
        parts = [sessions[i] for i in live]
        steps = _step_each(parts, decide_together(policy, [session.observe() for session in parts]))
        failed |= {i: step for i, step in zip(live, steps, strict=True) if isinstance(step, PoolError)}
    if failed:
        raise next(iter(failed.values()))
    return [session.trajectory for session in sessions]


def decide_together(policy: Policy, observations: Sequence[Observation]) -> list[Decision]:
    """A decision on each observation: in one pass where the policy can, else one by one."""
    if not isinstance(policy, TogetherPolicy):
        return [policy.act(observation) for observation in observations]
    decisions = list(policy.act_together(observations))
    if len(decisions) != len(observations):
        raise InvalidActionError(
            f"{policy.name} made {len(decisions)} decisions on {len(observations)} observations; act_together owes one "
            "on each"
        )
    return decisions


def step_together(sessions: Sequence[Session], decisions: Sequence[Decision]) -> list[Step]:
    """Carry out one decision in each session; the calls of one tool on images of one shape run as one batch.

    A batch that fails is called again one by one, so that a session's error is its own. Raises InvalidActionError, and
    does nothing, when one of the sessions is over. Raises a PoolError after all other sessions have made their step.
    """
    for session in sessions:
        if session.over:
            raise InvalidActionError("one of the sessions is over; leave it out")
    steps = list[Step]()
    error: PoolError | None = None
    for step in _step_each(sessions, decisions):
        if isinstance(step, PoolError):
            error = error or step
        else:
            steps.append(step)
    if error is not None:
        raise error
    return steps


def _step_each(sessions: Sequence[Session], decisions: Sequence[Decision]) -> list[Step | PoolError]:
    calls = _call_together(sessions, decisions)
    steps = list[Step | PoolError]()
    for i, (session, decision) in enumerate(zip(sessions, decisions, strict=True)):
        try:
            steps.append(session.step(decision, calls.get(i)))
        except PoolError as error:
            steps.append(error)
    return steps


def _call_together(sessions: Sequence[Session], decisions: Sequence[Decision]) -> Mapping[int, Future[Image]]:
    """The calls of these decisions by session: those alone of their kind, and those of batches that went well."""
    alike: dict[tuple[int, str, torch.Size], list[int]] = defaultdict(list)
    for i, (session, decision) in enumerate(zip(sessions, decisions, strict=True)):
        if isinstance(decision.action, Apply) and _possible(session, decision.action):
            alike[id(session.pool), decision.action.tool, session.trajectory.last.image.shape].append(i)
    batches: list[tuple[list[int], Future[Image]]] = []
    for (_, tool, shape), members in alike.items():
        most = max(1, LARGEST_BATCH // shape[0])
        for part in (members[first : first + most] for first in range(0, len(members), most)):
            images = [sessions[i].trajectory.last.image for i in part]
            try:
                batches.append((part, sessions[part[0]].pool.submit(tool, torch.cat(images))))
            except PoolError:
                continue  # whoever is told of it is told by its own call
    calls: dict[int, Future[Image]] = {}
    for members, call in batches:
        if len(members) == 1:
            calls[members[0]] = call
            continue
        try:
            restored = call.result().split(sessions[members[0]].trajectory.last.image.shape[0])
        except (ToolFailedError, ImageError, PoolError):
            continue  # one bad image must not fail its neighbours
        for i, image in zip(members, restored, strict=True):
            calls[i] = Future()
            calls[i].set_result(image)
    return calls


def _possible(session: Session, action: Apply) -> bool:
    try:
        session.check_action(action)
    except InvalidActionError:
        return False
    return True

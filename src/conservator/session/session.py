"""The executor: the only place where an action meets a tool."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Protocol

import torch

from conservator.errors import InvalidActionError, ToolFailedError, name_not_found
from conservator.image import Image, check_image
from conservator.perception.perception import Percept, Perception
from conservator.pool import Pool
from conservator.session.scope import Scope
from conservator.session.trajectory import Apply, Decision, Rollback, Step, Stop, Trajectory
from conservator.tools.tool import Toolbox, ToolSpec


@dataclass(frozen=True)
class Observation:
    """All that a policy may know. It has no field for a reference image, and must never get one."""

    trajectory: Trajectory
    tools: tuple[ToolSpec, ...]
    steps_left: int

    @property
    def image(self) -> Image:
        """The current image, (B, 3, H, W)."""
        return self.trajectory.last.image

    @property
    def percept(self) -> Percept:
        """What perception says of the current image."""
        return self.trajectory.last.percept


class Policy(Protocol):
    """Chooses the next action. All its memory is the trajectory, so one policy serves many sessions at once."""

    @property
    def name(self) -> str:
        """As the catalog and the tables call it."""

    def act(self, observation: Observation) -> Decision:
        """Decide on the next action from the observation alone."""


class Session:
    """One image, or one study of a photo, on its way to being restored."""

    def __init__(
        self,
        image: Image,
        toolbox: Toolbox,
        pool: Pool,
        perception: Perception,
        max_steps: int = 12,
        scope: Scope = Scope(),  # noqa: B008 - frozen
    ) -> None:
        """``scope`` is what the user lets a policy do; ``max_steps`` are the decisions at most."""
        self._toolbox, self._pool, self._perception, self._max_steps = toolbox, pool, perception, max_steps
        start = time.perf_counter()
        percept = perception.grade(check_image(image))
        self.trajectory = Trajectory((Step(0, None, None, image, percept, time.perf_counter() - start),))
        self.tools = tuple(spec for spec in toolbox.specs if scope.offers(spec, percept))
        """What a policy may choose from."""

    @property
    def stopped(self) -> bool:
        """The policy said stop (Gymnasium: terminated)."""
        decision = self.trajectory.last.decision
        return decision is not None and isinstance(decision.action, Stop)

    @property
    def exhausted(self) -> bool:
        """No steps are left (Gymnasium: truncated)."""
        return len(self.trajectory.steps) > self._max_steps

    def observe(self) -> Observation:
        """What the policy may know now."""
        left = self._max_steps + 1 - len(self.trajectory.steps)
        return Observation(self.trajectory, self.tools, left)

    @property
    def _enlarged(self) -> bool:
        """Whether the photo is larger than it came: a second time would cost up to 256 times the pixels."""
        return any(self._toolbox[tool].spec.scale > 1 for tool in self.trajectory.toolchain())

    def step(self, decision: Decision, call: Future[Image] | None = None) -> Step:
        """Carry out one decision and append it; ``call`` is its tool's, where it was submitted already.

        What the policy did wrong and what a tool could not do is recorded in ``Step.error``, for the policy to see.
        Raises InvalidActionError when the session is over.
        """
        if self.stopped or self.exhausted:
            raise InvalidActionError("the session is over; start a new one")
        start, last = time.perf_counter(), self.trajectory.last
        parent, image, percept, error = last.id, last.image, last.percept, None
        try:
            parent, image, percept = self._carry_out(decision, last, call)
        except (InvalidActionError, ToolFailedError) as e:
            error = str(e)
        step = Step(last.id + 1, parent, decision, image, percept, time.perf_counter() - start, error)
        self.trajectory = self.trajectory.add(step)
        return step

    def _carry_out(self, decision: Decision, last: Step, call: Future[Image] | None) -> tuple[int, Image, Percept]:
        match decision.action:
            case Apply(tool):
                if tool not in self._toolbox:
                    raise InvalidActionError(str(name_not_found("tool", tool, self._toolbox)))
                if tool not in {spec.name for spec in self.tools}:
                    raise InvalidActionError(f"{tool} is not offered for this photo; choose one that is")
                if self._toolbox[tool].spec.scale > 1 and self._enlarged:
                    raise InvalidActionError(f"{tool} enlarges, and the photo was enlarged before; choose another tool")
                image = (call or self._pool.submit(tool, last.image)).result()
                return last.id, image, self._perception.grade(image)
            case Rollback(to):
                if not 0 <= to <= last.id:
                    raise InvalidActionError(f"no step {to} to roll back to; steps are 0 to {last.id}")
                target = self.trajectory.steps[to]
                return to, target.image, target.percept
            case Stop():
                return last.id, last.image, last.percept
            case None:
                raise InvalidActionError(decision.thought or "the reply could not be understood")


def run(policy: Policy, session: Session) -> Trajectory:
    """The whole agent loop: observe, decide, carry out, until the policy stops or the steps run out."""
    while not (session.stopped or session.exhausted):
        session.step(policy.act(session.observe()))
    return session.trajectory


def step_together(sessions: Sequence[Session], decisions: Sequence[Decision], pool: Pool) -> list[Step]:
    """Carry out one decision in each session; the calls of one tool on images of one shape run as one batch.

    ``pool`` is that of the sessions. A batch that fails is called again one by one, so that a session's error is its
    own. Raises InvalidActionError when one of the sessions is over.
    """
    groups: dict[tuple[str, torch.Size], list[int]] = defaultdict(list)
    for i, (session, decision) in enumerate(zip(sessions, decisions, strict=True)):
        if isinstance(decision.action, Apply) and decision.action.tool in {spec.name for spec in session.tools}:
            groups[decision.action.tool, session.trajectory.last.image.shape].append(i)
    together = {
        key: pool.submit(key[0], torch.cat([sessions[i].trajectory.last.image for i in members]))
        for key, members in groups.items()
    }
    calls: dict[int, Future[Image]] = {}
    for key, members in groups.items():
        try:
            restored = together[key].result().split(key[1][0])
        except ToolFailedError:
            continue
        for i, image in zip(members, restored, strict=True):
            calls[i] = Future()
            calls[i].set_result(image)
    return [session.step(decisions[i], calls.get(i)) for i, session in enumerate(sessions)]

"""The executor: the only place where an action meets a tool."""

from __future__ import annotations

import copy
import math
import time
from concurrent.futures import Future
from dataclasses import dataclass, replace
from typing import Protocol

from conservator.errors import ConservatorError, InvalidActionError, ToolFailedError, name_not_found
from conservator.image import Image, check_image
from conservator.kinds import Kind
from conservator.perception.perception import Look, Percept, Perception
from conservator.perception.risk import Admission
from conservator.pool import Pool
from conservator.session.scope import Scope
from conservator.session.trajectory import Action, Apply, Decision, Refusal, Rollback, Step, Stop, Trajectory, made_by
from conservator.tools.tool import Toolbox, ToolSpec


@dataclass(frozen=True)
class Observation:
    """All that a policy may know. It has no field for a reference image, and must never get one."""

    trajectory: Trajectory
    tools: tuple[ToolSpec, ...]
    steps_left: int
    admission: Admission | None = None
    """What treatments are held to; None where every treatment is admitted."""
    treated: frozenset[Kind] = frozenset()
    """The kinds of damage that the tools of the current toolchain are for."""

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
        admission: Admission | None = None,
    ) -> None:
        """``scope`` is what the user lets a policy do; ``max_steps`` are the decisions at most.

        With an ``admission``, a treatment that it does not admit is not done: its step says so (``Step.refusal``), the
        picture stays, and the tool is offered no more. Such a step does not count as a decision: one who lists many
        tools can try the next, until no tool is left.
        """
        self._toolbox, self._pool, self._perception, self._max_steps = toolbox, pool, perception, max_steps
        self._admission = admission
        start = time.perf_counter()
        percept = perception.grade(check_image(image))
        self.trajectory = Trajectory((Step(0, None, None, image, percept, time.perf_counter() - start),))
        self.tools = tuple(spec for spec in toolbox.specs if scope.offers(spec))
        """What a policy may choose from."""
        self._withdrawn = frozenset[str]()

    def fork(self) -> Session:
        """A session at the same state that goes its own way from here: to try what this one then need not do."""
        return copy.copy(self)  # trajectories are immutable, and the rest is shared

    @property
    def stopped(self) -> bool:
        """The policy said stop (Gymnasium: terminated)."""
        decision = self.trajectory.last.decision
        return decision is not None and isinstance(decision.action, Stop)

    @property
    def exhausted(self) -> bool:
        """No steps are left (Gymnasium: truncated)."""
        return self.steps_left < 1

    @property
    def over(self) -> bool:
        """Stopped or exhausted: there is nothing more to decide."""
        return self.stopped or self.exhausted

    @property
    def pool(self) -> Pool:
        """Where its tools run."""
        return self._pool

    @property
    def steps_left(self) -> int:
        """Decisions that may still be taken; those that risk control refused do not count."""
        return self._max_steps - sum(step.refusal is None for step in self.trajectory.steps[1:])

    def observe(self) -> Observation:
        """What the policy may know now."""
        return Observation(self.trajectory, self.tools, self.steps_left, self._admission, self._treated)

    @property
    def _treated(self) -> frozenset[Kind]:
        """The kinds of damage that the tools of the current toolchain are for."""
        return self._toolbox.removed_by(self.trajectory.toolchain())

    def withdraw(self, place: int, why: str) -> None:
        """Roll back to before a tool of the toolchain, counted from 0, and offer that tool no more; ``why`` in words.

        So a session goes on, stopped or not, when a treatment did not hold elsewhere: on the whole photo. A policy that
        asks for the tool all the same has no other in mind: its decision is taken as a stop. Raises InvalidActionError
        where there is no such tool, or no step left to decide again.
        """
        treatments = self.trajectory.path()
        if not 0 <= place < len(treatments):
            raise InvalidActionError(f"no tool {place} in a toolchain of {len(treatments)}")
        if self.steps_left < 2:
            raise InvalidActionError(f"no step is left to decide again; there were {self._max_steps}")
        step = treatments[place]
        tool, target = made_by(step), self.trajectory.steps[step.parent or 0]
        self._offer_no_more(tool)
        last = self.trajectory.last
        decision = Decision(Rollback(target.id), thought=why)
        self.trajectory = self.trajectory.add(Step(last.id + 1, target.id, decision, target.image, target.percept))

    def _offer_no_more(self, tool: str) -> None:
        self.tools = tuple(spec for spec in self.tools if spec.name != tool)
        self._withdrawn |= {tool}

    @property
    def _enlarged(self) -> bool:
        """Whether the photo is larger than it came: a second time would cost up to 256 times the pixels."""
        return any(self._toolbox[tool].spec.scale > 1 for tool in self.trajectory.toolchain())

    def check_action(self, action: Action) -> None:
        """Raise InvalidActionError, with what to do instead, for an action that is not possible now."""
        if self.over:
            raise InvalidActionError("the session is over; start a new one")
        match action:
            case Apply(tool):
                if tool not in self._toolbox:
                    raise InvalidActionError(str(name_not_found("tool", tool, self._toolbox)))
                if tool not in {spec.name for spec in self.tools}:
                    raise InvalidActionError(f"{tool} is not offered for this photo; choose one that is")
                if self._toolbox[tool].spec.scale > 1 and self._enlarged:
                    raise InvalidActionError(f"{tool} enlarges, and the photo was enlarged before; choose another tool")
            case Rollback(to):
                last = self.trajectory.last.id
                if not isinstance(to, int) or not 0 <= to <= last:
                    raise InvalidActionError(f"no step {to} to roll back to; steps are 0 to {last}")
            case Stop():
                pass
            case _:
                raise InvalidActionError(f"{action!r} is no action; expected Apply, Rollback or Stop")

    def step(self, decision: Decision, call: Future[Image] | None = None) -> Step:
        """Carry out one decision and append it; ``call`` is its tool's, where it was submitted already.

        What the policy did wrong (InvalidActionError), what a tool could not do (ToolFailedError) and what was not
        admitted is recorded in ``Step.error``, for the policy to see. Everything else is raised, and nothing is
        appended: a PoolError says nothing of the policy or the tool, so the same decision may be carried out again.
        Raises InvalidActionError when the session is over.
        """
        if not isinstance(decision, Decision):
            raise ConservatorError(f"a policy gave {decision!r}, expected a Decision")
        if self.over:
            raise InvalidActionError("the session is over; start a new one")
        if isinstance(decision.action, Apply) and decision.action.tool in self._withdrawn:
            why = f"{decision.action.tool} was asked for again, which did not hold"
            decision = replace(decision, action=Stop(), plan=(), thought=why)
        start, last = time.perf_counter(), self.trajectory.last
        parent, image, percept, error = last.id, last.image, last.percept, None
        try:
            parent, image, percept = self._carry_out(decision, last, call)
        except (InvalidActionError, ToolFailedError) as e:
            error = str(e)
        refusal = self._refusal(decision.action, Look(image, percept)) if error is None else None
        if refusal is not None:
            image, percept, error = last.image, last.percept, refusal.words
            self._offer_no_more(refusal.tool)
        step = Step(last.id + 1, parent, decision, image, percept, time.perf_counter() - start, error, refusal)
        self.trajectory = self.trajectory.add(step)
        return step

    def _refusal(self, action: Action | None, after: Look) -> Refusal | None:
        """The refusal of a treatment of the current picture that made ``after`` of it; None where it is admitted."""
        if self._admission is None or not isinstance(action, Apply):
            return None
        treats = self._toolbox[action.tool].spec.removes
        start, before = self.trajectory.steps[0].look, self.trajectory.last.look
        verdict = self._admission.judge(start, before, after, treats, self._treated | treats)
        if verdict.admitted:
            return None
        return Refusal(action.tool, treats, verdict, math.nan, before.image, after.image)

    def _carry_out(self, decision: Decision, last: Step, call: Future[Image] | None) -> tuple[int, Image, Percept]:
        if decision.action is None:
            raise InvalidActionError(decision.thought or "the reply could not be understood")
        self.check_action(decision.action)
        match decision.action:
            case Apply(tool):
                image = (call or self._pool.submit(tool, last.image)).result()
                return last.id, image, self._perception.grade(image)
            case Rollback(to):
                target = self.trajectory.steps[to]
                return to, target.image, target.percept
            case Stop():
                return last.id, last.image, last.percept


def run(policy: Policy, session: Session) -> Trajectory:
    """The whole agent loop: observe, decide, carry out, until the policy stops or the steps run out."""
    while not session.over:
        session.step(policy.act(session.observe()))
    return session.trajectory

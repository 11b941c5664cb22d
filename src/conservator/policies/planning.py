"""What policies that ask a model have in common: the tools it plans with, its legal actions, and what steps gained."""

from __future__ import annotations

from collections.abc import Iterable

from conservator.kinds import Kind, Objective, Severity
from conservator.perception.perception import Look, Percept, Perception
from conservator.session.session import Observation
from conservator.session.trajectory import Action, Apply, Decision, Rollback, Stop, Trajectory, made_by
from conservator.tools.tool import ToolSpec, is_specialist

_SUSPICION = 0.05
"""Confidence from which a damage that is not seen for sure is worth a try."""


def plannable(tools: Iterable[ToolSpec]) -> tuple[ToolSpec, ...]:
    """The tools that a model plans with: those for one kind of damage, which keep the size."""
    return tuple(spec for spec in tools if is_specialist(spec) and spec.scale == 1)


def suspected(percept: Percept) -> frozenset[Kind]:
    """The kinds of damage that are seen, or that may be there."""
    return frozenset(kind for kind, chance in percept.confidences.items() if chance > _SUSPICION) | {*percept.present}


def enlarger(tools: Iterable[ToolSpec]) -> str | None:
    """The tool to enlarge with, the first of those that take most work: no perception can compare what they make."""
    best = max((spec for spec in tools if spec.scale > 1), key=lambda spec: spec.cost, default=None)
    return None if best is None else best.name


def is_enlarged(observation: Observation) -> bool:
    """Whether the photo was enlarged, which is the last step: no perception can tell what comes after it."""
    return bool({spec.name for spec in observation.tools if spec.scale > 1} & set(observation.trajectory.toolchain()))


def enlarged_last(decision: Decision, observation: Observation) -> Decision:
    """In place of a stop, the enlargement of a small photo where that is offered; any other decision as it is."""
    small = observation.percept.severities.get(Kind.LOW_RESOLUTION, Severity.NONE) > Severity.NONE
    best = enlarger(observation.tools)
    if decision.action == Stop() and small and best and observation.steps_left > 1:
        return Decision(Apply(best), thought=f"the photo is small; else {decision.thought}")
    return decision


def estimated_gains(observation: Observation, perception: Perception, objective: Objective) -> dict[int, float]:
    """The cautious estimate of what every treatment so far gained, in dB, by the step's number.

    Left out are tools that failed, pictures that perception did not examine, and changes of size.
    """
    treats = {spec.name: spec.removes for spec in observation.tools}
    found = {}
    for step in observation.trajectory.steps[1:]:
        action = step.decision.action if step.decision is not None else None
        before = observation.trajectory.steps[step.parent or 0]
        examined = step.percept.confidences and step.image.shape == before.image.shape and step.error is None
        if examined and isinstance(action, Apply) and action.tool in treats:
            looks = Look(before.image, before.percept), Look(step.image, step.percept)
            found[step.id] = perception.weigh(*looks, treats[action.tool]).cautious(objective)
    return found


def legal_actions(observation: Observation, rollbacks: bool = True) -> tuple[Action, ...]:
    """What may be done next: a tool, a rollback to a step whose picture is another one, a stop.

    A tool that failed here, or was taken back from here, would give the same again, and is left out; so are
    ``rollbacks``, if need be.
    """
    trajectory = observation.trajectory
    here, tried = trajectory.toolchain(), _tried(trajectory)
    tools = [Apply(spec.name) for spec in observation.tools if spec.name not in tried]
    earlier = trajectory.steps[:-1] if rollbacks else ()
    steps = [Rollback(step.id) for step in earlier if trajectory.toolchain(step) != here]
    return (*tools, *steps, Stop())


def left_of_plan(trajectory: Trajectory, otherwise: tuple[str, ...] = ()) -> tuple[str, ...]:
    """What is still to do of the plan that was made last, ``otherwise`` where none was.

    Where a treatment of it was taken back, that is what was to follow the treatment.
    """
    last = trajectory.last
    if last.decision is None:
        return otherwise
    if isinstance(last.decision.action, Rollback):
        tried = [step.decision for step in trajectory.steps if step.parent == last.parent and made_by(step)]
        return tried[-1].plan if tried and tried[-1] is not None else ()
    return last.decision.plan


def _tried(trajectory: Trajectory) -> set[str]:
    """The tools that were called at the current state, in whichever step."""
    here, found = trajectory.toolchain(), set[str]()
    for step in trajectory.steps[1:]:
        action = step.decision.action if step.decision is not None else None
        if isinstance(action, Apply) and trajectory.toolchain(trajectory.steps[step.id - 1]) == here:
            found.add(action.tool)
    return found

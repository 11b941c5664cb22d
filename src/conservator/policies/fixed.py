"""Policies that follow a rule: do nothing, a given toolchain, chance, and a human expert's order."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from conservator.image import digest
from conservator.kinds import Kind, Severity
from conservator.perception.perception import Look, Objective, Perception
from conservator.policies.planning import left_of_plan
from conservator.session.session import Observation
from conservator.session.trajectory import Apply, Decision, Rollback, Stop, Trajectory, made_by
from conservator.tools.tool import ToolSpec, is_specialist

EXPERT_ORDER = (
    Kind.JPEG,
    Kind.NOISE,
    Kind.RAIN,
    Kind.MOTION_BLUR,
    Kind.DEFOCUS_BLUR,
    Kind.GAUSSIAN_BLUR,
    Kind.HAZE,
    Kind.LOW_LIGHT,
    Kind.LOW_RESOLUTION,
)
"""Undo in reverse what happened to the light: codec, sensor, weather on the lens, optics, air, exposure, size.

It agrees with the measured experience of AgenticIR (arXiv 2410.17809): denoise, derain and deblur before brightening,
JPEG before defocus, rain and defocus before haze, everything before super-resolution.
"""


class NoPolicy:
    """Leaves the photo as it is: the baseline that humbles agents."""

    name = "none"

    def act(self, observation: Observation) -> Decision:
        """Stop."""
        return Decision(Stop(), thought="asked to do nothing")


class FixedOrder:
    """Applies the same tools to every photo."""

    def __init__(self, *tools: str, name: str = "fixed") -> None:
        self.name, self._tools = name, tools

    def act(self, observation: Observation) -> Decision:
        """Apply the next tool of the list, then stop; after one that was taken back, the one that follows it."""
        left = left_of_plan(observation.trajectory, self._tools)
        if not left:
            return Decision(Stop(), thought="the end of the list")
        number = len(self._tools) - len(left) + 1
        return Decision(Apply(left[0]), left[1:], thought=f"tool {number} of the list")


class RandomPolicy:
    """Any tool or stop, with equal chances. The same photo and seed give the same choices."""

    name = "random"

    def __init__(self, seed: int = 0) -> None:
        self._seed = seed

    def act(self, observation: Observation) -> Decision:
        """Draw from the tools and stop."""
        steps = observation.trajectory.steps
        photo = int(digest(steps[0].image)[:8], 16)
        draw = int(np.random.default_rng([self._seed, photo, len(steps)]).integers(len(observation.tools) + 1))
        if draw == len(observation.tools):
            return Decision(Stop(), thought="drawn by chance")
        return Decision(Apply(observation.tools[draw].name), thought="drawn by chance")


def made_for(kind: Kind, severity: Severity, tools: Sequence[ToolSpec]) -> list[ToolSpec]:
    """The tools for a damage, in the order to try them.

    Tools for one kind alone come before those for many, tools made for this severity alone before the others.
    """
    return sorted(
        (spec for spec in tools if kind in spec.removes),
        key=lambda spec: (not is_specialist(spec), severity not in spec.severities, len(spec.severities)),
    )


class Rules:
    """A human expert's order: one treatment per damage that is seen, taken back when perception says it did harm.

    Of the tools for one damage it tries the toolbox's first, then the next if that one did harm.
    """

    name = "rules"

    def __init__(self, perception: Perception, objective: Objective = "balanced", tries: int = 2) -> None:
        """``objective`` is what counts as harm; ``tries`` are the tools that one damage may cost."""
        self._perception, self._objective, self._tries = perception, objective, tries

    def act(self, observation: Observation) -> Decision:
        """Take back the last step if it did harm; else treat the next damage in the expert's order; else stop."""
        trajectory = observation.trajectory
        last = trajectory.last
        if last.decision is not None and isinstance(last.decision.action, Apply) and last.error is None:
            tool, before = last.decision.action.tool, trajectory.steps[last.parent or 0]
            removes = next(spec.removes for spec in observation.tools if spec.name == tool)
            looks = Look(before.image, before.percept), Look(last.image, last.percept)
            gain = self._perception.weigh(*looks, removes).cautious(self._objective)
            if gain < 0:
                return Decision(Rollback(before.id), thought=f"{tool} is estimated to have done harm ({gain:+.1f} dB)")
        for kind in EXPERT_ORDER:
            severity = observation.percept.severities.get(kind, Severity.NONE)
            if severity == Severity.NONE:
                continue
            untried = self._next_tool(kind, severity, observation.tools, trajectory)
            if untried is not None:
                return Decision(Apply(untried), thought=f"{kind.label} is {severity.label}")
        return Decision(Stop(), thought="nothing is left to treat")

    def _next_tool(
        self, kind: Kind, severity: Severity, tools: Sequence[ToolSpec], trajectory: Trajectory
    ) -> str | None:
        """The first tool for this damage that was not tried yet; None when one worked or enough were tried.

        One that was not admitted, and is therefore offered no more, counts as tried.
        """
        fitting = [spec.name for spec in made_for(kind, severity, tools)]
        if set(fitting) & set(trajectory.toolchain()):
            return None
        refused = [step.refusal.tool for step in trajectory.steps if step.refusal and kind in step.refusal.treats]
        tried = [tool for step in trajectory.steps if (tool := made_by(step))]
        if len(refused) + sum(tool in fitting for tool in tried) >= self._tries:
            return None
        return next((tool for tool in fitting if tool not in tried), None)

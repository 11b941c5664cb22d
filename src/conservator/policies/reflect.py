"""AgenticIR's strategy as a policy: one damage after the other, tool by tool, taking back what does not remove it.

AgenticIR (Zhu et al., ICLR 2025, arXiv 2410.17809) grades the damages once, schedules those of medium severity or more,
tries the tools for each and looks after every one: a subtask has succeeded when its damage is low at most. A subtask
that no tool achieves is rolled back and scheduled later; when that fails, too, the best of its results is kept.

What is ours: the order is the expert's, not a language model's; the tools come in the toolbox's order, those made for
the severity first, not shuffled; the first tool that brings a damage down to low is kept (AgenticIR looks on for one
that removes it); what has become low meanwhile is left alone; and the best result is kept only if perception says it
gained. Like AgenticIR it asks only whether the treated damage is gone, not what else the treatment did.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from conservator.kinds import Kind, Severity
from conservator.perception.perception import Look, Objective, Perception
from conservator.policies.fixed import EXPERT_ORDER, made_for
from conservator.session.session import Observation
from conservator.session.trajectory import Apply, Decision, Rollback, Step, Stop
from conservator.tools.tool import ToolSpec, is_specialist

_ENOUGH = Severity.LOW
"""A damage that is no worse needs no treatment, and its treatment has succeeded."""


@dataclass(frozen=True)
class _Standing:
    """How far the work is: the step whose picture is kept so far, and the damages that are still to be treated."""

    base: Step
    open: frozenset[Kind]
    deferred: frozenset[Kind] = frozenset()
    """Those that failed once and were put later."""

    @property
    def schedule(self) -> list[Kind]:
        """The open damages in order; size comes last, for whatever follows it costs 4 or 16 times as much."""
        order = (kind for kind in EXPERT_ORDER if kind in self.open)
        return sorted(order, key=lambda kind: (kind is Kind.LOW_RESOLUTION, kind in self.deferred))

    def without(self, kind: Kind, base: Step | None = None) -> _Standing:
        """The standing after a subtask is closed, with a new base where it left one."""
        return replace(self, open=self.open - {kind}, base=base or self.base)


class Reflect:
    """Treats the damages in the expert's order, tries the tools for each, keeps the first that brings it down to low.

    Its memory is the trajectory, which it reads anew at every step. Each tool that fails costs two steps, and it always
    keeps one step in hand to take back the last.
    """

    name = "reflect"

    def __init__(self, perception: Perception, objective: Objective = "balanced") -> None:
        """``perception`` compares the results of a subtask that failed."""
        self._perception, self._objective = perception, objective

    def act(self, observation: Observation) -> Decision:
        """Take back a treatment that failed; else try the next tool; stop when nothing is left, or no step to look."""
        steps, tools = observation.trajectory.steps, observation.tools
        standing = self._standing(steps, tools)
        base, schedule = standing.base, standing.schedule
        if observation.steps_left < 2 and schedule:
            base = self._best(standing.open, base, steps, tools) or base
        here = _made(steps[-1], steps)
        if here.id != base.id:
            return Decision(Rollback(base.id), thought=_why(here, base, steps))
        if not schedule:
            return Decision(Stop(), thought="nothing is left to try")
        if observation.steps_left < 2:
            return Decision(Stop(), thought="no step would be left to look at another treatment")
        kind = schedule[0]
        tool = _untried(kind, base, steps, tools)[0]
        return Decision(Apply(tool), thought=f"{kind.label} is {base.percept.severities[kind].label}")

    def _standing(self, steps: Sequence[Step], tools: Sequence[ToolSpec]) -> _Standing:
        """Read the work so far out of the steps, whoever took them."""
        refused = {step.refusal.tool: step.refusal.treats for step in steps if step.refusal is not None}
        treats = refused | {spec.name: spec.removes for spec in tools}
        scheduled = frozenset(kind for kind in Kind if _severity(steps[0], kind) > _ENOUGH)
        standing = self._settle(_Standing(steps[0], scheduled), steps[:1], tools)
        for step in steps[1:]:
            if kinds := treats.get(_applied(step) or ""):
                before = _made(steps[step.parent or 0], steps)
                if before.id != standing.base.id:  # somebody else went on from another picture
                    standing = _Standing(before, scheduled)
                standing = self._settle(_reflected(step, kinds, standing), steps[: step.id + 1], tools)
        return standing

    def _settle(self, standing: _Standing, steps: Sequence[Step], tools: Sequence[ToolSpec]) -> _Standing:
        """Close or put later the subtasks for which there is nothing to try, up to the next one that has a tool."""
        while standing.schedule:
            kind, *others = standing.schedule
            if _severity(standing.base, kind) <= _ENOUGH:
                standing = standing.without(kind)
            elif _untried(kind, standing.base, steps, tools):
                break
            elif others and kind not in standing.deferred:
                standing = replace(standing, deferred=standing.deferred | {kind})
            else:
                standing = standing.without(kind, self._best(frozenset({kind}), standing.base, steps, tools))
        return standing

    def _best(
        self, kinds: frozenset[Kind], base: Step, steps: Sequence[Step], tools: Sequence[ToolSpec]
    ) -> Step | None:
        """Of the treatments of these damages on the base's picture the one that gained most; None where none gained."""
        removes = {spec.name: spec.removes for spec in tools if kinds & spec.removes}
        before, gains = Look(base.image, base.percept), dict[int, float]()
        for step in _tried(base, steps):
            tool = _applied(step)
            if tool in removes and step.error is None:
                after = Look(step.image, step.percept)
                gains[step.id] = self._perception.weigh(before, after, removes[tool]).cautious(self._objective)
        best = max(gains, key=lambda number: gains[number], default=None)
        return steps[best] if best is not None and gains[best] > 0 else None


def _reflected(step: Step, treats: frozenset[Kind], standing: _Standing) -> _Standing:
    """The standing after a treatment: its subtask is closed, and its picture is the base, if the damage is low now."""
    kind = next((kind for kind in (*standing.schedule, *EXPERT_ORDER) if kind in treats), None)
    if kind is None:
        return standing  # a step that somebody else took, with a tool for what no expert's order has
    if step.error is None and _severity(step, kind) <= _ENOUGH:
        return standing.without(kind, step)
    return standing


def _severity(step: Step, kind: Kind) -> Severity:
    return step.percept.severities.get(kind, Severity.NONE)


def _applied(step: Step) -> str | None:
    """The tool that a step called."""
    action = step.decision.action if step.decision is not None else None
    return action.tool if isinstance(action, Apply) else None


def _made(step: Step, steps: Sequence[Step]) -> Step:
    """The step that made a step's picture: a treatment, or the input."""
    while step.parent is not None and (step.error is not None or _applied(step) is None):
        step = steps[step.parent]
    return step


def _tried(base: Step, steps: Sequence[Step]) -> list[Step]:
    """The treatments of the picture that ``base`` made."""
    treatments = [step for step in steps[1:] if _applied(step) is not None]
    return [step for step in treatments if _made(steps[step.parent or 0], steps).id == base.id]


def _untried(kind: Kind, base: Step, steps: Sequence[Step], tools: Sequence[ToolSpec]) -> list[str]:
    """The specialists for a damage that were not applied to the base's picture yet."""
    tried = {_applied(step) for step in _tried(base, steps)}
    fitting = made_for(kind, _severity(base, kind), tools)
    return [spec.name for spec in fitting if is_specialist(spec) and spec.name not in tried]


def _why(here: Step, base: Step, steps: Sequence[Step]) -> str:
    """Why the picture of ``here`` is left for that of ``base``."""
    if here.parent is not None and _made(steps[here.parent], steps).id == base.id:
        return f"{_applied(here)} left too much of what it was for"
    return f"nothing tried did enough; {_applied(base) or 'the input'} was best"

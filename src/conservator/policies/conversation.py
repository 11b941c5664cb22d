"""A restoration as a conversation: what a language model is shown, and how its reply is read.

Planner data, fine-tuning and inference all use these functions, so that a model is asked as it was taught.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Literal

from conservator.degradations import Kind
from conservator.image import Image
from conservator.perception.perception import Look, Objective, Percept, Perception
from conservator.session.session import Observation
from conservator.session.trajectory import Apply, Decision, Rollback, Step, Stop
from conservator.tools.tool import ToolSpec, is_specialist

IMAGE = "<image>"
"""Stands in a text where a picture belongs."""
_OBJECTIVES = {
    "fidelity": "as near to the undamaged photo as can be",
    "balanced": "near to the undamaged photo and good to look at",
    "perceptual": "good to look at",
}


@dataclass(frozen=True)
class Message:
    """One turn: its text, and the pictures (1, 3, H, W) for each ``<image>`` in it."""

    role: Literal["system", "user", "assistant"]
    text: str
    images: tuple[Image, ...] = field(default=(), repr=False)


def plannable(tools: Iterable[ToolSpec]) -> tuple[ToolSpec, ...]:
    """The tools that a model plans with: those for one kind of damage, which keep the size."""
    return tuple(spec for spec in tools if is_specialist(spec) and spec.scale == 1)


def judged(observation: Observation, perception: Perception, objective: Objective) -> dict[int, float]:
    """What the eye, where it looked, holds every treatment so far to have gained, in dB, by the step's number."""
    treats = {spec.name: spec.removes for spec in observation.tools}
    found = {}
    for step in observation.trajectory.steps[1:]:
        action = step.decision.action if step.decision is not None else None
        before = observation.trajectory.steps[step.parent or 0]
        examined = step.percept.confidences and step.image.shape == before.image.shape
        if examined and isinstance(action, Apply) and action.tool in treats:
            looks = Look(before.image, before.percept), Look(step.image, step.percept)
            found[step.id] = perception.weigh(*looks, treats[action.tool]).cautious(objective)
    return found


def ask(
    observation: Observation, objective: Objective, gains: Mapping[int, float] = MappingProxyType({})
) -> tuple[Message, Message]:
    """What a model is told once, and what it is asked now: toolbox and objective; pictures, findings and history.

    ``gains`` are those of ``judged``.
    """
    return (
        Message("system", _instructions(observation.tools, objective)),
        Message("user", _question(observation, gains), observation.image.split(1)),
    )


def _instructions(tools: Sequence[ToolSpec], objective: Objective) -> str:
    lines = [f"- {t.name} ({', '.join(sorted(k.label for k in t.removes))}): {t.description}" for t in tools]
    return "\n".join(
        [
            "You restore damaged photos. You see a photo and decide on the next step. Your tools:",
            *lines,
            f"The result shall be {_OBJECTIVES[objective]}.",
            'Answer with one line: "plan: " and the tools to apply in order, joined by ", "; or "rollback: " and the '
            'number of the step to return to, when a step did harm; or "stop", when nothing more helps.',
        ]
    )


def _question(observation: Observation, gains: Mapping[int, float]) -> str:
    steps = observation.trajectory.steps
    by_eye = {number: f" ({gain:+.1f} dB by the eye)" for number, gain in gains.items()}
    lines = [shown(len(observation.image))]
    if steps[-1].percept.confidences:
        lines.append(f"Examined: {_seen(steps[-1].percept, observation.tools)}.")
    lines += [f"Step {step.id}: {_told(step)}{by_eye.get(step.id, '')}" for step in steps]
    return "\n".join([*lines, f"{observation.steps_left} steps are left. What is next?"])


def _seen(percept: Percept, tools: Sequence[ToolSpec]) -> str:
    """What the eye found and a tool can treat, with its probability: "noise high 90 %, haze none 20 %"."""
    treatable = frozenset[Kind]().union(*(spec.removes for spec in tools))
    chances = {kind: round(10 * chance) for kind, chance in percept.confidences.items() if kind in treatable}
    found = [f"{k.label} {percept.severities[k].label} {10 * n} %" for k, n in chances.items() if n]
    return ", ".join(found) or "no damage"


def shown(count: int) -> str:
    """The line that shows a photo, or a study of it with ``count`` pictures."""
    what = "The photo now" if count == 1 else f"The photo now, the whole of it and {count - 1} details at full size"
    return f"{what}: {IMAGE * count}"


def _told(step: Step) -> str:
    if step.decision is None:
        return "the photo as it came"
    failed = f", but {step.error}" if step.error else ""
    match step.decision.action:
        case Apply(tool):
            return f"{tool}{failed}"
        case Rollback(to):
            return f"rolled back to step {to}{failed}"
        case Stop():
            return "stop"
        case None:
            return f"nothing{failed}"


def write_reply(decision: Decision) -> str:
    """The one line that stands for a decision: a model's reply, as it is taught."""
    match decision.action:
        case Apply(tool):
            return f"plan: {', '.join((tool, *decision.plan))}"
        case Rollback(to):
            return f"rollback: {to}"
        case _:
            return "stop"


def read_reply(reply: str, observation: Observation) -> Decision:
    """A model's reply as a decision; ``action`` is None, and ``thought`` says why, when it is none.

    The first line that is a plan, a rollback or a stop counts; what stands before it is the model's thought.
    """
    names = {spec.name for spec in observation.tools}
    thought: list[str] = []
    for line in reply.splitlines():
        # its end is cut off first: a pattern for both would take time by the square of a hostile line
        found = re.fullmatch(r"\W*(?:(plan|rollback)\s*:\s*(.*)|(stop))", line.rstrip(" \t.`*"), re.IGNORECASE)
        if found is None:
            thought.append(line.strip())
            continue
        said = " ".join(part for part in thought if part)
        if found[3]:
            return Decision(Stop(), thought=said, reply=reply)
        if found[1].lower() == "rollback":
            return _read_rollback(found[2], observation, said, reply)
        plan = tuple(name for name in re.split(r"[\s,>]+", found[2]) if name)
        unknown = [name for name in plan if name not in names]
        if unknown or not plan:
            wrong = f"the plan names {', '.join(unknown)}, not in the toolbox" if unknown else "the plan is empty"
            return Decision(None, thought=wrong, reply=reply)
        return Decision(Apply(plan[0]), plan[1:], said, reply)
    return Decision(None, thought="the reply holds no plan, rollback or stop", reply=reply)


def _read_rollback(text: str, observation: Observation, thought: str, reply: str) -> Decision:
    last = observation.trajectory.last.id
    number = re.fullmatch(r"(?:step\s*)?(\d{1,4})", text.strip(), re.IGNORECASE)
    if number is None or int(number[1]) > last:
        return Decision(None, thought=f"rollback to {text.strip()[:40]!r}, but steps are 0 to {last}", reply=reply)
    return Decision(Rollback(int(number[1])), thought=thought, reply=reply)

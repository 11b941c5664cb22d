"""The words in which a model is told of tools, findings and history.

The nano model that ships was trained on them to the letter: "by the eye", where the rest of the program says
perception, stays as long as its weights do. tests/test_dialects.py holds the texts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from conservator.kinds import Kind, Objective, Preference, Wish, kinds_in_words
from conservator.perception.perception import Percept
from conservator.policies.dialects.dialect import IMAGE
from conservator.session.session import Observation
from conservator.session.trajectory import Apply, Rollback, Step, Stop
from conservator.tools.tool import ToolSpec

_OBJECTIVES: Mapping[Objective, str] = {
    "fidelity": "as near to the undamaged photo as can be",
    "balanced": "near to the undamaged photo and good to look at",
    "perceptual": "good to look at",
}
_PREFERENCES: Mapping[Preference, str] = {
    "sharp": "Sharp is more important than smooth.",
    "smooth": "Smooth is more important than sharp.",
}
_LEFT: Mapping[Kind, str] = {Kind.LOW_LIGHT: "Leave the mood dark."}
"""What to leave alone, where a user would not call it a damage."""
_TASK = "You restore damaged photos. You see a photo and decide on the next step. Your tools:"


def instructions(tools: Sequence[ToolSpec], aim: str, how: str) -> str:
    """What a model is told once: its task, its tools, what to aim at (``goal``), and ``how`` to answer."""
    lines = [f"- {t.name} ({', '.join(sorted(k.label for k in t.removes))}): {t.description}" for t in tools]
    return "\n".join([_TASK, *lines, aim, how])


def goal(objective: Objective, wish: Wish) -> str:
    """What the result shall be, in a sentence, and in a line of its own what the user wishes, if anything."""
    wishes = [] if wish.only is None else [f"Treat only {kinds_in_words(sorted(wish.only))}."]
    wishes += [_LEFT.get(kind, f"Leave {kind.label} as it is.") for kind in sorted(wish.never)]
    wishes += [_PREFERENCES[wish.prefer]] if wish.prefer in _PREFERENCES else []
    return "\n".join([f"The result shall be {_OBJECTIVES[objective]}.", *([" ".join(wishes)] if wishes else [])])


def question(observation: Observation, gains: Mapping[int, float], pictures: int) -> str:
    """What a model is asked now: so many pictures of the current state, what was found in it, and the history."""
    steps, found = observation.trajectory.steps, observation.percept
    by_eye = {number: f" ({gain:+.1f} dB by the eye)" for number, gain in gains.items()}
    lines = [f"{showing(len(observation.image))}: {IMAGE * pictures}"]
    if found.confidences:
        lines.append(f"Examined: {findings(found, observation.tools)}.")
    lines += [f"Step {step.id}: {_told(step)}{by_eye.get(step.id, '')}" for step in steps]
    return "\n".join([*lines, f"{observation.steps_left} steps are left. What is next?"])


def showing(count: int) -> str:
    """What a photo is shown as, or a study of it with ``count`` pictures."""
    return "The photo now" if count == 1 else f"The photo now, the whole of it and {count - 1} details at full size"


def findings(percept: Percept, tools: Sequence[ToolSpec]) -> str:
    """What was found and a tool can treat, with its probability: "noise high 90 %, haze none 20 %"."""
    treatable = frozenset[Kind]().union(*(spec.removes for spec in tools))
    chances = {kind: round(10 * chance) for kind, chance in percept.confidences.items() if kind in treatable}
    found = [f"{k.label} {percept.severities[k].label} {10 * n} %" for k, n in chances.items() if n]
    return ", ".join(found) or "no damage"


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

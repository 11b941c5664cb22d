"""The dialect of models that call tools: the toolbox as functions, one call a turn, every result with its picture."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from conservator.errors import ConservatorError
from conservator.kinds import NO_WISH, Objective, Wish
from conservator.policies.dialects import words
from conservator.policies.dialects.dialect import IMAGE, NO_GAINS, Message
from conservator.session.session import Observation
from conservator.session.trajectory import Apply, Decision, Rollback, Step, Stop
from conservator.tools.tool import ToolSpec

_ROLLBACK, _STOP = "rollback", "stop"
_TASK = (
    "You restore damaged photos. You call one tool at a time, see what it made of the photo, and call the next. "
    f'Call "{_ROLLBACK}" when a step did harm. Answer "{_STOP}" when nothing more helps.'
)
_LONGEST = 100_000
"""Characters of an answer that are read."""


@dataclass(frozen=True)
class ToolDialect:
    """A conversation: the photo, a call, its result, the next call, until the model answers "stop".

    Turns are only added, so the conversation before a step is the beginning of the one after it.
    """

    in_words: bool = False
    """Neither show pictures nor list functions: what a model that begins with nothing learns first."""
    plans = False

    def ask(
        self,
        observation: Observation,
        objective: Objective,
        gains: Mapping[int, float] = NO_GAINS,
        wish: Wish = NO_WISH,
    ) -> Sequence[Message]:
        """The task; then the aim and the photo as it came; then each step as a call and its result.

        All conversations about a toolbox begin alike, with the task and the functions, which need be read only once.
        """
        steps = observation.trajectory.steps
        left = observation.steps_left + sum(step.refusal is None for step in steps[1:])
        messages = [Message("system", _TASK)]
        for step in steps:
            left -= step.decision is not None and step.refusal is None
            if step.decision is not None:
                messages.append(self._said(step.decision))
            told = _told(step, gains.get(step.id))
            told = told if step.id else f"{words.goal(objective, wish)}\n{told}"
            pictures = () if self.in_words or step.error else step.image.split(1)
            seen = [] if step.error else self._seen(step, observation.tools, len(pictures))
            called = step.decision is not None and _call(step.decision) is not None
            text = "\n".join([told, *seen, f"{left} steps are left."])
            messages.append(Message("tool" if called else "user", text, pictures))
        return messages

    def functions(self, observation: Observation) -> Sequence[Mapping[str, Any]]:
        """A function for each tool, and the one to roll back. Raises ConservatorError for a tool of that name."""
        if self.in_words:
            return ()
        if any(spec.name == _ROLLBACK for spec in observation.tools):
            raise ConservatorError(f"a tool is called {_ROLLBACK}, which models call to go back; rename it")
        step = {"to": {"type": "integer", "description": "The step to return to."}}
        back = _function(_ROLLBACK, "Returns to the photo as it was after an earlier step; 0 is as it came.", step)
        return [*(_function(spec.name, _described(spec), {}) for spec in observation.tools), back]

    def write(self, decision: Decision) -> str:
        """A call as chat templates write it, or the one word that ends the conversation."""
        call = _call(decision)
        return _STOP if call is None else f"<tool_call>\n{json.dumps(call)}\n</tool_call>"

    def read(self, reply: str, observation: Observation) -> Decision:
        """The first call counts; without one, "stop" as the last line does. What stands before is the thought."""
        said = reply.rpartition("</think>")[2][:_LONGEST]
        before, opened, rest = said.partition("<tool_call>")
        thought = " ".join(before.split())
        if opened:
            return _read_call(rest.partition("</tool_call>")[0], observation, thought, reply)
        *lines, last = [line for line in said.splitlines() if line.strip()] or [""]
        if re.sub(r"\W", "", last).lower() == _STOP:
            return Decision(Stop(), thought=" ".join(" ".join(lines).split()), reply=reply)
        return Decision(None, thought=f'the reply holds no call of a tool, and no "{_STOP}"', reply=reply)

    def schema(self, observation: Observation) -> None:
        """None: answers are calls or words."""
        return

    def _said(self, decision: Decision) -> Message:
        """What the model said to come to a step; where nobody could read it, its own words."""
        text = decision.reply if decision.action is None else self.write(decision)
        return Message("assistant", text.replace(IMAGE, ""), call=_call(decision))

    def _seen(self, step: Step, tools: Sequence[ToolSpec], pictures: int) -> list[str]:
        lines = [f"{words.showing(pictures)}: {IMAGE * pictures}"] if pictures else []
        return lines + ([f"Examined: {words.findings(step.percept, tools)}."] if step.percept.confidences else [])


def _call(decision: Decision) -> dict[str, Any] | None:
    match decision.action:
        case Apply(tool):
            return {"name": tool, "arguments": {}}
        case Rollback(to):
            return {"name": _ROLLBACK, "arguments": {"to": to}}
        case _:
            return None


def _function(name: str, description: str, properties: Mapping[str, Any]) -> dict[str, Any]:
    parameters = {"type": "object", "properties": properties, "required": list(properties)}
    return {"type": "function", "function": {"name": name, "description": description, "parameters": parameters}}


def _described(spec: ToolSpec) -> str:
    return f"{', '.join(sorted(kind.label for kind in spec.removes))}: {spec.description}"


def _told(step: Step, gain: float | None) -> str:
    """What came of a step, in a line."""
    gained = f" It gained {gain:+.1f} dB by perception's estimate." if gain is not None else ""
    failed = f" Nothing changed: {step.error}" if step.error else ""
    match step.decision.action if step.decision is not None else None:
        case Apply(tool):
            return f"Step {step.id}: {tool}.{failed}{gained}"
        case Rollback(to):
            return f"Step {step.id}: rolled back to step {to}.{failed}"
        case Stop():
            return f"Step {step.id}: stop."
        case None:
            return f"Step {step.id}: the photo as it came." if step.decision is None else f"Step {step.id}.{failed}"


def _read_call(text: str, observation: Observation, thought: str, reply: str) -> Decision:
    """A call from its JSON."""
    wrong = ""
    try:
        call = json.loads(text)
        name, arguments = call["name"], call.get("arguments", {})
        arguments = json.loads(arguments or "{}") if isinstance(arguments, str) else arguments
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return Decision(None, thought="the call is no JSON object with a name and arguments", reply=reply)
    if name == _ROLLBACK:
        to = arguments.get("to") if isinstance(arguments, dict) else None
        last = observation.trajectory.last.id
        if type(to) is int and 0 <= to <= last:
            return Decision(Rollback(to), thought=thought, reply=reply)
        wrong = f"{_ROLLBACK} to {str(to)[:40]!r}, but steps are 0 to {last}"
    elif name not in [spec.name for spec in observation.tools]:  # a list: a stranger's name may be anything
        wrong = f"the call names {str(name)[:80]!r}, not in the toolbox"
    if wrong:
        return Decision(None, thought=wrong, reply=reply)
    return Decision(Apply(name), thought=thought, reply=reply)

"""The dialect of models behind an endpoint: an answer by a JSON schema, with a thought; plain lines are read, too."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, Literal

from pydantic import BaseModel, ValidationError

from conservator.kinds import NO_WISH, Objective, Wish
from conservator.policies.dialects.dialect import NO_GAINS, Message
from conservator.policies.dialects.plan import PlanDialect
from conservator.session.session import Observation
from conservator.session.trajectory import Apply, Decision, Rollback, Stop

_LONGEST = 100_000
"""Characters of an answer that are read."""
_AS_JSON = (
    'Write the answer as JSON: "thought", why, in one sentence; "action", which is plan, rollback or stop; "tools", '
    'those of a plan in order, else []; "step", the one to return to, else null.'
)
_LINES = PlanDialect()


@dataclass(frozen=True)
class JsonDialect:
    """Asks as ``PlanDialect`` does, and for the answer as JSON."""

    lines: bool = False
    """Ask for a plain line, for an endpoint that takes no schema. Either kind of answer is read."""

    plans = True

    def functions(self, observation: Observation) -> tuple[()]:
        """None: it answers in words."""
        return ()

    def ask(
        self,
        observation: Observation,
        objective: Objective,
        gains: Mapping[int, float] = NO_GAINS,
        wish: Wish = NO_WISH,
    ) -> tuple[Message, Message]:
        """The instructions, which say how the JSON is to be written, and the question with its pictures."""
        system, user = _LINES.ask(observation, objective, gains, wish)
        return (system if self.lines else replace(system, text=f"{system.text}\n{_AS_JSON}")), user

    def write(self, decision: Decision) -> str:
        """A decision by the schema."""
        if self.lines:
            return _LINES.write(decision)
        action, tools, step = "stop", list[str](), None
        match decision.action:
            case Apply(tool):
                action, tools = "plan", [tool, *decision.plan]
            case Rollback(to):
                action, step = "rollback", to
            case Stop() | None:
                pass
        return json.dumps({"thought": decision.thought, "action": action, "tools": tools, "step": step})

    def read(self, reply: str, observation: Observation) -> Decision:
        """An answer by the schema or as plain lines. What a thinking model writes before it answers does not count."""
        said = reply.rpartition("</think>")[2][:_LONGEST]
        try:
            answer = _Answer.model_validate_json(said[said.find("{") : said.rfind("}") + 1])
        except ValidationError:
            decision = _LINES.read(said, observation)
        else:
            decision = _LINES.read(answer.line(), observation)
            if decision.action is not None:
                decision = replace(decision, thought=answer.thought or "")
        return replace(decision, reply=reply)

    def schema(self, observation: Observation) -> dict[str, Any] | None:
        """In the part of JSON Schema that all endpoints know: tools and steps that exist.

        The thought comes first, so that the model has to think before it decides.
        """
        if self.lines:
            return None
        steps = list(range(observation.trajectory.last.id + 1))
        fields = {
            "thought": {"type": "string"},
            "action": {"type": "string", "enum": ["plan", "rollback", "stop"]},
            "tools": {"type": "array", "items": {"type": "string", "enum": [spec.name for spec in observation.tools]}},
            "step": {"anyOf": [{"type": "integer", "enum": steps}, {"type": "null"}]},
        }
        return {"type": "object", "properties": fields, "required": list(fields), "additionalProperties": False}


class _Answer(BaseModel):
    """An answer by the schema, or near enough."""

    action: Literal["plan", "rollback", "stop"]
    thought: str | None = ""
    tools: list[str] | None = None
    step: int | None = None

    def line(self) -> str:
        """The same as a plain line."""
        match self.action:
            case "plan":
                return f"plan: {', '.join(self.tools or ())}"
            case "rollback":
                return f"rollback: {self.step}"
            case "stop":
                return "stop"

"""The dialect of the nano model: one line, "plan: a, b", "rollback: 0" or "stop"."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass

from conservator.kinds import NO_WISH, Objective, Wish
from conservator.policies.dialects import words
from conservator.policies.dialects.dialect import NO_GAINS, Message
from conservator.session.session import Observation
from conservator.session.trajectory import Apply, Decision, Rollback, Stop

_HOW = (
    'Answer with one line: "plan: " and the tools to apply in order, joined by ", "; or "rollback: " and the '
    'number of the step to return to, when a step did harm; or "stop", when nothing more helps.'
)


@dataclass(frozen=True)
class PlanDialect:
    """Two turns, one for the instructions and one for the question with its pictures; the answer is one line."""

    in_words: bool = False
    """Show neither the pictures nor the list of tools: what a model that begins with nothing learns first."""

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
        """Toolbox, objective and wish; then the pictures of the current state, the findings, and the history."""
        images = () if self.in_words else observation.image.split(1)
        tools = () if self.in_words else observation.tools
        return (
            Message("system", words.instructions(tools, words.goal(objective, wish), _HOW)),
            Message("user", words.question(observation, gains, len(images)), images),
        )

    def write(self, decision: Decision) -> str:
        """The line that stands for a decision."""
        match decision.action:
            case Apply(tool):
                return f"plan: {', '.join((tool, *decision.plan))}"
            case Rollback(to):
                return f"rollback: {to}"
            case _:
                return "stop"

    def read(self, reply: str, observation: Observation) -> Decision:
        """The first line that is a plan, a rollback or a stop counts; what stands before it is the model's thought."""
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
            return _read_plan(found[2], observation, said, reply)
        return Decision(None, thought="the reply holds no plan, rollback or stop", reply=reply)

    def schema(self, observation: Observation) -> None:
        """None: no answer is JSON."""
        return


def _read_plan(text: str, observation: Observation, thought: str, reply: str) -> Decision:
    names = {spec.name for spec in observation.tools}
    plan = tuple(name for name in re.split(r"[\s,>]+", text) if name)
    unknown = [name for name in plan if name not in names]
    if unknown or not plan:
        wrong = f"the plan names {', '.join(unknown)}, not in the toolbox" if unknown else "the plan is empty"
        return Decision(None, thought=wrong, reply=reply)
    return Decision(Apply(plan[0]), plan[1:], thought, reply)


def _read_rollback(text: str, observation: Observation, thought: str, reply: str) -> Decision:
    last = observation.trajectory.last.id
    number = re.fullmatch(r"(?:step\s*)?(\d{1,4})", text.strip(), re.IGNORECASE)
    if number is None or int(number[1]) > last:
        return Decision(None, thought=f"rollback to {text.strip()[:40]!r}, but steps are 0 to {last}", reply=reply)
    return Decision(Rollback(int(number[1])), thought=thought, reply=reply)

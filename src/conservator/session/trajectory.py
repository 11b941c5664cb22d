"""What happened: an append-only list of steps that is also a tree, by each step's parent."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TypeAlias

from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.kinds import Kind
from conservator.perception.perception import Look, Percept
from conservator.perception.risk import Verdict


@dataclass(frozen=True)
class Apply:
    """Call a tool on the current image."""

    tool: str


@dataclass(frozen=True)
class Rollback:
    """Make the image of an earlier step the current one. Nothing is deleted."""

    to: int


@dataclass(frozen=True)
class Stop:
    """The current image is the answer."""


Action: TypeAlias = Apply | Rollback | Stop


@dataclass(frozen=True)
class Refusal:
    """A treatment that a policy wanted, and that risk control did not admit."""

    tool: str
    treats: frozenset[Kind]
    """The kinds of damage that it is for."""
    verdict: Verdict
    gain: float
    """What it was estimated to gain, dB; NaN where nobody estimated it."""
    before: Image = field(repr=False, compare=False)
    """The picture (or study) that it would have treated."""
    after: Image = field(repr=False, compare=False)
    """What it made of it."""

    @property
    def words(self) -> str:
        """Why it was not done, in words."""
        return f"{self.tool} was not admitted: {self.verdict.words}"


@dataclass(frozen=True)
class Usage:
    """What it cost to ask a model somewhere else."""

    calls: int = 0
    """Requests that were sent, repeated ones too."""
    answers: int = 0
    """Requests that brought an answer, whatever it was worth."""
    prompt_tokens: int = 0
    """Tokens of questions and pictures, as the endpoint counts them; 0 where it does not."""
    completion_tokens: int = 0
    """Tokens that the model wrote, likewise."""

    def __add__(self, other: Usage) -> Usage:
        return Usage(
            self.calls + other.calls,
            self.answers + other.answers,
            self.prompt_tokens + other.prompt_tokens,
            self.completion_tokens + other.completion_tokens,
        )


@dataclass(frozen=True)
class Decision:
    """A policy's answer to one observation."""

    action: Action | None
    """None when the reply of a model could not be understood; ``thought`` then says why."""
    plan: tuple[str, ...] = ()
    """Tools it means to apply afterwards, in order. It may change its mind at the next step."""
    thought: str = ""
    """Why, in words a reader understands."""
    reply: str = ""
    """A model's exact text, kept for SFT and GRPO."""
    usage: Usage = Usage()
    """What this decision cost, where a model was asked for it."""
    by: str = ""
    """The policy whose plan this is, by name: only that one goes on with it."""
    refused: tuple[Refusal, ...] = field(default=(), compare=False)
    """Treatments that it would have preferred, had risk control admitted them; the best first."""

    def __post_init__(self) -> None:
        if not isinstance(self.thought, str):
            raise ConservatorError(
                f"the thought of a decision is {self.thought!r}, expected text; leave it out for none"
            )


@dataclass(frozen=True)
class Step:
    """One decision and the image that it led to. Step 0 is the input and has no decision."""

    id: int
    parent: int | None
    decision: Decision | None
    image: Image = field(repr=False, compare=False)
    percept: Percept = field(repr=False)
    seconds: float = field(default=0.0, compare=False)
    error: str | None = None
    refusal: Refusal | None = field(default=None, compare=False)
    """The treatment of this step, where risk control did not admit it; ``error`` then says so."""

    @property
    def look(self) -> Look:
        """The picture, and what was seen in it."""
        return Look(self.image, self.percept)


@dataclass(frozen=True)
class Trajectory:
    """All steps of one episode. The last one is the current state."""

    steps: tuple[Step, ...]

    @property
    def last(self) -> Step:
        """The current state."""
        return self.steps[-1]

    def add(self, step: Step) -> Trajectory:
        """A trajectory with one more step."""
        return Trajectory((*self.steps, step))

    @property
    def usage(self) -> Usage:
        """What all decisions cost together."""
        return sum((step.decision.usage for step in self.steps if step.decision is not None), Usage())

    @property
    def refusals(self) -> tuple[Refusal, ...]:
        """What risk control did not admit and no later step did after all, in the order in which it was wanted.

        Of a tool that was refused more than once, the last refusal.
        """
        found: dict[str, Refusal] = {}
        for step in self.steps:
            wanted = step.decision.refused if step.decision is not None else ()
            found |= {refusal.tool: refusal for refusal in (*wanted, *([step.refusal] if step.refusal else []))}
        return tuple(refusal for tool, refusal in found.items() if tool not in self.toolchain())

    def toolchain(self, step: Step | None = None) -> tuple[str, ...]:
        """The tools that made this step's image from the input, first to last; rolled-back ones are not in it."""
        return tuple(tool for tool, _ in self.treatments(step))

    def treatments(self, step: Step | None = None) -> tuple[tuple[str, Image], ...]:
        """The tools of ``toolchain``, each with the image that it made."""
        made = self.path(step)
        return tuple((made_by(step), step.image) for step in made)

    def path(self, step: Step | None = None) -> tuple[Step, ...]:
        """The steps of ``toolchain``: each applied a tool, and was not rolled back."""
        step = step or self.last
        found: list[Step] = []
        while step.parent is not None:
            if step.error is None and made_by(step):
                found.append(step)
            step = self.steps[step.parent]
        return tuple(reversed(found))


def made_by(step: Step) -> str:
    """The tool that a step called; "" where it called none."""
    action = step.decision.action if step.decision is not None else None
    return action.tool if isinstance(action, Apply) else ""

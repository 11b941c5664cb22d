"""What a dialect is. The data, the training and the policies use the same one, so a model is asked as it was taught."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal, Protocol

from conservator.image import Image
from conservator.kinds import NO_WISH, Objective, Wish
from conservator.session.session import Observation
from conservator.session.trajectory import Decision

IMAGE = "<image>"
"""Stands in a text where a picture belongs."""
NO_GAINS: Mapping[int, float] = MappingProxyType({})


@dataclass(frozen=True)
class Message:
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant", "tool"]
    """``tool`` brings the result of the call in the turn before."""
    text: str
    images: tuple[Image, ...] = field(default=(), repr=False)
    """The pictures (1, 3, H, W), one for each ``<image>`` in the text."""
    call: Mapping[str, Any] | None = field(default=None, hash=False)
    """What an assistant's turn called, ``name`` and ``arguments``; its text says the same as a chat template would."""


class Dialect(Protocol):
    """How a model is asked for the next step, and how its answer is written and read.

    Constrained decoding writes every legal decision and lets the model choose between the texts (policies/replies.py),
    so ``write`` gives each action a text of its own, and every text that it writes can be read.
    """

    @property
    def plans(self) -> bool:
        """Whether an answer can name more tools than the next one."""

    def ask(
        self,
        observation: Observation,
        objective: Objective,
        gains: Mapping[int, float] = NO_GAINS,
        wish: Wish = NO_WISH,
    ) -> Sequence[Message]:
        """The conversation up to where the model's answer begins: one turn or many, each with its own pictures.

        ``gains`` are the estimated gains of the steps so far in dB, by the step's number (policies/planning.py).
        ``wish`` is told where there is one, and else no word of it.
        """

    def functions(self, observation: Observation) -> Sequence[Mapping[str, Any]]:
        """The functions that a model may call, as JSON schemas for its chat template; none where it calls none."""

    def write(self, decision: Decision) -> str:
        """The text that stands for a decision: what a model is taught to answer."""

    def read(self, reply: str, observation: Observation) -> Decision:
        """A model's answer as a decision, whatever the answer is; it raises nothing.

        Where it is no legal decision, ``action`` is None and ``thought`` says why.
        """

    def schema(self, observation: Observation) -> Mapping[str, Any] | None:
        """The JSON schema of the legal answers, for endpoints that decode by one; None where no answer is JSON."""

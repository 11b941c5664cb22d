"""Suggestions as records keep them and as people are told of them: what was not done for its risk, and how to do it."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import fields
from pathlib import Path

from pydantic import BaseModel, ConfigDict, Field

from conservator.commands import shell_word
from conservator.kinds import Kind, purpose_in_words
from conservator.request import OWN, Request
from conservator.restoration import Suggestion

TREATING = ("toolbox", "strength", "adapt_steps", "device", "max_pixels", "allow_truncated")
"""What a request says to who treats: the options of ``conservator apply`` on which its pixels depend, or that let it
read the photo at all. (Perception only says what it thinks of them.)"""


class SuggestionRecord(BaseModel):
    """A treatment that a policy wanted and risk control did not admit: its user decides."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    tool: str
    treats: list[Kind]
    """The kinds of damage that the tool is for."""
    toolchain: list[str]
    """All tools of the result that is suggested, in order: those that were kept, and ``tool``."""
    chance: float = Field(ge=0, le=1)
    """How likely it was thought to do harm."""
    gain: float | None
    """What it was estimated to gain, dB; None where nobody estimated it."""

    @classmethod
    def of(cls, suggestion: Suggestion) -> SuggestionRecord:
        """What of a suggestion can be written down: all but its pictures."""
        gain = round(suggestion.gain, 3) if math.isfinite(suggestion.gain) else None
        return cls(
            tool=suggestion.tool,
            treats=sorted(suggestion.treats),
            toolchain=list(suggestion.toolchain),
            chance=round(suggestion.chance, 4),
            gain=gain,
        )

    @property
    def named(self) -> str:
        """The tool and what it is for: "brighten_mild, for low light"."""
        purpose = purpose_in_words(self.treats)
        return f"{self.tool}, for {purpose}" if purpose else self.tool

    @property
    def short(self) -> str:
        """The tool and how likely it harms, for a list: "brighten_mild (harm 41 %)"."""
        return f"{self.tool} (harm {percent(self.chance)})"

    @property
    def words(self) -> str:
        """Why it was not done, as a sentence without its full stop."""
        return f"{self.tool} was not done (the chance that it harms is put at {percent(self.chance)})"


def records_of(suggestions: Iterable[Suggestion]) -> list[SuggestionRecord]:
    """Suggestions without their pictures, in their order."""
    return [SuggestionRecord.of(suggestion) for suggestion in suggestions]


def not_done(suggestions: Sequence[Suggestion | SuggestionRecord]) -> str:
    """What was not done, as part of a sentence: "not done for its risk: brighten_mild"; "" where there is nothing."""
    tools = ", ".join(suggestion.tool for suggestion in suggestions)
    return f"not done for {'its' if len(suggestions) == 1 else 'their'} risk: {tools}" if tools else ""


def percent(chance: float) -> str:
    """A chance from 0 to 1 as a person reads it: "41 %", "3.4 %"."""
    return f"{100 * chance:.{0 if chance >= 0.0995 else 1}f} %"


def apply_command(
    suggestion: SuggestionRecord, photo: Path, request: Request, result: Path | None = None, in_place: bool = False
) -> str:
    """The command that does what is suggested, for a shell; "" where none can: the tools are a program's own objects.

    ``photo`` is named as given. The new result goes beside the ``result`` that there is, under a name of its own;
    without one, where ``conservator apply`` puts results. ``in_place``: the result took the place of the photo, so the
    tools that were kept have treated it already.
    """
    if request.toolbox.startswith(OWN):
        return ""
    tools = [suggestion.tool] if in_place else suggestion.toolchain
    words = ["conservator", "apply", _operand(photo), "--tools", shell_word(",".join(tools))]
    for field in fields(Request):
        value = getattr(request, field.name)
        if field.name not in TREATING or value == field.default:
            continue
        if field.name == "adapt_steps" and not any(tool.endswith("_adapted") for tool in tools):
            continue  # apply refuses it for tools that do not adapt themselves
        option = f"--{field.name.replace('_', '-')}"
        words += [option] if value is True else [option, shell_word(str(value))]
    if result is not None:
        words += ["--output", _operand(result.with_name(f"{result.stem}_{suggestion.tool}{result.suffix}"))]
    return " ".join(words)


def _operand(path: Path) -> str:
    """A path as a word of a command that no program takes for an option."""
    word = shell_word(path)
    return f"./{word}" if str(path).startswith("-") else word

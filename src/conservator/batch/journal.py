"""The journal of a batch: one line for each photo in work and for what became of it, so that a killed run resumes."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Literal, TypeAlias

from pydantic import TypeAdapter

from conservator.errors import ConservatorError
from conservator.files import locked, reason

JOURNAL = "conservator.manifest.jsonl"
"""Its name in the folder of the results; the name of earlier versions, so that their batches go on."""

Status: TypeAlias = Literal["started", "restored", "untouched", "incomplete", "skipped", "kept", "failed"]
"""What became of a photo. Incomplete: written, but a tool failed or the model that was asked gave no answers. Skipped:
done before, or in work elsewhere. Kept: something lies at its target that must not be replaced."""

_LONGEST_LINE = 2**20
"""Bytes; a line of ours has less than a thousandth of that. What is longer is no line of a journal."""


@dataclass(frozen=True)
class Outcome:
    """What became of one task: a line of the journal."""

    source: str
    target: str
    status: Status
    message: str
    input_sha256: str = ""
    output_sha256: str = ""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds ``examining``, ``deciding`` and ``treating``."""
    quality_before: float | None = None
    quality_after: float | None = None
    notes: tuple[str, ...] = ()
    """What had to change on the way in and out."""
    suggestions: tuple[str, ...] = ()
    """Tools that were not used for their risk, and are suggested; the record says more."""


class Journal:
    """The append-only list of outcomes in the output folder.

    Lines that are damaged, torn by a kill or written by a later version in a way of its own are ignored. Several runs
    may write one journal at the same time.
    """

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()
        self.trouble = ""
        """Why lines could not be written, in words; "" while all could."""

    def check(self) -> None:
        """Make sure that lines can be written; raises ConservatorError where they cannot."""
        if self.path.exists() and not self.path.is_file():
            raise ConservatorError(f"{self.path} is no file, expected the journal of a batch; move it away")
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab"):
                pass
        except OSError as error:
            raise ConservatorError(f"nothing can be written to {self.path.parent} ({reason(error)})") from error

    def events(self) -> Iterator[Outcome]:
        """All outcomes, the oldest first; none where there is no journal. Raises OSError where it cannot be read."""
        if not self.path.is_file():
            return
        with self.path.open("rb") as file:
            while line := file.readline(_LONGEST_LINE):
                try:
                    yield _reader().validate_python(json.loads(line))
                except (ValueError, RecursionError):
                    continue

    def read(self) -> dict[tuple[str, str], Outcome]:
        """The latest outcome of each (source, target); what was only begun does not hide how it ended before."""
        found: dict[tuple[str, str], Outcome] = {}
        for outcome in self.events():
            if outcome.status != "started" or (outcome.source, outcome.target) not in found:
                found[outcome.source, outcome.target] = outcome
        return found

    def append(self, outcome: Outcome) -> None:
        """Add one line and flush it to the disk; where that cannot be, ``trouble`` says why, and the batch goes on."""
        # ASCII, since a name may hold bytes that are no UTF-8
        line = json.dumps(asdict(outcome)).encode("ascii") + b"\n"
        try:
            with self._lock, locked(self.path) as file:
                if file.seek(0, os.SEEK_END):
                    file.seek(-1, os.SEEK_END)
                    line = b"\n" * (file.read(1) != b"\n") + line  # after a line that a kill has torn
                file.write(line)
                file.flush()
                os.fsync(file.fileno())
        except OSError as error:
            self.trouble = reason(error)


@cache
def _reader() -> TypeAdapter[Outcome]:
    """Reads a line: fields that a later version added are passed over, values of other types are errors."""
    return TypeAdapter(Outcome)

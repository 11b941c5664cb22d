"""The journal of a batch: one line for each photo in work and for what became of it, so that a killed run resumes."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal, TypeAlias

JOURNAL = "conservator.manifest.jsonl"
"""Its name in the folder of the results; the name of earlier versions, so that their batches go on."""

Status: TypeAlias = Literal["started", "restored", "untouched", "incomplete", "skipped", "failed"]
"""What became of a photo; incomplete: written, but a tool failed or the model that was asked gave no answers."""


@dataclass(frozen=True)
class Outcome:
    """What became of one task: a line of the manifest."""

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


def split(stages: Mapping[str, float]) -> str:
    """How the seconds of one photo were spent, "2.1 s: examining 0.2, deciding 0.7, treating 1.2"."""
    parts = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items())
    return f"{sum(stages.values()):.1f} s: {parts}"


@dataclass
class Summary:
    """Counts of a batch."""

    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, status: Status) -> int:
        """How many ended so."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed or are incomplete, 2 nothing done."""
        failed = self.count("failed")
        if not self.outcomes or failed == len(self.outcomes):
            return 2
        return 1 if failed or self.count("incomplete") else 0


class Journal:
    """The append-only list of outcomes in the output folder; a torn last line (kill -9) is ignored."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()

    def read(self) -> dict[tuple[str, str], Outcome]:
        """The latest outcome of each (source, target)."""
        found: dict[tuple[str, str], Outcome] = {}
        if self.path.exists():
            for line in self.path.read_text("utf-8", errors="replace").splitlines():
                try:
                    outcome = Outcome(**json.loads(line))
                except (ValueError, TypeError, RecursionError):
                    continue
                if isinstance(outcome.source, str) and isinstance(outcome.target, str):
                    found[outcome.source, outcome.target] = outcome
        return found

    def append(self, outcome: Outcome) -> None:
        """Add one line and flush it to the disk."""
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                torn = False
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    torn = file.read(1) != b"\n"
                # ASCII, since a name may hold bytes that are no UTF-8
                file.write(b"\n" * torn + json.dumps(asdict(outcome)).encode("ascii") + b"\n")
                file.flush()
                os.fsync(file.fileno())

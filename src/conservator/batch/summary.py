"""How a batch ended, in numbers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from conservator.batch.journal import Outcome, Status


@dataclass
class Summary:
    """The outcomes of a batch."""

    outcomes: list[Outcome] = field(default_factory=list)
    seconds: float = 0.0
    """How long it took."""
    left: int = 0
    """Photos that were not begun, because the batch was stopped."""
    trouble: str = ""
    """Why the journal lacks lines, in words; "" where it lacks none."""

    def count(self, status: Status) -> int:
        """How many ended so."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some were not done or are incomplete, 2 nothing done."""
        not_done = self.count("failed") + self.count("kept")
        if not_done == len(self.outcomes):
            return 2
        return 1 if not_done or self.left or self.count("incomplete") else 0


def split(stages: Mapping[str, float]) -> str:
    """How the seconds of one photo were spent, "2.1 s: examining 0.2, deciding 0.7, treating 1.2"."""
    parts = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items())
    return f"{sum(stages.values()):.1f} s: {parts}"

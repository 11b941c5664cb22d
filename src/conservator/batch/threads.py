"""Photos restored by threads of this process."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from conservator.batch.engine import Work
from conservator.batch.journal import Outcome
from conservator.batch.tasks import Task


@dataclass(frozen=True)
class Threads:
    """Restores ``jobs`` photos at a time."""

    jobs: int = 1

    def map(self, work: Work, tasks: Sequence[Task]) -> Iterable[Outcome]:
        """Do the work for every task; the outcomes in the order of the tasks."""
        with ThreadPoolExecutor(self.jobs) as threads:
            return list(threads.map(work, tasks))

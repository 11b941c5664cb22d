"""Where the photos of a batch are restored: threads of this process, with room for other machines."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from conservator.batch.journal import Outcome
from conservator.batch.tasks import Task

Work: TypeAlias = Callable[[Task], Outcome]


class Executor(Protocol):
    """Does the work of a batch."""

    def map(self, work: Work, tasks: Sequence[Task]) -> Iterable[Outcome]:
        """Do the work for every task, several at a time; the outcomes in the order of the tasks."""


@dataclass(frozen=True)
class Threads:
    """Restores ``jobs`` photos at a time."""

    jobs: int = 1

    def map(self, work: Work, tasks: Sequence[Task]) -> Iterable[Outcome]:
        """Do the work for every task; the outcomes in the order of the tasks."""
        with ThreadPoolExecutor(self.jobs) as threads:
            return list(threads.map(work, tasks))

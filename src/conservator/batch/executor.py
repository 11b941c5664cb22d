"""Where the photos of a batch are restored: threads of this process, with room for other machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Protocol

from conservator.batch.files import FileRestorer
from conservator.batch.journal import Outcome
from conservator.batch.tasks import Task
from conservator.restorer import Progress


@dataclass(frozen=True)
class Job:
    """A photo to restore now."""

    task: Task
    overwrite: bool
    """Whether what lies at the target may be replaced."""


class Executor(Protocol):
    """Restores photos several at a time. Journal, resuming and display stay with who calls it."""

    def restore(
        self,
        files: FileRestorer,
        jobs: Sequence[Job],
        started: Callable[[Task], Progress],
        ended: Callable[[Task, Outcome], None],
    ) -> None:
        """Restore each photo; returns when all have ended, and when stopped, when those that were begun have.

        ``files`` can be pickled: another process or machine loads models of its own. ``started`` and ``ended`` are
        called in this process, from any thread, for each photo that is begun; what ``started`` gives is told the
        stages, as far as they are known here.
        """


@dataclass(frozen=True)
class Threads:
    """Restores photos on ``jobs`` threads of this process, through one restorer."""

    jobs: int = 1

    def restore(
        self,
        files: FileRestorer,
        jobs: Sequence[Job],
        started: Callable[[Task], Progress],
        ended: Callable[[Task, Outcome], None],
    ) -> None:
        """Restore each photo; when that is stopped, those that were begun are finished, and no other is begun."""

        def work(job: Job) -> None:
            ended(job.task, files(job.task, started(job.task), job.overwrite))

        threads = ThreadPoolExecutor(self.jobs)
        try:
            for call in as_completed([threads.submit(work, job) for job in jobs]):
                call.result()
        finally:
            threads.shutdown(cancel_futures=True)

"""Where the photos of a batch are restored: threads of this process; ``batch/ray.py`` has other machines."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Protocol

from conservator.batch.files import FileRestorer
from conservator.batch.journal import Outcome
from conservator.batch.standing import Job
from conservator.batch.tasks import Task
from conservator.restorer import Progress


class Executor(Protocol):
    """Restores photos several at a time. Journal, resuming and display stay with who calls it."""

    def restore(
        self,
        files: FileRestorer,
        jobs: Sequence[Job],
        started: Callable[[Task], Progress],
        ended: Callable[[Task, Outcome], None],
        stopped: Callable[[], bool],
    ) -> None:
        """Restore each photo; returns when all have ended, and when stopped, when those that were begun have.

        ``files`` can be pickled: another process or machine loads models of its own. ``started`` and ``ended`` are
        called in this process, from any thread, for each photo that is begun; what ``started`` gives is told the
        stages, as far as they are known here. Once ``stopped`` says so, no further photo is begun.
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
        stopped: Callable[[], bool],
    ) -> None:
        """Restore each photo; when that is stopped, those that were begun are finished, and no other is begun."""

        def work(job: Job) -> None:
            if not stopped():
                ended(job.task, files(job, started(job.task)))

        threads = ThreadPoolExecutor(self.jobs)
        try:
            for call in as_completed([threads.submit(work, job) for job in jobs]):
                call.result()
        finally:
            threads.shutdown(cancel_futures=True)

"""Restore many files: each on its own, one line of the journal for each, never stopped by one bad file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence

from conservator.batch.executor import Executor, Threads
from conservator.batch.files import FileRestorer
from conservator.batch.journal import Journal, Outcome
from conservator.batch.standing import Job, Past, outcome, settle
from conservator.batch.summary import Summary
from conservator.batch.tasks import Task
from conservator.files import reason, remove_leftovers
from conservator.restorer import Progress


def run_batch(
    tasks: Sequence[Task],
    files: FileRestorer,
    journal: Journal,
    *,
    executor: Executor = Threads(),  # noqa: B008 - frozen
    resume: bool = False,
    overwrite: bool = False,
    on_start: Callable[[Task], Progress] = lambda task: lambda stage: None,
    on_end: Callable[[Task, Outcome], None] = lambda task, outcome: None,
    stopped: Callable[[], bool] = lambda: False,
) -> Summary:
    """Restore all tasks; with ``resume`` skip those whose result stands as record and journal say.

    An existing target or record is replaced only with ``overwrite``, or with ``resume`` where it is an earlier run's by
    its hash and made with the same settings. The file of another task is never replaced. Several runs may work on one
    folder at the same time: none deletes or redoes what another has in work. Once ``stopped`` says so, photos in work
    are finished and no other is begun. Raises ConservatorError where nothing can be written at all.
    """
    begun = time.monotonic()
    journal.check()
    remove_leftovers({task.target.parent for task in tasks})
    ended: dict[Task, Outcome] = {}

    def end(task: Task, outcome: Outcome) -> None:
        ended[task] = outcome
        on_end(task, outcome)

    def started(task: Task) -> Progress:
        progress = on_start(task)
        journal.append(outcome(task, "started", ""))
        return progress

    def finished(task: Task, outcome: Outcome) -> None:
        if outcome.status not in _UNTOLD:
            journal.append(outcome)
        end(task, outcome)

    jobs = []
    for task, settled in settle_all(tasks, files, journal, resume, overwrite, stopped):
        if isinstance(settled, Job):
            jobs.append(settled)
        else:
            on_start(task)
            end(task, settled)
    executor.restore(files, jobs, started, finished, stopped)
    outcomes = [ended[task] for task in tasks if task in ended]
    return Summary(outcomes, time.monotonic() - begun, len(tasks) - len(outcomes), journal.trouble)


_UNTOLD = ("skipped", "kept")
"""Outcomes that are not for the journal: they would hide what another run did."""


def settle_all(
    tasks: Sequence[Task],
    files: FileRestorer,
    journal: Journal,
    resume: bool,
    overwrite: bool,
    stopped: Callable[[], bool],
) -> Iterator[tuple[Task, Job | Outcome]]:
    """What is to be done for each task, a job or the outcome that it has already, until the batch is stopped."""
    past = Past.of(journal) if resume else None
    sources = {task.source.resolve() for task in tasks}
    for task in tasks:
        if stopped():
            break
        try:
            if not task.in_place and task.target.resolve() in sources:
                others = f"{task.target} is itself one of the photos; give another --output"
                yield task, outcome(task, "failed", others)
            else:
                yield task, settle(task, files, past, overwrite)
        except OSError as error:
            yield task, outcome(task, "failed", f"cannot write {task.target}: {reason(error)}")

"""Restore many files: each on its own, one line of the journal for each, never stopped by one bad file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from conservator.batch.executor import Executor, Job, Threads
from conservator.batch.files import FileRestorer
from conservator.batch.journal import Journal, Outcome, Summary
from conservator.batch.tasks import Task
from conservator.errors import ConservatorError
from conservator.files import PART_SUFFIX, sha256
from conservator.record import load_record
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
) -> Summary:
    """Restore all tasks; with ``resume`` skip those whose result stands as the journal says.

    A result is skipped only if input and output still have the hashes of the journal, and the record is of that output
    and of the same request. An existing target or record is replaced only with ``overwrite``, or with ``resume`` when
    the journal says that it is ours.
    """
    done = journal.read() if resume else {}
    if resume:
        remove_leftovers({task.target.parent for task in tasks})
    earlier = {task: done.get((str(task.source), str(task.target))) for task in tasks}
    ended: dict[Task, Outcome] = {}

    def end(task: Task, outcome: Outcome) -> None:
        ended[task] = outcome
        on_end(task, outcome)

    def started(task: Task) -> Progress:
        journal.append(Outcome(str(task.source), str(task.target), "started", ""))
        return on_start(task)

    def finished(task: Task, outcome: Outcome) -> None:
        before = earlier[task]
        if before is not None and outcome.status == "failed" and not outcome.output_sha256:
            outcome = replace(outcome, output_sha256=before.output_sha256)  # which still lies there
        journal.append(outcome)
        end(task, outcome)

    jobs = []
    for task in tasks:
        ours = overwrite or _is_ours(task, earlier[task])
        if (settled := _settled(task, earlier[task], files, ours)) is None:
            jobs.append(Job(task, ours))
        else:  # not for the journal: it would hide what an earlier run did
            on_start(task)
            end(task, settled)
    executor.restore(files, jobs, started, finished)
    return Summary([ended[task] for task in tasks])


def _settled(task: Task, earlier: Outcome | None, files: FileRestorer, ours: bool) -> Outcome | None:
    """What is known of a task without any work: it was done before, or something stands in its way."""
    if earlier is not None and _still_stands(task, earlier, files):
        return replace(earlier, status="skipped", message="done before", stages={}, notes=())
    if ours or not (stands := _in_the_way(task)):
        return None
    message = f"{stands[0]} exists already; give --overwrite to replace it, or another --output"
    return Outcome(str(task.source), str(task.target), "failed", message)


def remove_leftovers(folders: set[Path]) -> None:
    """Delete the temporary files that a killed run left in output folders."""
    for folder in folders:
        for path in folder.glob(f".*{PART_SUFFIX}"):
            path.unlink(missing_ok=True)


def _in_the_way(task: Task) -> list[Path]:
    """What must not be replaced: a file at the target, and the record of another result that is still there."""
    found = [path for path in (task.target, task.record) if path.exists()]
    if found == [task.record]:
        try:
            documented = Path(load_record(task.record).output.path).name
        except ConservatorError:
            return found  # whatever it is, it is somebody's
        return found if task.record.with_name(documented).exists() else []
    return found


def _is_ours(task: Task, earlier: Outcome | None) -> bool:
    """Whether what lies at the target is an earlier run's: one that failed may have written it before."""
    if earlier is None:
        return False
    if earlier.status != "failed":
        return True
    return bool(earlier.output_sha256) and task.target.is_file() and sha256(task.target) == earlier.output_sha256


def _still_stands(task: Task, earlier: Outcome, files: FileRestorer) -> bool:
    if earlier.status not in ("restored", "untouched") or not (task.target.is_file() and task.record.is_file()):
        return False
    if sha256(task.target) != earlier.output_sha256 or sha256(task.source) != earlier.input_sha256:
        return False
    try:
        record = load_record(task.record)
    except ConservatorError:
        return False
    return record.output.sha256 == earlier.output_sha256 and files.fits(task, record)

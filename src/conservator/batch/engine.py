"""Restore many files: each on its own, one line of the journal for each, never stopped by one bad file."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from conservator.batch.executor import Executor, Threads
from conservator.batch.journal import Journal, Outcome, Summary
from conservator.batch.tasks import Task
from conservator.errors import ConservatorError
from conservator.files import PART_SUFFIX, sha256
from conservator.record import Record, choices, load_record, make_record, save_record
from conservator.report import save_report
from conservator.restorer import Progress, Restorer
from conservator.tools.tiling import out_of_memory


@dataclass(frozen=True)
class FileRestorer:
    """Restores one file after another and documents each; safe to call from several threads."""

    restorer: Restorer
    report: bool = False
    """Whether a page is written beside each result."""

    def fits(self, task: Task, record: Record) -> bool:
        """Whether a finished result is what is asked for now."""
        same = choices(record.request) == choices(self.restorer.request)
        return same and (not self.report or task.report.is_file())

    def __call__(self, task: Task, progress: Progress, overwrite: bool) -> Outcome:
        """Restore one file; what goes wrong with the photo becomes a failed outcome, never an exception."""
        restorer, written = self.restorer, ""
        try:
            progress("reading")
            photo = restorer.load(task.source)
            taken = sha256(task.source)  # now: the result may take its place
            restored = restorer.restore(photo, progress)
            progress("writing")
            task.target.parent.mkdir(parents=True, exist_ok=True)
            notes = restored.save(task.target, overwrite=overwrite)
            written = sha256(task.target)
            if written != taken:  # what had to change on the way in did change
                notes = (*restored.photo.notes, *notes)
            record = make_record(restored, photo, task.target, restorer.request, restorer.toolbox, notes, taken)
            if self.report:
                save_report(task.report, record, photo, restored)
            save_record(record, task.record)
        except (ConservatorError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not out_of_memory(error):
                raise
            message = "not enough memory" if out_of_memory(error) else str(error) or type(error).__name__
            return Outcome(str(task.source), str(task.target), "failed", message, output_sha256=written)
        incomplete = restored.gave_up or restored.failed
        return Outcome(
            str(task.source),
            str(task.target),
            "incomplete" if incomplete else "untouched" if restored.untouched else "restored",
            record.verdict,
            taken,
            written,
            {stage: round(seconds, 3) for stage, seconds in restored.seconds.items()},
            round(restored.before.quality, 2),
            round(restored.after.quality, 2),
            tuple(record.notes),
        )


def run_batch(
    tasks: Sequence[Task],
    restorer: FileRestorer,
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

    def work(task: Task) -> Outcome:
        progress = on_start(task)
        earlier = done.get((str(task.source), str(task.target)))
        ours = overwrite or (earlier is not None and _is_ours(task, earlier))
        stands = [] if ours else _in_the_way(task)
        if earlier is not None and _still_stands(task, earlier, restorer):
            outcome = replace(earlier, status="skipped", message="done before", stages={}, notes=())
        elif stands:  # not for the journal: it would hide what an earlier run did
            message = f"{stands[0]} exists already; give --overwrite to replace it, or another --output"
            outcome = Outcome(str(task.source), str(task.target), "failed", message)
        else:
            journal.append(Outcome(str(task.source), str(task.target), "started", ""))
            outcome = restorer(task, progress, ours)
            if earlier is not None and outcome.status == "failed" and not outcome.output_sha256:
                outcome = replace(outcome, output_sha256=earlier.output_sha256)  # which still lies there
            journal.append(outcome)
        on_end(task, outcome)
        return outcome

    return Summary(list(executor.map(work, tasks)))


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


def _is_ours(task: Task, earlier: Outcome) -> bool:
    """Whether what lies at the target is an earlier run's: one that failed may have written it before."""
    if earlier.status != "failed":
        return True
    return bool(earlier.output_sha256) and task.target.is_file() and sha256(task.target) == earlier.output_sha256


def _still_stands(task: Task, earlier: Outcome, restorer: FileRestorer) -> bool:
    if earlier.status not in ("restored", "untouched") or not (task.target.is_file() and task.record.is_file()):
        return False
    if sha256(task.target) != earlier.output_sha256 or sha256(task.source) != earlier.input_sha256:
        return False
    try:
        record = load_record(task.record)
    except ConservatorError:
        return False
    return record.output.sha256 == earlier.output_sha256 and restorer.fits(task, record)

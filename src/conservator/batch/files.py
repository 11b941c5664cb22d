"""One file of a batch: read, restored, written and documented."""

from __future__ import annotations

from dataclasses import dataclass

from conservator.batch.journal import Outcome
from conservator.batch.tasks import Task
from conservator.errors import ConservatorError
from conservator.files import sha256
from conservator.record import Record, choices, make_record, save_record
from conservator.report import save_report
from conservator.restorer import Progress, Restorer
from conservator.tools.tiling import out_of_memory


@dataclass(frozen=True)
class FileRestorer:
    """Restores one file after another and documents each; safe to call from several threads, and picklable."""

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
        except Exception as error:  # a fault of the program, too, costs one photo, not the thousands that follow
            return Outcome(str(task.source), str(task.target), "failed", _why(error), output_sha256=written)
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


def _why(error: Exception) -> str:
    """What went wrong with a photo, in one sentence."""
    if out_of_memory(error):
        return "not enough memory"
    if isinstance(error, ConservatorError | OSError):
        return str(error) or type(error).__name__
    return f"the program failed on it ({type(error).__name__}: {error}); please report that"

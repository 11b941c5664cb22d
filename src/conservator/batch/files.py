"""One file of a batch: read, restored, written and documented."""

from __future__ import annotations

import errno
import os
import shutil
from dataclasses import dataclass
from pathlib import Path

from conservator.batch.journal import Outcome
from conservator.batch.results import anothers
from conservator.batch.standing import Job, finished_meanwhile, in_the_way, not_ours, outcome
from conservator.batch.tasks import Task
from conservator.errors import ConservatorError, PhotoError
from conservator.files import printable, put_in_place, reason, sha256, workspace
from conservator.photo import Photo
from conservator.record import Record, choices, make_record, save_record
from conservator.report import save_report, save_thumbnail, thumbnail_of
from conservator.restoration import Restored
from conservator.restorer import Progress, Restorer
from conservator.tools.tiling import out_of_memory


@dataclass(frozen=True)
class FileRestorer:
    """Restores one file after another and documents each; safe to call from several threads, and picklable."""

    restorer: Restorer
    report: bool = False
    """Whether a page is written beside each result."""
    tools: tuple[str, ...] = ()
    """Tools that every photo is treated with, whatever is seen in it; without any, the restorer's policy decides."""

    def same_settings(self, record: Record) -> bool:
        """Whether a finished result was made with the settings that are asked for now."""
        asked_for = tuple(treatment.tool for treatment in record.treatments) if record.request.policy == "none" else ()
        return choices(record.request) == choices(self.restorer.request) and asked_for == self.tools

    def has_report(self, task: Task) -> bool:
        """Whether a finished result has the page that is asked for now."""
        return not self.report or task.report.is_file()

    def __call__(self, job: Job, progress: Progress) -> Outcome:
        """Restore one file; what goes wrong with the photo becomes a failed outcome, never an exception.

        Result, record and page grow in a hidden folder beside the target, then take their places together, the result
        last: there never is a result without its record, and a photo that is restored in place stays as it was until
        all is written. Whoever else works on the same result is left in peace.
        """
        task = job.task
        try:
            with workspace(task.record) as folder:
                if folder is None:
                    return outcome(task, "skipped", "in work by another run")
                if done := finished_meanwhile(job, self):
                    return done
                if stands := _not_to_be_replaced(job):
                    return outcome(task, "kept", stands)
                try:
                    return self._restore(job, progress, folder)
                except Exception as error:  # a fault of the program, too, costs one photo, not the thousands after it
                    message = _why(error).replace(str(_picture(task, folder)), str(task.target))
                    return outcome(task, "failed", message)
        except OSError as error:  # no folder, or a full one
            return outcome(task, "failed", f"cannot write {task.target}: {reason(error)}")

    def _restore(self, job: Job, progress: Progress, folder: Path) -> Outcome:
        task, restorer = job.task, self.restorer
        progress("reading")
        photo = restorer.load(task.source)
        taken, read = sha256(task.source), task.source.stat()
        if shutil.disk_usage(folder).free < read.st_size:  # a result is seldom smaller, and treating takes long
            raise PhotoError(f"cannot write {task.target}: {os.strerror(errno.ENOSPC)}")
        restored = restorer.apply(photo, self.tools, progress) if self.tools else restorer.restore(photo, progress)
        progress("writing")
        picture = _picture(task, folder)
        notes = restored.save(picture, in_place=task.in_place)
        os.utime(picture, ns=(read.st_atime_ns, read.st_mtime_ns))  # albums are sorted by it, and it says when one was
        record = self._document(task, picture, photo, restored, notes, taken)
        moves = [(folder / "record", task.record), (picture, task.target)]
        try:
            save_record(record, folder / "record")
            if self.report:
                save_report(folder / "report", record, photo, restored, task.target)
                save_thumbnail(folder / "thumbnail", photo, restored)
                small = thumbnail_of(task.report)
                small.parent.mkdir(exist_ok=True)
                moves[1:1] = [(folder / "thumbnail", small), (folder / "report", task.report)]
            if stands := _not_to_be_replaced(job) or _changed(task, taken):
                return outcome(task, "kept", stands)
            if task.in_place and record.output.sha256 == taken:
                moves.pop()  # it lies there already
            put_in_place(moves)
        except OSError as error:
            raise PhotoError(f"cannot write {task.target}: {reason(error)}") from error
        return _outcome(task, record, restored)

    def _document(
        self, task: Task, picture: Path, photo: Photo, restored: Restored, notes: tuple[str, ...], taken: str
    ) -> Record:
        """The record of a result that still lies elsewhere."""
        restorer = self.restorer
        record = make_record(restored, photo, picture, restorer.request, restorer.toolbox, notes, taken)
        if record.output.sha256 != taken:  # what had to change on the way in did change
            notes = tuple(dict.fromkeys((*restored.photo.notes, *notes)))
        notes = (*notes, *restored.notes)
        output = record.output.model_copy(update={"path": printable(task.target)})
        return record.model_copy(update={"output": output, "notes": list(notes)})


def _picture(task: Task, folder: Path) -> Path:
    """Where a result grows: its suffix says its format."""
    return folder / f"picture{task.target.suffix}"


def _not_to_be_replaced(job: Job) -> str:
    """What lies in a job's way now, in words; "" where nothing does."""
    if (job.overwrite or job.replaces) and anothers(job.task):
        return not_ours(job.task)
    if job.overwrite:
        return ""
    if not job.replaces:
        return f"{stands} exists already" if (stands := in_the_way(job.task)) else ""
    target = job.task.target
    changed = target.exists() and sha256(target) != job.replaces
    return f"{target} was changed meanwhile; it stays as it is" if changed else ""


def _changed(task: Task, taken: str) -> str:
    """Whether a photo that is restored in place was changed while it was in work, in words."""
    changed = task.in_place and sha256(task.source) != taken
    return f"{task.source} was changed while it was in work; it stays as it is" if changed else ""


def _outcome(task: Task, record: Record, restored: Restored) -> Outcome:
    incomplete = restored.gave_up or restored.failed
    return Outcome(
        str(task.source),
        str(task.target),
        "incomplete" if incomplete else "untouched" if restored.untouched else "restored",
        record.verdict,
        record.input.sha256,
        record.output.sha256,
        {stage: round(seconds, 3) for stage, seconds in restored.seconds.items()},
        round(restored.before.quality, 2),
        round(restored.after.quality, 2),
        tuple(record.notes),
        tuple(suggestion.tool for suggestion in record.suggestions),
    )


def _why(error: Exception) -> str:
    """What went wrong with a photo, in one sentence."""
    if out_of_memory(error):
        return "not enough memory"
    if isinstance(error, OSError):
        return f"{os.fsdecode(error.filename)}: {reason(error)}" if error.filename is not None else reason(error)
    if isinstance(error, ConservatorError):
        return str(error) or type(error).__name__
    return f"the program failed on it ({type(error).__name__}: {error}); please report that"

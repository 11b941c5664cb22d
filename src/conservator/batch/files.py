"""One file of a batch: read, restored, written and documented."""

from __future__ import annotations

import errno
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

from conservator.batch.journal import Outcome
from conservator.batch.results import anothers
from conservator.batch.standing import Job, finished_meanwhile, in_the_way, not_ours, outcome
from conservator.batch.tasks import Task
from conservator.errors import ConservatorError, PhotoError, PoolError
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
        """Restore one file; what goes wrong with the photo becomes a failed outcome, never an exception."""
        task = job.task
        return self.carry_out(job, lambda folder: self.make(task, task.source, folder, task.in_place, progress))

    def carry_out(self, job: Job, make: Callable[[Path], Outcome]) -> Outcome:
        """Have one file restored by ``make``, here or elsewhere, and put what that made into its place.

        ``make`` is given a hidden folder beside the target, in which it leaves what ``self.make`` leaves there. Result,
        record and page then take their places together, the result last: there never is a result without its record,
        and a photo that is restored in place stays as it was until all is written. Whoever else works on the same
        result is left in peace. Raises the PoolError of a ``make`` that got no answer; the photo is not to blame.
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
                    made = make(folder)
                    return made if made.status == "failed" else self._put_in_place(job, folder, made)
                except PoolError:
                    raise
                except Exception as error:
                    return outcome(task, "failed", _why(error))
        except OSError as error:  # no folder, or a full one
            return outcome(task, "failed", f"cannot write {task.target}: {reason(error)}")

    def make(self, task: Task, source: Path, folder: Path, in_place: bool, progress: Progress) -> Outcome:
        """Restore the photo whose bytes lie in the file ``source``; leave its result and what documents it in a folder.

        Everything is told of the task's paths, which need not exist on this machine; ``in_place`` says whether the
        result is to take the place of the photo. What goes wrong becomes a failed outcome, never an exception.
        """
        try:
            return self._make(task, source, folder, in_place, progress)
        except Exception as error:  # a fault of the program, too, costs one photo, not the thousands after it
            message = _why(error).replace(str(_picture(task, folder)), str(task.target))
            return outcome(task, "failed", message.replace(str(source), str(task.source)))

    def _make(self, task: Task, source: Path, folder: Path, in_place: bool, progress: Progress) -> Outcome:
        restorer = self.restorer
        progress("reading")
        photo = restorer.load(source)
        taken, size = sha256(source), source.stat().st_size
        if shutil.disk_usage(folder).free < size:  # a result is seldom smaller, and treating takes long
            raise PhotoError(f"cannot write {task.target}: {os.strerror(errno.ENOSPC)}")
        restored = restorer.apply(photo, self.tools, progress) if self.tools else restorer.restore(photo, progress)
        progress("writing")
        return self.write(task, folder, photo, restored, taken, in_place)

    def write(
        self, task: Task, folder: Path, photo: Photo, restored: Restored, taken: str, in_place: bool = False
    ) -> Outcome:
        """Leave the result of a photo that was restored, and what documents it, in a folder, as ``make`` does.

        ``photo`` is the one that was read, from a file of the hash ``taken``; everything is told of the task's paths.
        Raises PhotoError where something cannot be written.
        """
        picture = _picture(task, folder)
        notes = restored.save(picture, in_place=in_place)
        told = replace(photo, path=task.source)
        record = self._document(task, picture, told, restored, notes, taken)
        try:
            save_record(record, folder / _RECORD)
            if self.report:
                save_report(folder / _REPORT, record, photo, restored, task.target)
                save_thumbnail(folder / _THUMBNAIL, photo, restored)
        except OSError as error:
            raise PhotoError(f"cannot write {task.target}: {reason(error)}") from error
        return _outcome(task, record, restored)

    def _put_in_place(self, job: Job, folder: Path, made: Outcome) -> Outcome:
        """Let what lies in a workspace take its places, or say why that must not be."""
        task, picture = job.task, _picture(job.task, folder)
        read = task.source.stat()
        os.utime(picture, ns=(read.st_atime_ns, read.st_mtime_ns))  # albums are sorted by it, and it says when one was
        moves = [(folder / _RECORD, task.record), (picture, task.target)]
        try:
            if self.report:
                small = thumbnail_of(task.report)
                small.parent.mkdir(exist_ok=True)
                moves[1:1] = [(folder / _THUMBNAIL, small), (folder / _REPORT, task.report)]
            if stands := _not_to_be_replaced(job) or _changed(task, made.input_sha256):
                return outcome(task, "kept", stands)
            if task.in_place and made.output_sha256 == made.input_sha256:
                moves.pop()  # it lies there already
            put_in_place(moves)
        except OSError as error:
            raise PhotoError(f"cannot write {task.target}: {reason(error)}") from error
        return made

    def _document(
        self, task: Task, picture: Path, photo: Photo, restored: Restored, notes: tuple[str, ...], taken: str
    ) -> Record:
        """The record of a result that still lies elsewhere."""
        restorer = self.restorer
        request = replace(restorer.request, strength=restored.strength)
        record = make_record(restored, photo, picture, request, restorer.toolbox, notes, taken)
        if record.output.sha256 != taken:  # what had to change on the way in did change
            notes = tuple(dict.fromkeys((*restored.photo.notes, *notes)))
        notes = (*notes, *restored.notes)
        output = record.output.model_copy(update={"path": printable(task.target)})
        return record.model_copy(update={"output": output, "notes": list(notes)})


_RECORD, _REPORT, _THUMBNAIL = "record", "report", "thumbnail"
"""Names of what grows beside a result."""


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

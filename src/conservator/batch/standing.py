"""What lies where a result is to go: whether the photo is done, may be restored, or something must stay as it is."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from conservator.batch.journal import Journal, Outcome, Status
from conservator.batch.results import anothers
from conservator.batch.tasks import Task
from conservator.errors import ConservatorError
from conservator.files import sha256
from conservator.record import Record, load_record

if TYPE_CHECKING:
    from conservator.batch.files import FileRestorer

OR_ELSE = "give --overwrite to replace it, or another --output"
"""What a user of the command line may do about something in the way; other faces say it in words of their own."""


@dataclass(frozen=True)
class Job:
    """A photo to restore now."""

    task: Task
    overwrite: bool = False
    """Whether what lies at the target may be replaced, whatever it is."""
    replaces: str = ""
    """Hash of the one result, an earlier run's, that may be replaced; "" for none."""
    resume: bool = False
    """Whether it is left alone where another run has finished it meanwhile."""


@dataclass(frozen=True)
class Past:
    """What earlier runs wrote, as their journal tells."""

    made: dict[str, Outcome] = field(default_factory=dict)
    """By the hash of the result."""
    targets: frozenset[str] = frozenset()
    """Where results were written."""

    @classmethod
    def of(cls, journal: Journal) -> Past:
        """What a journal tells."""
        made = {outcome.output_sha256: outcome for outcome in journal.events() if outcome.output_sha256}
        return cls(made, frozenset(outcome.target for outcome in made.values()))


def settle(task: Task, files: FileRestorer, past: Past | None, overwrite: bool) -> Job | Outcome:
    """Decide what is to be done for a task: a job, or its outcome where nothing is.

    With a ``past`` (--resume) a result that stands as its record says, made of the same photo by the same request, is
    skipped. One that is an earlier run's by its hash, and was made with the same settings, may be made again; one that
    was made with other settings, or changed since, stays. With ``overwrite`` whatever does not stand is replaced, but
    for the record of another result.
    """
    if task.target.is_dir():
        return outcome(task, "failed", f"{task.target} is a folder; move it, or give another --output")
    if overwrite and anothers(task):
        return outcome(task, "kept", f"{not_ours(task)}; give another --output")
    job: Job | Outcome = Job(task, resume=past is not None)
    if task.target.exists() and past is not None:
        job = _resumed(task, files, past)
    elif stands := in_the_way(task):
        job = outcome(task, "kept", f"{stands} exists already; {OR_ELSE}")
    if isinstance(job, Job):
        return replace(job, overwrite=overwrite)
    return Job(task, overwrite=True, resume=past is not None) if overwrite and job.status == "kept" else job


def finished_meanwhile(job: Job, files: FileRestorer) -> Outcome | None:
    """The outcome of a resumed run's photo that another run has finished since, by the same request."""
    task = job.task
    if not job.resume or not task.target.is_file() or not task.record.is_file():
        return None
    try:
        record = load_record(task.record)
    except ConservatorError:
        return None
    digest = sha256(task.target)
    ours = record.output.sha256 == digest != job.replaces and files.same_settings(record)
    return _done(task, record, None) if ours and _stands(task, record, None) and files.has_report(task) else None


def outcome(task: Task, status: Status, message: str) -> Outcome:
    """An outcome of a task for which nothing was written."""
    return Outcome(str(task.source), str(task.target), status, message)


def in_the_way(task: Task) -> Path | None:
    """What must not be replaced: a file at the target, or the record of another result that is still there."""
    if task.target.exists():
        return task.target
    if not task.record.exists():
        return None
    try:
        documented = Path(load_record(task.record).output.path).name
    except ConservatorError:
        return task.record  # whatever it is, it is somebody's
    return task.record if task.record.with_name(documented).exists() else None


def _resumed(task: Task, files: FileRestorer, past: Past) -> Job | Outcome:
    """What a resumed run does where something lies at the target."""
    digest = sha256(task.target)
    earlier, record = past.made.get(digest), None
    if task.record.exists():
        try:
            record = load_record(task.record)
        except ConservatorError:
            why = "beside it lies a record that cannot be read, perhaps of a later version"
            return outcome(task, "kept", f"{task.target} stays, for {why}; {OR_ELSE}")
    documented = record is not None and record.output.sha256 == digest
    if earlier is None and not documented:
        was_ours = record is not None or str(task.target) in past.targets
        what = "was changed after it was written" if was_ours else "exists already"
        return outcome(task, "kept", f"{task.target} {what}; {OR_ELSE}")
    if record is None or not documented:  # the result is ours, and its record is gone or another one's
        if anothers(task):
            return outcome(task, "kept", f"{not_ours(task)}; give another --output")
        return Job(task, replaces=digest, resume=True)
    if not files.same_settings(record):
        return outcome(task, "kept", f"{task.target} was made with other settings; {OR_ELSE}")
    if _stands(task, record, earlier) and files.has_report(task):
        return _done(task, record, earlier)
    return Job(task, replaces=digest, resume=True)


def not_ours(task: Task) -> str:
    """What is said of a record that documents another result, which is still there."""
    return f"{task.record} is the record of another result"


def _done(task: Task, record: Record, earlier: Outcome | None) -> Outcome:
    known = earlier or _as_recorded(task, record)
    suggested = tuple(suggestion.tool for suggestion in record.suggestions)
    done = replace(known, source=str(task.source), target=str(task.target), stages={}, notes=(), suggestions=suggested)
    return replace(done, status="skipped", message="done before")


def _stands(task: Task, record: Record, earlier: Outcome | None) -> bool:
    """Whether a documented result is complete and made of what the photo is now; in place, it is the photo now."""
    if earlier is not None and earlier.status not in ("restored", "untouched"):
        return False
    if earlier is None and not _complete(record):
        return False
    return task.in_place or (task.source.is_file() and sha256(task.source) == record.input.sha256)


def _complete(record: Record) -> bool:
    """Whether neither a tool nor a model that was asked failed, as far as a record tells."""
    tools = all(treatment.seen is not None for treatment in record.treatments)
    return tools and not any(step.action == "unusable" for step in record.steps)


def _as_recorded(task: Task, record: Record) -> Outcome:
    return Outcome(str(task.source), str(task.target), "skipped", "", record.input.sha256, record.output.sha256)

"""What would be done to photos: what is seen in each, the toolchain, and what that is estimated to gain."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from conservator.batch.engine import settle_all
from conservator.batch.files import FileRestorer
from conservator.batch.journal import Journal, Outcome
from conservator.batch.standing import Job
from conservator.batch.tasks import Task
from conservator.batch.words import duration, photos
from conservator.errors import ConservatorError, PhotoError
from conservator.perception.perception import Percept
from conservator.photo import Photo, check_in_place
from conservator.record import why_untouched
from conservator.restoration import Plan
from conservator.restorer import Progress, Restorer
from conservator.suggesting import SuggestionRecord, records_of


@dataclass(frozen=True)
class Preview:
    """A photo that was examined and planned for, and left as it is."""

    path: Path
    photo: Photo | None = None
    plan: Plan | None = None
    gain: float = 0.0
    """What the toolchain is estimated to gain on the study, dB, with caution."""
    why: str = ""
    """Why it would be left untouched, if it would."""
    error: str = ""
    """Why the photo cannot be read, or not be planned for."""
    suggestions: tuple[SuggestionRecord, ...] = ()
    """What would not be done for its risk."""
    standing: str = ""
    """Why nothing would be done to it, whatever is seen: its result stands, or something is in the way."""

    @property
    def treated(self) -> bool:
        """Whether it would be treated."""
        return self.plan is not None and bool(self.plan.toolchain)

    @property
    def intention(self) -> str:
        """What would be done, in words."""
        if self.plan is None:
            return self.error or self.standing
        if self.plan.gave_up:
            return f"the policy gave up: {self.plan.gave_up}"
        if not self.treated:
            why = f": {self.why}" if self.plan.before.damages and not self.suggestions else ""
            return f"would be left untouched{why}"
        return f"would be treated with {', then '.join(self.plan.toolchain)}; estimated gain {self.gain:+.1f} dB"

    def __str__(self) -> str:
        if self.plan is None:
            named = str(self.path) in self.intention
            return self.intention if named else f"{self.path}: {self.intention}"
        offered = ", ".join(suggestion.short for suggestion in self.suggestions)
        told = f"{self.path}: {seen_in_words(self.plan.before)}; {self.intention}"
        return f"{told}; suggested: {offered}" if offered else told


def seen_in_words(percept: Percept) -> str:
    """The damage that is seen, worst first: "noise high, JPEG artefacts low"; "no damage seen" where there is none."""
    return ", ".join(f"{kind.label} {percept.severities[kind].label}" for kind in percept.damages) or "no damage seen"


def preview(restorer: Restorer, path: Path, progress: Progress) -> Preview:
    """Examine a photo and decide; nothing is treated or written. What is wrong with the photo stands in the preview."""
    try:
        progress("reading")
        photo = restorer.load(path)
        plan = restorer.plan(photo, progress)
        gain = plan.gain.cautious(restorer.request.objective)
        suggestions = tuple(records_of(plan.suggestions))
        return Preview(path, photo, plan, gain, why_untouched(plan.trajectory), suggestions=suggestions)
    except ConservatorError as error:
        return Preview(path, error=str(error))


def preview_batch(
    tasks: Sequence[Task],
    files: FileRestorer,
    journal: Journal | None = None,
    *,
    jobs: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    on_start: Callable[[Task], Progress] = lambda task: lambda stage: None,
    on_end: Callable[[Task, Preview], None] = lambda task, preview: None,
    stopped: Callable[[], bool] = lambda: False,
) -> list[Preview]:
    """What ``run_batch`` would do with the same arguments; without a ``journal``, wherever results would go.

    ``on_end`` is told the previews in the order of the tasks. Once ``stopped`` says so, no further photo is begun.
    """
    settled: Iterable[tuple[Task, Job | Outcome]] = ((task, Job(task)) for task in tasks)
    if journal is not None:
        settled = settle_all(tasks, files, journal, resume, overwrite, stopped)

    def work(task: Task) -> Preview | None:
        return None if stopped() else _checked(task, preview(files.restorer, task.source, on_start(task)), journal)

    found: list[Preview] = []
    with ThreadPoolExecutor(jobs) as threads:
        calls: list[tuple[Task, Future[Preview | None] | Preview]] = []
        for task, known in settled:
            calls.append((task, _standing(task, known) if isinstance(known, Outcome) else threads.submit(work, task)))
        for task, call in calls:
            seen = call if isinstance(call, Preview) else call.result()
            if seen is not None:
                found.append(seen)
                on_end(task, seen)
    return found


def _checked(task: Task, seen: Preview, journal: Journal | None) -> Preview:
    """The preview, or why its result could not be written: a file where a folder should be, a loss in place."""
    if journal is None:
        return seen
    above = next(parent for parent in task.target.parents if parent.exists())
    if not above.is_dir():
        return Preview(task.source, error=f"cannot write {task.target}: {above} is no folder")
    if task.in_place and seen.photo is not None and seen.treated:
        try:
            check_in_place(seen.photo, task.target)
        except PhotoError as error:
            return Preview(task.source, error=str(error))
    return seen


def _standing(task: Task, settled: Outcome) -> Preview:
    """Of a photo to which nothing would be done: it is done already, or something is in the way."""
    if settled.status == "failed":
        return Preview(task.source, error=settled.message)
    return Preview(task.source, standing=settled.message)


def preview_in_words(previews: Sequence[Preview], seconds: float) -> str:
    """How many photos would be treated, left as they are, or cannot be."""
    counts = {
        "would be treated": sum(one.treated for one in previews),
        "would be left untouched": sum(one.plan is not None and not one.treated for one in previews),
        "would be passed by": sum(bool(one.standing) for one in previews),
        "cannot be restored": sum(bool(one.error) for one in previews),
    }
    told = ", ".join(f"{count} {words}" for words, count in counts.items() if count)
    return f"{photos(len(previews))} examined in {duration(seconds)}: {told}; nothing was written"

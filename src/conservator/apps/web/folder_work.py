"""The one folder that is restored at a time. It goes on when the page is closed, and shows when one is opened again."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from html import escape
from pathlib import Path

from conservator.apps.batch_job import BatchJob
from conservator.apps.restorers import Restorers
from conservator.apps.roots import Roots
from conservator.apps.web.sheet import Sheet
from conservator.batch import JOURNAL, FileRestorer, Findings, Journal, Summary, find_tasks, save_index
from conservator.batch.words import duration, passed_over, photos
from conservator.errors import ConservatorError
from conservator.files import printable
from conservator.request import Request

_SHOWN = 60
"""Folders that are offered to step into."""


class FolderJob(BatchJob):
    """The restoration of a folder; the same again goes on where it was stopped."""

    again = "Start"


class FolderWork:
    """What is restored, or was restored last."""

    def __init__(self, roots: Roots, restorers: Restorers, place: Path) -> None:
        """Folders lie in ``roots``; copies of thumbnails go below ``place``."""
        self.roots, self._restorers, self._place = roots, restorers, place
        self.job: FolderJob | None = None
        self.sheet: Sheet | None = None
        self._lock = threading.Lock()

    @property
    def running(self) -> bool:
        """Whether photos are in work."""
        return self.job is not None and not self.job.ended.is_set()

    def start(self, folder: str, output: str, request: Request) -> None:
        """Begin, or go on with what an earlier run left. Raises ConservatorError where that cannot be."""
        with self._lock:
            if self.running:
                raise ConservatorError("a folder is being restored already; stop it first, or wait")
            real = self.roots.real(folder)
            if not real.is_dir():
                raise ConservatorError(f"{printable(real)} is no folder; choose a folder of photos")
            results = self.roots.real(str(real / output)) if output else real / "restored"
            found, refused = self.roots.within(find_tasks([real], results))
            if not self.roots.contain(found.folder / JOURNAL):
                raise ConservatorError(f"{printable(found.folder)} leads out of the folders that are open here")
            if not found.tasks:
                raise ConservatorError("all photos that were found, or their results, lie outside the open folders")
            journal, sheet = Journal(found.folder / JOURNAL), Sheet(found.folder, self._place)
            job = FolderJob(found, refused, journal, sheet.add, _write_index(found, journal))
            self.job, self.sheet = job, sheet
            job.start(self._lent(request), 1)

    def stop(self) -> None:
        """Begin no further photo."""
        if self.job is not None:
            self.job.cancel()

    def close(self) -> None:
        """Leave what is in work."""
        if self.job is not None:
            self.job.abort()

    @contextmanager
    def _lent(self, request: Request) -> Iterator[FileRestorer]:
        with self._restorers.lend(request) as restorer:
            yield FileRestorer(restorer, report=True)

    def folders(self, given: str) -> list[str]:
        """Folders to choose from: the one that was given, the one above it, and those in it; no hidden ones."""
        try:
            real = self.roots.real(given)
        except ConservatorError:
            return [str(folder) for folder in self.roots.folders]
        if not real.is_dir():
            return [str(folder) for folder in self.roots.folders]
        above = [real.parent] if self.roots.contain(real.parent) else []
        try:
            inside = sorted(path for path in real.iterdir() if path.is_dir() and not path.name.startswith("."))
        except OSError:
            inside = []
        return list(dict.fromkeys(map(printable, [real, *above, *inside[:_SHOWN]])))


def _write_index(found: Findings, journal: Journal) -> Callable[[Summary], None]:
    """What writes the page of the folder of results."""

    def write(summary: Summary) -> None:
        save_index(found.folder, journal, summary)

    return write


def progress_in_html(job: BatchJob) -> str:
    """How far a batch is, with an estimate, and how it ended."""
    total, done = len(job.found.tasks), job.done
    bar = (
        f'<progress max="{total}" value="{done}" aria-label="Photos that are done"></progress>'
        f"<p><b>{done:,} of {photos(total)}</b>{_left(job, total - done)}</p>"
    )
    with job.lock:
        stages, counts = dict(job.stages), dict(job.counts)
    told = [f"{Path(path).name}: {stage}" for path, stage in stages.items()]
    told += [", ".join(f"{count:,} {status}" for status, count in sorted(counts.items()))] if counts else []
    told += [*passed_over(job.found), *job.left_out] if job.ended.is_set() else []
    told += [f"{job.summary}."] if job.summary else []
    lines = "".join(f"<p>{escape(line)}</p>" for line in told)
    failure = f'<p class="problem" role="alert">{escape(job.failure)}</p>' if job.failure else ""
    where = f'<p>Results, records and pages: <span class="path">{escape(printable(job.found.folder))}</span></p>'
    return f"<h2>{_STATES[job.state]}</h2>{bar}{lines}{failure}{where}"


_STATES = {
    "running": "At work",
    "stopping": "Stopping: the photo in work is finished first",
    "cancelled": "Stopped: Start goes on with the rest",
    "ended": "Done",
    "failed": "That did not work",
}


def _left(job: BatchJob, left: int) -> str:
    """The estimate of the time that is left, once there is one."""
    if job.ended.is_set() or not job.worked or not left:
        return ""
    each = (time.monotonic() - job.begun) / job.worked
    return f", about {duration(max(1.0, round(each * left)))} left"

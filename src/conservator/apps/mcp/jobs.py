"""Batches that go on while the assistant does other things."""

from __future__ import annotations

import secrets
import threading
from collections import Counter, OrderedDict
from collections.abc import Mapping
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from conservator.batch import FileRestorer, Findings, Journal, Outcome, Task, Threads, run_batch
from conservator.batch.words import duration, passed_over, photos
from conservator.errors import ConservatorError
from conservator.files import printable
from conservator.restorer import Progress

MOST_RUNNING = 2
"""Batches at the same time; each photo computes on all cores itself."""

MOST_TOLD = 20
"""Photos that failed, by name, in one answer; the journal has all."""

_MOST_KNOWN = 50  # batches that ended and can still be asked for


class BatchJob:
    """One batch, in a thread of its own; what it has done stands in its journal, too."""

    def __init__(self, found: Findings, refused: int, journal: Journal) -> None:
        """``refused`` photos were found and left out, because they lie outside the folders that are open."""
        self.handle = f"job_{secrets.token_hex(6)}"
        self.found, self.refused, self.journal = found, refused, journal
        self._counts = Counter[str]()
        self._troubles: list[dict[str, str]] = []
        self._stages: dict[Path, str] = {}
        self._summary, self._failure = "", ""
        self._stopping, self._leaving, self.ended = threading.Event(), threading.Event(), threading.Event()
        self._lock = threading.Lock()

    def start(self, lent: AbstractContextManager[FileRestorer], at_once: int) -> None:
        """Begin; ``lent`` is the restorer, for as long as it takes, and ``at_once`` photos are treated at a time."""
        threading.Thread(target=self._run, args=(lent, at_once), daemon=True, name=self.handle).start()

    def cancel(self) -> None:
        """Begin no further photo; those in work are finished."""
        self._stopping.set()

    def abort(self) -> None:
        """Begin no further photo, and leave those in work at their next stage: nothing is written for them."""
        self._stopping.set()
        self._leaving.set()

    @property
    def state(self) -> str:
        """In a word: running, stopping, cancelled, ended or failed."""
        if not self.ended.is_set():
            return "stopping" if self._stopping.is_set() else "running"
        done = sum(self._counts.values()) == len(self.found.tasks)
        return "failed" if self._failure else "ended" if done else "cancelled"

    def told(self) -> Mapping[str, Any]:
        """How far it is, as an assistant is told it."""
        with self._lock:
            counts, stages = dict(self._counts), {printable(path): stage for path, stage in self._stages.items()}
            troubles = self._troubles[:MOST_TOLD]
        return {
            "job": self.handle,
            "state": self.state,
            "photos": len(self.found.tasks),
            "done": sum(counts.values()),
            "outcomes": counts,
            "in_work": stages,
            "troubles": troubles,
            "results": printable(self.found.folder),
            "journal": printable(self.journal.path),
            "passed_over": [*passed_over(self.found), *self._refused()],
            **({"summary": self._summary} if self._summary else {}),
            **({"failure": self._failure} if self._failure else {}),
        }

    def _refused(self) -> list[str]:
        if not self.refused:
            return []
        return [f"{photos(self.refused)} left out: they, or their results, lie outside the folders that are open"]

    def _run(self, lent: AbstractContextManager[FileRestorer], at_once: int) -> None:
        try:
            with lent as files:
                self._restore(files, at_once)
        except ConservatorError as error:
            self._failure = str(error)
        except Exception as error:
            self._failure = f"the program failed ({type(error).__name__}: {error}); please report that"
            raise  # its traceback goes to the log
        finally:
            self.ended.set()

    def _restore(self, files: FileRestorer, at_once: int) -> None:
        summary = run_batch(
            self.found.tasks,
            files,
            self.journal,
            executor=Threads(at_once),
            resume=True,
            on_start=self._started,
            on_end=self._ended,
            stopped=self._stopping.is_set,
        )
        self._summary = f"{photos(len(summary.outcomes))} in {duration(summary.seconds)}"
        if summary.left:
            self._summary += f"; {photos(summary.left)} not begun: the same batch_start goes on"
        if summary.trouble:
            self._summary += f"; the journal lacks lines ({summary.trouble})"

    def _started(self, task: Task) -> Progress:
        def progress(stage: str) -> None:
            if self._leaving.is_set():
                raise ConservatorError("the program was ended")
            with self._lock:
                self._stages[task.source] = stage

        return progress

    def _ended(self, task: Task, outcome: Outcome) -> None:
        with self._lock:
            self._stages.pop(task.source, None)
            self._counts[outcome.status] += 1
            if outcome.status in ("failed", "kept", "incomplete"):
                self._troubles.append({"photo": printable(task.source), "why": in_tool_words(outcome.message)})


class Jobs:
    """The batches of this process, by handle."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, BatchJob] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, job: BatchJob) -> None:
        """Keep a batch that is about to start; raises ConservatorError where too many are running."""
        with self._lock:
            running = [known.handle for known in self._jobs.values() if not known.ended.is_set()]
            if len(running) >= MOST_RUNNING:
                raise ConservatorError(f"{' and '.join(running)} are running; wait for one, or cancel it (job_cancel)")
            self._jobs[job.handle] = job
            if len(self._jobs) > _MOST_KNOWN:
                del self._jobs[next(handle for handle, known in self._jobs.items() if known.ended.is_set())]

    def __getitem__(self, handle: str) -> BatchJob:
        """Raises ConservatorError for a batch that this process does not have."""
        with self._lock:
            if handle in self._jobs:
                return self._jobs[handle]
        raise ConservatorError(
            f"{handle} is no batch of this run of the program; batch_start with the same photos and output goes on "
            "where an earlier one ended"
        )

    def abort(self) -> None:
        """Stop all at their next stage."""
        with self._lock:
            jobs = list(self._jobs.values())
        for job in jobs:
            job.abort()

    @property
    def running(self) -> bool:
        """Whether any goes on."""
        with self._lock:
            return any(not job.ended.is_set() for job in self._jobs.values())


def in_tool_words(sentence: str) -> str:
    """A sentence of the core, which speaks to users of the command line, as one for callers of the tools."""
    return sentence.replace("give --overwrite to replace it, or another --output", "give another output").replace(
        "another --output", "another output"
    )

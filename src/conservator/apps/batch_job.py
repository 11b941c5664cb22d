"""A batch that goes on in the background, while whoever asked for it does other things."""

from __future__ import annotations

import secrets
import threading
import time
from collections import Counter
from collections.abc import Callable
from contextlib import AbstractContextManager

from conservator.batch import FileRestorer, Findings, Journal, Outcome, Summary, Task, Threads, run_batch
from conservator.batch.words import duration, photos
from conservator.errors import ConservatorError
from conservator.files import printable
from conservator.restorer import Progress


class BatchJob:
    """One batch, in a thread of its own; what it has done stands in its journal, too."""

    def __init__(
        self,
        found: Findings,
        refused: int,
        journal: Journal,
        on_end: Callable[[Task, Outcome], None] = lambda task, outcome: None,
        after: Callable[[Summary], None] = lambda summary: None,
    ) -> None:
        """``refused`` photos were found and left out, because they lie outside the folders that are open.

        ``on_end`` is told what became of each photo, and ``after`` of all that were begun, in the thread of the batch.
        """
        self.handle = f"job_{secrets.token_hex(6)}"
        self.found, self.refused, self.journal = found, refused, journal
        self.counts = Counter[str]()
        """Of photos that ended, by their status."""
        self.stages: dict[str, str] = {}
        """Of photos in work, by their paths."""
        self.summary, self.failure = "", ""
        """How it ended, and why it could not go on, in words; "" for what did not happen."""
        self.begun = time.monotonic()
        self.worked = 0
        """Photos that took time: those that were done before are passed over in none."""
        self.lock = threading.Lock()
        """Held while what is said above changes."""
        self._on_end, self._after = on_end, after
        self._stopping, self._leaving, self.ended = threading.Event(), threading.Event(), threading.Event()

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
    def done(self) -> int:
        """Photos that have ended."""
        return sum(self.counts.values())

    @property
    def state(self) -> str:
        """In a word: running, stopping, cancelled, ended or failed."""
        if not self.ended.is_set():
            return "stopping" if self._stopping.is_set() else "running"
        return "failed" if self.failure else "ended" if self.done == len(self.found.tasks) else "cancelled"

    @property
    def left_out(self) -> list[str]:
        """What was found and lies outside the open folders, in words."""
        if not self.refused:
            return []
        return [f"{photos(self.refused)} left out: they, or their results, lie outside the folders that are open"]

    def _run(self, lent: AbstractContextManager[FileRestorer], at_once: int) -> None:
        try:
            with lent as files:
                self._restore(files, at_once)
        except ConservatorError as error:
            self.failure = str(error)
        except Exception as error:
            self.failure = f"the program failed ({type(error).__name__}: {error}); please report that"
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
        self._after(summary)
        told = f"{photos(len(summary.outcomes))} in {duration(summary.seconds)}"
        if summary.left:
            told += f"; {photos(summary.left)} not begun: the same {self.again} goes on"
        if summary.trouble:
            told += f"; the journal lacks lines ({summary.trouble})"
        self.summary = told

    again = "request"
    """What whoever asked for the batch calls that."""

    def _started(self, task: Task) -> Progress:
        def progress(stage: str) -> None:
            if self._leaving.is_set():
                raise ConservatorError("the program was ended")
            with self.lock:
                self.stages[printable(task.source)] = stage

        return progress

    def _ended(self, task: Task, outcome: Outcome) -> None:
        self._on_end(task, outcome)
        with self.lock:
            self.stages.pop(printable(task.source), None)
            self.counts[outcome.status] += 1
            self.worked += bool(outcome.stages)

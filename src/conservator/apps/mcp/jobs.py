"""Batches that go on while the assistant does other things."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from conservator.apps.batch_job import BatchJob
from conservator.batch import Findings, Journal, Outcome, Task
from conservator.batch.standing import OR_ELSE
from conservator.batch.words import passed_over
from conservator.errors import ConservatorError
from conservator.files import printable

MOST_RUNNING = 2
"""Batches at the same time; each photo computes on all cores itself."""

MOST_TOLD = 20
"""Photos that failed, by name, in one answer; the journal has all."""

_MOST_KNOWN = 50  # batches that ended and can still be asked for


class ToldJob(BatchJob):
    """A batch, as an assistant is told of it."""

    again = "batch_start"

    def __init__(self, found: Findings, refused: int, journal: Journal) -> None:
        super().__init__(found, refused, journal, on_end=self._note)
        self._troubles: list[dict[str, str]] = []

    def _note(self, task: Task, outcome: Outcome) -> None:
        if outcome.status in ("failed", "kept", "incomplete"):
            self._troubles.append({"photo": printable(task.source), "why": in_tool_words(outcome.message)})

    def told(self) -> Mapping[str, Any]:
        """How far it is."""
        with self.lock:
            counts, stages, troubles = dict(self.counts), dict(self.stages), self._troubles[:MOST_TOLD]
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
            "passed_over": [*passed_over(self.found), *self.left_out],
            **({"summary": self.summary} if self.summary else {}),
            **({"failure": self.failure} if self.failure else {}),
        }


class Jobs:
    """The batches of this process, by handle."""

    def __init__(self) -> None:
        self._jobs: OrderedDict[str, ToldJob] = OrderedDict()
        self._lock = threading.Lock()

    def add(self, job: ToldJob) -> None:
        """Keep a batch that is about to start; raises ConservatorError where too many are running."""
        with self._lock:
            running = [known.handle for known in self._jobs.values() if not known.ended.is_set()]
            if len(running) >= MOST_RUNNING:
                raise ConservatorError(f"{' and '.join(running)} are running; wait for one, or cancel it (job_cancel)")
            self._jobs[job.handle] = job
            if len(self._jobs) > _MOST_KNOWN:
                del self._jobs[next(handle for handle, known in self._jobs.items() if known.ended.is_set())]

    def __getitem__(self, handle: str) -> ToldJob:
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
    return sentence.replace(OR_ELSE, "give another output").replace("another --output", "another output")

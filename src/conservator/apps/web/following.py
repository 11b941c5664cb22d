"""Work that is followed while it goes on: what happens is told step by step, and it can be abandoned."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor, wait
from typing import Generic, TypeVar

from conservator.errors import ConservatorError
from conservator.restoration import Follower, Plan, Treatment
from conservator.tools.tiling import out_of_memory

_T = TypeVar("_T")
_OFTEN = 0.25
"""Seconds between two looks at what has happened: a person sees no shorter ones."""
_STAGES = {
    "loading": "Load the models, once",
    "reading": "Read the photo",
    "examining": "Examine the photo",
    "deciding": "Decide on treatments",
    "writing": "Write the result",
}


class AbandonedError(BaseException):
    """The work is not wanted any more. No ``Exception``: nothing on its way may take it for one of a tool."""


class Steps(Follower):
    """What happened so far, a sentence for each step; the last one may still go on."""

    def __init__(self, abandoned: threading.Event) -> None:
        self._abandoned = abandoned
        self.working = 0
        """The thread that works; only there it can be abandoned."""
        self._lock = threading.Lock()
        self._steps: list[tuple[str, str]] = []
        self.changed = threading.Event()

    def __call__(self, stage: str) -> None:
        """A stage begins, or tells how far it is."""
        if threading.get_ident() == self.working and self._abandoned.is_set():
            raise AbandonedError
        name, _, far = stage.partition(", ")
        words = _STAGES.get(name, name)
        with self._lock:
            if self._steps and self._steps[-1][0] == words and not self._steps[-1][1].endswith("."):
                self._steps[-1] = (words, far)
            else:
                self._steps.append((words, far))
        self.changed.set()

    def planned(self, plan: Plan) -> None:
        """Say what was decided."""
        self._say(f"{', then '.join(plan.toolchain)}." if plan.toolchain else "Nothing is to be done.")

    def treated(self, treatment: Treatment) -> None:
        """Say what became of a tool."""
        if treatment.kept:
            gain = "" if treatment.gain != treatment.gain else f", estimated gain {treatment.gain:+.1f} dB"
            self._say(f"Kept{gain}, {treatment.seconds:.1f} s.")
        else:
            note = treatment.note or "was left out"
            self._say(f"{'Failed: ' if treatment.percept is None else ''}{note[:1].upper()}{note[1:]}.")

    def _say(self, outcome: str) -> None:
        with self._lock:
            if self._steps:
                self._steps[-1] = (self._steps[-1][0], outcome)
        self.changed.set()

    def told(self) -> list[tuple[str, str]]:
        """Each step, and what came of it or how far it is."""
        with self._lock:
            return list(self._steps)


class Following(Generic[_T]):
    """Work in a thread of its own: to iterate gives the steps so far, whenever they change, until it has ended."""

    def __init__(self, work: Callable[[Steps], _T], abandoned: threading.Event) -> None:
        self._steps = Steps(abandoned)
        thread = ThreadPoolExecutor(1, "restoring")
        self._call = thread.submit(self._run, work)
        thread.shutdown(wait=False)

    def _run(self, work: Callable[[Steps], _T]) -> _T:
        self._steps.working = threading.get_ident()
        return work(self._steps)

    def __iter__(self) -> Iterator[list[tuple[str, str]]]:
        while not self._call.done():
            wait([self._call], _OFTEN)
            if self._steps.changed.is_set():
                self._steps.changed.clear()
                yield self._steps.told()

    def told(self) -> list[tuple[str, str]]:
        """The steps so far."""
        return self._steps.told()

    def result(self) -> _T:
        """What the work gave; raises what it raised."""
        return self._call.result()


def failure_in_words(error: Exception) -> str:
    """What went wrong, as a sentence for whoever looks at the page."""
    if isinstance(error, ConservatorError):
        told = str(error)
    elif out_of_memory(error):
        told = "there is not enough memory for this photo"
    else:
        told = f"the program failed ({type(error).__name__}: {error}); please report that"
    return told[:1].upper() + told[1:] + ("" if told.endswith((".", "?")) else ".")

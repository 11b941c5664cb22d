"""The process in which photos are opened and treated: ``python -m conservator.apps.http.worker``.

It reads orders from its input and writes what happens to its output, a line of JSON each. The first order holds the
settings; the first answer says what there is to be asked for. It ends when its input does: with the API, however that
ended. Whatever a photo does to this process, killing it included, the API outlives.
"""

from __future__ import annotations

import contextlib
import json
import math
import os
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from queue import SimpleQueue
from typing import Any, TextIO

import torch

from conservator.apps.http.offering import find_offers
from conservator.apps.http.wanted import as_request
from conservator.batch import FileRestorer, Job, Task
from conservator.batch.preview import preview
from conservator.batch.tasks import name_of_result
from conservator.errors import ConservatorError
from conservator.kinds import Objective
from conservator.photo import Photo
from conservator.record import Record, load_record, seen_record, step_record
from conservator.request import Request
from conservator.restoration import Follower, Plan, Treatment
from conservator.restorer import Restorer
from conservator.suggesting import records_of
from conservator.tools.tiling import out_of_memory

_RESTORERS = 3
"""Restorers that are kept, each with its own request and its models: one for each objective."""
_SELDOM = 0.5
"""Seconds between two lines on one stage: a tool that adapts itself tells of each iteration."""
_PATIENCE = 10.0
"""Seconds for which the worker of an API that was killed may still hold a job's folder: it ends when it next looks."""

Orders = SimpleQueue[dict[str, Any]]


class Cancelled(BaseException):
    """The job in work is not wanted any more. No ``Exception``: nothing on its way to the loop may take it for one."""


class Voice:
    """Writes lines to whoever gives the orders; from any thread."""

    def __init__(self, stream: TextIO) -> None:
        self._stream, self._lock = stream, threading.Lock()

    def say(self, **line: Any) -> None:
        """Write one line."""
        with self._lock:
            self._stream.write(json.dumps(line) + "\n")
            self._stream.flush()


class Teller(Follower):
    """Tells the events of a job, and ends its work between two stages once it is cancelled."""

    def __init__(self, voice: Voice, is_cancelled: Callable[[], bool], objective: Objective) -> None:
        self._voice, self._is_cancelled, self._objective = voice, is_cancelled, objective
        self._working = threading.get_ident()
        self._stage, self._told = "", 0.0

    def __call__(self, stage: str) -> None:
        """Tell of a stage, and of how far it is not too often."""
        if threading.get_ident() == self._working and self._is_cancelled():
            raise Cancelled
        name, now = stage.partition(",")[0], time.monotonic()
        if name != self._stage or now - self._told >= _SELDOM:
            self._stage, self._told = name, now
            self._voice.say(event="stage", data={"stage": stage})

    def planned(self, plan: Plan) -> None:
        """Tell the plan."""
        self._voice.say(event="plan", data=_decided(plan, self._objective))

    def treated(self, treatment: Treatment) -> None:
        """Tell what became of a tool."""
        gain = _finite(treatment.gain) if treatment.kept else None
        told = {"tool": treatment.tool, "kept": treatment.kept, "estimated_gain": gain}
        self._voice.say(event="treatment", data=told | {"note": treatment.note, "seconds": round(treatment.seconds, 3)})


class Workshop:
    """Carries out orders, one after the other, and keeps the restorers of the latest requests."""

    def __init__(self, limits: dict[str, Any], voice: Voice) -> None:
        self._limits, self._voice = limits, voice
        self._restorers: OrderedDict[Request, Restorer] = OrderedDict()

    def carry_out(self, order: dict[str, Any], is_cancelled: Callable[[], bool]) -> dict[str, Any]:
        """What is to be answered: ``answer``, or ``error`` in a sentence, or ``cancelled``."""
        work = {"restoration": self._restore, "examination": self._examine, "plan": self._plan}[order["kind"]]
        try:
            restorer = self._restorer(as_request(order["request"], **self._limits))
            with contextlib.chdir(order["folder"]):  # so that no record, page or sentence says where that is
                return {"answer": work(order, restorer, Teller(self._voice, is_cancelled, restorer.request.objective))}
        except Cancelled:
            return {"cancelled": True}
        except Exception as error:  # a fault of the program, too, costs one job, not those after it
            return {"error": _why(error)}

    def _restorer(self, request: Request) -> Restorer:
        made = self._restorers.pop(request, None) or Restorer(request)
        self._restorers[request] = made
        while len(self._restorers) > _RESTORERS:
            self._restorers.popitem(last=False)[1].close()
        return made

    def _restore(self, order: dict[str, Any], restorer: Restorer, teller: Teller) -> dict[str, Any]:
        source = Path(order["photo"])
        suffix = Path(name_of_result(source, order["format"] and f".{order['format']}")).suffix
        task = Task(source, Path(f"restored{suffix}"), "restored")
        files = FileRestorer(restorer, order["report"], tuple(order["tools"]))
        end = time.monotonic() + _PATIENCE
        while True:
            outcome = files(Job(task, overwrite=True, resume=True), teller)
            if outcome.status != "skipped" or task.record.is_file() or time.monotonic() > end:
                break
            time.sleep(0.1)
        if outcome.status in ("failed", "kept") or not task.record.is_file():
            raise ConservatorError(outcome.message)
        record = load_record(task.record)
        status = outcome.status if outcome.status != "skipped" else "restored" if record.toolchain else "untouched"
        return {"outcome": status, "file": task.target.name} | _told_of(record)

    def _examine(self, order: dict[str, Any], restorer: Restorer, teller: Teller) -> dict[str, Any]:
        photo = restorer.load(order["photo"])
        teller("examining")
        seen = seen_record(restorer.examine(photo), measures=True)
        return _size(photo) | {"seen": seen.model_dump(mode="json")}

    def _plan(self, order: dict[str, Any], restorer: Restorer, teller: Teller) -> dict[str, Any]:
        found = preview(restorer, Path(order["photo"]), teller)
        if found.plan is None or found.photo is None:
            raise ConservatorError(found.error)
        return _size(found.photo) | {"intention": found.intention} | _decided(found.plan, restorer.request.objective)


def _decided(plan: Plan, objective: Objective) -> dict[str, Any]:
    """A plan as clients read it."""
    return {
        "toolchain": list(plan.toolchain),
        "estimated_gain": _finite(plan.gain.cautious(objective)) if plan.toolchain else None,
        "seen": seen_record(plan.before).model_dump(mode="json"),
        "steps": [step_record(step).model_dump(mode="json", exclude={"seen"}) for step in plan.trajectory.steps[1:]],
        "suggestions": [suggestion.model_dump(mode="json") for suggestion in records_of(plan.suggestions)],
    }


def _told_of(record: Record) -> dict[str, Any]:
    """The outcome of a restoration in short; the record has it all."""
    return {
        "verdict": record.verdict,
        "toolchain": record.toolchain,
        "estimated_gain": record.estimated_gain,
        "width": record.output.width,
        "height": record.output.height,
        "sha256": record.output.sha256,
        "suggestions": [suggestion.model_dump(mode="json") for suggestion in record.suggestions],
        "notes": record.notes,
    }


def _size(photo: Photo) -> dict[str, Any]:
    height, width = photo.image.shape[-2:]
    return {"width": width, "height": height, "format": photo.format, "bit_depth": photo.bit_depth}


def _finite(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None


def _why(error: Exception) -> str:
    if out_of_memory(error):
        return "not enough memory"
    if isinstance(error, ConservatorError):
        return str(error)
    return f"the program failed on it ({type(error).__name__}: {error}); please report that"


@contextlib.contextmanager
def _own_streams() -> Iterator[tuple[TextIO, TextIO]]:
    """Input and output for orders and answers alone: what a library prints goes where errors go."""
    with os.fdopen(os.dup(0), encoding="utf-8") as orders, os.fdopen(os.dup(1), "w", encoding="utf-8") as answers:
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        os.dup2(2, 1)
        yield orders, answers


def _listen(stream: TextIO, orders: Orders, cancelled: set[str]) -> None:
    """Take orders; ends the process when nobody can give any more."""
    for line in stream:
        order = json.loads(line)
        if "cancel" in order:
            cancelled.add(order["cancel"])
        else:
            orders.put(order)
    os._exit(0)  # threads that compute cannot be asked to stop


def main() -> None:
    """Work until the input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches all processes of a terminal; the API ends this one
    with _own_streams() as (stream, answers):
        voice, orders, cancelled = Voice(answers), Orders(), set[str]()
        settings = json.loads(stream.readline())
        torch.set_num_threads(max(1, torch.get_num_threads() // settings["jobs"]))
        workshop = Workshop(settings["limits"], voice)
        voice.say(offers=find_offers().model_dump())
        threading.Thread(target=_listen, args=(stream, orders, cancelled), daemon=True).start()
        while True:
            order = orders.get()
            job = order["job"]
            voice.say(ended=job, **workshop.carry_out(order, lambda job=job: job in cancelled))  # type: ignore[misc]
            cancelled.discard(job)


if __name__ == "__main__":
    try:
        main()
    except BrokenPipeError:  # the API is gone
        os._exit(0)

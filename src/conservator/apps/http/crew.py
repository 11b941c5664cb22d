"""The worker processes: each takes job after job; one that dies, hangs or is not wanted any more is replaced."""

from __future__ import annotations

import asyncio
import contextlib
import json
import logging
import os
import sqlite3
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conservator.apps.http.jobs import JobRow, JobStore
from conservator.apps.http.settings import TOKEN, ServeOptions
from conservator.apps.http.wanted import Offers
from conservator.errors import ConservatorError

_LOG = logging.getLogger(__name__)
_GRACE = 1.0
"""Seconds in which a worker may end a job by itself, between two stages, before its process is ended. A new process
loads its models for a few seconds: to wait much longer than that for a stage to end would not pay. Set by judgement."""
_LONGEST_LINE = 2**24
"""Bytes of a worker's line; a plan with all its steps has less than a hundredth of that."""
_TICK = 1.0
"""Seconds between two looks at what nobody rings the bell for: jobs that are too old."""


class Bell:
    """Wakes whoever waits for something to happen to any job; all on one event loop."""

    def __init__(self) -> None:
        self._next = asyncio.Event()

    def ring(self) -> None:
        """Something happened."""
        self._next.set()
        self._next = asyncio.Event()

    async def heard(self, seconds: float) -> None:
        """Wait until something happens, or for so long. What happened before is for the caller to look at first."""
        with contextlib.suppress(TimeoutError):
            await asyncio.wait_for(self._next.wait(), seconds)


class WorkerProcess:
    """One process of ``worker.py``, and the line to it."""

    def __init__(self, process: asyncio.subprocess.Process) -> None:
        self._process = process

    @classmethod
    async def start(cls, options: ServeOptions) -> tuple[WorkerProcess, Offers]:
        """Start one, and wait until it is ready; raises ConservatorError where it ends before that."""
        environment = {name: value for name, value in os.environ.items() if name != TOKEN}
        if home := environment.get("CONSERVATOR_HOME"):
            environment["CONSERVATOR_HOME"] = str(Path(home).absolute())  # a worker changes its folder
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "conservator.apps.http.worker"),
            stdin=asyncio.subprocess.PIPE,
            stdout=asyncio.subprocess.PIPE,
            env=environment,
            limit=_LONGEST_LINE,
        )
        worker = cls(process)
        worker.say(jobs=options.jobs, limits={"device": options.device, "max_pixels": options.max_pixels})
        first = await worker.line()
        if first is None:
            raise ConservatorError("the process that is to treat photos ended at once; what it says stands above")
        return worker, Offers.model_validate(first["offers"])

    def say(self, **line: Any) -> None:
        """Give an order."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(line).encode() + b"\n")  # to one that is gone it is lost

    async def line(self) -> dict[str, Any] | None:
        """What it says next; None when it has ended."""
        assert self._process.stdout is not None
        said = await self._process.stdout.readline()
        if not said.endswith(b"\n"):
            await self._process.wait()
            return None
        found: dict[str, Any] = json.loads(said)
        return found

    @property
    def end(self) -> str:
        """How it ended, in words."""
        code = self._process.returncode
        return f"was ended by signal {-code}" if code is not None and code < 0 else f"ended with code {code}"

    def kill(self) -> None:
        """End it at once."""
        with contextlib.suppress(ProcessLookupError):
            self._process.kill()


class Work:
    """A job in work, and how it is stopped."""

    def __init__(self, job: JobRow, worker: WorkerProcess, max_seconds: float) -> None:
        self.job, self._worker = job, worker
        self.stopped: str | None = None
        """Why it was stopped: "" for a client's wish, else a sentence; None while it is not."""
        loop = asyncio.get_running_loop()
        late = f"it was at work for longer than the limit of {max_seconds:g} s"
        self._timers = [loop.call_later(max_seconds, self.stop, late)]

    def stop(self, why: str = "") -> None:
        """Let the worker end it, by force if it does not soon."""
        if self.stopped is None:
            self.stopped = why
            self._worker.say(cancel=self.job.id)
            self._timers.append(asyncio.get_running_loop().call_later(_GRACE, self._worker.kill))

    def over(self) -> None:
        """It has ended: nothing is to be stopped any more."""
        for timer in self._timers:
            timer.cancel()


class Crew:
    """All workers, and the jobs that they have in work."""

    def __init__(self, store: JobStore, options: ServeOptions) -> None:
        self.bell = Bell()
        self._store, self._options = store, options
        self._at_work: dict[str, Work] = {}
        self._workers: set[WorkerProcess] = set()
        self._tasks: list[asyncio.Task[None]] = []

    @property
    def alive(self) -> bool:
        """Whether a worker is there."""
        return bool(self._workers)

    async def start(self) -> Offers:
        """Start the workers; returns when one is ready, with what there is to be asked for."""
        worker, offers = await WorkerProcess.start(self._options)
        self._workers.add(worker)
        first: list[WorkerProcess | None] = [worker, *[None] * (self._options.jobs - 1)]
        self._tasks = [asyncio.create_task(self._man(one)) for one in first]
        self._tasks.append(asyncio.create_task(self._tidy()))
        return offers

    async def close(self) -> None:
        """End the workers; what they had in work is queued again, and waits for the next start."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        for worker in self._workers:
            worker.kill()
        for job in list(self._at_work):
            self._store.again(job, "the API was stopped", counts=False)

    def cancel(self, job: str) -> None:
        """Stop a job in work; it is cancelled when its worker has let go of it."""
        if job in self._at_work:
            self._at_work[job].stop()

    async def _man(self, worker: WorkerProcess | None) -> None:
        """Keep one place at work."""
        while True:
            job: JobRow | None = None
            try:
                if worker is None:
                    worker, _ = await WorkerProcess.start(self._options)
                self._workers.add(worker)
                alive = True
                while alive:
                    job = await self._next_job()
                    alive, job = await self._carry_out(job, worker), None
            except (ConservatorError, OSError, sqlite3.Error, ValueError) as error:
                _LOG.error("conservator: a worker's place is taken anew: %s: %s", type(error).__name__, error)
                self._put_back(job)
                await asyncio.sleep(_TICK)  # a full disk, say: it may be over by and by
            finally:
                if worker is not None:
                    worker.kill()
                    self._workers.discard(worker)
            worker = None

    def _put_back(self, job: JobRow | None) -> None:
        """Queue a job again that was in work when its worker had to be given up."""
        if job is not None:
            self._at_work.pop(job.id).over()
            with contextlib.suppress(sqlite3.Error):
                self._store.again(job.id, "what came of it could not be noted", crashed=True)

    async def _next_job(self) -> JobRow:
        while (job := self._store.begin()) is None:
            await self.bell.heard(_TICK)
        self.bell.ring()
        return job

    async def _carry_out(self, job: JobRow, worker: WorkerProcess) -> bool:
        """Let a worker do a job, and note what comes of it; whether the worker can be given another."""
        work = self._at_work[job.id] = Work(job, worker, self._options.max_seconds)
        order = asdict(job.order) | {"job": job.id, "folder": str(self._store.folder(job.id).absolute())}
        worker.say(**order)
        while (line := await worker.line()) is not None and "ended" not in line:
            self._store.tell(job.id, line["event"], line["data"])
            self.bell.ring()
        self._note_end(work, worker, line)
        self._at_work.pop(job.id).over()
        self.bell.ring()
        return line is not None

    def _note_end(self, work: Work, worker: WorkerProcess, line: dict[str, Any] | None) -> None:
        job = work.job.id
        if work.stopped == "":
            self._store.end(job, "cancelled")
        elif work.stopped:
            self._store.end(job, "failed", error=work.stopped)
        elif line is None:
            self._store.again(job, f"the process that worked on it {worker.end}", crashed=True)
        elif "error" in line:
            self._store.end(job, "failed", error=line["error"])
        else:
            self._store.end(job, "done", line["answer"])

    async def _tidy(self) -> None:
        """Remove jobs when their hours are over."""
        while True:
            with contextlib.suppress(sqlite3.Error):
                self._store.remove_older(self._options.keep * 3600)
            await asyncio.sleep(_TICK)

"""All trainings one after the other in the background: one process, which can be paused, and goes on where it was."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from conservator.errors import ConservatorError
from conservator.training.checkpoint import read_curve
from conservator.training.courses import COURSES
from conservator.training.experts import Order, train

_LOCK, _LOG = "queue.lock", "queue.log"
_NICE = 19
"""Everybody else comes first."""
_PATIENCE = 120.0
"""Seconds that a paused run has for its step, its checkpoint and its curve."""


def done(folder: Path, name: str) -> int:
    """Steps that an expert has been trained for, by its curve in ``folder``."""
    curve = read_curve(folder / name)
    return int(curve[-1]["step"]) if curve else 0


def waiting(folder: Path) -> list[str]:
    """The courses that are not finished yet, in their order."""
    return [name for name, course in COURSES.items() if done(folder, name) < course.steps]


def work(photos: Path, folder: Path, *, threads: int, changed: bool, report: Callable[[str], None]) -> None:
    """Train what is left in this process, until all is trained or SIGTERM comes; that leaves a checkpoint.

    ``changed`` lets a checkpoint go on although its course draws other damage now. Raises ConservatorError where the
    queue runs already.
    """
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    with _alone(folder):
        os.nice(_NICE - os.nice(0))
        torch.set_num_threads(threads)
        for name in waiting(folder):
            trained = train(Order(name, photos, folder, workers=1, changed=changed), report, asked.is_set)
            report(f"{name}: {trained.steps} steps, {trained.psnr_in:.2f} -> {trained.psnr_out:.2f} dB")
            if asked.is_set():
                report("paused")
                return


def start(photos: Path, folder: Path, *, threads: int, changed: bool) -> int:
    """Let a process of its own work, which outlives this one; return its number. What it says is in ``queue.log``."""
    folder.mkdir(parents=True, exist_ok=True)
    if worker(folder) is not None:
        raise ConservatorError(f"the queue of {folder} runs already")
    command = [sys.executable, "-c", "from conservator.apps.cli import main; main()", "train", "queue", "work"]
    options = ["--photos", str(photos.resolve()), "--output", str(folder.resolve()), "--threads", str(threads)]
    with (folder / _LOG).open("a") as log:
        process = subprocess.Popen(
            [*command, *options, *(["--changed"] if changed else [])],
            stdin=subprocess.DEVNULL,
            stdout=log,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
    return process.pid


def pause(folder: Path) -> bool:
    """Ask the process that works to write its checkpoint and end, and wait for it; False where none does."""
    number = worker(folder)
    if number is None:
        return False
    os.kill(number, signal.SIGTERM)
    until = time.monotonic() + _PATIENCE
    while worker(folder) is not None:
        if time.monotonic() > until:
            raise ConservatorError(f"process {number} goes on after {_PATIENCE:g} s; look into {folder / _LOG}")
        time.sleep(0.2)
    return True


def worker(folder: Path) -> int | None:
    """The number of the process that works on the queue in ``folder``, or None."""
    import fcntl

    path = folder / _LOCK
    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read())
    return None


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of the queue, which a killed process loses, too."""
    import fcntl

    folder.mkdir(parents=True, exist_ok=True)
    with (folder / _LOCK).open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise ConservatorError(f"the queue of {folder} runs already") from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield

"""All trainings in the background: processes that share the courses out, can be paused, and go on where they were."""

from __future__ import annotations

import contextlib
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
from conservator.training.data.crops import Photos
from conservator.training.experts.courses import COURSES
from conservator.training.experts.order import Order
from conservator.training.experts.orders import is_of, started_from_others, train
from conservator.training.run import read_curve

_LOCK = "lock"
_LOG = "queue.log"
_PATIENCE = 600.0
"""Seconds that a paused process has for its step, its checkpoint and its curve."""
_POLL = 20.0
"""Seconds after which a process that waits for another's course looks again."""


def done(folder: Path, name: str) -> int:
    """Steps that an expert has been trained for, by its curve in ``folder``."""
    curve = read_curve(folder / name)
    return int(curve[-1]["step"]) if curve else 0


def finished(order: Order, photos: str) -> bool:
    """Whether all steps of a course are done: on photos of this digest, on its damage, from what it starts from now."""
    return done(order.output, order.name) >= COURSES[order.name].steps and is_of(order, photos)


def work(
    photos: Path, folder: Path, *, changed: bool, report: Callable[[str], None], asked: threading.Event
) -> list[str]:
    """Train every course that nobody else trains, in their order, until all are finished or ``asked`` to end.

    A course waits for the one that it starts from. An end that was asked for leaves a checkpoint. ``changed`` lets a
    checkpoint go on although its course draws other damage now. Returns the courses that could not be trained, each of
    which was reported, as was what starts from it.
    """
    loaded, failed = Photos(photos), list[str]()
    orders = {name: Order(name, photos, folder, device="cpu", changed=changed) for name in COURSES}
    while not asked.is_set():
        waiting = [name for name in COURSES if name not in failed and not finished(orders[name], loaded.digest)]
        if not waiting:
            break
        for name in waiting:
            start = COURSES[name].start
            if start in failed:
                report(f"{name}: cannot begin, for it starts from {start}")
                failed.append(name)
                break
            if start is not None and not finished(orders[start], loaded.digest):
                continue
            with _held(folder / name / _LOCK) as free:
                if free and not finished(orders[name], loaded.digest):
                    if not _trained(orders[name], loaded, report, asked):
                        failed.append(name)
                    break
        else:
            asked.wait(_POLL)
    return failed


def _trained(order: Order, photos: Photos, report: Callable[[str], None], asked: threading.Event) -> bool:
    """Train one course, and report how it ended; False where it could not be trained."""
    try:
        trained = train(order, report, asked.is_set, photos)
    except ConservatorError as error:
        report(f"{order.name}: {error}")
        return False
    report(f"{order.name}: {trained.steps} steps, {trained.psnr_in:.2f} -> {trained.psnr_out:.2f} dB")
    return True


def set_aside(order: Order) -> Path | None:
    """Rename the folder of an expert that started from other weights than it would now; return its new name, if so.

    Raises ConservatorError where somebody trains it.
    """
    was, folder = started_from_others(order), order.output / order.name
    if was is None:
        return None
    with _held(folder / _LOCK) as free:
        if not free:
            raise ConservatorError(f"{order.name} is being trained in {folder}; pause that first")
        names = (folder.with_name(f"{order.name}-from-{was[:8]}{more}") for more in ("", *range(2, 1000)))
        return folder.rename(next(path for path in names if not path.exists()))


def as_background(threads: int, nice: int) -> threading.Event:
    """Make this process one that stands back for others by ``nice``; the event tells that SIGTERM asks it to end."""
    _stand_back(os.getpid(), nice)
    # one thread: two wait for each other as soon as anybody else works, and take ten times as long
    torch.set_num_threads(threads)
    asked = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: asked.set())
    return asked


def _stand_back(pid: int, nice: int) -> None:
    with contextlib.suppress(OSError):  # not everybody may be asked to hurry again
        os.setpriority(os.PRIO_PROCESS, pid, nice)
        if os.getsid(pid) == pid:  # its session is its own, and no terminal's that others work in
            # Linux deals its time out to sessions first: this one stands back as a whole
            Path(f"/proc/{pid}/autogroup").write_text(str(nice))


@contextmanager
def place(folder: Path, number: int) -> Iterator[None]:
    """Be process ``number`` of a queue; ConservatorError where there is one already."""
    with _held(folder / f"{number}.{_LOCK}") as free:
        if not free:
            raise ConservatorError(f"process {number} of the queue of {folder} runs already")
        yield


def start(photos: Path, folder: Path, *, processes: int, threads: int, nice: int, changed: bool) -> list[int]:
    """Let processes of their own work, which outlive this one; return their ids. What they say is in ``queue.log``."""
    folder.mkdir(parents=True, exist_ok=True)
    begun = []
    for number in range(processes):
        if _holder(folder / f"{number}.{_LOCK}") is not None:
            continue
        command = [sys.executable, "-c", "from conservator.apps.cli import main; main()", "train", "queue", "work"]
        options = ["--photos", str(photos.resolve()), "--output", str(folder.resolve()), "--threads", str(threads)]
        options += ["--nice", str(nice), "--number", str(number), *(["--changed"] if changed else [])]
        with (folder / _LOG).open("a") as log:
            process = subprocess.Popen(
                [*command, *options], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        begun.append(process.pid)
    return begun


def working(folder: Path) -> list[int]:
    """The ids of the processes that work on the queue in ``folder``."""
    return [pid for path in sorted(folder.glob(f"*.{_LOCK}")) if (pid := _holder(path)) is not None]


def pause(folder: Path) -> list[int]:
    """Ask the processes that work to write their checkpoints and end, and wait for it; return which did."""
    asked = working(folder)
    for pid in asked:
        _stand_back(pid, 0)  # what is left to do is short, and somebody waits for it
        os.kill(pid, signal.SIGTERM)
    until = time.monotonic() + _PATIENCE
    while left := working(folder):
        if time.monotonic() > until:
            raise ConservatorError(f"process {left[0]} goes on after {_PATIENCE:g} s; look into {folder / _LOG}")
        time.sleep(0.2)
    return asked


@contextmanager
def _held(path: Path) -> Iterator[bool]:
    """Hold a file of this process's id as a lock, which a killed process loses, too; False where another holds it."""
    import fcntl

    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield True


def _holder(path: Path) -> int | None:
    """The id of the process that holds a lock, or None."""
    import fcntl

    if not path.exists():
        return None
    with path.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return int(file.read())
    return None

"""All trainings in the background: processes that share them out, can be paused, and go on where they were."""

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
from dataclasses import dataclass
from pathlib import Path

import torch

from conservator.errors import ConservatorError
from conservator.tools.rl_restore_own import Architecture
from conservator.training.data.crops import Photos
from conservator.training.experts.courses import COURSES
from conservator.training.experts.order import Order
from conservator.training.experts.orders import is_of, started_from_others, train
from conservator.training.experts.rl_restore import TOOLBOX_NAMES, RestoreToolsOrder, networks_of, train_tools
from conservator.training.run import read_curve

_LOCK = "lock"
_LOG = "queue.log"
_PATIENCE = 600.0
"""Seconds that a paused process has for its step, its checkpoint and its curve."""
_POLL = 20.0
"""Seconds after which a process that waits for another's course looks again."""


QUEUED_TOOLBOXES: tuple[Architecture, ...] = ("paper", "compact")
"""Of RL-Restore's kind, trained after the experts."""


def toolbox_order(architecture: Architecture, photos: Path, folder: Path) -> RestoreToolsOrder:
    """How the queue trains a toolbox: ten times as long as the first ones were (``make rl-restore`` takes the same)."""
    steps = {"paper": (60_000, 10_000), "compact": (60_000, 20_000), "plain": (60_000, 20_000)}[architecture]
    return RestoreToolsOrder(photos, folder / TOOLBOX_NAMES[architecture], architecture, *steps)


def done(folder: Path, name: str) -> int:
    """Steps that an expert has been trained for, by its curve in ``folder``."""
    curve = read_curve(folder / name)
    return int(curve[-1]["step"]) if curve else 0


def finished(order: Order, photos: str) -> bool:
    """Whether all steps of a course are done: on photos of this digest, on its damage, from what it starts from now."""
    return done(order.output, order.name) >= COURSES[order.name].steps and is_of(order, photos)


@dataclass(frozen=True)
class _Expert:
    """A course of the queue."""

    order: Order
    photos: Photos

    @property
    def start(self) -> str | None:
        return COURSES[self.order.name].start

    def finished(self) -> bool:
        return finished(self.order, self.photos.digest)

    def train(self, report: Callable[[str], None], stop: Callable[[], bool]) -> None:
        trained = train(self.order, report, stop, self.photos)
        report(f"{self.order.name}: {trained.steps} steps, {trained.psnr_in:.2f} -> {trained.psnr_out:.2f} dB")


@dataclass(frozen=True)
class _Toolbox:
    """A toolbox of the queue."""

    order: RestoreToolsOrder
    start = None

    def finished(self) -> bool:
        return all(done(self.order.output, name) >= steps for name, steps in networks_of(self.order).items())

    def train(self, report: Callable[[str], None], stop: Callable[[], bool]) -> None:
        train_tools(self.order, report, stop)


def work(
    photos: Path, folder: Path, *, changed: bool, report: Callable[[str], None], asked: threading.Event
) -> list[str]:
    """Train all that nobody else trains, courses first, in their order, until it is finished or ``asked`` to end.

    A course waits for the one that it starts from. An end that was asked for leaves a checkpoint. ``changed`` lets a
    checkpoint go on although its course draws other damage now. Returns what could not be trained, each of which was
    reported, as was what starts from it.
    """
    loaded, failed = Photos(photos), list[str]()
    courses = {name: _Expert(Order(name, photos, folder, device="cpu", changed=changed), loaded) for name in COURSES}
    toolboxes = {TOOLBOX_NAMES[a]: _Toolbox(toolbox_order(a, photos, folder)) for a in QUEUED_TOOLBOXES}
    trainings: dict[str, _Expert | _Toolbox] = {**courses, **toolboxes}
    while not asked.is_set():
        waiting = [name for name, one in trainings.items() if name not in failed and not one.finished()]
        if not waiting:
            break
        for name in waiting:
            start = trainings[name].start
            if start in failed:
                report(f"{name}: cannot begin, for it starts from {start}")
                failed.append(name)
                break
            if start is not None and not trainings[start].finished():
                continue
            with _held(folder / name / _LOCK) as free:
                if free and not trainings[name].finished():
                    try:
                        trainings[name].train(report, asked.is_set)
                    except ConservatorError as error:
                        report(f"{name}: {error}")
                        failed.append(name)
                    break
        else:
            asked.wait(_POLL)
    return failed


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

"""Ctrl-C in a batch: the first one lets the photos in work be finished, the second one stops at once."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

from conservator.files import abandon_workspaces

STOPPED = 130
"""Exit code of what Ctrl-C stopped, as shells have it: 128 and the number of the signal."""


@contextmanager
def interruptible(say: Callable[[], None], leave: Callable[[], None]) -> Iterator[Callable[[], bool]]:
    """Take Ctrl-C over; gives a function that says whether it was pressed.

    The first one calls ``say``, and no more. The second one calls ``leave``, deletes what is in work and ends the
    process, since threads that compute cannot be stopped; a third one ends it at once. Outside the main thread,
    Python's own way stays.
    """
    pressed = 0

    def press(number: int, frame: FrameType | None) -> None:
        nonlocal pressed
        pressed += 1
        if pressed > 2:  # while what is in work is deleted
            os._exit(STOPPED)
        # in a thread: what this one was just doing, printing say, cannot be done within itself
        told = threading.Thread(target=say if pressed == 1 else leave, daemon=True)
        told.start()
        if pressed > 1:
            told.join(timeout=1)  # second
            abandon_workspaces()
            os._exit(STOPPED)

    if threading.current_thread() is not threading.main_thread():
        yield lambda: False
        return
    before = signal.signal(signal.SIGINT, press)
    try:
        yield lambda: pressed > 0
    finally:
        signal.signal(signal.SIGINT, before)

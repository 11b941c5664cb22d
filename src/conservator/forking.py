"""What a process made goes on working in the children that it forks, as ``multiprocessing`` does on Linux.

A forked child has the parent's memory but only the thread that forked: locks that other threads held stay held, threads
of a pool are gone, and a computation on several threads waits for ever, for those of GNU OpenMP are gone, too.
"""

from __future__ import annotations

import os
import threading
import weakref
from types import TracebackType
from typing import Protocol

import torch


class Renewable(Protocol):
    """Something with threads or locks of its own."""

    def renew(self) -> None:
        """Begin anew in a child process, in which no other thread runs yet; what other threads did is lost."""


_LIVING: weakref.WeakSet[Renewable] = weakref.WeakSet()
_COMPUTED: list[int] = []
"""Processes that computed, the parents of this one among them."""


def renew_in_children(thing: Renewable) -> None:
    """Have ``thing.renew()`` called in every child that this process forks, as long as the thing lives."""
    _LIVING.add(thing)


def computes_here() -> None:
    """Note that this process is about to compute: the children that it forks from now on do so on one thread."""
    if os.getpid() not in _COMPUTED:
        _COMPUTED.append(os.getpid())


class Lock:
    """A lock that is open in a forked child, whoever held it in the parent."""

    def __init__(self) -> None:
        self.renew()
        renew_in_children(self)

    def renew(self) -> None:
        """Open it, in a child."""
        self._lock = threading.Lock()

    def __enter__(self) -> None:
        self._lock.acquire()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._lock.release()


def _in_child() -> None:
    for thing in list(_LIVING):
        thing.renew()
    if _COMPUTED:  # PyTorch's own data loaders do so in their children, too
        torch.set_num_threads(1)


if hasattr(os, "register_at_fork"):  # not on Windows, which cannot fork
    os.register_at_fork(after_in_child=_in_child)

"""How a model that works for long tells the one who called it what it does: numbers, by name."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TypeAlias

from torch import Tensor

Numbers: TypeAlias = Mapping[str, float]


class Call(Future[Tensor]):
    """What a call comes to, and what the model told meanwhile: how far it is, and in the end how it went."""

    def __init__(self) -> None:
        super().__init__()
        self._telling = threading.Lock()
        self._listeners: list[Callable[[Numbers], None]] = []
        self._told: dict[str, float] = {}

    @property
    def told(self) -> Numbers:
        """All numbers so far, the last ones of each name."""
        with self._telling:
            return dict(self._told)

    def tell(self, numbers: Numbers) -> None:
        """Take numbers, and pass all on to those who listen. They are called on the thread of the model."""
        with self._telling:
            self._told.update(numbers)
            told, listeners = dict(self._told), list(self._listeners)
        for hear in listeners:
            hear(told)

    def listen(self, hear: Callable[[Numbers], None]) -> None:
        """Call ``hear`` with all numbers, at once where there are some, and whenever there are more."""
        with self._telling:
            self._listeners.append(hear)
            told = dict(self._told)
        if told:
            hear(told)


def numbers_of(call: Future[Tensor]) -> Numbers:
    """What was told of a call so far; nothing where its pool cannot tell."""
    return call.told if isinstance(call, Call) else {}


def listen(call: Future[Tensor], hear: Callable[[Numbers], None]) -> None:
    """Listen to a call, where its pool lets it be heard."""
    if isinstance(call, Call):
        call.listen(hear)


_EAR: ContextVar[Callable[[Numbers], None] | None] = ContextVar("ear", default=None)


def tell(**numbers: float) -> None:
    """Tell the caller of the model that this thread runs; without one nobody hears it."""
    hear = _EAR.get()
    if hear is not None:
        hear(numbers)


@contextmanager
def heard_by(hear: Callable[[Numbers], None]) -> Iterator[None]:
    """Let ``hear`` have what models tell on this thread."""
    before = _EAR.set(hear)
    try:
        yield
    finally:
        _EAR.reset(before)

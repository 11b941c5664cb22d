"""Which files of weights a program opens: told by Python itself, whoever opens them and in whichever thread."""

from __future__ import annotations

import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_OPENED: list[str] = []
_LISTENING = threading.Event()


def _note(event: str, arguments: tuple[Any, ...]) -> None:
    if event == "open" and _LISTENING.is_set() and str(arguments[0]).endswith(".safetensors"):
        _OPENED.append(Path(str(arguments[0])).stem)


@contextmanager
def reading() -> Iterator[list[str]]:
    """The files of weights that are opened meanwhile."""
    if not hasattr(sys, "_conservator_listens"):
        sys.addaudithook(_note)  # for good: a hook cannot be taken away
        sys._conservator_listens = True  # type: ignore[attr-defined]
    _OPENED.clear()
    _LISTENING.set()
    try:
        yield _OPENED
    finally:
        _LISTENING.clear()

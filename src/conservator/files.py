"""Files that appear whole or not at all, and their hashes."""

from __future__ import annotations

import contextlib
import hashlib
import os
import sys
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

PART_SUFFIX = ".conservator-part"
"""Of the hidden files that a killed process may leave behind."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a hidden file beside ``path`` for writing; it takes the name ``path`` when all went well, else it vanishes.

    At every moment, also when the power fails, ``path`` is the old file, whole, or the new one, whole.
    Raises OSError where the folder cannot be written.
    """
    part = path.with_name(f".{uuid.uuid4().hex}{PART_SUFFIX}")
    try:
        with part.open("xb") as file:
            yield file
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the file ``path`` as a lock, once whoever holds it lets go; a process that is killed lets go, too."""
    with path.open("a+b") as file:
        if sys.platform == "win32":
            import msvcrt

            file.seek(0)
            while True:
                with contextlib.suppress(OSError):  # it gives up after ten seconds
                    msvcrt.locking(file.fileno(), msvcrt.LK_LOCK, 1)
                    break
            try:
                yield
            finally:
                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)
        else:
            import fcntl

            fcntl.flock(file, fcntl.LOCK_EX)
            yield


def printable(path: Path) -> str:
    """The path as text that can be written as UTF-8: bytes of its name that are none become ``\\xe9``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def sha256(path: Path) -> str:
    """Hash of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync_folder(folder: Path) -> None:
    """Make the new name itself last; not every system lets a folder be opened for that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

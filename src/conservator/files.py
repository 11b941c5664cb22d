"""Files that appear whole or not at all, alone or together, and their hashes."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import shutil
import stat
import sys
import threading
import time
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import IO, BinaryIO, cast

PART_SUFFIX = ".conservator-part"
"""Of the hidden files and folders in which results grow, and which a killed process may leave behind."""


@contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Open a hidden file beside ``path`` for writing; it takes the name ``path`` when all went well, else it vanishes.

    At every moment, also when the power fails, ``path`` is the old file, whole, or the new one, whole. The new file
    gets mode, owner and extended attributes of the old one; of a symbolic link, what it leads to is replaced. A further
    hard link to the old file keeps the old bytes. Raises OSError where the folder cannot be written.
    """
    path = _behind_links(path)
    part, file = _open_part(path)
    try:
        with file:
            yield file
            file.flush()
            os.fsync(file.fileno())
            _inherit(path, part)
            if sys.platform != "win32":
                part.replace(path)  # before the lock goes: whoever clears up must not come between
        if sys.platform == "win32":
            part.replace(path)
    finally:
        part.unlink(missing_ok=True)
    _sync_folder(path.parent)


def write_text(path: Path, text: str) -> None:
    """Write a UTF-8 file, whole or not at all."""
    with replacing(path) as file:
        file.write(text.encode())


@contextmanager
def locked(path: Path) -> Iterator[BinaryIO]:
    """Hold the file ``path`` as a lock, once whoever holds it lets go; a process that is killed lets go, too.

    It is open for reading, and for writing at its end.
    """
    with path.open("a+b") as file:
        while True:
            try:
                _lock(file, wait=True)
            except BlockingIOError:  # Windows gives up after ten seconds
                continue
            break
        try:
            yield cast("BinaryIO", file)
            file.flush()
        finally:
            if sys.platform == "win32":
                import msvcrt

                file.seek(0)
                msvcrt.locking(file.fileno(), msvcrt.LK_UNLCK, 1)


@contextmanager
def workspace(path: Path) -> Iterator[Path | None]:
    """A hidden folder beside ``path`` for whoever works on that file, and only for one; None while another has it.

    What lies in it at the end is deleted, and so is what a killed process left in it. Makes the folders above it.
    """
    name = hashlib.sha256(os.fsencode(path.name)).hexdigest()[:16]  # however long the name of the file is
    folder = path.with_name(f".{name}{PART_SUFFIX}")
    with _making:
        lock = _hold(folder)
        if lock is not None:
            _workspaces.add(folder)
    if lock is None:
        yield None
        return
    with lock:
        try:
            yield folder
        finally:
            shutil.rmtree(folder, ignore_errors=True)  # under the lock: nobody's but ours
            _workspaces.discard(folder)


def put_in_place(moves: Sequence[tuple[Path, Path]]) -> None:
    """Let files take the names of others, in this order: all of them or, where one cannot, none.

    Each move is (file in a workspace, its place). As with ``replacing``, mode, owner and attributes of the old files
    stay, and links are followed; the time of modification is the new file's. A process killed half-way leaves the first
    ones in place and, whole and old, what was to come last. Raises OSError.
    """
    done: list[tuple[Path, Path | None]] = []
    with _placing:
        try:
            for number, (new, path) in enumerate(moves, 1):
                place = _behind_links(path)
                old = _kept(place, new) if number < len(moves) else None  # nothing follows the last that could fail
                _inherit(place, new)
                _move(new, place)
                _sync_folder(place.parent)
                done.append((place, old))
        except BaseException:
            for place, old in reversed(done):
                if old is None:
                    place.unlink(missing_ok=True)
                else:
                    _move(old, place)
            raise


def abandon_workspaces() -> None:
    """Delete what this process has in work, for one that ends at once; no result is left half in its place.

    No workspace is made and nothing takes its place any more after that.
    """
    until = time.monotonic() + 20  # seconds: a few renames last no longer, on however slow a disk
    for lock in (_making, _placing):
        lock.acquire(timeout=max(0.0, until - time.monotonic()))
    for folder in list(_workspaces):
        gone = folder.with_name(f".{uuid.uuid4().hex}{PART_SUFFIX}")  # where threads still at work put nothing new
        with contextlib.suppress(OSError):
            folder.rename(gone)
        for path in (gone, folder):
            shutil.rmtree(path, ignore_errors=True)


def remove_leftovers(folders: Iterable[Path]) -> None:
    """Delete what killed processes left in folders; what a living one is writing stays."""
    for folder in folders:
        for path in folder.glob(f".*{PART_SUFFIX}"):
            # it went meanwhile, somebody has it, or this system knows no locks: then it stays
            with contextlib.suppress(OSError):
                if path.is_symlink():
                    continue
                if path.is_dir():
                    _remove_workspace(path)
                elif path.is_file():
                    with path.open("r+b") as file:
                        _lock(file, wait=False)
                        if sys.platform != "win32":
                            path.unlink()
                    path.unlink(missing_ok=True)


def reason(error: OSError) -> str:
    """What the system says went wrong, without its number and without the file."""
    return error.strerror or str(error) or type(error).__name__


def printable(path: Path) -> str:
    """The path as text that can be written as UTF-8: bytes of its name that are none become ``\\xe9``."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


def as_seen_from(folder: Path, path: Path) -> Path:
    """The path relative to a folder, links left as they are; absolute where it lies on another drive."""
    try:
        return Path(os.path.relpath(os.path.abspath(path), os.path.abspath(folder)))  # noqa: PTH100 - see above
    except ValueError:
        return path.absolute()


def sha256(path: Path) -> str:
    """Hash of a file's bytes, hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


_LOCK = "lock"
"""Name of the file in a workspace that says whether somebody is at work there."""
_workspaces: set[Path] = set()
_making = threading.Lock()
_placing = threading.Lock()


def _open_part(path: Path) -> tuple[Path, BinaryIO]:
    """A new hidden file beside ``path``, locked as long as it is open, and no more readable than the old file is."""
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o666
    while True:
        part = path.with_name(f".{uuid.uuid4().hex}{PART_SUFFIX}")
        handle = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_BINARY", 0), mode)
        file = open(handle, "wb")  # noqa: PTH123, SIM115 - by its handle, and closed by who asked for it
        if _locks(file, part):
            return part, file
        file.close()  # somebody cleared it up before it was locked


def _hold(folder: Path) -> IO[bytes] | None:
    """Make a workspace, or take over what a killed process left; return its lock, None where another one holds it."""
    while True:
        folder.parent.mkdir(parents=True, exist_ok=True)
        try:
            folder.mkdir(mode=0o700, exist_ok=True)
            lock = (folder / _LOCK).open("a+b")
        except FileNotFoundError:  # its holder is removing it
            continue
        try:
            if _locks(lock, folder / _LOCK):
                _clear(folder)
                return lock
        except BlockingIOError:
            lock.close()
            return None
        lock.close()


def _clear(folder: Path) -> None:
    for left in folder.iterdir():
        if left.name != _LOCK:
            left.unlink()


def _remove_workspace(folder: Path) -> None:
    lock = _hold(folder)
    if lock is not None:
        with lock:
            shutil.rmtree(folder, ignore_errors=True)


def _locks(file: IO[bytes], path: Path) -> bool:
    """Lock a file, and say whether ``path`` still is that file. Raises BlockingIOError where another one holds it."""
    try:
        _lock(file, wait=False)
    except BlockingIOError:
        raise
    except OSError:  # a file system without locks: nobody clears up there, either
        return True
    try:
        return os.path.samestat(os.fstat(file.fileno()), path.stat())
    except FileNotFoundError:
        return False


def _lock(file: IO[bytes], *, wait: bool) -> None:
    """Raises BlockingIOError where another one holds it, another OSError where there are no locks."""
    if sys.platform == "win32":
        import msvcrt

        file.seek(0)
        try:
            msvcrt.locking(file.fileno(), msvcrt.LK_LOCK if wait else msvcrt.LK_NBLCK, 1)
        except PermissionError as error:
            raise BlockingIOError(*error.args) from error
    else:
        import fcntl

        fcntl.flock(file, fcntl.LOCK_EX if wait else fcntl.LOCK_EX | fcntl.LOCK_NB)


def _behind_links(path: Path) -> Path:
    return path.resolve() if path.is_symlink() else path


def _kept(path: Path, new: Path) -> Path | None:
    """A second name, or a copy, of an old file, beside the new one that takes its place."""
    if not path.exists():
        return None
    old = new.with_name(f"old-{new.name}")
    try:
        os.link(path, old)
    except OSError:  # no hard links here, or another file system
        shutil.copy2(path, old)
    return old


def _inherit(old: Path, new: Path) -> None:
    """Give a new file owner, mode and extended attributes of the old one, as far as the system lets us."""
    with contextlib.suppress(OSError):
        was, made = old.stat(), new.stat()
        if sys.platform != "win32":
            with contextlib.suppress(OSError):
                os.chown(new, was.st_uid, was.st_gid)
        shutil.copystat(old, new)
        os.utime(new, ns=(made.st_atime_ns, made.st_mtime_ns))


def _move(new: Path, path: Path) -> None:
    try:
        new.replace(path)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with new.open("rb") as source, replacing(path) as file:  # a link led to another file system
            shutil.copyfileobj(source, file)
        times = new.stat()
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))


def _sync_folder(folder: Path) -> None:
    """Make the new name itself last; not every system lets a folder be opened for that."""
    with contextlib.suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)

"""Which of the photos that were found are results of earlier runs: records and journals tell, wherever they lie."""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PureWindowsPath
from typing import Any

from conservator.batch.journal import JOURNAL, Journal
from conservator.batch.tasks import record_of
from conservator.files import printable, sha256

_LONGEST_RECORD = 2**24  # bytes; the longest that was seen, of a model that talks much, has a hundredth of that


def earlier_results(photos: Iterable[Path], folder: Path) -> set[Path]:
    """Those photos of a folder that Conservator made.

    A result lies beside a record that says so by name, or its name and bytes are those that a journal tells, in its
    folder or one above, up to ``folder``. Two that are restored in place are none: a photo that still, or again, has
    the bytes from before it was restored, and one that was left untouched.
    """
    journals: dict[Path, dict[str, set[str]]] = {}

    def told(place: Path) -> dict[str, set[str]]:
        """Names and hashes of the results that the journals of a folder and of those above it tell."""
        if place not in journals:
            above = told(place.parent) if place not in (folder, place.parent) else {}
            journals[place] = _merged(above, _made(place / JOURNAL))
        return journals[place]

    return {photo for photo in photos if _is_result(photo, told(photo.parent))}


def _is_result(photo: Path, told: dict[str, set[str]]) -> bool:
    for path in (photo, photo.resolve()) if photo.is_symlink() else (photo,):
        claim = _claim(record_of(path))
        if claim is not None and claim.names(path):
            return not claim.in_place or _digest(path) != claim.input_sha256
    hashes = told.get(photo.name)
    return hashes is not None and _digest(photo) in hashes


@dataclass(frozen=True)
class _Claim:
    """What a record of any version says of its files."""

    input: str
    output: str
    input_sha256: str

    @property
    def in_place(self) -> bool:
        return self.input == self.output or Path(self.input).absolute() == Path(self.output).absolute()

    def names(self, photo: Path) -> bool:
        """Whether the result has the name of this photo; its folder may have been moved since."""
        name = printable(Path(photo.name))
        return self.output == name or self.output.endswith(f"/{name}") or PureWindowsPath(self.output).name == name


def _claim(path: Path) -> _Claim | None:
    try:
        if not path.is_file() or path.stat().st_size > _LONGEST_RECORD:
            return None
        record: Any = json.loads(path.read_bytes())
        claim = _Claim(record["input"]["path"], record["output"]["path"], record["input"]["sha256"])
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return claim if all(isinstance(value, str) for value in vars(claim).values()) else None


def _made(path: Path) -> dict[str, set[str]]:
    """Names and hashes of the results that a journal tells, but for photos left as they were where they lay."""
    found: dict[str, set[str]] = {}
    try:
        outcomes = list(Journal(path).events())
    except OSError:  # the records tell
        return found
    for outcome in outcomes:
        untouched = outcome.source == outcome.target and outcome.input_sha256 == outcome.output_sha256
        if outcome.output_sha256 and not untouched:
            found.setdefault(PureWindowsPath(outcome.target).name, set()).add(outcome.output_sha256)
            found.setdefault(Path(outcome.target).name, set()).add(outcome.output_sha256)
    return found


def _merged(one: dict[str, set[str]], other: dict[str, set[str]]) -> dict[str, set[str]]:
    return {name: one.get(name, set()) | other.get(name, set()) for name in one.keys() | other.keys()} if other else one


def _digest(path: Path) -> str:
    """Hash of a photo; "" where it cannot be read, so that reading it says why."""
    try:
        return sha256(path)
    except OSError:
        return ""

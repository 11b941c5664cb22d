"""Which of the photos that were found are results of earlier runs: records and journals tell, wherever they lie."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PureWindowsPath
from typing import Any

from conservator.batch.journal import JOURNAL, Journal
from conservator.batch.tasks import record_of
from conservator.files import printable, sha256

_LONGEST_RECORD = 2**24  # bytes; the longest that was seen, of a model that talks much, has a hundredth of that


def earlier_results(photos: Iterable[Path], folder: Path) -> set[Path]:
    """Those photos of a folder that Conservator made.

    A result lies beside a record that says so by name. Without one, a journal tells, in its folder or one above, up to
    ``folder``: by its place, or by its name and bytes where it was moved. A photo that was restored in place is none
    while it has, or has again, the bytes from before; so is one that was left untouched.
    """
    journals: dict[Path, _Told] = {}

    def told(place: Path) -> _Told:
        """What the journals of a folder and of those above it tell."""
        if place not in journals:
            own = _told(place / JOURNAL)
            journals[place] = own + told(place.parent) if place not in (folder, place.parent) else own
        return journals[place]

    return {photo for photo in photos if _is_result(photo, told(photo.parent))}


def _is_result(photo: Path, told: _Told) -> bool:
    for path in (photo, photo.resolve()) if photo.is_symlink() else (photo,):
        claim = _claim(record_of(path))
        if claim is not None and claim.names(path):
            return not claim.in_place or _digest(path) != claim.input_sha256
    if photo.absolute() in told.paths:
        return True
    hashes = told.hashes.get(photo.name)
    return hashes is not None and _digest(photo) in hashes


@dataclass(frozen=True)
class _Told:
    """What journals tell of results, but for photos that were left as they were where they lay."""

    paths: frozenset[Path] = frozenset()
    """Where results were written, other than in place of their photos."""
    hashes: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """By name, for their folder may have been moved since."""

    def __add__(self, other: _Told) -> _Told:
        if not other.hashes:
            return self
        names = self.hashes.keys() | other.hashes.keys()
        nothing = frozenset[str]()
        hashes = {name: self.hashes.get(name, nothing) | other.hashes.get(name, nothing) for name in names}
        return _Told(self.paths | other.paths, hashes)


def _told(path: Path) -> _Told:
    paths: set[Path] = set()
    hashes: dict[str, set[str]] = {}
    try:
        for outcome in Journal(path).events():
            untouched = outcome.source == outcome.target and outcome.input_sha256 == outcome.output_sha256
            if outcome.output_sha256 and not untouched:
                hashes.setdefault(PureWindowsPath(outcome.target).name, set()).add(outcome.output_sha256)
                hashes.setdefault(Path(outcome.target).name, set()).add(outcome.output_sha256)
            if outcome.output_sha256 and outcome.source != outcome.target:
                paths.add(Path(outcome.target).absolute())
    except OSError:  # a journal that cannot be read: the records tell
        return _Told()
    return _Told(frozenset(paths), {name: frozenset(found) for name, found in hashes.items()})


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


def _digest(path: Path) -> str:
    """Hash of a photo; "" where it cannot be read, so that reading it says why."""
    try:
        return sha256(path)
    except OSError:
        return ""

"""Which of the photos that were found are results of earlier runs, and what their records are called."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path, PureWindowsPath
from typing import Any

from conservator.batch.journal import JOURNAL, Journal
from conservator.batch.tasks import Task
from conservator.files import printable, sha256
from conservator.photo import look_through

_LONGEST_RECORD = 2**24  # bytes; the longest that was seen, of a model that talks much, has a hundredth of that


def earlier_results(photos: Iterable[Path], folder: Path) -> set[Path]:
    """Those photos of a folder that Conservator made.

    A result lies beside a record that says so by name. Without one, a journal tells, in its folder or one above, up to
    ``folder``: by its place, or by its name and bytes where it was moved. A photo that was restored in place is none
    while it has, or has again, the bytes from before; so is one that was left untouched. What was treated through a
    link is a result by its own name, too.
    """
    photos = list(photos)
    through = {photo.resolve() for photo in photos if photo.is_symlink() and _is_treated(photo)}
    journals: dict[Path, _Told] = {}

    def told(place: Path) -> _Told:
        """What the journals of a folder and of those above it tell."""
        if place not in journals:
            own = _told(place / JOURNAL)
            journals[place] = own + told(place.parent) if place not in (folder, place.parent) else own
        return journals[place]

    return {
        photo for photo in photos if (through and photo.resolve() in through) or _is_result(photo, told(photo.parent))
    }


def documented(task: Task) -> Task:
    """The task with the record that its target has, by whatever name; as it is where there is none."""
    found = _documented(task.target)
    return task if found is None else replace(task, named=found[0].named)


def named_in_place(tasks: Iterable[Task]) -> list[Task]:
    """The tasks; those in place get names for their records that no other picture of their folder would give to its.

    A result keeps the record that it has. (a.jpg beside a.tif gets a_jpg.conservator.json; alone, a.conservator.json.)
    """

    @cache
    def stems(folder: Path) -> Mapping[str, frozenset[str]]:
        """Names of the pictures of a folder, by their stems, as disks see them that do not tell a.jpg from A.JPG."""
        names: dict[str, set[str]] = {}
        for path in look_through(folder, recursive=False).photos:
            names.setdefault(path.stem.casefold(), set()).add(path.name)
        return {stem: frozenset(found) for stem, found in names.items()}

    def free(option: Task) -> bool:
        """Whether no other picture and no other task would have a record of this name."""
        alike = stems(option.target.parent).get((option.named or option.target.stem).casefold(), frozenset())
        return alike <= {option.target.name} and option.record not in taken

    taken: set[Path] = set()
    found = []
    for task in tasks:
        if _takes_its_place(task):
            known = _documented(task.target)
            options = _options(task) if known is None else [replace(task, named=known[0].named)]
            task = next(option for option in options if known or free(option))
            task = replace(task, named=task.named or task.target.stem)
            taken.add(task.record)
        found.append(task)
    return found


def anothers(task: Task) -> bool:
    """Whether the record at a task's place documents another photo's result that is still there.

    A result of the same photo in another format is none of another photo.
    """
    claim = _claim(task.record)
    if claim is None or claim.names(task.target) or claim.input_sha256 == _digest(task.source):
        return False
    others = (task.record.with_name(name) for name in claim.output_names)
    return any(other.is_file() and not _same(other, task.target) for other in others)


def _takes_its_place(task: Task) -> bool:
    """Whether a result gets the folder and the name of its photo."""
    source, target = task.source, task.target
    return source == target or (
        source.name == target.name and target.parent.exists() and target.parent.samefile(source.parent)
    )


def _options(task: Task) -> Iterator[Task]:
    """A task with the names that its record may have, in the order in which they are taken."""
    yield task
    name = f"{task.target.stem}_{task.target.suffix.lstrip('.').lower()}"
    yield replace(task, named=name)
    number = 2
    while True:
        yield replace(task, named=f"{name}_{number}")
        number += 1


def _documented(result: Path) -> tuple[Task, _Claim] | None:
    """The record that names a result, and what it says."""
    for number, option in enumerate(_options(Task(result, result))):
        claim = _claim(option.record)
        if claim is not None and claim.names(result):
            return option, claim
        if number > 1 and not _is_there(option.record):
            break
    return None


def _is_treated(link: Path) -> bool:
    """Whether what a link leads to was changed through the link, as the record beside the link says."""
    found = _documented(link)
    return found is not None and _digest(link) not in ("", found[1].input_sha256)


def _is_result(photo: Path, told: _Told) -> bool:
    for path in (photo, photo.resolve()) if photo.is_symlink() else (photo,):
        if (found := _documented(path)) is not None:
            _, claim = found
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
                target = Path(outcome.target)
                for name in {target.name, target.resolve().name} if target.is_symlink() else {target.name}:
                    hashes.setdefault(name, set()).add(outcome.output_sha256)
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

    @property
    def output_names(self) -> frozenset[str]:
        """What the result may be called, on this system or another."""
        return frozenset((Path(self.output).name, PureWindowsPath(self.output).name)) - {""}

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


def _is_there(path: Path) -> bool:
    try:
        return path.exists()
    except OSError:  # a name too long for the disk
        return False


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False


def _digest(path: Path) -> str:
    """Hash of a photo; "" where it cannot be read, so that reading it says why."""
    try:
        return sha256(path)
    except OSError:
        return ""

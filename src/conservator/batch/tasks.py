"""What a batch has to do: the photos in files and folders, and where their results go."""

from __future__ import annotations

import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from conservator.errors import ConservatorError
from conservator.photo import PHOTO_SUFFIXES
from conservator.photo.optional import EXTRA_OF, WRITTEN_AS

RECORD_SUFFIX = ".conservator.json"
REPORT_SUFFIX = ".conservator.html"


@dataclass(frozen=True)
class Task:
    """One file to restore and where its result goes."""

    source: Path
    target: Path
    named: str = ""
    """What record and page are called, where it is not as the target: other photos there share its stem."""

    @property
    def record(self) -> Path:
        """Where the record goes: photo.conservator.json beside photo.png."""
        return self.target.with_name((self.named or self.target.stem) + RECORD_SUFFIX)

    @property
    def report(self) -> Path:
        """Where the HTML page goes."""
        return self.target.with_name((self.named or self.target.stem) + REPORT_SUFFIX)

    @property
    def in_place(self) -> bool:
        """Whether the result takes the place of the photo itself, by whatever path or link."""
        return self.source == self.target or (self.target.exists() and self.target.samefile(self.source))


def check_format(suffix: str | None, output: Path | None) -> None:
    """Raises ConservatorError where results cannot be written in a format, or at ``output``."""
    formats = " ".join(sorted(PHOTO_SUFFIXES))
    if suffix is not None and suffix.lower() not in PHOTO_SUFFIXES:
        raise ConservatorError(f"photos cannot be written as {suffix}; take one of {formats}")
    if output is not None and output.suffix.lower() in _UNWRITABLE and not output.is_dir():
        raise ConservatorError(f"{output}: photos cannot be written as {output.suffix}; take one of {formats}")
    if output is not None and output.suffix.lower() not in PHOTO_SUFFIXES and output.exists() and not output.is_dir():
        raise ConservatorError(f"{output} is a file, expected a folder or the name of a photo; choose another --output")


_UNWRITABLE = frozenset({".heic", ".heif", ".jxl", ".jp2", ".jfif", ".dng", ".psd", ".pdf", ".tga", ".svg", ".raw"})
"""Suffixes that somebody who asks for a file may give; a folder of such a name is hardly meant."""


def is_file_name(path: Path) -> bool:
    """Whether an output is the name of a photo, not a folder."""
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.is_dir()


def name_of_result(path: Path, suffix: str | None) -> str:
    """The name of a photo's result: in its own format, where that can hold one."""
    own = path.suffix.lower()
    if suffix is None and own in EXTRA_OF:
        suffix = WRITTEN_AS[EXTRA_OF[own]]
    # a GIF holds too few colours for a restored photo, and an MPO is written as the JPEG that it is
    other = {".gif": ".png", ".mpo": ".jpg"}.get(own) or (path.suffix if own in PHOTO_SUFFIXES else ".png")
    return path.stem + (suffix or other)


def labels(folders: Iterable[Path]) -> dict[Path, Path]:
    """A short name for each folder, by which it is told from the others: as many of its last names as that takes."""
    found: dict[Path, Path] = {}
    whole = {folder: folder.resolve().parts[1:] for folder in folders}
    for folder, parts in whole.items():
        others = [other for other in whole.values() if other != parts]
        length = 1
        while length < len(parts) and any(other[-length:] == parts[-length:] for other in others):
            length += 1
        found[folder] = Path(*parts[-length:])
    return found


def distinct(tasks: Sequence[Task]) -> list[Task]:
    """Give tasks whose results or records would collide names of their own.

    Files from several folders keep their folder's name; a.jpg and a.png, which would share a.conservator.json, get
    their suffix into their names; what still collides is numbered. Tasks whose records have a name already keep all.
    """
    folders = labels(dict.fromkeys(task.source.parent for task in _colliding(tasks)))
    shared = set(_colliding(tasks))
    alike: dict[str, set[Path]] = {}
    for task in shared:
        alike.setdefault(_key(task.target), set()).add(task.source.parent.resolve())
    apart = [
        Task(task.source, task.target.parent / folders[task.source.parent] / task.target.name)
        if task in shared and not task.named and len(alike[_key(task.target)]) > 1
        else task
        for task in tasks
    ]
    shared = set(_colliding(apart))
    seen = {key for task in apart if task.named for key in (_key(task.target), _key(task.target.with_name(task.named)))}
    found = []
    for task in apart:
        if task.named:
            found.append(task)
            continue
        target = task.target
        if task in shared:
            target = target.with_name(f"{target.stem}_{task.source.suffix.lstrip('.').lower()}{target.suffix}")
        number = 2
        while _key(target) in seen:
            target = task.target.with_name(f"{task.target.stem}_{number}{task.target.suffix}")
            number += 1
        seen.add(_key(target))
        found.append(Task(task.source, target))
    return found


def _colliding(tasks: Sequence[Task]) -> list[Task]:
    counts = Counter(_key(task.target) for task in tasks)
    return [task for task in tasks if counts[_key(task.target)] > 1]


def _key(target: Path) -> str:
    """What results with one record have in common, on disks, too, that do not tell a.jpg from A.JPG."""
    return unicodedata.normalize("NFC", os.fspath(target.with_suffix(""))).casefold()

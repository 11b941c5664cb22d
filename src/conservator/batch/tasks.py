"""What a batch has to do: the photos in files and folders, and where their results go."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from conservator.errors import ConservatorError
from conservator.photo import PHOTO_SUFFIXES, find_photos

RECORD_SUFFIX = ".conservator.json"
REPORT_SUFFIX = ".conservator.html"


@dataclass(frozen=True)
class Task:
    """One file to restore and where its result goes."""

    source: Path
    target: Path

    @property
    def record(self) -> Path:
        """Where the record goes: photo.conservator.json beside photo.png."""
        return self.target.with_name(self.target.stem + RECORD_SUFFIX)

    @property
    def report(self) -> Path:
        """Where the HTML page goes."""
        return self.target.with_name(self.target.stem + REPORT_SUFFIX)


def find_tasks(paths: Sequence[Path], output: Path | None, suffix: str | None = None) -> list[Task]:
    """List the photos in files and folders (recursively) with their targets.

    ``output`` is a folder, or a file name for a single photo; without it results go to a folder ``restored`` beside
    each input. Folders keep their tree below the output. Formats that cannot be written become PNG; ``suffix`` (".png")
    asks for one format. Two inputs with one target get the input's suffix into their names.
    Raises ConservatorError when a path does not exist, when no photo is found, or when a format cannot be written.
    """
    _check_format(suffix, output)
    tasks: list[Task] = []
    single = len(paths) == 1 and paths[0].is_file() and output is not None and _is_file_name(output)
    for path in paths:
        if path.is_dir():
            base = output or path / "restored"
            files = [photo for photo in find_photos(path, may_be_empty=True) if not _is_result(photo, path, base)]
            tasks += [Task(p, base / _name(p, suffix, p.relative_to(path).parent)) for p in files]
        elif path.exists():
            if single and output is not None:
                tasks.append(Task(path, output))
            else:
                tasks.append(Task(path, (output or path.parent / "restored") / _name(path, suffix, Path())))
        else:
            raise ConservatorError(f"{path}: there is no such file or folder")
    if not tasks:
        raise ConservatorError(f"no photos found in {', '.join(map(str, paths))}")
    return _distinct(tasks)


def _check_format(suffix: str | None, output: Path | None) -> None:
    formats = " ".join(sorted(PHOTO_SUFFIXES))
    if suffix is not None and suffix.lower() not in PHOTO_SUFFIXES:
        raise ConservatorError(f"photos cannot be written as {suffix}; take one of {formats}")
    if output is not None and output.suffix.lower() in _UNWRITABLE and not output.is_dir():
        raise ConservatorError(f"{output}: photos cannot be written as {output.suffix}; take one of {formats}")
    if output is not None and output.suffix.lower() not in PHOTO_SUFFIXES and output.exists() and not output.is_dir():
        raise ConservatorError(f"{output} is a file, expected a folder or the name of a photo; choose another --output")


_UNWRITABLE = frozenset({".heic", ".heif", ".jxl", ".jp2", ".jfif", ".dng", ".psd", ".pdf", ".tga", ".svg", ".raw"})
"""Suffixes that somebody who asks for a file may give; a folder of such a name is hardly meant."""


def _is_result(path: Path, folder: Path, output: Path) -> bool:
    """Whether a photo lies in the output folder, where that is one of the input's subfolders."""
    inside, output = folder.resolve(), output.resolve()
    return (
        output != inside
        and output.is_relative_to(inside)
        and (inside / path.relative_to(folder)).is_relative_to(output)
    )


def _is_file_name(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.is_dir()


def _name(path: Path, suffix: str | None, parent: Path) -> Path:
    # a GIF holds too few colours for a restored photo, and an MPO is written as the JPEG that it is
    own = path.suffix if path.suffix.lower() in PHOTO_SUFFIXES else ".png"
    wanted = suffix or {".gif": ".png", ".mpo": ".jpg"}.get(path.suffix.lower(), own)
    return parent / (path.stem + wanted)


def _distinct(tasks: Sequence[Task]) -> list[Task]:
    """Results and records must not collide: a.jpg and a.png would share a.conservator.json."""
    stems = [task.target.with_suffix("") for task in tasks]
    seen: set[Path] = set()
    distinct = []
    for task, stem in zip(tasks, stems, strict=True):
        target = task.target
        if stems.count(stem) > 1:
            target = target.with_name(f"{target.stem}_{task.source.suffix.lstrip('.').lower()}{target.suffix}")
        number = 2
        while target.with_suffix("") in seen:
            target = task.target.with_name(f"{task.target.stem}_{number}{task.target.suffix}")
            number += 1
        seen.add(target.with_suffix(""))
        distinct.append(Task(task.source, target))
    return distinct

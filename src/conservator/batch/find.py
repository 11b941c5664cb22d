"""From files and folders to tasks: what is restored, and what is passed over and why."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from conservator.batch.results import earlier_results, named_in_place
from conservator.batch.tasks import Task, check_format, distinct, is_file_name, labels, name_of_result
from conservator.batch.words import passed_over
from conservator.errors import ConservatorError
from conservator.photo import look_through


@dataclass
class Findings:
    """The tasks of a batch, and what was found beside them."""

    tasks: list[Task] = field(default_factory=list)
    folder: Path = field(default_factory=Path)
    """Where the journal goes, and all results or the first."""
    results: list[Path] = field(default_factory=list)
    """Results of earlier runs, which are not restored again."""
    inside: list[Path] = field(default_factory=list)
    """Other pictures in the folder where the results go."""
    repeated: list[Path] = field(default_factory=list)
    """Further names of photos that are restored once."""
    unread: list[Path] = field(default_factory=list)
    """Pictures of formats that are not read here."""
    closed: list[Path] = field(default_factory=list)
    """Folders that may not be looked into."""


def find_tasks(paths: Sequence[Path], output: Path | None, suffix: str | None = None) -> Findings:
    """List the photos in files and folders (with their subfolders), with their targets, and what is passed over.

    ``output`` is a folder, or a file name for a single photo; without it results go to a folder ``restored`` beside
    each input. Folders keep their tree below the output; of several folders each keeps its name, too. Formats that
    cannot be written become PNG, camera RAW becomes TIFF and HEIC becomes JPEG; ``suffix`` (".png") asks for one
    format. Results whose names would collide get names of their own.

    A result of an earlier run is passed over, wherever it lies, unless it is named itself; so is a photo that was found
    before by another path, and a link to one that is found by its own name. (Hard links are photos of their own.)
    Raises ConservatorError when a path does not exist, when no photo is found, or when a format cannot be written.
    """
    check_format(suffix, output)
    found = Findings()
    named = labels(path for path in paths if path.is_dir())
    seen = {path.resolve() for path in paths if not path.is_dir()}  # named by themselves: their folders come second
    taken: set[Path] = set()
    files = {path.resolve() for path in paths if not path.is_symlink()}
    single = len(paths) == 1 and paths[0].is_file() and output is not None and is_file_name(output)
    for path in paths:
        if path.is_dir():
            base = output or path / "restored"
            below = base / named[path] if output is not None and len(set(named.values())) > 1 else base
            photos = _photos_of(path, base, found)
            own = {photo.resolve() for photo in photos if not photo.is_symlink()}
            for photo in photos:
                if photo.resolve() in seen or (photo.is_symlink() and photo.resolve() in own):
                    found.repeated.append(photo)
                else:
                    seen.add(photo.resolve())
                    parent = photo.relative_to(path).parent
                    found.tasks.append(Task(photo, below / parent / name_of_result(photo, suffix)))
        elif not path.exists() and not path.is_symlink():
            raise ConservatorError(f"{path}: there is no such file or folder")
        elif path.resolve() in taken or (path.is_symlink() and path.resolve() in files):
            found.repeated.append(path)
        else:
            taken.add(path.resolve())
            base = output or path.parent / "restored"
            found.tasks.append(Task(path, base if single else base / name_of_result(path, suffix)))
    if not found.tasks:
        told = "".join(f"; {sentence}" for sentence in passed_over(found))
        raise ConservatorError(f"no photos found in {', '.join(map(str, paths))}{told}")
    found.tasks = distinct(named_in_place(found.tasks))
    found.folder = _folder(paths, output, found.tasks)
    return found


def _photos_of(folder: Path, output: Path, found: Findings) -> list[Path]:
    """The photos of a folder that are inputs; what else is in it is added to ``found``."""
    contents, inside = look_through(folder), _within(output, folder)

    def lies_inside(path: Path) -> bool:
        return inside is not None and path.relative_to(folder).is_relative_to(inside)

    found.unread += [path for path in contents.unread if not lies_inside(path)]
    found.closed += contents.closed
    results = earlier_results(contents.photos, folder)
    photos = []
    for photo in contents.photos:
        if photo in results:
            found.results.append(photo)
        elif lies_inside(photo):
            found.inside.append(photo)
        else:
            photos.append(photo)
    return photos


def _within(output: Path, folder: Path) -> Path | None:
    """The way from a folder to an output below it; None where the output lies elsewhere, or is the folder itself."""
    whole, output = folder.resolve(), output.resolve()
    return output.relative_to(whole) if output != whole and output.is_relative_to(whole) else None


def _folder(paths: Sequence[Path], output: Path | None, tasks: Sequence[Task]) -> Path:
    if output is not None and not (len(tasks) == 1 and tasks[0].target == output):
        return output
    if len(paths) == 1 and paths[0].is_dir():
        return paths[0] / "restored"
    return tasks[0].target.parent

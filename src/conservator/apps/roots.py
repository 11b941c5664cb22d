"""Which files somebody may reach who is not the user, or not for sure: those in folders that the user opened."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from conservator.batch import Findings
from conservator.errors import ConservatorError
from conservator.files import printable


class Roots:
    """The folders that are open, by their real paths.

    A path is inside where what it leads to, through all links, is one of the folders or lies in one. That need not
    exist: of a file to be written, the part that exists decides. Folders are told apart as the disk does it, so case
    counts where the disk heeds it.
    """

    def __init__(self, folders: Sequence[Path]) -> None:
        """Raises ConservatorError for no folder, and for one that is not there."""
        if not folders:
            raise ConservatorError("no folder is opened; give one or more, say ~/photos")
        for folder in folders:
            if not folder.is_dir():
                raise ConservatorError(f"{folder} is no folder; give the folders that may be worked in")
        self.folders = tuple(dict.fromkeys(folder.resolve() for folder in folders))
        """Real paths; what is given without a folder is meant in the first one."""

    def __str__(self) -> str:
        return ", ".join(printable(folder) for folder in self.folders)

    def real(self, given: str) -> Path:
        """The real path of what was given, relative to the first folder or absolute.

        Raises ConservatorError for a path outside the folders, whether there is something or not, and for what is no
        path at all.
        """
        if not given or "\0" in given:
            raise ConservatorError(f"{given!r} is no path; give the path of a file or a folder in {self}")
        try:
            real = Path(os.path.realpath(self.folders[0] / given))
        except (OSError, ValueError) as error:
            raise ConservatorError(f"{given!r} cannot be followed ({error}); give a path in {self}") from error
        if not self.contain(real):
            raise ConservatorError(f"{given}: this leads out of the folders that are open here; give a path in {self}")
        return real

    def contain(self, path: Path) -> bool:
        """Whether what a path leads to, through all links, lies in one of the folders."""
        try:
            real = Path(os.path.realpath(path))
            return any(self._is_root(place) for place in (real, *real.parents))
        except (OSError, ValueError):
            return False

    def within(self, found: Findings) -> tuple[Findings, int]:
        """The findings without photos that lie, or whose results would lie, outside; and how many those are.

        Photos that their results would replace are left out, too.
        """
        tasks = [
            task
            for task in found.tasks
            if all(map(self.contain, (task.source, task.target, task.record))) and not task.in_place
        ]
        return replace(found, tasks=tasks), len(found.tasks) - len(tasks)

    def _is_root(self, place: Path) -> bool:
        if place in self.folders:
            return True
        try:  # a disk that does not heed case has one folder by several names
            return any(place.samefile(folder) for folder in self.folders)
        except OSError:  # there is nothing yet, or it may not be looked at
            return False

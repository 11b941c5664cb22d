"""Which files of a folder are photos."""

from __future__ import annotations

from pathlib import Path

from conservator.errors import ConservatorError
from conservator.photo.photo import PHOTO_SUFFIXES


def find_photos(folder: Path, *, recursive: bool = True, may_be_empty: bool = False) -> list[Path]:
    """The photos of a folder, and of the folders in it, sorted by path: files whose names end as a photo's does.

    What is hidden is passed over, files and folders whose names begin with a dot: thumbnails, and what a program that
    was stopped left behind. Raises ConservatorError for a folder that is not there or, unless it ``may_be_empty``,
    holds no photos.
    """
    if not folder.is_dir():
        raise ConservatorError(f"{folder} is no folder; give a folder of photos")
    found = [path for path in (folder.rglob("*") if recursive else folder.iterdir()) if _is_photo(path, folder)]
    if not found and not may_be_empty:
        raise ConservatorError(f"{folder} holds no photos; give a folder of photos")
    return sorted(found)


def _is_photo(path: Path, folder: Path) -> bool:
    hidden = any(part.startswith(".") for part in path.relative_to(folder).parts)
    return path.suffix.lower() in PHOTO_SUFFIXES and not hidden and path.is_file()

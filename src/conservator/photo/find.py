"""Which files of a folder are photos, and which look like pictures that are not read here."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from conservator.errors import ConservatorError
from conservator.photo.optional import EXTRA_OF, missing_extra
from conservator.photo.photo import PHOTO_SUFFIXES

_OTHER_NAMES = frozenset({".jfif", ".jpe"})  # of JPEG
_DRAWINGS = ".ai .cdr .emf .eps .pdf .pict .svg .wmf"
_SCANS_AND_EDITED = ".dcm .djvu .exr .fits .hdr .kra .pfm .psb .psd .xcf"
_OTHERS = ".dds .ico .j2k .jp2 .jpf .jpx .jxl .jxr .pbm .pcx .pgm .pnm .ppm .qoi .sgi .tga .wdp"
_PICTURES = frozenset(f"{_DRAWINGS} {_SCANS_AND_EDITED} {_OTHERS}".split())
"""Suffixes of pictures, drawings and scans that other programs write, and nothing here reads."""


@dataclass(frozen=True)
class Contents:
    """What was found in a folder, and in the folders in it, each list sorted by path."""

    photos: tuple[Path, ...] = ()
    """Files whose names end as a photo's does. One may be a link that leads nowhere: reading it says so."""
    unread: tuple[Path, ...] = ()
    """Pictures that are not read here: an extra is missing, or nothing reads their format."""
    closed: tuple[Path, ...] = ()
    """Folders that may not be looked into."""


def look_through(folder: Path, *, recursive: bool = True) -> Contents:
    """List the pictures of a folder and, unless ``recursive`` is off, of the folders in it.

    What is hidden is passed over, files and folders whose names begin with a dot: thumbnails, and what a program that
    was stopped left behind. Links to folders are not followed, since they may lead in circles. Raises ConservatorError
    for a folder that is not there.
    """
    if not folder.is_dir():
        raise ConservatorError(f"{folder} is no folder; give a folder of photos")
    read = PHOTO_SUFFIXES | _OTHER_NAMES | {suffix for suffix in EXTRA_OF if missing_extra(Path(f"a{suffix}")) is None}
    photos: list[Path] = []
    unread: list[Path] = []
    closed: list[Path] = []
    for place, folders, names in os.walk(folder, onerror=lambda error: closed.append(Path(error.filename))):
        folders[:] = [name for name in folders if recursive and not name.startswith(".")]
        for name in names:
            path = Path(place, name)
            suffix = path.suffix.lower()
            if name.startswith("."):
                continue
            if suffix in read:
                photos.append(path)
            elif suffix in _PICTURES or suffix in EXTRA_OF:
                unread.append(path)
    return Contents(tuple(sorted(photos)), tuple(sorted(unread)), tuple(sorted(closed)))


def find_photos(folder: Path, *, recursive: bool = True) -> list[Path]:
    """The photos that ``look_through`` finds, sorted by path.

    Raises ConservatorError for a folder that is not there, or holds no photos.
    """
    found = [path for path in look_through(folder, recursive=recursive).photos if path.is_file()]
    if not found:
        raise ConservatorError(f"{folder} holds no photos; give a folder of photos")
    return found

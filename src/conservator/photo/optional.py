"""Photos that are read through optional extras, and never written: HEIC (pillow-heif) and camera RAW (rawpy)."""

from __future__ import annotations

from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path

_HEIF = ".heic .heif .hif"
_RAW = (
    ".3fr .arw .cr2 .cr3 .crw .dcr .dng .erf .fff .iiq .kdc .mef .mos .mrw .nef .nrw .orf .pef .raf .raw .rw2 .rwl .sr2"
    " .srf .srw .x3f"
)
EXTRA_OF: Mapping[str, str] = dict.fromkeys(_HEIF.split(), "heif") | dict.fromkeys(_RAW.split(), "raw")
"""The extra that reads files of a suffix, lower case, with the dot."""
WRITTEN_AS: Mapping[str, str] = {"heif": ".jpg", "raw": ".tif"}
"""Suffix that the results of such photos get, by extra: as many bits as they hold, in what every program reads."""
_PACKAGE = {"heif": "pillow_heif", "raw": "rawpy"}


def missing_extra(path: Path) -> str | None:
    """The extra without which this file cannot be read here; None where none is missing or none would help."""
    extra = EXTRA_OF.get(path.suffix.lower())
    return extra if extra is not None and find_spec(_PACKAGE[extra]) is None else None

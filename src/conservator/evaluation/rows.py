"""Results on disk: one line of ``results.csv`` per policy and case, and ``settings.json``, which they belong to.

A benchmark that measures something else has rows of its own, a dataclass of str, int, float and bool.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeVar

import torch

from conservator.errors import ConservatorError
from conservator.evaluation.journal import whole_lines
from conservator.files import sha256, write_text
from conservator.tools.tool import Toolbox
from conservator.tools.user import user_tool_dir
from conservator.weights import manifest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

FULL_REFERENCE = ("psnr", "psnr_y", "ssim")
"""What can be measured everywhere."""


@dataclass(frozen=True, kw_only=True)
class Row:
    """What one policy made of one case. A score that could not be computed is NaN, an empty cell on disk."""

    group: str
    combination: str
    photo: str
    policy: str
    toolchain: str
    """Tools whose effect is in the result, joined by ">"."""
    calls: int
    """Tool calls on the study while deciding."""
    treatments: int
    """Tool calls on the whole photo."""
    examining: float
    """Seconds, as the next two."""
    deciding: float
    treating: float
    psnr_in: float
    psnr: float
    psnr_y_in: float
    psnr_y: float
    ssim_in: float
    ssim: float
    lpips_in: float = math.nan
    """This and the next five only where their packages and backbones can be had."""
    lpips: float = math.nan
    dists_in: float = math.nan
    dists: float = math.nan
    st_lpips_in: float = math.nan
    st_lpips: float = math.nan
    piqe: float
    sharpness: float
    noise: float
    rank: float = math.nan
    """The share of all enumerated toolchains that this one beats or equals, 0 to 1."""
    toolchains: int = 0
    """How many were enumerated."""

    @property
    def seconds(self) -> float:
        """The whole time of the photo."""
        return self.examining + self.deciding + self.treating

    @property
    def gain(self) -> float:
        """PSNR (RGB, dB) gained over the untouched input."""
        return self.psnr - self.psnr_in

    @property
    def case(self) -> str:
        """The name of its case."""
        return f"{self.group}/{self.combination}/{self.photo}"


@dataclass(frozen=True)
class Settings:
    """What a run depends on; a folder of results belongs to one."""

    benchmark: str
    photos: str
    """The name of the folder, not where it lies."""
    toolbox: str
    eye: str
    seed: int
    limit: int | None = None
    rank: str | None = None
    """The objective by which toolchains are ranked; None where they are not."""
    metrics: tuple[str, ...] = FULL_REFERENCE
    """The full-reference metrics that are measured: all that are at hand."""
    content: str = ""
    """What ``fingerprint`` says of photos and tools: names alone do not tell whether they are the same."""


def fingerprint(photos: Sequence[Path], toolbox: Toolbox, names: str = "") -> str:
    """A hash of the photos, in their order, and of the tools; ``names`` is the toolbox as the user wrote it.

    Weights that ship, that the user added or trained, and those of "rl-restore:FILE" count; tools of other packages are
    known by what they say of themselves, and policies by their names.
    """
    found = hashlib.sha256()
    for photo in photos:
        found.update(f"{photo.name} {sha256(photo)}\n".encode("utf-8", "backslashreplace"))
    for spec in toolbox.specs:
        found.update(f"{spec.name} {sorted(spec.removes)} {sorted(spec.severities)} {spec.source}\n".encode())
    shipped = [str(entry["sha256"]) for _, entry in sorted(manifest().items())]
    own = [path.read_text("utf-8") for path in sorted(user_tool_dir().glob("*.json"))]
    files = [Path(name.partition(":")[2]) for name in names.split("+")]
    given = [sha256(path) for path in files if path.is_file()]
    found.update("\n".join([*shipped, *(own if "user" in names or "published" in names else []), *given]).encode())
    return found.hexdigest()[:16]


def claim(path: Path, settings: Settings) -> None:
    """Write ``settings.json``, or raise ConservatorError where the one that is there tells of another run."""
    versions = {"conservator": version("conservator"), "torch": torch.__version__}
    now: dict[str, Any] = json.loads(json.dumps(asdict(settings) | {"versions": versions}))
    if path.exists():
        was = _settings(path)
        other = sorted(key for key in now if was.get(key) != now[key])
        if other:
            told = "; ".join(_told(key, was.get(key), now[key]) for key in other)
            raise ConservatorError(f"{path.parent} holds results of other settings ({told}); use another folder")
    else:
        now["started"] = time.strftime("%Y-%m-%d")
        write_text(path, json.dumps(now, indent=2) + "\n")


def _told(key: str, was: object, now: object) -> str:
    if key != "content":
        return f"{key} {was}, now {now}"
    return "the photos or the tools are others now" if was else "of which photos and tools is not recorded"


def read_settings(folder: Path) -> tuple[Settings, dict[str, str]]:
    """The settings of a folder of results, and the versions of what made them; ConservatorError when it has none."""
    was = _settings(folder / "settings.json")
    try:
        values = {"content": ""} | was  # which older results do not have
        values = {field.name: values[field.name] for field in fields(Settings)}
        return Settings(**values | {"metrics": tuple(values["metrics"])}), dict(was["versions"])
    except (KeyError, TypeError) as error:
        raise ConservatorError(f"{folder / 'settings.json'} is not of this version's benchmark ({error})") from error


def _settings(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise ConservatorError(f"{path} cannot be read ({error}); give the output folder of a benchmark") from error
    if not isinstance(found, dict):
        raise ConservatorError(f"{path} holds no settings; give the output folder of a benchmark")
    return found


RowT = TypeVar("RowT", bound="DataclassInstance")


class Table(Generic[RowT]):
    """``results.csv``: grows by whole lines, each on disk before the next is computed."""

    def __init__(self, path: Path, kind: type[RowT]) -> None:
        """``kind`` is the dataclass of the rows."""
        self._path, self._kind = path, kind

    def __enter__(self) -> Self:
        fresh = not whole_lines(self._path)
        self._file = self._path.open("a", newline="", encoding="utf-8")
        self._writer = csv.DictWriter(self._file, [field.name for field in fields(self._kind)], lineterminator="\n")
        if fresh:
            self._writer.writeheader()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, row: RowT) -> None:
        """Write one line, flushed to the disk."""
        self._writer.writerow({name: _cell(value) for name, value in asdict(row).items()})
        self._file.flush()
        os.fsync(self._file.fileno())


def _cell(value: object) -> object:
    return "" if isinstance(value, float) and math.isnan(value) else value


_READ: Mapping[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": lambda text: float(text) if text else math.nan,
    "bool": lambda text: {"True": True, "False": False}[text],
}


def read_rows(path: Path, kind: type[RowT]) -> list[RowT]:
    """The rows of a results file, none where there is no file; a line that a killed run left half written is not one.

    Raises ConservatorError where the columns are not this version's.
    """
    lines = whole_lines(path)
    readers = {field.name: _READ[str(field.type)] for field in fields(kind)}
    rows = []
    for line in csv.DictReader(lines):
        if line.keys() != readers.keys():
            raise ConservatorError(f"{path} has not the columns of this version; use another folder")
        try:
            rows.append(kind(**{name: read(line[name]) for name, read in readers.items()}))
        except (KeyError, TypeError, ValueError) as error:
            raise ConservatorError(f"{path} has a line that is no result ({error}); use another folder") from error
    return rows

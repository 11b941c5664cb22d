"""Results on disk: one line of ``results.csv`` per policy and case, and ``settings.json``, which they belong to.

A benchmark that measures something else has rows of its own: a dataclass of str, int, float and bool, and one mapping
of scores at most, whose names are columns, too.
"""

from __future__ import annotations

import csv
import hashlib
import json
import math
import os
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Generic, Self, TypeAlias, TypeVar

from conservator.claims import CLAIM, Identity, claim, hashes_of, read_claim
from conservator.commands import shown_path
from conservator.errors import ConservatorError
from conservator.evaluation.journal import whole_lines
from conservator.files import sha256, write_text
from conservator.image import Image
from conservator.metrics import DEFAULT_FULL_REFERENCE, DEFAULT_NO_REFERENCE, FullReference, Metric
from conservator.policies.vision_language import model_hash
from conservator.request import Request
from conservator.resample import bicubic_to
from conservator.tools.tool import Tool, Toolbox
from conservator.tools.user import user_tool_dir
from conservator.weights import manifest

if TYPE_CHECKING:
    from _typeshed import DataclassInstance

Scores: TypeAlias = Mapping[str, float]
"""By the names of metrics; ``NAME_in`` is the untouched input's, which metrics with a reference have."""


@dataclass(frozen=True, kw_only=True)
class BenchmarkRow:
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
    scores: Scores
    """What was measured of the result, one column each; NaN where a metric could not be computed."""
    rank: float = math.nan
    """The share of all enumerated toolchains that this one beats or equals, 0 to 1."""
    toolchains: int = 0
    """How many were enumerated."""
    value: float = math.nan
    """The score by the objective that they are ranked by: a sum of deviations from their mean, of each metric one."""
    scene: str = ""
    """The photograph that its photo is a part of, where several are parts of one."""

    @property
    def seconds(self) -> float:
        """The whole time of the photo."""
        return self.examining + self.deciding + self.treating

    @property
    def gain(self) -> float:
        """PSNR (RGB, dB) gained over the untouched input; NaN without a reference."""
        return self.score("psnr") - self.score("psnr_in")

    @property
    def treated(self) -> bool:
        """Whether any tool's effect is in the result."""
        return bool(self.toolchain)

    @property
    def origin(self) -> str:
        """What chance drew as one: the photograph. Rows of one origin are never independent."""
        return self.scene or self.photo

    @property
    def case(self) -> str:
        """The name of its case."""
        return f"{self.group}/{self.combination}/{self.photo}"

    def score(self, name: str) -> float:
        """One of ``scores``; NaN where it was not measured."""
        return self.scores.get(name, math.nan)


@dataclass(frozen=True)
class BenchmarkSettings:
    """What a run depends on; a folder of results belongs to one."""

    benchmark: str
    photos: str
    """The name of the folder, not where it lies."""
    toolbox: str
    perception: str
    seed: int
    limit: int | None = None
    rank: str | None = None
    """The objective by which toolchains are ranked; None where they are not."""
    metrics: tuple[str, ...] = (*DEFAULT_FULL_REFERENCE[:3], *DEFAULT_NO_REFERENCE)
    """The metrics that are measured: all that are at hand."""
    risk: float = Request.risk
    """The risk that policies are held to, as users are; 1: to none."""
    part: str | None = None
    """The part of the photos, where they are those of one; ``photos`` is then the data's root."""
    upscale: bool = False
    """Whether policies may enlarge."""


@dataclass(frozen=True)
class Content:
    """What a benchmark rests on beside its settings, by hash: names alone do not tell whether it is the same."""

    photos: Mapping[str, str] = field(default_factory=dict)
    tools: Mapping[str, str] = field(default_factory=dict)
    weights: Mapping[str, str] = field(default_factory=dict)
    folder: str = ""
    """Of the photos, as a command shows it; told, not compared."""

    def weights_of(self, *names: str) -> dict[str, str]:
        """The hashes of these weights that ship."""
        return {name: self.weights[name] for name in names}


def content_of(
    photos: Sequence[Path], folder: Path, toolbox: Toolbox, names: str = "", cache: Path | None = None
) -> Content:
    """The hashes of photos of a folder, of tools and of the weights that ship; ``names`` is the toolbox as asked for.

    Weights that the user added or trained count, and those of "rl-restore:FILE"; tools of other packages are known by
    what they say of themselves, and policies by ``claim_policies``. ``cache`` is the folder of results, which keeps
    hashes.
    """
    weights = {name: str(entry["sha256"]) for name, entry in manifest().items()}
    own = sorted(user_tool_dir().glob("*.json")) if "user" in names or "published" in names else []
    given = [path for name in names.split("+") if (path := Path(name.partition(":")[2])).is_file()]
    weights |= {path.name: sha256(path) for path in [*own, *given]}
    tools = {name: tool_hash(tool) for name, tool in toolbox.items()}
    return Content(hashes_of(photos, folder, cache), tools, weights, shown_path(folder))


def tool_hash(tool: Tool) -> str:
    """A hash (hex) of what a tool says of itself, and of its weights where it knows them before it is set up."""
    spec, weights = tool.spec, getattr(tool, "weights_sha256", "")
    facts = (spec.name, sorted(spec.removes), sorted(spec.severities), spec.source, spec.scale, spec.tile, spec.overlap)
    return hashlib.sha256(f"{type(tool).__qualname__} {facts} {weights}".encode()).hexdigest()


def toolbox_hash(toolbox: Toolbox) -> str:
    """A hash (hex) of all tools of a toolbox, in their order."""
    return hashlib.sha256(" ".join(map(tool_hash, toolbox.values())).encode()).hexdigest()


def claim_results(output: Path, settings: BenchmarkSettings, content: Content) -> None:
    """Make ``output`` the folder of these results: ``settings.json`` says whose it is.

    Raises ConservatorError, which names what differs, where there are results of another run.
    """
    identity = Identity.of(settings, photos=content.photos, tools=content.tools, weights=content.weights)
    claim(output, identity, {"photos": content.folder or settings.photos})


def claim_policies(output: Path, policies: Sequence[str], measured: Collection[str] = ()) -> None:
    """Keep the hashes of policies that are named for a file or folder ("mllm:FOLDER") in ``policies.json``.

    Raises ConservatorError where ``output`` holds results of one by that name with other weights, or, where it is
    among those ``measured`` already, with weights that nobody recorded.
    """
    path = output / "policies.json"
    known: dict[str, str] = json.loads(path.read_text("utf-8")) if path.exists() else {}
    found = {name: digest for name in policies if (digest := _weights_of(name))}
    for name, digest in found.items():
        if known.get(name, "" if name in measured else digest) != digest:
            raise ConservatorError(f"{output} holds results of {name} with other weights; give another output folder")
    if found:
        write_text(path, json.dumps(known | found, indent=2) + "\n")


def _weights_of(policy: str) -> str:
    """The hash of the weights that a policy's name ends in the path of; "" where it names none."""
    parts = policy.split(":")
    named = (Path(":".join(parts[i:])) for i in range(1, len(parts)) if parts[i])
    found = next((path for path in named if path.exists()), None)
    if found is None:
        return ""
    return model_hash(str(found)) if found.is_dir() else sha256(found)


def read_settings(folder: Path) -> tuple[BenchmarkSettings, dict[str, Any]]:
    """The settings of a folder of results, and what is beside them: ``versions``, and ``photos``, the folder's path.

    Raises ConservatorError when it holds no results, or those of an older version.
    """
    if not (folder / CLAIM).exists():
        raise ConservatorError(f"{folder} holds no results; give the output folder of a benchmark")
    identity, beside = read_claim(folder)
    try:
        settings = BenchmarkSettings(**identity.settings)
    except TypeError as error:
        raise ConservatorError(f"{folder / 'settings.json'} is not of this version's benchmark ({error})") from error
    return replace(settings, metrics=tuple(settings.metrics)), beside


def measured(metrics: Sequence[Metric], damaged: Image, result: Image, clean: Image | None) -> dict[str, float]:
    """The scores of a result by metric, and with a reference those of the untouched input as ``NAME_in``.

    NaN where there is no reference, or a metric cannot be computed.
    """
    scores: dict[str, float] = {}
    for metric in metrics:
        if isinstance(metric, FullReference):
            pair = (damaged, result)
            before, after = (math.nan if clean is None else score_of(metric, image, clean) for image in pair)
            scores |= {f"{metric.name}_in": before, metric.name: after}
        else:
            scores[metric.name] = metric.score(result)
    return {name: round(value, 5) for name, value in scores.items()}


def score_of(metric: FullReference, image: Image, clean: Image) -> float:
    """What a metric says of an image and its reference, NaN where it cannot be computed.

    A smaller image is first enlarged by MATLAB's bicubic, as the MiO protocol has it; no score is better than the
    metric's ``at_most``.
    """
    if image.shape != clean.shape:
        image = bicubic_to(image, *clean.shape[-2:])
    value = metric.score(image, clean)
    return metric.at_most if value > metric.at_most else value  # which keeps NaN


RowT = TypeVar("RowT", bound="DataclassInstance")


class ResultsTable(Generic[RowT]):
    """``results.csv``: grows by whole lines, each on disk before the next is computed."""

    def __init__(self, path: Path, kind: type[RowT]) -> None:
        """``kind`` is the dataclass of the rows."""
        self._path, self._kind = path, kind
        self._writer: csv.DictWriter[str] | None = None

    def __enter__(self) -> Self:
        lines = whole_lines(self._path)
        self._file = self._path.open("a", newline="", encoding="utf-8")
        if lines:
            self._writer = csv.DictWriter(self._file, next(csv.reader(lines)), lineterminator="\n")
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, row: RowT) -> None:
        """Write one line, flushed to the disk. The first row of a file says which scores there are.

        Raises ConservatorError for a score that the file has no column for.
        """
        cells = _cells(row)
        if self._writer is None:
            self._writer = csv.DictWriter(self._file, list(cells), lineterminator="\n")
            self._writer.writeheader()
        if new := cells.keys() - set(self._writer.fieldnames):
            raise ConservatorError(f"{self._path} has no column for {', '.join(sorted(new))}; use another folder")
        self._writer.writerow(cells)
        self._file.flush()
        os.fsync(self._file.fileno())


def _cells(row: DataclassInstance) -> dict[str, object]:
    """A row as columns; NaN is an empty cell."""
    found: dict[str, object] = {}
    for name, value in asdict(row).items():
        found |= value if isinstance(value, dict) else {name: value}
    return {name: "" if isinstance(value, float) and math.isnan(value) else value for name, value in found.items()}


def _number(text: str) -> float:
    return float(text) if text else math.nan


_READ: Mapping[str, Callable[[str], Any]] = {
    "str": str,
    "int": int,
    "float": _number,
    "bool": lambda text: {"True": True, "False": False}[text],
}


def read_rows(path: Path, kind: type[RowT]) -> list[RowT]:
    """The rows of a results file, none where there is no file; a line that a killed run left half written is not one.

    A column that has a default may lack. Raises ConservatorError where the columns are not this version's.
    """
    scores = next((field.name for field in fields(kind) if str(field.type) == "Scores"), None)
    readers = {field.name: _READ[str(field.type)] for field in fields(kind) if field.name != scores}
    needed = {field.name for field in fields(kind) if field.default is MISSING} - {scores}
    rows = []
    for line in csv.DictReader(whole_lines(path)):
        others = line.keys() - readers.keys()
        if needed - line.keys() or (others and scores is None):
            raise ConservatorError(f"{path} has not the columns of this version; use another folder")
        try:
            values = {name: read(line[name]) for name, read in readers.items() if name in line}
            if scores is not None:
                values[scores] = {name: _number(line[name]) for name in line if name in others}
            rows.append(kind(**values))
        except (KeyError, TypeError, ValueError) as error:
            raise ConservatorError(f"{path} has a line that is no result ({error}); use another folder") from error
    return rows

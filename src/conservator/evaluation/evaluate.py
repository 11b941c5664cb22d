"""Run policies over the cases of a benchmark; every finished case is a line of ``results.csv``, so a run resumes."""

from __future__ import annotations

import csv
import json
import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, fields
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.evaluation.cases import Case
from conservator.files import write_text
from conservator.image import Image
from conservator.metrics import DEFAULT_NO_REFERENCE, METRICS, FullReference, NoReference
from conservator.perception.perception import Perception
from conservator.perception.study import study
from conservator.photo import Photo
from conservator.policies import PolicyContext, make_policy
from conservator.pool.pool import LocalPool, MemoPool, Pool
from conservator.resample import bicubic_to
from conservator.restoration import Restored, restore
from conservator.tools.tool import Toolbox

FULL_REFERENCE = ("psnr", "psnr_y", "ssim")


@dataclass(frozen=True)
class Row:
    """What one policy made of one case. Scores are NaN without a reference."""

    group: str
    combination: str
    photo: str
    policy: str
    toolchain: str
    """Tools joined by ">"."""
    calls: int
    """Tool calls on the study while deciding."""
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
    piqe: float
    sharpness: float
    noise: float

    @property
    def seconds(self) -> float:
        """The whole time of the photo."""
        return self.examining + self.deciding + self.treating


@dataclass(frozen=True)
class Settings:
    """What a run depends on; a folder of results belongs to one."""

    benchmark: str
    photos: str
    toolbox: str
    eye: str
    seed: int
    limit: int | None = None


class Counted(Pool):
    """Counts the calls that reach the pool beneath."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self.calls = pool, 0

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        self.calls += 1
        return self._pool.submit(name, *tensors)

    def close(self) -> None:
        self._pool.close()


def evaluate(
    cases: Sequence[Case],
    policies: Sequence[str],
    toolbox: Toolbox,
    perception: Perception,
    settings: Settings,
    output: Path,
    progress: Callable[[int, int, Row | None], None] = lambda done, total, row: None,
) -> list[Row]:
    """Run every policy on every case that ``output`` does not hold yet; return all rows.

    ``output`` gets ``results.csv`` and ``settings.json``. Raises ConservatorError when it holds results of other
    settings. ``progress`` is told how many of how many rows are there, and the newest.
    """
    output.mkdir(parents=True, exist_ok=True)
    _claim(output / "settings.json", settings)
    rows = read_rows(output / "results.csv")
    done = {(row.group, row.combination, row.photo, row.policy) for row in rows}
    total = len(cases) * len(policies)
    progress(len(rows), total, None)
    with LocalPool(toolbox, max_batch=1) as pool, _Table(output / "results.csv") as table:
        for case in cases:
            waiting = [p for p in policies if (case.group, case.combination, case.photo, p) not in done]
            if not waiting:
                continue
            damaged, clean = case.make()
            for policy in waiting:
                row = _run(case, damaged, clean, policy, toolbox, perception, pool, settings.seed)
                rows.append(row)
                table.append(row)
                progress(len(rows), total, row)
    return rows


def _run(
    case: Case,
    damaged: Image,
    clean: Image | None,
    policy: str,
    toolbox: Toolbox,
    perception: Perception,
    pool: LocalPool,
    seed: int,
) -> Row:
    counted = Counted(pool)
    memo = MemoPool(counted)  # its own for each photo and policy; closing it would close the shared pool
    upscale = clean is not None and clean.shape != damaged.shape
    reference = None
    if policy == "oracle":
        if clean is None:
            raise ConservatorError("the oracle needs undamaged photos, and this benchmark has none")
        reference = study(bicubic_to(clean, *damaged.shape[-2:]), like=damaged)
    context = PolicyContext(memo, perception, seed=seed, upscale=upscale, reference=reference)
    restored = restore(Photo(damaged), make_policy(policy, context), toolbox, memo, perception)
    return _row(case, policy, damaged, clean, restored, counted.calls - len(restored.treatments))


def _row(case: Case, policy: str, damaged: Image, clean: Image | None, restored: Restored, calls: int) -> Row:
    image = restored.photo.image
    scores: dict[str, float] = {}
    for name in FULL_REFERENCE:
        scores[f"{name}_in"] = scores[name] = math.nan
        if clean is not None:
            scores[f"{name}_in"], scores[name] = (_score(name, x, clean) for x in (damaged, image))
    for name in DEFAULT_NO_REFERENCE:
        metric = METRICS[name]
        assert isinstance(metric, NoReference)
        scores[name] = metric.score(image)
    return Row(
        case.group,
        case.combination,
        case.photo,
        policy,
        ">".join(restored.toolchain),
        max(0, calls),
        *(round(restored.seconds[stage], 4) for stage in ("examining", "deciding", "treating")),
        **{name: round(value, 5) for name, value in scores.items()},
    )


def _score(name: str, image: Image, clean: Image) -> float:
    """A score; a smaller image is first enlarged by MATLAB's bicubic, as the MiO protocol has it."""
    metric = METRICS[name]
    assert isinstance(metric, FullReference)
    if image.shape != clean.shape:
        image = bicubic_to(image, *clean.shape[-2:])
    return min(100.0, metric.score(image, clean))


def _claim(path: Path, settings: Settings) -> None:
    now = asdict(settings) | {"versions": {"conservator": version("conservator"), "torch": torch.__version__}}
    if path.exists():
        was = json.loads(path.read_text("utf-8"))
        other = sorted(key for key in now if was.get(key) != now[key])
        if other:
            told = "; ".join(f"{key} {was.get(key)}, now {now[key]}" for key in other)
            raise ConservatorError(f"{path.parent} holds results of other settings ({told}); use another folder")
    else:
        now["started"] = time.strftime("%Y-%m-%d")
        write_text(path, json.dumps(now, indent=2) + "\n")


class _Table:
    """A CSV file that grows by whole lines."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def __enter__(self) -> _Table:
        torn = self._path.exists() and not self._path.read_bytes().endswith(b"\n")
        self._file = self._path.open("a", newline="", encoding="utf-8")
        if torn:
            self._file.write("\n")
        self._writer = csv.DictWriter(self._file, [field.name for field in fields(Row)], lineterminator="\n")
        if self._file.tell() == 0:
            self._writer.writeheader()
        return self

    def __exit__(self, *error: object) -> None:
        self._file.close()

    def append(self, row: Row) -> None:
        self._writer.writerow(asdict(row))
        self._file.flush()
        os.fsync(self._file.fileno())


def read_rows(path: Path) -> list[Row]:
    """The rows of a results file; a line that a killed run left half written is not one."""
    if not path.exists():
        return []
    kinds = {field.name: {"str": str, "int": int, "float": float}[str(field.type)] for field in fields(Row)}
    rows = []
    with path.open(newline="", encoding="utf-8") as file:
        for line in csv.DictReader(file):
            try:
                rows.append(Row(**{name: kind(line[name]) for name, kind in kinds.items()}))
            except (TypeError, ValueError):
                continue
    return rows

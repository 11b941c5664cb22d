"""What adapting an upscaler to each photo is worth: photos reduced in known ways, and real pairs."""

from __future__ import annotations

import csv
import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, fields
from itertools import groupby
from pathlib import Path

import numpy as np

from conservator.adapting import Manner
from conservator.degradations import (
    BlurredReduction,
    GaussianNoise,
    JpegCompression,
    LowResolution,
    Recipe,
    degrade,
)
from conservator.errors import ConservatorError
from conservator.evaluation.grid import Grid
from conservator.evaluation.intervals import interval
from conservator.files import write_text
from conservator.image import Image, in_8_bits
from conservator.metrics.catalog import METRICS, metrics_at_hand
from conservator.metrics.metric import FullReference
from conservator.photo import find_photos, load_photo
from conservator.pool.telling import heard_by
from conservator.resample import bicubic_to
from conservator.tools.lway import AdaptedTool
from conservator.tools.tool import Toolbox

_MEASURED = ("psnr", "ssim", "st_lpips")
_LOWERED = 0.1
"""dB that a photo may lose before it counts as lowered."""


@dataclass(frozen=True)
class AdaptedRow:
    """One photo enlarged by one tool."""

    condition: str
    scale: int
    photo: str
    tool: str
    """"bicubic", or the tool's name."""
    manner: str
    """How it was adapted, where not as users get it: "anchor=0.0"; "together" where all photos adapted it once."""
    iterations: int
    seconds: float
    """Adapting included; of photos that adapted it together, each one's share."""
    psnr: float
    ssim: float
    st_lpips: float
    """NaN where the extra is not installed."""


def conditions(scale: int) -> dict[str, Recipe]:
    """The ways in which photos are reduced; the sigmas of blurs are pixels of the large photo.

    The round Gaussian blurs are like those that trainings of the transfer draw; the slanting one is of a make that none
    draws.
    """
    noise, jpeg = GaussianNoise(6 / 255, seed=0), JpegCompression(75, "4:2:0")
    blurs = {f"blur {s}": (BlurredReduction(scale, s, s, 0.0),) for s in (0.6, 1.2, 1.8, 2.4)}
    return {
        "bicubic": (LowResolution(scale),),
        **blurs,
        "slanting blur 2.4 and 1.0": (BlurredReduction(scale, 2.4, 1.0, 30.0),),
        "blur 1.2, noise 6": (*blurs["blur 1.2"], noise),
        "blur 1.2, JPEG 75": (*blurs["blur 1.2"], jpeg),
        "blur 2.4, noise 6": (*blurs["blur 2.4"], noise),
        "blur 2.4, JPEG 75": (*blurs["blur 2.4"], jpeg),
    }


ReducedCase = tuple[str, str, Image, Image]
"""Condition, photo, the small picture of 8 bits, the large one."""


def reduced_cases(
    photos: Path, scale: int, only: Sequence[str] = (), limit: int | None = None
) -> Iterator[ReducedCase]:
    """Clean photos reduced in every way; raises ConservatorError for a condition that there is not."""
    known = conditions(scale)
    if wrong := set(only) - set(known):
        raise ConservatorError(f"no condition {', '.join(sorted(wrong))}; choose from {'; '.join(known)}")
    for name, recipe in known.items():
        if only and name not in only:
            continue
        for path in find_photos(photos)[:limit]:
            large = _cut(load_photo(path).image, scale)
            yield name, path.stem, in_8_bits(degrade(large, recipe)), large


def paired_cases(photos: Path, scale: int, prefix: str = "", limit: int | None = None) -> Iterator[ReducedCase]:
    """Pairs NAME_lr and NAME_gt of one size, as City100 has them: the first reduced, to be the second when enlarged."""
    sharp = [p for p in find_photos(photos) if p.stem.startswith(prefix) and p.stem.endswith("_gt")]
    for path in sharp[:limit]:
        small = path.with_name(path.name.replace("_gt", "_lr"))
        large, soft = (_cut(load_photo(x).image, 2 * scale) for x in (path, small))
        height, width = (side // scale for side in soft.shape[-2:])
        yield "pairs", path.stem.removesuffix("_gt"), in_8_bits(bicubic_to(soft, height, width)), large


def _cut(image: Image, multiple: int) -> Image:
    height, width = (side // multiple * multiple for side in image.shape[-2:])
    return image[..., :height, :width]


def bench_adapted(
    cases: Iterator[ReducedCase],
    tools: Toolbox,
    output: Path,
    manner: Manner,
    together: bool = False,
    report: Callable[[str], None] = print,
) -> list[AdaptedRow]:
    """Enlarge every case by bicubic and by tools of one scale; what ``output`` holds already is not done again.

    ``manner`` is that of tools that adapt themselves; with ``together`` each is adapted once to all photos of a
    condition, as to a collection.
    """
    path, scale = output / "results.csv", next(iter(tools.values())).spec.scale
    rows = _read(path)
    done = {(row.condition, row.scale, row.photo, row.tool, row.manner) for row in rows}
    metrics = [m for m in metrics_at_hand(METRICS[name] for name in _MEASURED) if isinstance(m, FullReference)]
    how = ", ".join(filter(None, ("together" if together else "", str(manner))))
    output.mkdir(parents=True, exist_ok=True)
    for condition, group in groupby(cases, lambda case: case[0]):
        found = list(group)
        for name in ("bicubic", *tools):
            said = how if isinstance(tools.get(name), AdaptedTool) else ""
            left = [case for case in found if (condition, scale, case[1], name, said) not in done]
            if not left:
                continue
            shared: dict[str, float] = {}
            start = time.perf_counter()
            with heard_by(shared.update):
                make = _maker(name, tools, manner, [small for _, _, small, _ in found] if together else [])
            share = (time.perf_counter() - start) / len(found) if together else 0.0
            for _, photo, small, large in left:
                numbers = dict(shared)
                start = time.perf_counter()
                with heard_by(numbers.update):
                    made = make(small)
                seconds = time.perf_counter() - start + share
                scores = {m.name: float(m.score(made, large)) for m in metrics}
                told = {m: scores.get(m, np.nan) for m in _MEASURED}
                iterations = int(numbers.get("iteration", 0))
                rows.append(AdaptedRow(condition, scale, photo, name, said, iterations, seconds, **told))
                report(
                    f"{condition}, x{scale}, {photo}, {name}: {told['psnr']:.2f} dB, {iterations} in {seconds:.1f} s"
                )
                _write(path, rows)
    return rows


def _maker(name: str, tools: Toolbox, manner: Manner, together: Sequence[Image]) -> Callable[[Image], Image]:
    """What enlarges by that name."""
    if name == "bicubic":
        scale = next(iter(tools.values())).spec.scale
        return lambda small: bicubic_to(small, *(scale * side for side in small.shape[-2:]))
    tool = tools[name]
    if isinstance(tool, AdaptedTool):
        tool = tool.in_manner(manner)
    tool.setup("cpu")
    return tool.fitted_to(together) if isinstance(tool, AdaptedTool) and together else tool


def _read(path: Path) -> list[AdaptedRow]:
    if not path.exists():
        return []
    kinds = {"scale": int, "iterations": int, "seconds": float, "psnr": float, "ssim": float, "st_lpips": float}
    with path.open(newline="") as file:
        return [AdaptedRow(**{k: kinds.get(k, str)(v) for k, v in row.items()}) for row in csv.DictReader(file)]


def _write(path: Path, rows: Sequence[AdaptedRow]) -> None:
    text = io.StringIO()
    writer = csv.DictWriter(text, [field.name for field in fields(AdaptedRow)], lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    write_text(path, text.getvalue())


def tools_summary(rows: Sequence[AdaptedRow], title: str) -> list[str]:
    """What each tool gains over bicubic, by condition; each in the manner that it was measured in last."""
    by = {(row.condition, row.photo, row.tool): row for row in rows}
    conditions = list(dict.fromkeys(row.condition for row in rows))
    names = [name for name in dict.fromkeys(row.tool for row in rows) if name != "bicubic"]
    body = []
    for name in names:
        cells = [name]
        for condition in conditions:
            photos = sorted(p for c, p, tool in by if (c, tool) == (condition, name))
            if not photos:
                cells.append("")
                continue
            gains = np.array([by[condition, p, name].psnr - by[condition, p, "bicubic"].psnr for p in photos])
            low, high = interval(gains)
            cells.append(f"{gains.mean():+.2f} [{low:+.2f}, {high:+.2f}], worst {gains.min():+.2f}")
        seconds = np.median([row.seconds for row in rows if row.tool == name])
        body.append((*cells, f"{seconds:.1f}"))
    bicubic = [np.mean([r.psnr for r in rows if (r.tool, r.condition) == ("bicubic", c)]) for c in conditions]
    first = ("bicubic, dB", *(f"{value:.2f}" for value in bicubic), "")
    return Grid(title, ("tool", *conditions, "seconds (median)"), (first, *body)).markdown()


def adapted_summary(rows: Sequence[AdaptedRow]) -> list[str]:
    """For each condition, what a tool gains by being adapted, photo by photo, and where that does harm."""
    lines: list[str] = []
    adapted = (row for row in rows if row.tool.endswith("_adapted"))
    for name, manner in dict.fromkeys((row.tool.removesuffix("_adapted"), row.manner) for row in adapted):
        found = dict.fromkeys(
            (row.condition, row.scale) for row in rows if (row.tool, row.manner) == (f"{name}_adapted", manner)
        )
        body = [_compared(rows, name, manner, condition, scale) for condition, scale in found]
        title = f"{name}, alone and adapted" + (f" ({manner})" if manner else "")
        lines += Grid(title, tuple(body[0]), tuple(tuple(x.values()) for x in body)).markdown()
    return lines


def _compared(rows: Sequence[AdaptedRow], name: str, manner: str, condition: str, scale: int) -> dict[str, str]:
    """A line of the table, by its headings."""
    of = [
        {r.photo: r for r in rows if (r.condition, r.scale, r.tool, r.manner) == (condition, scale, tool, how)}
        for tool, how in (("bicubic", ""), (name, ""), (f"{name}_adapted", manner))
    ]
    bicubic, before, after = ([by_photo[p] for p in sorted(of[2])] for by_photo in of)
    gains = {
        m: np.array([getattr(b, m) - getattr(a, m) for a, b in zip(before, after, strict=True)]) for m in _MEASURED
    }
    psnr = gains["psnr"]
    low, high = interval(psnr)
    line = {
        "reduction": condition,
        "photos": f"{len(psnr)}",
        "bicubic": f"{np.mean([r.psnr for r in bicubic]):.2f}",
        "alone": f"{np.mean([r.psnr for r in before]):.2f}",
        "adapted": f"{np.mean([r.psnr for r in after]):.2f}",
        "gain by photo [95 %]": f"{psnr.mean():+.2f} [{low:+.2f}, {high:+.2f}]",
        "worst photo": f"{psnr.min():+.2f}",
        f"lowered by {_LOWERED} dB": f"{int((psnr < -_LOWERED).sum())}",
        "SSIM": f"{gains['ssim'].mean():+.4f}",
        "ST-LPIPS": f"{gains['st_lpips'].mean():+.4f}",
        "iterations": f"{np.mean([r.iterations for r in after]):.0f}",
        "seconds (median)": f"{np.median([r.seconds for r in after]):.1f}",
    }
    return line if np.isfinite(gains["st_lpips"]).all() else {k: v for k, v in line.items() if k != "ST-LPIPS"}

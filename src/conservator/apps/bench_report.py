"""What a benchmark's results say: Markdown tables, and one self-contained HTML page with plots and examples."""

from __future__ import annotations

import re
from collections.abc import Iterable
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from conservator.apps.examples import Example, find_examples
from conservator.apps.plots import Point, curves, rows_of_dots, scatter
from conservator.commands import command_line
from conservator.errors import ConservatorError
from conservator.evaluation.rows import BenchmarkRow, BenchmarkSettings, read_rows, read_settings
from conservator.evaluation.strategies import is_derived
from conservator.evaluation.tables import Grid, combinations_of, gains_of, grids, interval, policies_of
from conservator.files import write_text
from conservator.kinds import OBJECTIVE_WEIGHTS
from conservator.metrics import known_metrics
from conservator.pages import jpeg_bytes, make_page, picture_uri, scrolled, sized
from conservator.request import TONAL_CONFIDENCE

_NO_EXAMPLES = "<p>None: give <code>--photos</code> to have them made again.</p>"


def write_summary(folder: Path) -> list[str]:
    """Write ``summary.md`` of a folder of results; its lines. Raises ConservatorError where there are no results."""
    rows, settings, beside = _results(folder)
    command = _command(settings, rows, beside, folder)
    lines = [f"# {settings.benchmark}", "", f"`{command}`", "", *_notes(settings, beside["versions"]), ""]
    for grid in grids(rows, known_metrics()):
        lines += grid.markdown()
    write_text(folder / "summary.md", "\n".join(lines))
    return lines


def save_bench_report(folder: Path, photos: Path | None = None) -> Path:
    """Write ``summary.md`` and ``report.html``, atomically; the page.

    The results hold no pictures: with the folder of photos the best, the median and the worst case of every policy
    are made again, or all where there is no reference. Raises ConservatorError where there are no results, or where
    the photos are others.
    """
    write_summary(folder)
    rows, settings, beside = _results(folder)
    examples = [] if photos is None else find_examples(rows, settings, photos)
    page = make_page(
        "bench",
        f"{settings.benchmark} on {settings.photos}",
        verdict=escape(_verdict(rows)),
        command=escape(_command(settings, rows, beside, folder)),
        plots="\n".join(["<h2>In plots</h2>", *plots] if (plots := _plots(rows)) else []),
        examples="\n".join(map(_example, examples)) or _NO_EXAMPLES,
        tables="\n".join(map(_table, grids(rows, known_metrics()))),
        notes="\n".join(f"<li>{_code(escape(note))}</li>" for note in _notes(settings, beside["versions"])),
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def _code(text: str) -> str:
    """Markdown's backticks as HTML."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", text)


def _results(folder: Path) -> tuple[list[BenchmarkRow], BenchmarkSettings, dict[str, Any]]:
    settings, beside = read_settings(folder)
    rows = read_rows(folder / "results.csv", BenchmarkRow)
    if not rows:
        raise ConservatorError(f"{folder} holds no results yet")
    return rows, settings, beside


def _command(settings: BenchmarkSettings, rows: list[BenchmarkRow], beside: dict[str, Any], folder: Path) -> str:
    """What makes these results again: the photos as they were named, and the folder as it is named now."""
    return command_line(
        *("bench", settings.benchmark),
        photos=beside["photos"],
        policies=",".join(policies_of(rows)),
        toolbox=settings.toolbox,
        perception=settings.perception,
        seed=settings.seed,
        output=folder,
        limit=settings.limit,
        rank=settings.rank is not None,
        objective=settings.rank,
        tonal_confidence=None if settings.tonal_confidence == TONAL_CONFIDENCE else settings.tonal_confidence,
    )


def _notes(settings: BenchmarkSettings, versions: dict[str, str]) -> list[str]:
    """What a reader must know to read the tables, as sentences."""
    made = ", ".join(f"{name} {version}" for name, version in versions.items())
    notes = [
        f"Seed {settings.seed}, perception: {settings.perception}, toolbox: {settings.toolbox}; {made}.",
        "Gains are PSNR (RGB) in dB over the untouched input, with the 95 % bootstrap interval of the mean over cases.",
        "An oracle knows the undamaged photo. `oracle` takes at every step what gains most PSNR on the study: "
        "something to compare with, not a result, and no bound, for a plan that looks ahead may gain more.",
    ]
    if settings.rank:
        notes.append(
            "Rank: the share of all toolchains (each damage that is present treated at most once, by one of its tools) "
            f"that a decision beats or equals on the study, by the objective {settings.rank}, made of z-scores of "
            f"{', '.join(_weighed(settings))}. `best` is the best of them by this objective."
        )
    return notes


def _verdict(rows: list[BenchmarkRow]) -> str:
    policies, clean = policies_of(rows), all(row.group == "clean" for row in rows)
    by_policy = {policy: {row.case: row for row in rows if row.policy == policy} for policy in policies}
    common = set.intersection(*(set(cases) for cases in by_policy.values()))
    missing = len({row.case for row in rows}) - len(common)
    text = f"{len(policies)} policies and strategies on {len(common)} {'clean' if clean else 'damaged'} photos"
    text += f" ({missing} that not all have finished left out)." if missing else "."
    if clean or not common:
        return text
    known = {p: _known(gains_of(cases[name] for name in sorted(common))) for p, cases in by_policy.items()}
    fair = {
        p: values for p, values in known.items() if p not in ("oracle", "best") and not is_derived(p) and len(values)
    }
    if fair:
        leader = max(fair, key=lambda policy: float(fair[policy].mean()))
        low, high = interval(fair[leader])
        mean = fair[leader].mean()
        text += f" Without a reference in hand {leader} gains most: {mean:+.2f} dB ({low:+.2f} to {high:+.2f})."
    return text


def _weighed(settings: BenchmarkSettings) -> list[str]:
    return [metric for metric in OBJECTIVE_WEIGHTS[settings.rank or ""] if metric in settings.metrics]


def _known(values: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.array(values[~np.isnan(values)])


def _plots(rows: list[BenchmarkRow]) -> list[str]:
    """Gain per combination, quality against seconds, distribution of ranks; each only where there is something."""
    policies = policies_of(rows)
    parts = {policy: [row for row in rows if row.policy == policy] for policy in policies}
    plots = []
    if not np.isnan(gains_of(rows)).all():
        names = combinations_of(rows)
        means = {
            policy: [_mean_gain(row for row in part if (row.group, row.combination) == name) for name in names]
            for policy, part in parts.items()
            if policy != "none"  # gains nothing by its nature
        }
        labels = [combination for _, combination in names]
        plots.append(rows_of_dots("Gain per combination", "mean gain, dB", labels, means, policies))
        axes = "seconds per photo", "mean gain, dB"
        points = {policy: _point(part) for policy, part in parts.items()}
        plots.append(scatter("Quality against seconds", axes, points, policies))
    ranks = {policy: [row.rank for row in part if not np.isnan(row.rank)] for policy, part in parts.items()}
    if ranks := {policy: values for policy, values in ranks.items() if values}:
        axes = "cases, from the worst decision to the best", "toolchains beaten or equalled"
        plots.append(curves("Rank among all toolchains", axes, ranks, policies))
    return plots


def _point(rows: list[BenchmarkRow]) -> Point:
    low, high = interval(_known(gains_of(rows)))
    return Point(float(np.mean([row.seconds for row in rows])), _mean_gain(rows), low, high)


def _mean_gain(rows: Iterable[BenchmarkRow]) -> float:
    values = _known(gains_of(rows))
    return float(values.mean()) if len(values) else float("nan")


def _table(grid: Grid) -> str:
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in grid.head)
    rows = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in grid.rows
    )
    table = scrolled(grid.title, f"<table><tr>{head}</tr>{rows}</table>", "figures")
    return f"<h3>{escape(grid.title)}</h3>{table}"


def _example(example: Example) -> str:
    """One case as a section of the page."""
    figures = "".join(
        f'<figure><img loading="lazy" src="{picture_uri(jpeg_bytes(sized(image, example.size)))}" alt="{escape(name)}">'
        f"<figcaption>{escape(name)}</figcaption></figure>"
        for name, image in example.pictures
    )
    hidden = f"<details><summary>Whose they are</summary>{escape(example.hidden)}</details>" if example.hidden else ""
    return (
        f'<section class="example"><h3>{escape(example.title)}</h3><p class="soft">{escape(example.told)}</p>'
        f'<div class="{"trio large" if example.to_judge else "trio"}">{figures}</div>{hidden}</section>'
    )

"""What a benchmark's results say: Markdown tables, and one self-contained HTML page with plots and examples."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from conservator.apps.examples import Example, find_examples
from conservator.apps.plots import Point, curves, rows_of_dots, scatter
from conservator.commands import command_line
from conservator.errors import ConservatorError
from conservator.evaluation.cases import BY_PART
from conservator.evaluation.grid import (
    Grid,
    combinations_of,
    finite_mean,
    gain_cell,
    gains_of,
    origins_of,
    policies_of,
)
from conservator.evaluation.harm import LOWERED, TOUCHED, is_clean
from conservator.evaluation.intervals import FEWEST, interval
from conservator.evaluation.rows import BenchmarkRow, BenchmarkSettings, read_rows, read_settings
from conservator.evaluation.strategies import is_derived
from conservator.evaluation.tables import grids
from conservator.evaluation.undamaged import FILM_GRAIN
from conservator.files import write_text
from conservator.kinds import OBJECTIVE_WEIGHTS
from conservator.metrics import known_metrics
from conservator.pages import jpeg_bytes, make_page, picture_uri, scrolled, sized
from conservator.request import Request

_NO_EXAMPLES = "<p>None: give <code>--photos</code> to have them made again.</p>"


def write_summary(folder: Path, against: str | None = None) -> list[str]:
    """Write ``summary.md`` of a folder of results; its lines. Raises ConservatorError where there are no results.

    ``against`` is the policy that the others are compared with, photo by photo (tables.py).
    """
    rows, settings, beside = _results(folder)
    command = benchmark_command(settings, policies_of(rows), beside["photos"], folder)
    lines = [f"# {settings.benchmark}", "", f"`{command}`", "", *_notes(settings, beside, is_clean(rows)), ""]
    for grid in grids(rows, known_metrics(), against):
        lines += grid.markdown()
    write_text(folder / "summary.md", "\n".join(lines))
    return lines


def save_bench_report(folder: Path, photos: Path | None = None, against: str | None = None) -> Path:
    """Write ``summary.md`` and ``report.html``, atomically; the page.

    The results hold no pictures: with the folder of photos the best, the median and the worst case of every policy
    are made again, or all where there is no reference. Raises ConservatorError where there are no results, or where
    the photos are others.
    """
    write_summary(folder, against)
    rows, settings, beside = _results(folder)
    examples = [] if photos is None else find_examples(rows, settings, photos)
    page = make_page(
        "bench",
        f"{settings.benchmark} on {settings.photos}",
        verdict=escape(_verdict(rows)),
        command=escape(benchmark_command(settings, policies_of(rows), beside["photos"], folder)),
        plots="\n".join(["<h2>In plots</h2>", *plots] if (plots := _plots(rows)) else []),
        examples="\n".join(map(html_example, examples)) or _NO_EXAMPLES,
        tables="\n".join(map(html_table, grids(rows, known_metrics(), against))),
        notes="\n".join(f"<li>{code_of(escape(note))}</li>" for note in _notes(settings, beside, is_clean(rows))),
    )
    path = folder / "report.html"
    write_text(path, page)
    return path


def code_of(text: str) -> str:
    """Markdown's backticks as HTML."""
    return re.sub("`([^`]+)`", r"<code>\1</code>", text)


def _results(folder: Path) -> tuple[list[BenchmarkRow], BenchmarkSettings, dict[str, Any]]:
    settings, beside = read_settings(folder)
    rows = read_rows(folder / "results.csv", BenchmarkRow)
    if not rows:
        raise ConservatorError(f"{folder} holds no results yet")
    return rows, settings, beside


def benchmark_command(settings: BenchmarkSettings, policies: Sequence[str], photos: str, output: Path) -> str:
    """The command that measures so: the photos as they are shown, and the folder as it is named now."""
    first = [photos] if settings.benchmark in BY_PART else []
    return command_line(
        *("bench", settings.benchmark, *first),
        photos=None if first else photos,
        part=settings.part,
        policies=",".join(policies),
        toolbox=settings.toolbox,
        perception=settings.perception,
        seed=settings.seed,
        output=output,
        limit=settings.limit,
        rank=settings.rank is not None,
        objective=settings.rank,
        risk=None if settings.risk == Request.risk else settings.risk,
        upscale=settings.upscale,
    )


def _notes(settings: BenchmarkSettings, beside: Mapping[str, Any], clean: bool) -> list[str]:
    """What a reader must know to read the tables, as sentences."""
    made = [f"{name} {version}" for name, version in beside["versions"].items()]
    made += [f"commit {commit}" for commit in beside.get("commits", [])]
    part = f"part {settings.part}, " if settings.part else ""
    held = f", held to a risk of {settings.risk:g}" if settings.risk < 1 else ", and are held to no risk (risk 1)"
    notes = [
        f"Seed {settings.seed}, {part}perception: {settings.perception}, toolbox: {settings.toolbox}; "
        f"{', '.join(made)}.",
        "In brackets: 95 % intervals by photo. Of means they are bootstraps that draw photos with all their cases; of "
        "shares they are exact (Clopper and Pearson) where each photo is one case, and else such bootstraps, which are "
        f"not shown of fewer than {FEWEST} photos. Parts of one photograph count as one photo.",
        f"Policies do what they may for a user{held}; enlarging is {'on' if settings.upscale else 'off'}. `oracle` and "
        "`best` know the undamaged photo and what is wrong with it. They, `generalist` and what rearranges a toolchain "
        "(`random_order:P`, `random_tools:P`) may use every tool, enlarging ones too: they are there to compare with. "
        "So are chance and the pre-defined order; none of these is held to a risk.",
    ]
    if clean:
        notes.append(
            f"PSNR between result and input: below {TOUCHED[0]:g} dB a photo was visibly touched, below {TOUCHED[1]:g} "
            f"dB it was changed much; one that was left alone counts as 100 dB. Sums leave out {FILM_GRAIN}, which an "
            "artist may have wanted."
        )
    else:
        notes.append(
            "Gains are PSNR (RGB) in dB over the untouched input; a photo is worse where it lost more than "
            f"{' or '.join(f'{limit} dB' for limit in LOWERED)}. `oracle` takes at every step what gains most PSNR on "
            "the study; it is no bound, for a plan that looks ahead may gain more."
        )
    if settings.rank:
        notes.append(
            "Rank: the share of all toolchains (each damage that is present treated at most once, by one of its tools) "
            f"that a decision beats or equals on the study, by the objective {settings.rank}, made of z-scores of "
            f"{', '.join(_weighed(settings))}. `best` is the best of them by this objective."
        )
    return notes


def _verdict(rows: list[BenchmarkRow]) -> str:
    policies, clean = policies_of(rows), is_clean(rows)
    cases_of = {policy: {row.case: row for row in rows if row.policy == policy} for policy in policies}
    common = set.intersection(*(set(cases) for cases in cases_of.values()))
    missing = len({row.case for row in rows}) - len(common)
    text = f"{len(policies)} policies and strategies on {len(common)} {'clean' if clean else 'damaged'} photos"
    text += f" ({missing} that not all have finished left out)." if missing else "."
    known = {p: [cases[name] for name in sorted(common)] for p, cases in cases_of.items() if not _knows(p)}
    if clean:
        told = [
            f"{p} {sum(row.score('psnr') < TOUCHED[0] for row in part)}" for p, part in known.items() if p != "none"
        ]
        return f"{text} Visibly touched: {', '.join(told)}." if told else text
    means = {policy: _mean_gain(part) for policy, part in known.items()}
    if fair := [policy for policy, mean in means.items() if not np.isnan(mean)]:
        leader = max(fair, key=lambda policy: means[policy])
        text += f" Without a reference in hand {leader} gains most: {gain_cell(known[leader])} dB."
    return text


def _knows(policy: str) -> bool:
    """Whether it knows the truth, or follows from another policy, so that it is no rival."""
    return policy in ("oracle", "best") or is_derived(policy)


def _weighed(settings: BenchmarkSettings) -> list[str]:
    return [metric for metric in OBJECTIVE_WEIGHTS[settings.rank or ""] if metric in settings.metrics]


def _plots(rows: list[BenchmarkRow]) -> list[str]:
    """Gain per combination, quality against seconds, distribution of ranks; each only where there is something."""
    policies = policies_of(rows)
    parts = {policy: [row for row in rows if row.policy == policy] for policy in policies}
    plots = []
    if not is_clean(rows) and not np.isnan(gains_of(rows)).all():
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
    known, mean = [row for row in rows if not np.isnan(row.gain)], _mean_gain(rows)
    few = len(set(origins_of(known))) < FEWEST
    low, high = (mean, mean) if few else interval(gains_of(known), origins=origins_of(known))
    return Point(float(np.mean([row.seconds for row in rows])), mean, low, high)


def _mean_gain(rows: Iterable[BenchmarkRow]) -> float:
    return finite_mean([row.gain for row in rows])


def html_table(grid: Grid) -> str:
    """A table as HTML, its title above it."""
    head = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in grid.head)
    rows = "".join(
        f'<tr><th scope="row">{escape(first)}</th>{"".join(f"<td>{escape(cell)}</td>" for cell in rest)}</tr>'
        for first, *rest in grid.rows
    )
    table = scrolled(grid.title, f"<table><tr>{head}</tr>{rows}</table>", "figures")
    return f"<h3>{escape(grid.title)}</h3>{table}"


def html_example(example: Example) -> str:
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

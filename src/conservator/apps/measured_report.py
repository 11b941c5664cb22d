"""What was measured of models that call tools: summary.md with its tables, and report.html with its plots."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from conservator.apps.bench_report import code_of, html_table
from conservator.apps.plots import Point, lines, rows_of_dots
from conservator.evaluation.grid import Grid
from conservator.files import write_text
from conservator.pages import make_page

if TYPE_CHECKING:
    from conservator.training.planner.exploration import Explored
    from conservator.training.run import Curve


def write_measured(
    folder: Path, title: str, command: str, notes: Sequence[str], grids: Sequence[Grid], plots: Sequence[str]
) -> list[str]:
    """Write ``summary.md`` and ``report.html``; the lines of the summary."""
    summary = [f"# {title}", "", f"`{command}`", "", *(f"- {note}" for note in notes), ""]
    for grid in grids:
        summary += grid.markdown()
    write_text(folder / "summary.md", "\n".join(summary))
    page = make_page(
        "measured",
        title,
        command=escape(command),
        notes="\n".join(f"<li>{code_of(escape(note))}</li>" for note in notes),
        plots="\n".join(plots),
        tables="\n".join(map(html_table, grids)),
    )
    write_text(folder / "report.html", page)
    return summary


def exploration_plots(found: Mapping[str, Explored], metric: str) -> list[str]:
    """How many rollouts are distinct, how often each tool is called, and what is lost without it."""
    from conservator.training.planner.exploration import VARIED, called_tools, lost, paired, values_of

    names, tools = list(found), called_tools(found)
    varied = {name: [float(values_of(one.drawn, v).mean()) for v in VARIED] for name, one in found.items()}
    plots = [rows_of_dots("Distinct rollouts of a crop", "distinct", VARIED, varied, names)]
    if not tools:
        return plots
    calls = {name: [100 * one.share_of_calls(tool) for tool in tools] for name, one in found.items()}
    plots.append(rows_of_dots("Tools that are called", "share of all calls, %", tools, calls, names))
    worth = {
        name: [float(lost(paired(one.decided, one.without.get(tool, ())), metric).mean()) for tool in tools]
        for name, one in found.items()
        if one.without is not None and all(tool in one.without for tool in tools)
    }
    return plots + (
        [rows_of_dots("What is lost without a tool", f"{metric} lost", tools, worth, names)] if worth else []
    )


def curve_plots(curves: Mapping[str, Curve], metrics: Sequence[str]) -> list[str]:
    """Every metric over the steps of training: of the rollouts, and on held-out crops where that was measured."""
    names, plots = list(curves), []
    for column, what in [(m, "of the rollouts") for m in metrics] + [(f"held_out_{m}", "held out") for m in metrics]:
        values = {
            name: [Point(row["step"], row[column], row[column], row[column]) for row in rows if _known(row, column)]
            for name, rows in curves.items()
        }
        if all(values.values()):
            metric = column.removeprefix("held_out_")
            plots.append(lines(f"{metric}, {what}", ("steps", f"{metric} gained"), values, names))
    return plots


def _known(row: Mapping[str, float], column: str) -> bool:
    value = row.get(column, float("nan"))
    return value == value

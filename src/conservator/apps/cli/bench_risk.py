"""``conservator bench risk``: whether the promise of risk control holds, and what it costs, for every risk at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import typer

from conservator.apps.cli.bench import PerhapsPart, bench_app
from conservator.apps.cli.options import with_options
from conservator.kinds import Objective


@dataclass(frozen=True)
class CurveOrder:
    """The options of ``conservator bench risk``."""

    output: Path
    """Folder of results; the same again resumes."""
    cases: Literal["mixture", "mio", "restoreagent", "real", "clean"] = "mixture"
    """The natural mixture with the real pairs of the part, or another benchmark's cases."""
    thresholds: str = "risk"
    """Risk thresholds: those that ship, or a file made by conservator calibrate."""
    policy: str = "greedy"
    """Who decides."""
    toolbox: str = "conservator"
    """Toolboxes, joined by +."""
    objective: Objective = "balanced"
    """What counts."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of damage, drawings and the policy."""
    limit: int | None = field(default=None, metadata={"min": 1})
    """Use the first photos only, of each set or stratum where there are several."""
    jobs: int = field(default=2, metadata={"min": 1})
    """Processes that restore photos, of one thread each."""
    why: str | None = None
    """Why a test part is opened, which is refused without a reason."""


@bench_app.command("risk")
@with_options(CurveOrder, "order", flags={"output": "--output -o", "why": "--open"})
def bench_risk(
    data: Annotated[
        Path, typer.Argument(help="Folder of photos; with --part, the one of train/research and val.", exists=True)
    ],
    part: PerhapsPart = None,
    *,
    order: CurveOrder,
) -> None:
    """The curve of gain and harm for risks 0.01, 0.02, 0.05, 0.1 and 1, from one restoration and what follows from it.

    Says for each risk whether the harm is what was promised. Writes results.csv, settings.json, summary.md and
    report.html; resumes.
    """
    import torch

    from conservator.admitting import admission_for
    from conservator.apps.cli.train_risk import tell_outcomes
    from conservator.apps.risk_report import risk_notes, write_risk_report
    from conservator.commands import command_line, shown_path
    from conservator.evaluation.outcomes import CurveSettings, curve_content, measure_outcomes
    from conservator.evaluation.parts import opened_part, opening
    from conservator.evaluation.risk_tables import at_risks
    from conservator.perception import load_perception
    from conservator.perception.risk_files import load_risk
    from conservator.request import Request

    torch.set_num_threads(1)
    control = load_risk(order.thresholds)
    request = Request(policy=order.policy, toolbox=order.toolbox, objective=order.objective)
    admission_for(request, load_perception(request.perception), control)  # raises for thresholds of other weights
    asked = {
        "cases": order.cases,
        "part": part,
        "thresholds": order.thresholds,
        "policy": order.policy,
        "toolbox": order.toolbox,
        "objective": order.objective,
        "seed": order.seed,
        "limit": order.limit,
        "output": order.output,
    }
    command = command_line("bench", "risk", shown_path(data), settings=asked)
    chosen = order.policy, order.toolbox, request.perception, "harm", (order.objective,), order.seed, order.limit
    settings = CurveSettings(order.cases, data.name, part, *chosen)
    files = list(dict.fromkeys(path for case in settings.cases(data) for path in case.files))
    if opened := opening(part or opened_part(files), order.why, command):
        typer.echo(f"Add this line to docs/results/openings.md:\n{opened}")
    content = curve_content(settings, files, data, order.output)
    outcomes = measure_outcomes(settings, data, order.output, order.jobs, tell_outcomes, content)
    curve = control.curves[order.objective]
    found = at_risks(outcomes, curve)
    notes = risk_notes(part, len(found[0].losses), order.thresholds, curve.photos)
    title = f"Risk control on {order.cases}, {part or data.name}"
    typer.echo("\n".join(write_risk_report(order.output, title, command, notes, outcomes, found)))

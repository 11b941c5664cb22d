"""``conservator bench risk``: whether the promise of risk control holds, and what it costs, for every risk at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from conservator.apps.cli.bench import PerhapsPart, bench_app
from conservator.apps.cli.options import with_options
from conservator.kinds import Objective

if TYPE_CHECKING:
    from conservator.evaluation.outcomes import CurveSettings
    from conservator.perception.risk import RiskControl

_TOLD = ("thresholds", "policy", "toolbox", "objective", "seed", "limit")


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

    def settings(self, data: Path, part: str | None) -> CurveSettings:
        """What the outcomes depend on, of the perception and the harm that ship."""
        from conservator.evaluation.outcomes import CurveSettings

        return CurveSettings(
            self.cases,
            data.name,
            part,
            self.policy,
            self.toolbox,
            objectives=(self.objective,),
            seed=self.seed,
            limit=self.limit,
        )

    def control(self) -> RiskControl:
        """The thresholds. Raises ConservatorError for those of other weights, or for another objective."""
        from conservator.admitting import admission_for
        from conservator.perception import load_perception
        from conservator.perception.risk_files import load_risk
        from conservator.request import Request

        control = load_risk(self.thresholds)
        request = Request(policy=self.policy, toolbox=self.toolbox, objective=self.objective)
        admission_for(request, load_perception(request.perception), control)
        return control


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

    from conservator.apps.cli.train_risk import tell_outcomes
    from conservator.apps.risk_report import risk_notes, worst_examples, write_risk_report
    from conservator.commands import command_line, shown_path
    from conservator.evaluation.outcomes import curve_content, measure_outcomes
    from conservator.evaluation.parts import opened_part, opening
    from conservator.evaluation.risk_tables import at_risks

    torch.set_num_threads(1)
    control, output = order.control(), order.output
    curve, settings = control.curves[order.objective], order.settings(data, part)
    asked = {"cases": order.cases, "part": part, **{name: getattr(order, name) for name in _TOLD}, "output": output}
    command = command_line("bench", "risk", shown_path(data), settings=asked)
    cases = settings.cases(data)
    files = list(dict.fromkeys(path for case in cases for path in case.files))
    if opened := opening(part or opened_part(files), order.why, command):
        typer.echo(f"Add this line to docs/results/openings.md:\n{opened}")
    content = curve_content(settings, files, data, output)
    outcomes = measure_outcomes(settings, data, output, order.jobs, tell_outcomes, content)
    found = at_risks(outcomes, curve)
    notes = risk_notes(part, len(found[0].losses), order.thresholds, curve.photos)
    title, worst = f"Risk control on {order.cases}, {part or data.name}", worst_examples(found, cases, order.toolbox)
    typer.echo("\n".join(write_risk_report(output, title, command, notes, outcomes, found, worst)))

"""``conservator train risk`` and ``conservator calibrate``: thresholds of risk control, ours and a user's own."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conservator.apps.cli.options import with_options
from conservator.apps.cli.train import Into, train_app
from conservator.training.risk.order import RiskOrder

if TYPE_CHECKING:
    from conservator.evaluation.descent import CaseOutcome
    from conservator.perception.risk import RiskControl

_FLAGS = {"output": "--output -o"}
_RISKS = (0.01, 0.02, 0.05, 0.1)  # that are told


@train_app.command("risk")
@with_options(RiskOrder, "order", flags=_FLAGS)
def train_risk(
    data: Annotated[Path, typer.Argument(help="The folder that holds train/research and val.", exists=True)],
    into: Into = None,
    *,
    order: RiskOrder,
) -> None:
    """Calibrate the thresholds of risk control on the calibration part; resumes."""
    from conservator.training.risk.calibrate import ship_risk

    path, control = ship_risk(order, data, into or order.output / "weights", tell_outcomes)
    typer.echo(f"{path}\n{thresholds_in_words(control)}")


@with_options(RiskOrder, "order", flags={"output": "--work"})
def calibrate(
    photos: Annotated[Path, typer.Option(help="Folder of undamaged photos, searched recursively.", exists=True)],
    file: Annotated[Path, typer.Option("--output", "-o", help="The file of thresholds, for --thresholds.")],
    *,
    order: RiskOrder,
) -> None:
    """Make thresholds of risk control from photos of your own, at least 100 undamaged ones; resumes.

    What is promised afterwards is about photos like these, of which half are undamaged, a quarter has one damage and a
    quarter two or three. Takes hours.
    """
    from conservator.errors import ConservatorError
    from conservator.perception.risk_files import SUFFIX
    from conservator.training.risk.calibrate import calibrate_photos

    if file.suffix != SUFFIX:
        raise ConservatorError(f"thresholds cannot be written to {file}; give a file that ends in {SUFFIX}")
    control = calibrate_photos(order, photos, file, tell_outcomes)
    typer.echo(f"{file}\n{thresholds_in_words(control)}")
    if "perceptual" not in control.curves:
        typer.echo("none for --objective perceptual, whose metric cannot be had: pip install 'conservator[stlpips]'")


def tell_outcomes(done: int, total: int, newest: Sequence[CaseOutcome]) -> None:
    """Print what became of the newest case."""
    if not newest:
        typer.echo(f"{done} of {total} cases are done")
        return
    from conservator.evaluation.calibration import gain

    seconds = sum(outcome.seconds for outcome in newest)
    most = newest[0]
    typer.echo(
        f"{done}/{total} {most.stratum} {most.photo}: {most.toolchain or 'untouched'} {gain(most):+.2f} dB at risk 1, "
        f"{len(newest)} outcomes ({seconds:.0f} s)"
    )


def thresholds_in_words(control: RiskControl) -> str:
    """What thresholds certify, a line for each objective."""
    lines = []
    for objective, curve in control.curves.items():
        certified = [f"{risk:g}: {curve.threshold(risk):.4f}" for risk in _RISKS if risk >= curve.least]
        lines.append(f"{objective}, {curve.photos} photos, largest doubt by risk: {', '.join(certified)}")
    return "\n".join(lines)

"""Calibrate risk thresholds: those that ship, from the calibration part, and a user's, from photos of their own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from conservator.commands import command_line, shown_path
from conservator.errors import ConservatorError
from conservator.evaluation.calibration import FEWEST_PHOTOS, curve_of, gain
from conservator.evaluation.descent import CaseOutcome, harm_metric
from conservator.evaluation.mixture import UNDAMAGED
from conservator.evaluation.outcomes import CurveSettings, curve_content, curve_identity, measure_outcomes
from conservator.evaluation.risk_tables import at_risks
from conservator.evaluation.rows import toolbox_hash
from conservator.kinds import OBJECTIVES, Objective
from conservator.metrics import make_metric, metrics_at_hand
from conservator.perception.features import ASKED
from conservator.perception.risk import RiskControl
from conservator.perception.risk_files import save_risk, stored_risk
from conservator.tools.catalog import make_toolbox
from conservator.training.risk.order import RiskOrder
from conservator.training.run import hashes_of_weights, ship_weights

PART = "calibration"
"""The part of the photos that sets thresholds (evaluation/parts.py)."""
_DATA = (
    "the calibration part (docs/data.md): one case of each of its undamaged photos by the natural mixture "
    "(conservator.evaluation.mixture), and its real pairs"
)

TellOutcomes = Callable[[int, int, Sequence[CaseOutcome]], None]
"""Is told how many of how many cases are done, and the outcomes of the newest."""


def ship_risk(order: RiskOrder, data: Path, into: Path, telling: TellOutcomes) -> tuple[Path, RiskControl]:
    """Calibrate on the calibration part of ``data``, the data's root, and put the thresholds into a folder of weights.

    Returns the file and what it holds. What was restored already, with the same photos, tools and weights, is kept in
    the order's folder and used again. Raises MissingExtraError where ST-LPIPS, which judges the objective
    ``perceptual``, cannot be had.
    """
    settings = _settings(order, data, PART, OBJECTIVES)
    made_with = made_with_of(order)
    outcomes = _measured(settings, order, data, telling)
    control = control_of(outcomes, settings, made_with, "risk")
    tensors, metadata = stored_risk(control)
    asked = {"policy": order.policy, "seed": order.seed}
    path = ship_weights(
        into,
        "risk",
        tensors,
        data=_DATA,
        recipe="conservator.evaluation.descent, conservator.evaluation.calibration",
        command=command_line("train", "risk", shown_path(data), settings=asked),
        scores=scores_of_risk(outcomes, control),
        made_with=made_with,
        metadata=metadata,
        seed=order.seed,
    )
    return path, control


def calibrate_photos(order: RiskOrder, photos: Path, output: Path, telling: TellOutcomes) -> RiskControl:
    """Calibrate on a user's own photos, undamaged ones, which the natural mixture damages; write the file ``output``.

    Where ST-LPIPS cannot be had there are none for the objective ``perceptual``. Raises ConservatorError for fewer
    photos than FEWEST_PHOTOS.
    """
    objectives = tuple(o for o in OBJECTIVES if metrics_at_hand([make_metric(harm_metric(o))]))
    settings = _settings(order, photos, None, objectives)
    if (count := len(settings.cases(photos))) < FEWEST_PHOTOS:
        raise ConservatorError(
            f"{photos} holds {count} photos, and thresholds are made of at least {FEWEST_PHOTOS}; give more photos, or "
            "use the thresholds that ship"
        )
    made_with = made_with_of(order)
    control = control_of(_measured(settings, order, photos, telling), settings, made_with, str(output))
    save_risk(control, output)
    return control


def _settings(order: RiskOrder, folder: Path, part: str | None, objectives: tuple[Objective, ...]) -> CurveSettings:
    asked = order.policy, order.toolbox, order.perception, order.harm, objectives, order.seed
    return CurveSettings("mixture", folder.name, part, *asked)


def _measured(settings: CurveSettings, order: RiskOrder, folder: Path, telling: TellOutcomes) -> list[CaseOutcome]:
    """What becomes of the photos, kept in a subfolder for these photos, tools, weights and settings alone."""
    files = list(dict.fromkeys(path for case in settings.cases(folder) for path in case.files))
    content = curve_content(settings, files, folder, order.output)
    own = order.output / f"risk-{curve_identity(settings, content).digest()}"
    return measure_outcomes(settings, folder, own, order.jobs, telling, content)


def made_with_of(order: RiskOrder) -> dict[str, str]:
    """Hashes of what thresholds are made with: experts, perception, what estimates the harm, the toolbox as a whole."""
    tools = make_toolbox(order.toolbox)
    given = [Path(name) if name.endswith(".safetensors") else name for name in (order.perception, order.harm)]
    return hashes_of_weights(*tools, *ASKED, *given) | {f"toolbox {order.toolbox}": toolbox_hash(tools)}


def control_of(
    outcomes: Sequence[CaseOutcome], settings: CurveSettings, made_with: Mapping[str, str], name: str
) -> RiskControl:
    """The thresholds that follow from outcomes of the natural mixture."""
    curves = {objective: curve_of(outcomes, objective) for objective in settings.objectives}
    return RiskControl(curves, settings.policy, settings.toolbox, made_with, name)


def scores_of_risk(outcomes: Sequence[CaseOutcome], control: RiskControl) -> dict[str, float]:
    """What the manifest says of thresholds: for ``balanced`` and each risk, threshold, gain and shares.

    Of the photos that calibrated them: the harm is what was asked for, by construction; the others show its price. At
    risk 1, where there is no risk control, the threshold is infinite.
    """
    curve = control.curves["balanced"]
    found = {"photos": float(curve.photos)}
    for one in at_risks([outcome for outcome in outcomes if outcome.objective == "balanced"], curve):
        damaged = [outcome for outcome in one.outcomes if outcome.stratum != UNDAMAGED]
        found |= {
            f"threshold_{one.risk:g}": one.threshold,
            f"harmed_{one.risk:g}": one.harmed,
            f"treated_of_damaged_{one.risk:g}": sum(outcome.treated for outcome in damaged) / max(1, len(damaged)),
            f"gain_of_damaged_{one.risk:g}_dB": sum(map(gain, damaged)) / max(1, len(damaged)),
        }
    return found

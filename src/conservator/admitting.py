"""What decisions are held to: the risk control that a request asks for, with the networks that it was made with."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from conservator.errors import ConservatorError
from conservator.files import sha256
from conservator.perception.harm import NetworkHarm
from conservator.perception.loading import Once
from conservator.perception.network import NetworkPerception
from conservator.perception.perception import STRANGE, Percept, Perception
from conservator.perception.risk import Admission, RiskControl
from conservator.perception.risk_files import load_risk
from conservator.request import Request
from conservator.tools.catalog import make_toolbox
from conservator.tools.tool import Toolbox
from conservator.weights import manifest

HARM_WEIGHTS = "harm"
"""The file of weights that estimates the chance of harm."""
_OTHERWISE = "give --risk 1 to go without, or make thresholds of your own with conservator calibrate"


class HeldTo:
    """What the decisions of a restorer are held to; its thresholds are read once, when they are first needed."""

    def __init__(self, request: Request, toolbox: Toolbox, given: Admission | None = None) -> None:
        """``given`` takes the place of what the request names."""
        self._request, self.given = request, given
        self._control = Once(lambda: load_risk(request.thresholds))
        self._note = Once(lambda: uncertified(request, toolbox, self._control()))

    @property
    def controlled(self) -> bool:
        """Whether the thresholds that the request names count; the policy none does nothing that could be harm."""
        return self.given is None and self._request.risk < 1 and self._request.policy != "none"

    def admission(self, perception: Perception) -> Admission:
        """Risk control by the request's thresholds; errors as in ``admission_for`` and ``load_risk``."""
        return admission_for(self._request, perception, self._control())

    @property
    def notes(self) -> tuple[str, ...]:
        """What every record must say of it, as sentences."""
        return tuple(filter(None, [self._note()])) if self.controlled else ()

    def notes_on(self, start: Percept) -> tuple[str, ...]:
        """What the record of one photo must say, of which ``start`` was seen as it came."""
        return (*self.notes, STRANGE) if start.strange else self.notes


def admission_for(request: Request, perception: Perception, control: RiskControl) -> Admission:
    """Risk control at the risk and the objective of a request, with ``perception``, which the request names.

    Raises ConservatorError where the thresholds were not made with that perception, or with another network for harm,
    and as ``RiskCurve.threshold`` does.
    """
    known = set(control.made_with.values())
    if not isinstance(perception, NetworkPerception) or _hash(request.perception) not in known:
        raise ConservatorError(
            f"the risk thresholds {control.name} were made with another perception than {request.perception}, so they "
            f"promise nothing for it; {_OTHERWISE}"
        )
    if _hash(HARM_WEIGHTS) not in known:
        raise ConservatorError(
            f"the risk thresholds {control.name} were made with other weights than those of {HARM_WEIGHTS} that are "
            f"here, so they promise nothing; {_OTHERWISE}"
        )
    harm = NetworkHarm.load(perception, HARM_WEIGHTS)
    harm.setup()
    return control.admission(harm, perception, request.objective, request.risk)


def _hash(weights: str) -> str:
    """The sha256 (hex) of a file of weights, by its name in the package or by its path; "" where there is none."""
    entries, path = manifest(), Path(weights)
    if path.suffix == ".safetensors" and path.is_file():
        return sha256(path)
    return str(entries[weights]["sha256"]) if weights in entries else ""


def uncertified(request: Request, toolbox: Toolbox, control: RiskControl) -> str:
    """That the promise of thresholds was not measured for what a request asks for, as a sentence; "" where it was.

    That is another policy, other tools than those of the toolbox with which the thresholds were made, a treatment that
    goes only part of the way, or fewer kinds of damage than are seen.
    """
    others = [] if request.policy == control.policy else [f"the policy {request.policy}"]
    if request.toolbox != control.toolbox and set(toolbox) != set(make_toolbox(control.toolbox)):
        others.append("this toolbox")
    if request.strength != 1:
        others.append(f"a strength of {request.strength:g}")
    if request.only is not None or request.never:
        others.append("a choice of damages")
    if not others:
        return ""
    return (
        f"the check for harm was calibrated with the policy {control.policy} and the toolbox {control.toolbox}; "
        f"what it promises was not measured for {_listed(others)}"
    )


def _listed(things: Sequence[str]) -> str:
    *most, last = things
    return f"{', '.join(most)} and {last}" if most else last

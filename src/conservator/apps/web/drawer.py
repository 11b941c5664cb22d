"""The drawer of settings: who decides, what counts, what may go wrong, where it is computed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import gradio as gr
import torch

from conservator.kinds import OBJECTIVES
from conservator.request import Request

_POLICIES = {
    "greedy": "greedy: the best first (the default)",
    "rules": "rules: an expert's order",
    "reflect": "reflect: tries, looks, takes back",
    "beam": "beam: compares plans, slower",
    "search": "search: compares more, slowest",
    "mllm": "mllm: a small language model",
}
_OBJECTIVES = {
    "fidelity": "as near to the original as can be",
    "balanced": "a balance of both (the default)",
    "perceptual": "a pleasing look",
}
_RISKS = {
    0.01: "1 photo in 100: thousands that nobody looks at",
    0.02: "2 in 100 (the default)",
    0.05: "5 in 100: somebody looks at the results",
    0.1: "10 in 100: somebody looks at each",
    1.0: "no check for harm",
}


class Drawer:
    """Four choices, each with a default that needs no reading."""

    def __init__(self, request: Request) -> None:
        """Lay it out; it begins with what ``request`` says."""
        self._request = request
        with gr.Accordion("Settings", open=False, elem_id="drawer"):
            gr.HTML("<p>Nothing here must be set. A change plans anew for the photo that is open.</p>")
            self.policy = gr.Dropdown(_choices(_POLICIES, request.policy), value=request.policy, label="Who decides")
            told = [(_OBJECTIVES[name], name) for name in OBJECTIVES]
            self.objective = gr.Radio(told, value=request.objective, label="What counts")
            self.risk = gr.Radio(
                _choices(_RISKS, request.risk),
                value=request.risk,
                label="Risk",
                info="At most this share of photos like the calibration photos comes out worse. Less risk does less.",
            )
            self.device = gr.Radio(_devices(request.device), value=request.device, label="Computed on")

    @property
    def components(self) -> list[Any]:
        """What ``request`` is given the values of."""
        return [self.policy, self.objective, self.risk, self.device]

    def request(self, values: Sequence[Any]) -> Request:
        """The request that the values say. Raises ConservatorError for what there is not."""
        policy, objective, risk, device = values
        return replace(self._request, policy=policy, objective=objective, risk=float(risk), device=device)


def _choices(known: dict[Any, str], given: Any) -> list[tuple[str, Any]]:
    """The known values in words; what was given at the start and is not among them comes first, as it is."""
    own = [] if given in known else [(str(given), given)]
    return [*own, *((words, value) for value, words in known.items())]


def _devices(given: str) -> list[tuple[str, str]]:
    found = {"cpu": "the processor"}
    if torch.cuda.is_available():
        found["cuda"] = "the graphics card"
    if torch.backends.mps.is_available():
        found["mps"] = "the graphics processor"
    return _choices(found, given)

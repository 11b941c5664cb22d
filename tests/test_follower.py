"""A follower is told what happens to a photo while it happens, and changes nothing by listening."""

from __future__ import annotations

from pathlib import Path

import torch
from conftest import BoxBlur, Gamma

from conservator import Request, Restorer
from conservator.perception import StatisticalPerception
from conservator.restoration import Follower, Plan, Treatment
from conservator.tools import Toolbox


class Notes(Follower):
    """Writes down what it is told."""

    def __init__(self) -> None:
        self.told: list[object] = []

    def __call__(self, stage: str) -> None:
        self.told.append(stage)

    def planned(self, plan: Plan) -> None:
        self.told.append(plan)

    def treated(self, treatment: Treatment) -> None:
        self.told.append(treatment)


def test_a_follower_is_told_the_plan_and_each_treatment_in_their_places(noisy_file: Path) -> None:
    toolbox, perception = Toolbox(Gamma(), BoxBlur()), StatisticalPerception.load()
    with Restorer(Request("rules", risk=1), toolbox=toolbox, perception=perception) as restorer:
        photo, notes = restorer.load(noisy_file), Notes()
        restored, unheard = restorer.restore(photo, notes), restorer.restore(photo)
        assert torch.equal(restored.photo.image, unheard.photo.image)
        plan = next(what for what in notes.told if isinstance(what, Plan))
        treatments = [what for what in notes.told if isinstance(what, Treatment)]
        assert plan.toolchain == ("box_blur",)
        assert treatments == list(restored.treatments)
        assert notes.told == ["loading", "examining", "deciding", plan, "box_blur", treatments[0]]
        applied = Notes()
        restorer.apply(photo, ["gamma", "box_blur"], applied)
        kinds = [what if isinstance(what, str) else type(what).__name__ for what in applied.told]
        assert kinds == ["examining", "deciding", "Plan", "gamma", "Treatment", "box_blur", "Treatment"]
        assert [what.tool for what in applied.told if isinstance(what, Treatment)] == ["gamma", "box_blur"]

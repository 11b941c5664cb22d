"""What a plan has that does not hold on the whole photo is left out, and what is still to do is planned again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from conservator import (
    Apply,
    Decision,
    Photo,
    Request,
    Restorer,
    Rollback,
    Session,
    Stop,
    Tool,
    Toolbox,
    load_photo,
    save_photo,
)
from conservator.batch import FileRestorer, Job, Task
from conservator.degradations import degrade, parse_recipe
from conservator.errors import InvalidActionError, ToolFailedError
from conservator.image import Image, in_8_bits, to_image
from conservator.metrics.fidelity import psnr
from conservator.perception import StatisticalPerception, study
from conservator.policies.fixed import FixedOrder
from conservator.pool import LocalPool
from conservator.record import load_record
from conservator.session import run
from conservator.session.trajectory import made_by
from conservator.tools import make_toolbox

CLEAN = to_image(data.coffee())
NOISY = in_8_bits(degrade(CLEAN, parse_recipe("noise:high", 3)))
PERCEPTION = StatisticalPerception.load()
CLASSICAL = make_toolbox("classical")


def fails(image: Image) -> Image:
    raise ToolFailedError("it is too large")


def spoils(image: Image) -> Image:
    return (image + 0.3 * torch.randn(image.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)


def does_nothing(image: Image) -> Image:
    return image


class OnSmall(Tool):
    """The best denoiser there is on the small pictures of a study, and something else on a whole photo."""

    spec = replace(CLASSICAL["nlm_denoise"].spec, name="on_small", tile=None)

    def __init__(self, on_large: Callable[[Image], Image]) -> None:
        self._on_large = on_large

    def restore(self, image: Image) -> Image:
        if image.shape[-1] > 400:
            return self._on_large(image)
        return CLASSICAL["nlm_denoise"](image)


def toolbox(on_large: Callable[[Image], Image]) -> Toolbox:
    return Toolbox(OnSmall(on_large), CLASSICAL["tv_denoise"], CLASSICAL["median_derain"])


@pytest.mark.parametrize(
    ("policy", "on_large", "words"),
    [
        ("greedy", fails, "too large"),
        ("greedy", does_nothing, "changed nothing"),
        ("greedy", spoils, "did harm"),
        ("search", spoils, "did harm"),
        ("beam", does_nothing, "changed nothing"),
        ("rules", fails, "too large"),
        ("reflect", spoils, "did harm"),
        ("predefined", fails, "too large"),
    ],
)
def test_another_tool_is_chosen_for_what_did_not_hold(
    policy: str, on_large: Callable[[Image], Image], words: str
) -> None:
    if policy == "predefined":  # a plan that is made once; it goes on with what is left of it
        chosen, request = FixedOrder("on_small", "tv_denoise"), Request(risk=1)
    else:
        chosen, request = None, Request(policy, risk=1)
    with Restorer(request, toolbox=toolbox(on_large), perception=PERCEPTION, policy=chosen) as restorer:
        restored = restorer.restore(Photo(NOISY))
    first, *others = restored.treatments
    assert (first.tool, first.kept) == ("on_small", False)
    assert words in first.told
    assert "tv_denoise" in [t.tool for t in others if t.kept]
    assert "on_small" not in restored.toolchain
    assert psnr(restored.photo.image, CLEAN) > psnr(NOISY, CLEAN) + 2


def test_the_record_tells_of_both_plans_and_replays(tmp_path: Path) -> None:
    save_photo(Photo(NOISY), tmp_path / "noisy.png")
    task = Task(tmp_path / "noisy.png", tmp_path / "out.png")
    with Restorer(Request(risk=1), toolbox=toolbox(does_nothing), perception=PERCEPTION) as restorer:
        outcome = FileRestorer(restorer, report=True)(Job(task), lambda stage: None)
        again = restorer.replay(load_photo(task.source), load_record(task.record).toolchain)
    record = load_record(task.record)
    assert outcome.status == "restored"
    assert torch.equal(load_photo(task.target).image, in_8_bits(again.image))
    taken_back = [step for step in record.steps if step.action == "rollback"]
    assert [step.reason for step in taken_back] == ["on_small changed nothing on the whole photo"]
    assert record.steps[record.steps[-1].parent or 0].id > taken_back[0].id
    assert "on_small" not in record.toolchain


def test_a_plan_that_begins_otherwise_starts_from_the_photo_as_it_came() -> None:
    class Second:
        """Smooths before it sharpens, but had it known that sharpening fails it would only have deblocked."""

        name = "second"

        def act(self, observation):  # type: ignore[no-untyped-def]
            steps = observation.trajectory.steps
            chain = observation.trajectory.toolchain()
            if not any(isinstance(s.decision.action, Rollback) for s in steps[1:]):
                return Decision(([*map(Apply, ("tv_denoise", "on_small")), Stop()])[len(chain)])
            if chain == ("tv_denoise",):
                return Decision(Rollback(0))
            return Decision(Stop() if chain else Apply("median_derain"))

    with Restorer(Request(risk=1), toolbox=toolbox(fails), perception=PERCEPTION, policy=Second()) as restorer:
        restored = restorer.restore(Photo(NOISY))
        alone = restorer.apply(Photo(NOISY), ["median_derain"])
    assert restored.toolchain == ("median_derain",)
    assert torch.equal(restored.photo.image, alone.photo.image)
    assert [(t.tool, t.kept) for t in restored.treatments] == [
        ("tv_denoise", False),
        ("on_small", False),
        ("median_derain", True),
    ]
    assert "another toolchain" in restored.treatments[0].note


def test_with_no_step_left_the_rest_of_the_plan_is_carried_out() -> None:
    request = Request(max_steps=3, risk=1)
    policy = FixedOrder("on_small", "tv_denoise")
    with Restorer(request, toolbox=toolbox(fails), perception=PERCEPTION, policy=policy) as restorer:
        assert restorer.restore(Photo(NOISY)).toolchain == ("tv_denoise",)


def test_a_policy_that_knows_one_tool_ends_where_that_did_not_hold() -> None:
    class OneTool:
        name = "one_tool"

        def act(self, observation):  # type: ignore[no-untyped-def]
            return Decision(Stop() if observation.trajectory.toolchain() else Apply("on_small"))

    with Restorer(Request(risk=1), toolbox=toolbox(fails), perception=PERCEPTION, policy=OneTool()) as restorer:
        restored = restorer.restore(Photo(NOISY))
    assert restored.untouched
    assert not restored.gave_up
    assert [made_by(step) for step in restored.trajectory.steps[1:]] == ["on_small", "", "", ""]
    assert "asked for again" in restored.trajectory.last.decision.thought


def test_what_was_asked_for_by_name_is_not_replaced() -> None:
    with Restorer(Request(risk=1), toolbox=toolbox(fails), perception=PERCEPTION) as restorer:
        restored = restorer.apply(Photo(NOISY), ["on_small", "median_derain"])
    assert [(t.tool, t.kept) for t in restored.treatments] == [("on_small", False), ("median_derain", True)]
    assert [t.tool for t in restored.failed] == ["on_small"]


def test_a_session_says_what_cannot_be_withdrawn() -> None:
    tools = toolbox(does_nothing)
    with LocalPool(tools, max_batch=1) as pool:
        session = Session(study(NOISY), tools, pool, PERCEPTION, max_steps=3)
        run(FixedOrder("median_derain", "tv_denoise"), session)
        with pytest.raises(InvalidActionError, match="no tool 2 in a toolchain of 2"):
            session.withdraw(2, "")
        with pytest.raises(InvalidActionError, match="no step is left"):
            session.withdraw(0, "")
        longer = Session(study(NOISY), tools, pool, PERCEPTION)
        run(FixedOrder("median_derain", "tv_denoise"), longer)
        longer.withdraw(1, "it did not hold")
        assert not longer.over
        assert longer.trajectory.toolchain() == ("median_derain",)
        assert np.array_equal(longer.trajectory.last.image, longer.trajectory.steps[1].image)
        assert "tv_denoise" not in {spec.name for spec in longer.observe().tools}

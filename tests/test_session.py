"""The trajectory tree and the one loop."""

from __future__ import annotations

import pytest
import torch

from conservator.degradations import Kind
from conservator.errors import InvalidActionError
from conservator.image import Image
from conservator.perception import Look, Percept
from conservator.perception.perception import Gain
from conservator.policies import FixedOrder, NoPolicy, RandomPolicy, check_policy
from conservator.pool import LocalPool, Pool
from conservator.session import Apply, Decision, Rollback, Scope, Session, Stop, run
from conservator.tools import Toolbox, make_toolbox


class Brightness:
    """The plainest eye: quality is the mean."""

    def grade(self, image: Image) -> Percept:
        return Percept(quality=float(image.mean()))

    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        return Gain.sure(after.percept.quality - before.percept.quality)


@pytest.fixture
def pool(small_toolbox: Toolbox):  # type: ignore[no-untyped-def]
    with LocalPool(small_toolbox) as pool:
        yield pool


def start(image: Image, toolbox: Toolbox, pool: Pool, max_steps: int = 8, **more: Scope) -> Session:
    return Session(image[..., :64, :64], toolbox, pool, Brightness(), max_steps, **more)


def test_rollback_keeps_history(astronaut: Image, small_toolbox: Toolbox, pool: Pool) -> None:
    session = start(astronaut, small_toolbox, pool)
    for action in (Apply("gamma"), Apply("box_blur"), Rollback(1), Apply("gamma"), Rollback(0)):
        session.step(Decision(action))
    trajectory = session.trajectory
    assert [step.parent for step in trajectory.steps] == [None, 0, 1, 1, 3, 0]
    assert trajectory.toolchain() == ()
    assert trajectory.toolchain(trajectory.steps[4]) == ("gamma", "gamma")
    assert torch.equal(trajectory.last.image, astronaut[..., :64, :64])
    session.step(Decision(Stop()))
    assert session.stopped
    assert not session.exhausted
    with pytest.raises(InvalidActionError, match="over"):
        session.step(Decision(Stop()))


def test_what_goes_wrong_is_data(astronaut: Image, small_toolbox: Toolbox, pool: Pool) -> None:
    session = start(astronaut, small_toolbox, pool)
    errors = [
        session.step(Decision(action, thought=thought)).error or ""
        for action, thought in (
            (Apply("gama"), ""),
            (Rollback(7), ""),
            (Apply("broken"), ""),
            (None, "the reply was no JSON"),
        )
    ]
    assert "did you mean gamma" in errors[0]
    assert "no step 7" in errors[1]
    assert errors[2:] == ["no streaks could be found", "the reply was no JSON"]
    assert session.trajectory.toolchain() == ()
    assert torch.equal(session.trajectory.last.image, astronaut[..., :64, :64])


def test_the_budget_truncates(astronaut: Image, small_toolbox: Toolbox, pool: Pool) -> None:
    session = start(astronaut, small_toolbox, pool, max_steps=3)
    trajectory = run(FixedOrder(*["gamma"] * 9), session)
    assert len(trajectory.steps) == 4
    assert session.exhausted
    assert not session.stopped
    assert trajectory.steps[1].decision is not None
    assert trajectory.steps[1].decision.plan == ("gamma",) * 8


@pytest.mark.parametrize("policy", [NoPolicy(), FixedOrder("gamma", "box_blur"), RandomPolicy(5)])
def test_policies_hold_the_contract(policy, astronaut: Image, small_toolbox: Toolbox, pool: Pool) -> None:  # type: ignore[no-untyped-def]
    check_policy(policy, start(astronaut, small_toolbox, pool))


def test_check_policy_finds_hidden_memory(astronaut: Image, small_toolbox: Toolbox, pool: Pool) -> None:
    class Forgetful:
        name = "forgetful"

        def __init__(self) -> None:
            self.asked = 0

        def act(self, observation: object) -> Decision:
            self.asked += 1
            return Decision(Apply("gamma") if self.asked < 3 else Stop())

    with pytest.raises(AssertionError, match="only memory is the trajectory"):
        check_policy(Forgetful(), start(astronaut, small_toolbox, pool))


def test_trajectories_compare_and_print_without_pixels(astronaut: Image, small_toolbox: Toolbox, pool: Pool) -> None:
    one, two = (run(FixedOrder("gamma"), start(astronaut, small_toolbox, pool)) for _ in range(2))
    assert one == two
    assert "tensor" not in repr(one)


def test_a_photo_is_enlarged_once(coffee: Image) -> None:
    toolbox = make_toolbox("conservator").only("upscale_x2", "denoise_light")
    with LocalPool(toolbox) as pool:
        session = start(coffee, toolbox, pool, scope=Scope(upscale=True))
        session.step(Decision(Apply("upscale_x2")))
        assert session.trajectory.last.image.shape[-2:] == (128, 128)
        refused = session.step(Decision(Apply("upscale_x2")))
        assert refused.error is not None
        assert "was enlarged before" in refused.error
        assert refused.image.shape[-2:] == (128, 128)
        session.step(Decision(Rollback(0)))
        assert session.step(Decision(Apply("upscale_x2"))).error is None

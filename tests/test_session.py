"""The trajectory tree and the one loop."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import Future

import numpy as np
import pytest
import torch
from torch import Tensor

from conservator.degradations import Kind
from conservator.errors import ConservatorError, InvalidActionError, PoolError, ToolFailedError
from conservator.image import Image
from conservator.perception import Look, Percept, Perception
from conservator.perception.perception import Gain
from conservator.policies import FixedOrder, NoPolicy, RandomPolicy, check_policy
from conservator.pool import LocalPool, Pool
from conservator.session import (
    Apply,
    Decision,
    Observation,
    Rollback,
    Scope,
    Session,
    Stop,
    TogetherPolicy,
    Trajectory,
    decide_together,
    run,
    run_together,
    step_together,
)
from conservator.tools import Tool, Toolbox, ToolSpec, make_toolbox


class Brightness(Perception):
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


def test_a_fork_goes_its_own_way(astronaut: Image, small_toolbox: Toolbox, pool: Pool) -> None:
    session = start(astronaut, small_toolbox, pool)
    session.step(Decision(Apply("gamma")))
    fork = session.fork()
    fork.step(Decision(Apply("box_blur")))
    assert (session.trajectory.toolchain(), fork.trajectory.toolchain()) == (("gamma",), ("gamma", "box_blur"))
    session.step(Decision(Stop()))
    assert (session.over, fork.over) == (True, False)


# --- many sessions together -------------------------------------------------------------------------------------------


class Together(RandomPolicy):
    """Chance that decides on many at once, and notes on how many."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.asked: list[int] = []

    def act_together(self, observations: Sequence[Observation]) -> list[Decision]:
        self.asked.append(len(observations))
        return [super(Together, self).act(observation) for observation in observations]

    def act(self, observation: Observation) -> Decision:
        raise AssertionError("asked one by one")


class Lighter(Tool):
    """Adds light; cannot treat what is bright already; notes how many images it was given at once."""

    spec = ToolSpec("lighter", frozenset({Kind.LOW_LIGHT}), "Adds light.", "textbook", "Apache-2.0")

    def __init__(self, amount: float = 0.1) -> None:
        self.amount = amount
        self.batches: list[int] = []

    def restore(self, image: Image) -> Image:
        self.batches.append(len(image))
        if float(image.amax()) > 0.9:
            raise ToolFailedError("one of them is bright already")
        return image + self.amount


class LossyPool(Pool):
    """A pool whose workers die of what is darker than a threshold, until that is lowered."""

    def __init__(self, pool: Pool, threshold: float) -> None:
        self.pool, self.threshold = pool, threshold

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        if min(float(image.mean()) for image in tensors[0]) >= self.threshold:
            return self.pool.submit(name, *tensors)
        lost: Future[Tensor] = Future()
        lost.set_exception(PoolError("the worker died"))
        return lost

    def close(self) -> None:
        self.pool.close()


def assert_same(one: Trajectory, two: Trajectory) -> None:
    assert one == two
    assert all(torch.equal(a.image, b.image) for a, b in zip(one.steps, two.steps, strict=True))


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("kind", [RandomPolicy, Together])
def test_running_together_is_running_one_by_one(
    kind: type[RandomPolicy], seed: int, astronaut: Image, small_toolbox: Toolbox, pool: Pool
) -> None:
    rng = np.random.default_rng(seed)

    def draw() -> tuple[Image, Toolbox, int]:
        top, side, batch = int(rng.integers(400)), int(rng.choice([16, 20])), int(rng.choice([1, 1, 3]))
        image = astronaut[..., top : top + side, 100 : 100 + side]
        boxes = (small_toolbox, small_toolbox.only("box_blur", "gamma"))
        return torch.cat([image] * batch), boxes[int(rng.integers(2))], int(rng.integers(1, 5))

    drawn = [draw() for _ in range(int(rng.integers(1, 9)))]
    alone, together = ([Session(i, box, pool, Brightness(), n) for i, box, n in drawn] for _ in range(2))
    policy = kind(seed)
    for session, found in zip(alone, run_together(policy, together), strict=True):
        assert_same(found, run(RandomPolicy(seed), session))
    if isinstance(policy, Together):
        assert policy.asked[0] == len(drawn)
        assert policy.asked == sorted(policy.asked, reverse=True)  # those at their end drop out
        assert len(policy.asked) <= 4
    assert run_together(policy, together) == [session.trajectory for session in together]  # all are over: nothing to do
    assert run_together(policy, []) == []


def test_calls_of_one_tool_on_one_shape_run_as_one_batch(astronaut: Image) -> None:
    tool = Lighter()
    dark = astronaut[..., :24, :24] / 3
    with LocalPool({"lighter": _Shared(tool)}, max_batch=1) as pool:
        box = Toolbox(tool)
        sessions = [Session(dark[..., :side, :side], box, pool, Brightness()) for side in (24, 8, 24, 24)]
        run_together(FixedOrder("lighter"), sessions)
        assert sorted(tool.batches) == [1, 3]
        tool.batches.clear()
        run_together(FixedOrder("lighter"), [Session(dark, box, pool, Brightness()) for _ in range(70)])
        assert sorted(tool.batches) == [6, 64]


class _Shared:
    """A model that is one object for all workers, so that what a tool notes can be read."""

    def __init__(self, tool: Tool) -> None:
        self.tool = tool

    def setup(self, device: str) -> None:
        pass

    def __call__(self, *tensors: Tensor) -> Tensor:
        return self.tool(*tensors)


def test_an_error_in_a_batch_is_of_one_session(astronaut: Image) -> None:
    box, dark = Toolbox(Lighter()), astronaut[..., :16, :16] / 3
    bright = torch.full_like(dark, 0.95)
    with LocalPool(box) as pool:
        sessions = [Session(image, box, pool, Brightness()) for image in (dark, bright, dark / 2)]
        steps = step_together(sessions, [Decision(Apply(tool)) for tool in ("lighter", "lighter", "lightre")])
        assert [step.error is None for step in steps] == [True, False, False]
        assert torch.equal(steps[0].image, dark + 0.1)
        assert "bright already" in str(steps[1].error)
        assert "did you mean lighter" in str(steps[2].error)


def test_pools_are_not_mixed(astronaut: Image) -> None:
    image = astronaut[..., :16, :16] / 3
    little, much = Toolbox(Lighter(0.1)), Toolbox(Lighter(0.3))
    with LocalPool(little) as one, LocalPool(much) as two:
        sessions = [Session(image, box, pool, Brightness()) for box, pool in ((little, one), (much, two))]
        found = run_together(FixedOrder("lighter"), sessions)
    assert torch.equal(found[0].last.image, image + 0.1)
    assert torch.equal(found[1].last.image, image + 0.3)


def test_a_failure_of_the_pool_is_no_step(astronaut: Image, small_toolbox: Toolbox, pool: Pool) -> None:
    lossy = LossyPool(pool, 0.2)
    light, dark = astronaut[..., :16, :16], astronaut[..., :16, :16] / 10

    def sessions(where: Pool) -> list[Session]:
        return [Session(image, small_toolbox, where, Brightness()) for image in (light, dark, light / 1.2)]

    begun = sessions(lossy)
    with pytest.raises(PoolError, match="worker died"):
        begun[1].step(Decision(Apply("gamma")))
    assert len(begun[1].trajectory.steps) == 1
    with pytest.raises(PoolError, match="worker died"):
        step_together(begun, [Decision(Apply("gamma"))] * 3)
    assert [len(session.trajectory.steps) for session in begun] == [2, 1, 2]

    policy, begun = FixedOrder("gamma", "box_blur"), sessions(lossy)
    with pytest.raises(PoolError, match="worker died"):
        run_together(policy, begun)
    assert [session.over for session in begun] == [True, False, True]
    lossy.threshold = 0.0
    for found, session in zip(run_together(policy, begun), sessions(pool), strict=True):
        assert_same(found, run(policy, session))


def test_what_cannot_run_together_is_refused(astronaut: Image, small_toolbox: Toolbox, pool: Pool) -> None:
    class Lazy(RandomPolicy):
        def act_together(self, observations: Sequence[Observation]) -> list[Decision]:
            return []

    one, over = (start(astronaut, small_toolbox, pool) for _ in range(2))
    assert isinstance(Together(0), TogetherPolicy)
    assert not isinstance(RandomPolicy(0), TogetherPolicy)
    with pytest.raises(InvalidActionError, match="0 decisions on 1 observations"):
        decide_together(Lazy(0), [one.observe()])
    with pytest.raises(InvalidActionError, match="given twice"):
        run_together(RandomPolicy(0), [one, over, one])
    over.step(Decision(Stop()))
    with pytest.raises(InvalidActionError, match="is over"):
        step_together([one, over], [Decision(Apply("gamma"))] * 2)
    assert len(one.trajectory.steps) == 1


@pytest.mark.parametrize("action", [Rollback(-1), Rollback(99), Rollback(float("nan")), "gamma", Apply, Stop])
def test_what_is_no_action_is_told_to_the_policy(
    action: object, astronaut: Image, small_toolbox: Toolbox, pool: Pool
) -> None:
    session = start(astronaut, small_toolbox, pool)
    step = session.step(Decision(action))  # type: ignore[arg-type]
    assert step.error is not None
    assert session.step(Decision(Stop())).error is None


def test_what_is_no_decision_is_the_policys_mistake(astronaut: Image, small_toolbox: Toolbox, pool: Pool) -> None:
    with pytest.raises(ConservatorError, match="gave None, expected a Decision"):
        start(astronaut, small_toolbox, pool).step(None)  # type: ignore[arg-type]

"""What rollouts are paid: the laws of rewards hold, lagging metrics gain weight, one metric is paid for by nobody."""

from __future__ import annotations

import math
from concurrent.futures import Future

import numpy as np
import pytest
import torch
from conftest import BoxBlur, Gamma
from hypothesis import given
from hypothesis import strategies as st
from test_environment import Noticing
from torch import Tensor

from conservator.degradations import degrade, parse_recipe
from conservator.errors import ConservatorError, NameNotFoundError, PoolError
from conservator.image import Image
from conservator.metrics.fidelity import psnr, ssim
from conservator.pool import LocalPool, MemoPool, host
from conservator.session import Apply, Decision, Rollback, Session, Step, Stop, Trajectory
from conservator.tools import Toolbox
from conservator.training.rl.check import check_reward
from conservator.training.rl.rewards import (
    call_cost,
    consistency_reward,
    joined,
    metric_change,
    metric_models,
    step_harm,
)
from conservator.training.rl.rollouts import RolloutReward
from conservator.training.rl.weighting import AdaptiveWeights, StaticWeights, WeightingName, make_weighting

METRICS = ("psnr", "ssim", "quality")
NAMES: tuple[WeightingName, ...] = ("static", "adaptive", "gdpo")
STEPS = st.lists(st.tuples(st.floats(-9, 9), st.floats(-0.5, 0.5)), min_size=2, max_size=8)


def groups(rows: list[tuple[float, float]]) -> list[dict[str, float]]:
    return [{"psnr": a, "ssim": b} for a, b in rows]


@pytest.mark.parametrize("name", NAMES)
def test_the_laws_of_rewards_hold_under_every_weighting(name: WeightingName, coffee: Image) -> None:
    clean = coffee[..., :64, :64]
    reward = joined(*map(metric_change, METRICS), step_harm, consistency_reward(Toolbox(BoxBlur())), call_cost)
    weights = {**dict.fromkeys(METRICS, 1.0), "harm": 0.5, "consistency": 1.0, "cost": 0.02}
    weighting = make_weighting(name, weights, METRICS)
    rng = np.random.default_rng(0)
    for _ in range(25):  # not only as it begins
        weighting.update([dict(zip(METRICS, rng.normal(1, 3, 3).tolist(), strict=True)) for _ in range(8)])
    check_reward(reward, clean, Noticing(), weighting)


def test_a_change_is_positive_where_the_metric_became_better(photo: Image, small_toolbox: Toolbox) -> None:
    clean = photo[..., :96, :96]
    noisy = degrade(clean, parse_recipe("noise:medium", 1))
    with LocalPool(small_toolbox) as pool:
        session = Session(noisy, small_toolbox, pool, Noticing())
        before, after = session.trajectory.last, session.step(Decision(Apply("box_blur")))
    gained = ssim(after.image, clean) - ssim(noisy, clean)
    assert metric_change("ssim")(before, after, clean) == {"ssim": pytest.approx(gained)}
    with pytest.raises(ConservatorError, match="prefer some noise"):
        metric_change("piqe")
    with pytest.raises(NameNotFoundError):
        metric_change("ssmi")


def test_what_takes_texture_for_noise_is_inconsistent(coffee: Image) -> None:
    clean = coffee[..., 60:220, 100:260]
    noisy = degrade(clean, parse_recipe("noise:high", 1))
    reward = consistency_reward(Toolbox(BoxBlur(), Gamma()))
    blurred = torch.nn.functional.avg_pool2d(clean, 9, 1, 4)

    def paid(before: Image, after: Image, tool: str) -> float:
        steps = trajectory(before, after, tool).steps
        return reward(steps[0], steps[1], None)["consistency"]

    assert paid(noisy, clean, "box_blur") == 0  # all that went was noise
    assert -0.5 <= paid(clean, blurred, "box_blur") < -0.1
    assert paid(clean, blurred, "gamma") == paid(clean, blurred, "unknown") == 0


def trajectory(before: Image, after: Image, tool: str) -> Trajectory:
    first = Step(0, None, None, before, Noticing().grade(before))
    return Trajectory((first, Step(1, 0, Decision(Apply(tool)), after, Noticing().grade(after))))


def test_a_rollout_is_paid_for_its_result_and_for_every_call(photo: Image, small_toolbox: Toolbox) -> None:
    clean = photo[..., :96, :96]
    noisy = degrade(clean, parse_recipe("noise:high", 1))
    reward = RolloutReward(METRICS, "ssim", small_toolbox)
    with LocalPool(small_toolbox) as pool:
        session = Session(noisy, small_toolbox, pool, Noticing())
        for action in (Apply("gamma"), Rollback(0), Apply("broken"), Apply("box_blur"), Stop()):
            session.step(Decision(action))
    components = reward(session.trajectory, clean)
    assert components is not None
    result = session.trajectory.last.image
    assert components["psnr"] == pytest.approx(psnr(result, clean) - psnr(noisy, clean))
    assert components["ssim"] == pytest.approx(ssim(result, clean) - ssim(noisy, clean))
    assert (components["cost"], components["harm"]) == (-3.0, 0.0)
    assert reward.paid == ("psnr", "quality")
    weighting = reward.weighting("static")
    assert weighting([components]) == weighting([{**components, "ssim": -100.0}])
    assert weighting([components])[0] > weighting([{**components, "cost": -4.0}])[0]
    harmed = reward(trajectory(noisy, noisy / 2, "gamma"), clean)
    assert harmed is not None
    assert harmed["harm"] == harmed["psnr"] < 0
    with pytest.raises(ConservatorError, match="left out"):
        RolloutReward(METRICS, "lpips", small_toolbox)


def test_what_cannot_be_measured_is_no_reward(photo: Image, small_toolbox: Toolbox) -> None:
    tiny = photo[..., :8, :8]  # smaller than the window of SSIM
    reward = RolloutReward(("psnr", "ssim"), "ssim", small_toolbox)
    assert reward(trajectory(tiny, tiny / 2, "gamma"), tiny) is None


def test_what_lags_gains_weight_within_bounds_and_in_time() -> None:
    weighting = AdaptiveWeights({"psnr": 1.0, "ssim": 1.0}, ["psnr", "ssim"], every=10)
    rng = np.random.default_rng(0)

    def play(step: int) -> None:
        rises = step / 10  # the mean of psnr rises by a deviation in 10 steps, that of ssim stays
        weighting.update([{"psnr": rises + x, "ssim": 0.01 * y} for x, y in rng.standard_normal((16, 2))])

    for step in range(9):
        play(step)
    assert weighting.weight("psnr") == weighting.weight("ssim") == 1.0
    for step in range(9, 60):
        play(step)
    assert weighting.trend("psnr") > 0.5 > abs(weighting.trend("ssim"))
    assert 0.5 <= weighting.weight("psnr") < 0.9
    assert 1.1 < weighting.weight("ssim") <= 2.0
    resumed = AdaptiveWeights({"psnr": 1.0, "ssim": 1.0}, ["psnr", "ssim"], every=10)
    resumed.load_state_dict(weighting.state_dict())
    for one in (weighting, resumed):
        one.update(groups([(3.0, 0.1), (1.0, 0.2)]))
    assert resumed(groups([(2.0, 0.1)])) == weighting(groups([(2.0, 0.1)]))
    assert resumed.state_dict() == weighting.state_dict()


@given(STEPS, st.sampled_from(NAMES), st.floats(0.1, 100))
def test_the_unit_of_a_metric_does_not_matter(
    rows: list[tuple[float, float]], name: WeightingName, unit: float
) -> None:
    if name != "gdpo" and np.ptp([a for a, _ in rows]) * min(1, unit) < 1e-2:
        return  # what does not vary is not divided by anything
    if name == "gdpo" and np.std([a for a, _ in rows]) * min(1, unit) < 1:
        return  # GRPO's 1e-4 beside the deviation counts
    paid = []
    for factor in (1.0, unit):
        steps = groups([(factor * a, b) for a, b in rows])
        weighting = make_weighting(name, {"psnr": 1.0, "ssim": 1.0}, ["psnr", "ssim"])
        for _ in range(12):
            weighting.update(steps)
        paid.append(weighting(steps))
    assert paid[0] == pytest.approx(paid[1], rel=1e-3, abs=1e-3)


@given(STEPS)
def test_static_and_adaptive_begin_alike_and_pay_nothing_for_nothing(rows: list[tuple[float, float]]) -> None:
    for name in ("static", "adaptive"):
        weighting = make_weighting(name, {"psnr": 1.0, "ssim": 1.0}, ["psnr", "ssim"])  # type: ignore[arg-type]
        weighting.update(groups(rows))
        assert weighting(groups([(0.0, 0.0)])) == [0.0]
        deviations = [float(np.std([row[i] for row in rows])) for i in range(2)]
        scales = [d if d > 1e-5 else 1.0 for d in deviations]
        if all(d > 1e-5 or d == 0 for d in deviations):
            assert weighting(groups([(1.0, 1.0)]))[0] == pytest.approx(1 / scales[0] + 1 / scales[1], rel=1e-2)


@given(STEPS)
def test_in_a_group_no_metric_drowns_another(rows: list[tuple[float, float]]) -> None:
    weighting = make_weighting("gdpo", {"psnr": 1.0, "ssim": 1.0}, ["psnr", "ssim"])
    paid = weighting(groups(rows))
    assert sum(paid) == pytest.approx(0, abs=1e-5)
    shifted = weighting(groups([(a + 5, b) for a, b in rows]))
    assert paid == pytest.approx(shifted, abs=1e-4)
    alone = [
        weighting([{"psnr": a, "ssim": 0.0} for a, _ in rows]),
        weighting([{"psnr": 0.0, "ssim": b} for _, b in rows]),
    ]
    assert paid == pytest.approx([x + y for x, y in zip(*alone, strict=True)])


def test_in_a_group_only_differences_count() -> None:
    weighting = make_weighting("gdpo", {"psnr": 1.0, "cost": 0.5}, ["psnr"])
    assert weighting([{"psnr": 3.0, "cost": -4.0}]) == weighting([{"psnr": 9.0, "cost": -9.0}]) == [0.0]
    assert weighting([{"psnr": 3.0, "cost": -4.0}, {"psnr": 3.0, "cost": -2.0}]) == [-0.5, 0.5]
    assert weighting([]) == []


def test_a_weighting_of_no_name() -> None:
    with pytest.raises(NameNotFoundError, match="adaptive"):
        make_weighting("adaptve", {}, [])  # type: ignore[arg-type]
    assert not math.isnan(StaticWeights({"psnr": 1.0}, ["psnr"])([{"psnr": 2.0}])[0])


class Closing(LocalPool):
    """A pool whose metrics are out of reach."""

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        if name.startswith("metric:"):
            raise PoolError("the worker died")
        return super().submit(name, *tensors)


def test_metrics_in_a_pool_say_the_same_and_its_failure_pays_nothing(photo: Image, small_toolbox: Toolbox) -> None:
    clean = photo[..., :96, :96]
    models = host(small_toolbox, metric=metric_models(METRICS))
    assert [name for name in models if name not in small_toolbox] == ["metric:ssim"]
    with MemoPool(LocalPool(models)) as pool, Closing(models) as closing:
        sessions = [
            Session(degrade(clean, parse_recipe("noise:medium", i)), small_toolbox, pool, Noticing()) for i in (1, 2)
        ]
        for session in sessions:
            session.step(Decision(Apply("box_blur")))
        played = [session.trajectory for session in sessions]
        here = RolloutReward(METRICS, "ssim", small_toolbox).of_all(played, clean)
        assert RolloutReward(METRICS, "ssim", small_toolbox, pool).of_all(played, clean) == here
        assert None not in here
        assert here[0] != here[1]
        assert RolloutReward(METRICS, "ssim", small_toolbox, closing).of_all(played, clean) == [None, None]

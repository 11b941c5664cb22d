"""Rewards keep their contract, each law of it is checked, and weightings make one number of them."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage import data
from test_environment import Noticing
from test_rl_restore import PHOTOS, TOOLS

from conservator.degradations.patches import UNDAMAGED_PSNR, single
from conservator.errors import ConservatorError, NameNotFoundError
from conservator.image import Image, to_image
from conservator.metrics.fidelity import psnr, psnr_of_each
from conservator.perception import Percept
from conservator.pool import LocalPool
from conservator.session import Apply, Step, Stop
from conservator.training.data.patches import PatchSource
from conservator.training.rl.check import check_reward
from conservator.training.rl.env import VectorRestorationEnv
from conservator.training.rl.episode import EpisodeRules
from conservator.training.rl.rewards import Reward, call_cost, joined, step_error, step_psnr, step_quality
from conservator.training.rl.weighting import FixedWeights, RunningScale


@pytest.fixture
def rules() -> Iterator[EpisodeRules]:
    with LocalPool(TOOLS, workers=1, max_batch=1, queue_size=256) as pool:
        yield EpisodeRules(PatchSource(PHOTOS, single("noise", 3)), TOOLS, pool)


@pytest.mark.parametrize("reward", [step_psnr, step_error, step_quality, joined(step_psnr, step_quality, call_cost)])
def test_rewards_keep_the_contract(reward: Reward, coffee: Image) -> None:
    check_reward(reward, coffee[..., :128, :128], Noticing())


def psnr_of(image: Image, reference: Image | None) -> float:
    return float(psnr_of_each(image, torch.zeros_like(image) if reference is None else reference, UNDAMAGED_PSNR))


def paid_more(before: Step, after: Step, clean: Image | None, why: object) -> dict[str, float]:
    return {**step_psnr(before, after, clean), "more": 0.1 if why else 0.0}


def mse(image: Image, clean: Image | None) -> float:
    return float((image - clean).square().mean())


CALLS = itertools.count()
WRONG: list[tuple[str, Reward]] = [
    ("must be paid more", lambda before, after, clean: {"nothing": 0.0}),
    ("must be paid more", lambda before, after, clean: {k: -v for k, v in step_psnr(before, after, clean).items()}),
    ("0 lies between", lambda before, after, clean: {"psnr": step_psnr(before, after, clean)["psnr"] - 40}),
    ("changed nothing and was paid psnr", lambda before, after, clean: {"psnr": psnr_of(after.image, clean) - 20}),
    (
        "a stop changed nothing",
        lambda before, after, clean: paid_more(before, after, clean, isinstance(_action(after), Stop)),
    ),
    ("a tool that failed changed nothing", lambda before, after, clean: paid_more(before, after, clean, after.error)),
    (
        "that did nothing changed nothing",
        lambda before, after, clean: paid_more(
            before, after, clean, not after.error and isinstance(_action(after), Apply)
        ),
    ),
    ("is inf", lambda before, after, clean: {"psnr": psnr(after.image, clean) - psnr(before.image, clean)}),
    ("two calls", lambda before, after, clean: {"psnr": step_psnr(before, after, clean)["psnr"] + 1e-6 * next(CALLS)}),
    ("for another", lambda before, after, clean: {f"psnr{after.image.mean():.4f}": 1.0}),
    ("expected a float", lambda before, after, clean: {"psnr": torch.tensor(1.0)}),
    ("expected components", lambda before, after, clean: step_psnr(before, after, clean)["psnr"]),
    ("no component", lambda before, after, clean: {}),
    ("in place", lambda before, after, clean: {"psnr": step_psnr(before, after, clean)["psnr"] + 0 * dim(after.image)}),
    ("work without one", lambda before, after, clean: {"error": mse(before.image, clean) - mse(after.image, clean)}),
    (
        "say that it needs one",
        lambda before, after, clean: (
            step_quality(before, after, clean) if clean is None else step_psnr(before, after, clean)
        ),
    ),
    (
        ", without a reference,",
        lambda before, after, clean: {"psnr": 0.0} if clean is None else step_psnr(before, after, clean),
    ),
]
"""Each breaks one law of rewards, and what the check says of it."""


def _action(step: Step) -> object:
    return step.decision.action if step.decision else None


def dim(image: Image) -> float:
    image.mul_(0.999)
    return 0.0


@pytest.mark.parametrize(("said", "reward"), WRONG)
def test_each_law_of_rewards_is_checked(said: str, reward: Reward, coffee: Image) -> None:
    with pytest.raises(AssertionError, match=said):
        check_reward(reward, coffee[..., :64, :64])


def test_step_psnr_is_the_gain_in_db(coffee: Image) -> None:
    clean = coffee[..., :64, :64] / 2
    before, after = (Step(i, None, None, clean + error, Percept()) for i, error in enumerate((0.2, 0.1)))
    assert step_psnr(before, after, clean) == {"psnr": pytest.approx(6.02, abs=0.01)}
    assert step_error(before, after, clean) == {"error": pytest.approx(25.5, abs=0.01)}
    with pytest.raises(ConservatorError, match="two of the joined rewards pay for psnr"):
        joined(step_psnr, step_psnr)(before, after, clean)


def test_weights_count_components() -> None:
    steps = [{"psnr": 2.0, "cost": -1.0}, {"psnr": 0.0, "cost": 0.0}]
    assert FixedWeights()(steps) == [1.0, 0.0]
    assert FixedWeights({"psnr": 0.5, "cost": 2.0})(steps) == [-1.0, 0.0]
    with pytest.raises(NameNotFoundError, match="did you mean psnr"):
        FixedWeights({"psnrs": 1.0, "cost": 0.0, "psn": 0.0})(steps)


def test_a_running_scale_makes_components_comparable_and_resumes() -> None:
    rng = np.random.default_rng(0)
    sizes = {"psnr": 5.0, "ssim": 0.02}
    weighting = RunningScale(decay=0.99)
    for _ in range(500):
        weighting.update([{name: size * float(rng.standard_normal()) for name, size in sizes.items()}])
    for name, size in sizes.items():
        assert weighting.scale(name) == pytest.approx(size, rel=0.15)
    paid = weighting([{"psnr": 5.0, "ssim": 0.0}, {"psnr": 0.0, "ssim": 0.02}, {"psnr": 0.0, "ssim": 0.0}])
    assert paid == pytest.approx([1, 1, 0], rel=0.15)
    rare = RunningScale()
    rare.update([{"consistency": 0.0}] * 99 + [{"consistency": -0.2}])
    assert rare([{"consistency": -0.2}]) == pytest.approx([-1])
    resumed = RunningScale(decay=0.99)
    assert resumed([{"psnr": 5.0}]) == [5.0]
    resumed.load_state_dict(weighting.state_dict())
    for one in (weighting, resumed):
        one.update([{"psnr": 3.0, "ssim": 0.1}])
    assert resumed([{"psnr": 5.0, "ssim": 0.02}]) == weighting([{"psnr": 5.0, "ssim": 0.02}])
    check_reward(joined(step_psnr, step_error), to_image(data.coffee()[:64, :64]), weighting=RunningScale())
    with pytest.raises(ConservatorError, match="expected more than 0"):
        RunningScale(decay=0)


def test_a_weighting_learns_from_what_is_played_not_from_what_is_foreseen(rules: EpisodeRules) -> None:
    weighting = RunningScale()
    env = VectorRestorationEnv(replace(rules, weighting=weighting), 2)
    env.reset(seed=0)
    untaught = env.foresee().rewards
    assert weighting.scale("psnr") == 1.0
    rewards = env.step(np.array([0, 2]))[1]
    gained = float(untaught[0, 0])
    assert weighting.scale("psnr") == pytest.approx(abs(gained), rel=1e-4)  # to stop gained nothing
    assert rewards[0] == pytest.approx(gained / weighting.scale("psnr"), rel=1e-4)

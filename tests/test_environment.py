"""The Gymnasium environments keep Gymnasium's promises, whatever the perception, the size and the reward."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace

import numpy as np
import pytest
import torch
from skimage import data
from test_rl_restore import PHOTOS, TOOLS
from torch import Tensor

from conservator.degradations import Kind
from conservator.degradations.patches import single
from conservator.errors import ConservatorError, InvalidActionError, PoolError
from conservator.image import Image, to_image
from conservator.perception import Look, Percept
from conservator.perception.perception import Blind, Gain
from conservator.pool import LocalPool
from conservator.session import ANYTHING, Apply, Decision, Scope, Session, step_together
from conservator.tools import Toolbox
from conservator.training.data.patches import PatchSource
from conservator.training.rl.env import RestorationEnv, VectorRestorationEnv
from conservator.training.rl.episode import EpisodeRules
from conservator.training.rl.rewards import call_cost, joined, step_psnr, step_quality
from conservator.training.rl.weighting import FixedWeights


@pytest.fixture
def rules() -> Iterator[EpisodeRules]:
    with LocalPool(TOOLS, workers=1, max_batch=1, queue_size=256) as pool:
        yield EpisodeRules(PatchSource(PHOTOS, single("noise", 3)), TOOLS, pool)


def test_the_environment_is_gymnasiums(rules: EpisodeRules) -> None:
    from gymnasium.utils.env_checker import check_env

    check_env(RestorationEnv(rules), skip_render_check=True)  # there is nothing to render


def test_stopping_terminates_running_out_truncates_and_harm_ends(rules: EpisodeRules) -> None:
    env = RestorationEnv(rules)
    first, info = env.reset(seed=1)
    _, reward, terminated, truncated, _ = env.step(np.int64(2))
    assert (reward, terminated, truncated) == (0.0, True, False)
    with pytest.raises(InvalidActionError, match="is over"):
        env.step(np.int64(0))
    again, _ = env.reset(seed=1)
    assert np.array_equal(first["image"], again["image"])
    rewards = []
    for step in range(3):
        seen, reward, terminated, truncated, after = env.step(np.int64(0))
        rewards.append(reward)
        assert (terminated, truncated, int(seen["previous"])) == (False, step == 2, 1)
    assert sum(rewards) == pytest.approx(after["psnr"] - info["psnr"], abs=1e-4)
    with pytest.raises(InvalidActionError, match="call reset"):
        env.step(np.int64(0))
    env.reset(seed=1)
    _, reward, terminated, truncated, _ = env.step(np.int64(1))
    assert reward < 0
    assert (terminated, truncated) == (True, False)
    with pytest.raises(InvalidActionError, match="is over; call reset"):
        env.step(np.int64(0))  # although its session, which knows no harm, could go on
    patient = RestorationEnv(replace(rules, harm_ends=False))
    patient.reset(seed=1)
    assert patient.step(np.int64(1))[2:4] == (False, False)
    with pytest.raises(InvalidActionError, match="expected 0 to 2"):
        patient.step(np.int64(7))


def test_many_sessions_together_are_the_same_as_each_alone(rules: EpisodeRules) -> None:
    together, count = VectorRestorationEnv(rules, 4), 4
    alone = [RestorationEnv(rules) for _ in range(count)]
    seen, _ = together.reset(seed=5)
    assert together.observation_space.contains(seen)
    for i, env in enumerate(alone):
        env.reset(seed=5 + i)
    rng, ends = np.random.default_rng(0), 0
    for _ in range(8):
        actions = rng.integers(3, size=count)
        seen, rewards, terminated, truncated, info = together.step(actions)
        for i, env in enumerate(alone):
            one, reward, ended, out, _ = env.step(actions[i])
            assert (reward, ended, out) == (rewards[i], terminated[i], truncated[i])
            if ended or out:
                ends += 1
                assert np.array_equal(info["final_obs"][i]["image"], one["image"])
                one, _ = env.reset()
            assert np.array_equal(one["image"], seen["image"][i])
    assert ends > 4


def test_a_failure_in_a_batch_is_the_sessions_own(small_toolbox: Toolbox) -> None:
    with LocalPool(small_toolbox, workers=1) as pool:
        sessions = [Session(torch.rand(1, 3, 20, 20), small_toolbox, pool, Blind()) for _ in range(3)]
        steps = step_together(sessions, [Decision(Apply(t)) for t in ("broken", "gamma", "broken")])
    assert [step.error for step in steps] == ["no streaks could be found", None, "no streaks could be found"]


class Noticing:
    """Sees how much fine contrast there is, and takes it for noise: quality falls with it."""

    def grade(self, image: Image) -> Percept:
        fine = (image[..., 1:] - image[..., :-1]).square().mean() + (
            image[..., 1:, :] - image[..., :-1, :]
        ).square().mean()
        return Percept(quality=float(-10 * (fine + 1e-6).log10()))

    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        return Gain.sure(after.percept.quality - before.percept.quality)


def test_the_environment_takes_any_perception_size_and_reward_without_a_reference(rules: EpisodeRules) -> None:
    from gymnasium.utils.env_checker import check_env

    def unreferenced(rng: np.random.Generator) -> tuple[Image, None]:
        top = int(rng.integers(100))
        clean = to_image(data.coffee()[top : top + 40, 100:156])
        return (clean + 0.15 * torch.from_numpy(rng.standard_normal(clean.shape)).float()).clamp(0, 1), None

    other = replace(
        rules,
        source=unreferenced,
        perception=Noticing(),
        reward=joined(step_quality, call_cost),
        weighting=FixedWeights({"quality": 1.0, "cost": 0.5}),
        longest=5,
        harm_ends=False,
        size=(40, 56),
    )
    check_env(RestorationEnv(other), skip_render_check=True)
    env = RestorationEnv(other)
    observed, info = env.reset(seed=0)
    assert observed["image"].shape == (3, 40, 56)
    assert info.keys() == {"tools", "action_mask"}
    before = env.session.observe().percept.quality
    for step in range(5):
        _, reward, terminated, truncated, info = env.step(np.int64(0))
        now = env.session.observe().percept.quality
        assert reward == pytest.approx(now - before - 0.5)
        assert info["components"] == {"quality": now - before, "cost": -1.0}
        assert (terminated, truncated) == (False, step == 4)
        before = now
    with pytest.raises(ConservatorError, match="set harm_ends=False"):
        RestorationEnv(replace(other, harm_ends=True)).reset()
    with pytest.raises(ConservatorError, match=r"the source gave \(1, 3, 40, 56\), the rules say \(1, 3, 63, 63\)"):
        RestorationEnv(replace(other, size=(63, 63))).reset()
    needy = RestorationEnv(replace(other, reward=step_psnr))
    needy.reset(seed=0)
    with pytest.raises(ConservatorError, match="step_psnr needs a reference"):
        needy.step(np.int64(0))
    with pytest.raises(ConservatorError, match="keep their size"):
        replace(other, scope=ANYTHING)


def test_tools_that_are_not_offered_are_masked(rules: EpisodeRules) -> None:
    env = RestorationEnv(replace(rules, scope=Scope(never=frozenset({Kind.LOW_LIGHT}))))
    _, info = env.reset(seed=0)
    assert info["action_mask"].tolist() == [1, 0, 1]
    assert {int(env.action_space.sample(info["action_mask"])) for _ in range(50)} == {0, 2}
    before = env.session.trajectory.last.image
    _, reward, *_ = env.step(np.int64(1))
    assert reward == 0
    assert env.session.trajectory.last.image is before


def test_many_sessions_are_gymnasiums_own_vector_environment(rules: EpisodeRules) -> None:
    from gymnasium.utils.env_checker import data_equivalence
    from gymnasium.vector import AutoresetMode, SyncVectorEnv

    ours = VectorRestorationEnv(rules, 3)
    theirs = SyncVectorEnv([lambda: RestorationEnv(rules)] * 3, autoreset_mode=AutoresetMode.SAME_STEP)
    assert ours.observation_space == theirs.observation_space
    assert ours.action_space == theirs.action_space
    assert data_equivalence(ours.reset(seed=7), theirs.reset(seed=7))
    rng, ends = np.random.default_rng(1), 0
    for _ in range(9):
        actions = rng.integers(3, size=3)
        one, two = ours.step(actions), theirs.step(actions)
        assert data_equivalence(one, two)
        ends += int((one[2] | one[3]).sum())
    assert ends > 4
    assert data_equivalence(ours.reset(seed=[4, None, 5]), theirs.reset(seed=[4, None, 5]))
    with pytest.raises(ValueError, match=r"argument \d is (shorter|longer)"):
        ours.reset(seed=[1, 2])


class LosingPool(LocalPool):
    """A pool that cannot run a call while its flag is up."""

    down = False

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        if self.down:
            raise PoolError("the worker died")
        return super().submit(name, *tensors)


def test_a_failure_of_the_pool_is_never_a_reward(rules: EpisodeRules) -> None:
    from gymnasium.utils.env_checker import data_equivalence

    with LosingPool(TOOLS, workers=1, max_batch=1) as pool:
        env, alike = VectorRestorationEnv(replace(rules, pool=pool), 2), VectorRestorationEnv(rules, 2)
        env.reset(seed=2)
        alike.reset(seed=2)
        pool.down = True
        for attempt in (lambda: env.step(np.array([0, 2])), env.foresee):
            with pytest.raises(PoolError):
                attempt()
        pool.down = False
        assert data_equivalence(env.step(np.array([0, 2])), alike.step(np.array([0, 2])))


def test_a_failing_tool_is_a_step_that_changed_nothing(rules: EpisodeRules, small_toolbox: Toolbox) -> None:
    with LocalPool(small_toolbox, workers=1, max_batch=1) as pool:
        env = VectorRestorationEnv(replace(rules, toolbox=small_toolbox, pool=pool), 2)
        observed, _ = env.reset(seed=0)
        foreseen, broken = env.foresee(), list(small_toolbox).index("broken")
        assert foreseen.rewards[:, broken].tolist() == [0, 0]
        assert np.array_equal(foreseen.images[:, broken].numpy(), observed["image"])
        assert not foreseen.ends[:, broken].any()
        after, rewards, *_ = env.step(np.array([broken, broken]))
    assert rewards.tolist() == [0, 0]
    assert np.array_equal(after["image"], observed["image"])

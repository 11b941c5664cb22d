"""RL-Restore's trainings for real, in small: the agent beats chance, runs resume, tools learn through toolchains."""

from __future__ import annotations

import copy
import csv
import itertools
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from test_cli import conservator
from test_rl_restore import PHOTOS, TOOLS, small_agent
from torch import Tensor

from conservator.degradations import GaussianBlur, GaussianNoise, JpegCompression, LowLight
from conservator.degradations.patches import Patches, draw_pair, load_pyramids, make_patches, single
from conservator.errors import ConservatorError, NameNotFoundError
from conservator.evaluation.rl_restore import measure_patches
from conservator.image import Image
from conservator.kinds import TAUGHT, Kind
from conservator.policies import RandomPolicy, load_agent
from conservator.pool import LocalPool
from conservator.record import load_record
from conservator.tools import make_toolbox
from conservator.tools.rl_restore_own import own_network, own_specs
from conservator.tools.tool import is_specialist
from conservator.training.data.patches import PatchSource
from conservator.training.rl.dqn_settings import DqnSettings
from conservator.training.rl.env import VectorRestorationEnv
from conservator.training.rl.episode import EpisodeRules
from conservator.training.rl.replay import PlayedEpisode, Replay
from conservator.training.rl.weighting import RunningScale


@pytest.fixture
def rules() -> Iterator[EpisodeRules]:
    with LocalPool(TOOLS, workers=1, max_batch=1, queue_size=256) as pool:
        yield EpisodeRules(PatchSource(PHOTOS, single("noise", 3)), TOOLS, pool)


def test_replay_gives_back_what_it_was_given() -> None:
    replay, rng = Replay(4, 3, 8, 2, priority=0.6), np.random.default_rng(0)
    for length in (1, 2, 3, 2, 3, 1):
        images = [np.full((3, 8, 8), length / 10, np.float32)] * length
        replay.add(PlayedEpisode(images, list(range(length)), [length] * length, [float(length)] * length, []))
    assert len(replay) == 4
    batch = replay.sample(50, rng)
    lengths = batch.played.sum(1)
    assert set(lengths.tolist()) == {1.0, 2.0, 3.0}
    assert torch.allclose(batch.rewards.sum(1), lengths**2)
    assert torch.allclose(batch.images[:, 0, 0, 0, 0], lengths / 10, atol=1 / 255)
    turned = replay.sample(50, rng, turned=True)
    assert torch.allclose(turned.images[:, 0, 0, 0, 0], turned.played.sum(1) / 10, atol=1 / 255)
    replay.settle(np.arange(4), torch.tensor([0.0, 0.0, 0.0, 100.0]))
    assert (replay.sample(50, rng).indices == 3).mean() > 0.9


def test_targets_of_one_and_of_several_steps() -> None:
    from conservator.training.rl.dqn_learner import n_step_targets

    rewards, values = torch.tensor([[1.0, 2.0, 3.0]]), torch.tensor([[10.0, 20.0, 30.0]])
    whole, short = torch.ones(1, 3), torch.tensor([[1.0, 1.0, 0.0]])
    best, chance = torch.tensor([[True, True, True]]), torch.tensor([[True, True, False]])
    assert n_step_targets(rewards, values, best, whole, 0.5, 1).tolist() == [[11.0, 17.0, 3.0]]
    assert n_step_targets(rewards, values, best, whole, 0.5, 3).tolist() == [[2.75, 3.5, 3.0]]
    assert n_step_targets(rewards, values, chance, whole, 0.5, 3).tolist() == [[9.5, 17.0, 3.0]]
    assert n_step_targets(rewards, values, best, short, 0.5, 2).tolist() == [[2.0, 2.0, 0.0]]


@pytest.fixture
def held_out() -> Patches:
    return make_patches(PHOTOS, "held out", single("noise", 3), 24, seed=9)


def test_foresight_is_what_the_tools_then_do(rules: EpisodeRules) -> None:
    env = VectorRestorationEnv(rules, 4)
    observed, _ = env.reset(seed=0)
    foreseen = env.foresee()
    assert foreseen.images.shape == (4, len(TOOLS), 3, 63, 63)
    actions = np.array([0, 1, 0, 1])
    observed, rewards, terminated, _, _ = env.step(actions)
    for i, action in enumerate(actions):
        assert foreseen.rewards[i, action] == pytest.approx(rewards[i], abs=1e-4)
        assert bool(foreseen.ends[i, action]) == bool(terminated[i])
        if not terminated[i]:
            assert np.array_equal(observed["image"][i], foreseen.images[i, action].numpy())
    assert terminated.any()
    assert not terminated.all()


@pytest.mark.slow
def test_a_hundred_steps_beat_chance(rules: EpisodeRules, held_out: Patches, tmp_path: Path) -> None:
    from conservator.training.rl.dqn import train_dqn
    from conservator.training.rl.dqn_settings import fast

    trained = train_dqn(rules, held_out, tmp_path, replace(fast(100), sessions=8), report=lambda _: None)
    with LocalPool(TOOLS, workers=1, max_batch=1, queue_size=256) as pool:
        chance = [float(measure_patches("", RandomPolicy(s), held_out, TOOLS, pool).gains.mean()) for s in range(8)]
    # noise cannot explain it: more than five deviations above the mean of eight random policies
    assert trained.gain > np.mean(chance) + 5 * np.std(chance, ddof=1)
    assert trained.gain > 3
    rows = list(csv.DictReader((tmp_path / "curve.csv").open()))
    assert float(rows[-1]["gain"]) == pytest.approx(trained.gain)
    assert (tmp_path / "curve.png").exists()


@pytest.mark.slow
def test_a_dqn_resumes_to_the_step_and_refuses_other_settings(
    rules: EpisodeRules, held_out: Patches, tmp_path: Path
) -> None:
    from conservator.training.rl.dqn import train_dqn

    settings = DqnSettings(
        steps=64,
        warmup=8,
        batch=4,
        memory=300,
        explore=64,
        target_every=16,
        sessions=8,
        checkpoint_every=32,
        priority=0.5,
    )
    few = Patches("few", held_out.damaged[:4], held_out.clean[:4])
    whole = train_dqn(rules, few, tmp_path / "whole", settings, report=lambda _: None)
    train_dqn(rules, few, tmp_path / "cut", replace(settings, steps=32), report=lambda _: None)
    resumed = train_dqn(rules, few, tmp_path / "cut", settings, report=lambda _: None)
    assert resumed.steps == 64
    for name, value in whole.agent.tensors().items():
        assert torch.equal(resumed.agent.tensors()[name], value), name
    with pytest.raises(ConservatorError, match=r"gamma 0\.99, now 0\.5"):
        train_dqn(rules, few, tmp_path / "cut", replace(settings, gamma=0.5))
    with pytest.raises(ConservatorError, match="photos not there, now others"):
        train_dqn(rules, few, tmp_path / "cut", settings, identity={"photos": "others"})
    with pytest.raises(ConservatorError, match="64 steps already, more than the 32"):
        train_dqn(rules, few, tmp_path / "cut", replace(settings, steps=32))
    with pytest.raises(NameNotFoundError, match="double"):
        settings.without("duoble")


@pytest.mark.slow
def test_a_longer_run_continues_one_that_was_planned_for_fewer_steps(
    rules: EpisodeRules, held_out: Patches, tmp_path: Path
) -> None:
    from conservator.training.rl.dqn import train_dqn
    from conservator.training.rl.dqn_settings import fast

    few = Patches("few", held_out.damaged[:2], held_out.clean[:2])

    def trained(folder: str, settings: DqnSettings) -> dict[str, Tensor]:
        own = replace(rules, weighting=RunningScale())  # what it learned is in the checkpoint, too
        return train_dqn(own, few, tmp_path / folder, settings, report=lambda _: None).agent.tensors()

    def settings(steps: int, planned: int | None = None) -> DqnSettings:
        return replace(fast(steps, planned=planned), sessions=8, pretrain=2, batch=4)

    whole = trained("whole", settings(100, planned=64))
    shorter = trained("cut", settings(64))
    with pytest.raises(ConservatorError, match="planned 64, now 100"):
        trained("cut", settings(100))
    longer = trained("cut", settings(100, planned=64))
    assert all(torch.equal(whole[name], longer[name]) for name in whole)
    assert any(not torch.equal(whole[name], shorter[name]) for name in whole)
    again = trained("cut", settings(100, planned=64))  # 100 is no multiple of 8 sessions: it ended at 104
    assert all(torch.equal(again[name], longer[name]) for name in again)


def test_checkpoints_of_shorter_runs_are_those_of_longer_ones() -> None:
    from conservator.training.rl.dqn_settings import fast, published

    def ends(steps: int) -> list[int]:
        settings, step, found = replace(fast(steps, planned=1000), sessions=32), 0, []
        while step < settings.last:
            end = settings.next_checkpoint(step)
            step += -(-(end - step) // 32) * 32  # as the sessions step, all together
            found.append(step)
        return found

    assert ends(700) == ends(1000)[:7]
    assert ends(1000)[-1] == 1024
    assert replace(fast(8000), steps=0) != replace(fast(4000), steps=0)
    assert replace(fast(8000, planned=4000), steps=0) == replace(fast(4000), steps=0)
    assert replace(published(8000), steps=0) == replace(published(4000), steps=0)


def test_an_agent_of_patches_is_not_trained_on_other_sizes(
    rules: EpisodeRules, held_out: Patches, tmp_path: Path
) -> None:
    from conservator.training.rl.dqn import train_dqn
    from conservator.training.rl.dqn_settings import fast

    for other in (replace(rules, size=(63, 80)), replace(rules, longest=4)):
        with pytest.raises(ConservatorError, match="patches of 63x63 pixels and decides 3 times at most"):
            train_dqn(other, held_out, tmp_path, fast(32))


def test_features_learn_to_tell_damage() -> None:
    from conservator.networks.dqn import QNetwork
    from conservator.training.data.recipes import mixture
    from conservator.training.rl.pretrain import amounts, pretrain

    source, said = PatchSource(PHOTOS, mixture("all")), list[str]()
    torch.manual_seed(0)
    network = QNetwork()
    network.see_contrast()
    untaught = copy.deepcopy(network.state_dict())
    pretrain(network, source, 1, 0, said.append)
    pretrain(network, source, 40, 0, said.append)
    by_processes, here = copy.deepcopy(network), copy.deepcopy(network)
    for learner, workers in ((by_processes, 2), (here, 0)):
        torch.manual_seed(0)
        pretrain(learner, source, 2, 1, lambda _: None, workers)
    assert all(torch.equal(a, b) for a, b in zip(by_processes.parameters(), here.parameters(), strict=True))
    first, mean = (float(line.split("loss ")[1]) for line in said)
    assert mean < 0.8 * first
    changed = {name for name, value in network.state_dict().items() if not torch.equal(value, untaught[name])}
    assert {name.split(".")[0] for name in changed} == {"convolutions", "project"}
    assert amounts((GaussianBlur(1.0), GaussianNoise(50 / 255, 1), JpegCompression(40))) == pytest.approx(
        (0.5, 2, 0.6, 0)
    )
    assert amounts(()) == (0, 0, 0, 1)


def test_features_learn_to_tell_damage_of_any_kind() -> None:
    from conservator.networks.dqn import QNetwork
    from conservator.training.data.recipes import mixture
    from conservator.training.rl.pretrain import pretrain, severity_levels

    dark = LowLight("gamma", 0.6), GaussianNoise(50 / 255, 1)
    told = dict(zip((*TAUGHT, None), severity_levels(dark), strict=True))
    assert {kind for kind, level in told.items() if level} == {Kind.LOW_LIGHT, Kind.NOISE}
    assert told[Kind.NOISE] == 1
    assert severity_levels(())[-1] == 1
    network, said, source = QNetwork(), list[str](), PatchSource(PHOTOS, mixture("any"))
    pretrain(network, source, 1, 0, said.append, tell=severity_levels)
    pretrain(network, source, 40, 0, said.append, tell=severity_levels)
    first, mean = (float(line.split("loss ")[1]) for line in said)
    assert mean < 0.9 * first
    with pytest.raises(ConservatorError, match="not of RL-Restore's kinds"):
        pretrain(network, source, 5, 0, said.append)


def test_a_blank_page_ends_and_a_stamp_is_refused(tmp_path: Path) -> None:
    blank = [np.full((80, 80, 3), 255, np.uint8)]
    damaged, clean = draw_pair(blank, single("blur", 3), np.random.default_rng(0))
    assert torch.allclose(damaged, clean, atol=1e-4)
    PillowImage.new("RGB", (50, 300)).save(tmp_path / "stamp.png")
    with pytest.raises(ConservatorError, match=r"stamp\.png has 50x300 pixels, expected 63 or more"):
        load_pyramids([tmp_path])


def test_joint_training_takes_what_can_be_picked(tmp_path: Path) -> None:
    from conservator.training.experts.rl_restore import named, write_tools
    from conservator.training.rl.joint import trainable_tools

    plain = write_tools(tmp_path / "plain.safetensors", named("rl_plain", own_network("plain", 0)()), "plain")
    with pytest.raises(ConservatorError, match="one plain network, expected twelve"):
        trainable_tools(plain, small_agent())
    tensors = {}
    for index, spec in enumerate(own_specs("paper")):
        tensors |= named(spec.name, own_network("paper", index)())
    paper = write_tools(tmp_path / "paper.safetensors", tensors, "paper")
    with pytest.raises(ConservatorError, match="the agent knows the tools"):
        trainable_tools(paper, small_agent())
    with pytest.raises(ConservatorError, match=r"tensors of rl_blur_1 .* not those of its network"):
        trainable_tools(write_tools(tmp_path / "wrong.safetensors", tensors, "compact"), small_agent(tools=12))


def test_a_start_keeps_its_values() -> None:
    from conservator.training.rl.dqn_learner import QLearner
    from conservator.training.rl.dqn_settings import fast

    agent = small_agent(duelling=True)
    again = QLearner(tuple(TOOLS), fast(100), "cpu", agent).agent()
    for name, value in agent.tensors().items():
        assert torch.allclose(again.tensors()[name], value, rtol=1e-5), name
    with pytest.raises(ConservatorError, match="train afresh"):
        QLearner(tuple(TOOLS), fast(100).without("duelling"), "cpu", agent)


@pytest.mark.slow
def test_joint_training_helps_and_resumes(tmp_path: Path) -> None:
    from conservator.training.experts.rl_restore import _start_near_identity
    from conservator.training.rl.joint import JointSettings, run_chains, train_joint

    torch.manual_seed(1)
    tools = torch.nn.ModuleList(own_network("paper", index)() for index in (0, 2))
    for tool in tools:
        _start_near_identity(tool)
    start = {name: value.clone() for name, value in tools.state_dict().items()}
    agent, source = small_agent(), PatchSource(PHOTOS, single("noise", 3))
    with torch.no_grad():  # an agent that always takes the first tool, then stops
        agent.network.values.weight.zero_()
        agent.network.values.bias.copy_(torch.tensor([1.0, 0.0, -1.0]))
    chains = run_chains(agent.network, tools, torch.rand(5, 3, 63, 63))
    assert chains.uses.tolist() == [15, 0]
    assert chains.lengths.tolist() == [3] * 5
    said: list[str] = []
    settings = JointSettings(steps=12, batch=4, rate=2e-3, checkpoint_every=6)
    whole = train_joint(agent, tools, source, tmp_path / "whole", settings, said.append).tensors
    first, last = (float(line.split("gain ")[1].split()[0]) for line in (said[0], said[-1]))
    assert last > first
    tools.load_state_dict(start)
    by_processes = train_joint(agent, tools, source, tmp_path / "fork", settings, said.append, workers=1).tensors
    assert all(torch.equal(whole[name], by_processes[name]) for name in whole)
    with pytest.raises(ConservatorError, match="steps 12, now 24"):  # the rate falls along all of them
        train_joint(agent, tools, source, tmp_path / "fork", replace(settings, steps=24), said.append)
    tools.load_state_dict(start)
    calls = itertools.count()

    def cut(rng: np.random.Generator) -> tuple[Image, Image]:
        if next(calls) == 6 * settings.batch:
            raise InterruptedError
        return source(rng)

    with pytest.raises(InterruptedError):
        train_joint(agent, tools, cut, tmp_path / "cut", settings, said.append)
    again = train_joint(agent, tools, source, tmp_path / "cut", settings, said.append).tensors
    assert all(torch.equal(whole[name], again[name]) for name in whole)
    assert torch.equal(again["darken.conv1.weight"], start["1.conv1.weight"].half())  # never used, never changed


@pytest.mark.slow
def test_the_command_line_trains_tools_an_agent_and_both(tmp_path: Path) -> None:
    photos = tmp_path / "photos"
    photos.mkdir()
    for i, pyramid in enumerate(PHOTOS):
        PillowImage.fromarray(pyramid[0][:200, :200]).save(photos / f"{i}.png")
    out = tmp_path / "out"
    common = ("--photos", photos, "--output")
    few = ("--base", 1, "--steps", 1, "--workers", 0)
    result = conservator("train", "rl-restore-tools", *common, out, *few, "--into", out / "w")
    assert result.returncode == 0, result.stderr
    tools = out / "rl_restore.safetensors"
    few = ("--steps", 32, "--patches", 4)
    result = conservator("train", "dqn", *common, out / "dqn", "--toolbox", f"rl-restore:{tools}", *few)
    assert result.returncode == 0, result.stderr
    agent = out / "dqn" / "agent.safetensors"
    result = conservator("train", "joint", *common, out / "joint", "--agent", agent, "--tools", tools, "--steps", 1)
    assert result.returncode == 0, result.stderr
    tuned = out / "joint" / "tools.safetensors"
    result = conservator(
        *("bench", "rl-restore", "--photos", photos, "--count", 3, "--output", out / "table.md"),
        *("--entry", f"rl-restore:{tuned}=dqn:{agent}"),
    )
    assert result.returncode == 0, result.stderr
    assert "greedy oracle" in (out / "table.md").read_text()


def test_an_agent_learns_any_toolbox(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "out"
    photos.mkdir()
    for i, pyramid in enumerate(PHOTOS):
        PillowImage.fromarray(pyramid[0][:200, :200]).save(photos / f"{i}.png")
    result = conservator(
        *("train", "dqn", "--photos", photos, "--output", out, "--toolbox", "classical", "--mixture", "any"),
        *("--steps", 32, "--patches", 4),
    )
    assert result.returncode == 0, result.stderr
    agent = load_agent(out / "agent.safetensors")
    toolbox = make_toolbox("classical")
    assert set(agent.tools) == {spec.name for spec in toolbox.specs if spec.scale == 1 and is_specialist(spec)}
    result = conservator(
        *("restore", photos / "0.png", "-o", out / "restored.png", "--risk", 1),
        *("--policy", f"dqn:{out / 'agent.safetensors'}", "--toolbox", "classical"),
    )
    assert result.returncode == 0, result.stderr
    assert any("patches vote for it" in step.reason for step in load_record(out / "restored.conservator.json").steps)

"""RL-Restore: its patches, environment, agent and benchmark, and parity with a direct port of the authors' graph."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image as PillowImage
from skimage import data
from test_cli import conservator
from torch import Tensor

from conservator.degradations import Kind
from conservator.degradations.patches import PATCH_LEVELS, UNDAMAGED_PSNR, make_patches, single
from conservator.errors import ConservatorError, NameNotFoundError
from conservator.evaluation.rl_restore import (
    PatchEntry,
    greedy_oracle,
    measure_entry,
    measure_patches,
    patches_table,
    play,
)
from conservator.image import Image
from conservator.kinds import TAUGHT
from conservator.metrics.fidelity import psnr_of_each
from conservator.networks.dqn import QNetwork
from conservator.perception import Blind
from conservator.policies import Agent, DqnPolicy, FixedOrder, PolicyContext, RandomPolicy, check_policy, make_policy
from conservator.policies.dqn import load_agent, make_agent, tiles
from conservator.pool import LocalPool
from conservator.session import Apply, Decision, Session, Stop, run
from conservator.tools import Tool, Toolbox, ToolSpec, check_tool, make_toolbox
from conservator.tools.rl_restore import import_rl_restore, rl_restore_specs
from conservator.tools.rl_restore_own import own_network, own_tools
from conservator.tools.user import user_tool_dir
from conservator.training.data.patches import PatchSource
from conservator.training.data.recipes import mixture
from conservator.training.rl.episode import EpisodeRules

PHOTOS = [[photo(), photo()[::2, ::2]] for photo in (data.astronaut, data.coffee, data.chelsea)]


class Smooth(Tool):
    """Averages neighbours: good for noise, bad for everything else."""

    spec = ToolSpec("smooth", frozenset({Kind.NOISE}), "Averages.", "textbook", "Apache-2.0", tile=None)

    def restore(self, image: Image) -> Image:
        return F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)


class Darken(Tool):
    """Does harm."""

    spec = ToolSpec("darken", frozenset({Kind.LOW_LIGHT}), "Darkens.", "textbook", "Apache-2.0", tile=None)

    def restore(self, image: Image) -> Image:
        return image * 0.3


TOOLS = Toolbox(Smooth(), Darken())


@pytest.fixture
def rules() -> Iterator[EpisodeRules]:
    with LocalPool(TOOLS, workers=1, max_batch=1, queue_size=256) as pool:
        yield EpisodeRules(PatchSource(PHOTOS, single("noise", 3)), TOOLS, pool)


def small_agent(seed: int = 0, tools: int = 2, duelling: bool = False) -> Agent:
    torch.manual_seed(seed)
    network = QNetwork(tools, duelling)
    with torch.no_grad():
        network.values.weight.mul_(1000)  # so that its values depend on what it sees
        network.project.weight.mul_(4)
    names = tuple(TOOLS) if tools == 2 else tuple(spec.name for spec in rl_restore_specs())
    return Agent(network.eval().requires_grad_(False), names)


# --- patches ----------------------------------------------------------------------------------------------------------


def test_patches_are_the_same_for_the_same_seed_and_worse_from_level_to_level() -> None:
    levels = {name: make_patches(PHOTOS, name, draw, 30, seed=3) for name, draw in PATCH_LEVELS.items()}
    again = make_patches(PHOTOS, "mild", PATCH_LEVELS["mild"], 10, seed=3)
    assert torch.equal(again.damaged, levels["mild"].damaged[:10])
    assert not torch.equal(make_patches(PHOTOS, "mild", PATCH_LEVELS["mild"], 10, seed=4).damaged, again.damaged)
    psnr = {name: float(psnr_of_each(p.damaged, p.clean, UNDAMAGED_PSNR).mean()) for name, p in levels.items()}
    assert psnr["clean"] == pytest.approx(50)
    assert 30 > psnr["mild"] > psnr["moderate"] > psnr["severe"] > 14
    assert levels["mild"].damaged.shape == (30, 3, 63, 63)


def test_a_mixture_holds_what_it_says() -> None:
    draw, rng = mixture("all"), np.random.default_rng(0)
    lengths = np.bincount([len(draw(rng)) for _ in range(1000)], minlength=4) / 1000
    assert lengths[[0, 1, 3]] == pytest.approx([0.2, 0.26, 0.54], abs=0.04)
    assert all(len(mixture("paper")(rng)) in (1, 3) for _ in range(100))
    drawn = {damage.kind for _ in range(300) for damage in mixture("any")(rng)}
    assert drawn == {*TAUGHT} - {Kind.LOW_RESOLUTION}
    with pytest.raises(NameNotFoundError, match="paper"):
        mixture("papre")


# --- agent ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("duelling", [False, True])
def test_replaying_the_toolchain_is_the_same_as_stepping(duelling: bool) -> None:
    torch.manual_seed(0)
    network = QNetwork(duelling=duelling)
    patches, previous = torch.rand(5, 3, 3, 63, 63), torch.tensor([[0, 4, 12]] * 5)
    whole = network(patches, previous)
    for steps in (1, 2, 3):
        assert torch.allclose(network(patches[:, :steps], previous[:, :steps])[:, -1], whole[:, steps - 1], atol=1e-6)
    assert not torch.allclose(network(patches[:, 2:], previous[:, 2:])[:, 0], whole[:, 2], atol=1e-6)  # it remembers


def test_the_network_has_the_published_size() -> None:
    assert sum(p.numel() for p in QNetwork().parameters()) == 87_863


def test_the_policy_holds_the_contract_and_votes(rules: EpisodeRules, coffee: Image) -> None:
    for image in (coffee[..., :63, :63], coffee[..., :130, :200], torch.rand(3, 3, 128, 128), torch.rand(1, 3, 20, 70)):
        check_policy(DqnPolicy(small_agent()), Session(image, TOOLS, rules.pool, Blind()))
    assert tiles(coffee[..., :130, :200]).shape == (2 * 3, 3, 63, 63)
    assert torch.equal(tiles(coffee)[1], coffee[0, :, :63, 64:127])  # where a block of JPEG begins
    policy = DqnPolicy(small_agent())
    session = Session(coffee, TOOLS, rules.pool, Blind())
    votes = policy.values([session.observe()])[0].argmax(1).bincount(minlength=3)
    action = policy.act(session.observe()).action
    assert action == (Stop() if int(votes.argmax()) == 2 else Apply(tuple(TOOLS)[int(votes.argmax())]))


def test_deciding_together_is_the_same_as_alone(rules: EpisodeRules) -> None:
    policy = DqnPolicy(small_agent())
    sessions = [Session(torch.rand(1, 3, 63, 63), TOOLS, rules.pool, Blind()) for _ in range(4)]
    sessions[1].step(Decision(Apply("smooth")))
    observations = [session.observe() for session in sessions]
    together = policy.act_together(observations)
    assert [d.action for d in together] == [policy.act(o).action for o in observations]


def test_an_agent_for_other_tools_is_refused(rules: EpisodeRules, tmp_path: Path) -> None:
    session = Session(torch.rand(1, 3, 63, 63), TOOLS, rules.pool, Blind())
    with pytest.raises(ConservatorError, match="rl_blur_1"):
        DqnPolicy(small_agent(tools=12), toolbox=TOOLS)
    assert DqnPolicy(small_agent(tools=12)).act(session.observe()).action == Stop()  # none of its tools is offered
    with pytest.raises(ConservatorError, match="conservator train dqn"):
        make_agent({"a": torch.zeros(1)}, {"tools": "x,y"}, "the file")
    (tmp_path / "agent.safetensors").write_bytes(b"nothing")
    with pytest.raises(ConservatorError, match="cannot be read"):
        load_agent(tmp_path / "agent.safetensors")
    with pytest.raises(NameNotFoundError, match="dqn"):
        make_policy("dqm", PolicyContext(rules.pool, Blind()))


# --- the published networks -------------------------------------------------------------------------------------------


class DirectPort:
    """The authors' graph as their code has it: transposed images, no clipping, a state that is carried along."""

    def __init__(self, path: Path) -> None:
        with np.load(path) as archive:
            self.arrays = {name: torch.from_numpy(archive[name]) for name in archive.files}

    def conv(self, x: Tensor, weight: str, bias: str, stride: int = 1) -> Tensor:
        kernel = self.arrays[weight].permute(3, 2, 0, 1)
        side, size = x.shape[-1], kernel.shape[-1]
        pad = max(0, (-(-side // stride) - 1) * stride + size - side)
        x = F.pad(x, (pad // 2, pad - pad // 2) * 2)
        return F.conv2d(x, kernel, self.arrays[bias], stride)

    def tool(self, number: int, x: Tensor) -> Tensor:
        def conv(x: Tensor, layer: str) -> Tensor:
            name = f"tool{number + 1:02d}/{layer}"
            return self.conv(x, f"{name}/weights", f"{name}/biases")

        if number % 4 < 2:
            return x + conv(conv(conv(x, "conv1").relu(), "conv2").relu(), "conv3")
        s = conv(conv(x, "conv1").relu(), "conv1_2")
        s = s + conv(conv(s.relu(), "conv2").relu(), "conv2a")
        s = s + conv(conv(s.relu(), "conv2c").relu(), "conv2d")
        return x + conv(conv(s, "conv2_2").relu(), "conv3")

    def values(self, x: Tensor, came: Tensor, cell: Tensor, hidden: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        for layer in range(1, 5):
            x = self.conv(x, f"agent/l{layer}/w", f"agent/l{layer}/biases", 2).relu()
        x = (x.permute(0, 2, 3, 1).flatten(1) @ self.arrays["agent/l7/Matrix"] + self.arrays["agent/l7/bias"]).relu()
        name = "agent/prediction_rnn/basic_lstm_cell"
        gates = torch.cat([x, came, hidden], 1) @ self.arrays[f"{name}/kernel"] + self.arrays[f"{name}/bias"]
        i, j, f, o = gates.chunk(4, 1)
        cell = cell * (f + 1).sigmoid() + i.sigmoid() * j.tanh()
        hidden = o.sigmoid() * cell.tanh()
        return hidden @ self.arrays["agent/q/Matrix"] + self.arrays["agent/q/bias"], cell, hidden

    def restore(self, image: Image) -> tuple[Image, list[int]]:
        """One patch (1, 3, 63, 63) through at most three tools; also their numbers."""
        x, came = image.transpose(2, 3), torch.zeros(1, 12)
        cell = hidden = torch.zeros(1, 50)
        chosen: list[int] = []
        for _ in range(3):
            values, cell, hidden = self.values(x, came, cell, hidden)
            action = int(values.argmax())
            if action == 12:
                break
            chosen.append(action)
            x, came = self.tool(action, x), F.one_hot(torch.tensor([action]), 12).float()
        return x.transpose(2, 3), chosen


@pytest.fixture
def published(shared: Path, own_home: Path) -> Path:
    path = shared / "anchors" / "rl-restore" / "rl_restore.npz"
    import_rl_restore(path, user_tool_dir())
    return path


@torch.inference_mode()
def test_the_import_does_what_a_direct_port_does(published: Path) -> None:
    toolbox, port = make_toolbox("rl-restore:published"), DirectPort(published)
    patches = make_patches(PHOTOS, "moderate", PATCH_LEVELS["moderate"], 24, seed=0)
    with LocalPool(toolbox, workers=1, max_batch=1, queue_size=256) as pool:
        policy = make_policy("dqn:published", PolicyContext(pool, Blind()))
        row = measure_patches("published", policy, patches, toolbox, pool)
        chains = [t.toolchain() for t in play(policy, patches.damaged, toolbox, pool)]
    direct = [port.restore(patch[None]) for patch in patches.damaged]
    names = list(toolbox)
    same = np.mean(
        [chain == tuple(names[i] for i in chosen) for chain, (_, chosen) in zip(chains, direct, strict=True)]
    )
    assert same > 0.9  # ours clips to [0, 1] between tools, which now and then tips a choice
    gain = psnr_of_each(torch.cat([image for image, _ in direct]), patches.clean, UNDAMAGED_PSNR) - row.psnr_in
    assert float(row.gains.mean()) == pytest.approx(float(gain.mean()), abs=0.05)
    assert float(row.gains.mean()) > 1.5


def test_an_import_without_the_agent_says_so(published: Path, tmp_path: Path) -> None:
    with np.load(published) as archive:
        np.savez(tmp_path / "tools.npz", **{k: archive[k] for k in archive.files if k.startswith("tool")})
    import_rl_restore(tmp_path / "tools.npz", user_tool_dir())
    with LocalPool(TOOLS) as pool, pytest.raises(ConservatorError, match="imported without the agent"):
        make_policy("dqn:published", PolicyContext(pool, Blind()))


@pytest.mark.slow
def test_the_published_agent_restores_a_photo(published: Path, own_home: Path, tmp_path: Path) -> None:
    PillowImage.fromarray(data.coffee()[:130, :200]).save(tmp_path / "photo.jpg", quality=20)
    result = conservator(
        *("restore", tmp_path / "photo.jpg", "--policy", "dqn:published", "--toolbox", "rl-restore:published"),
        *("--output", tmp_path / "out"),
    )
    assert result.returncode == 0, result.stderr
    result = conservator("restore", tmp_path / "photo.jpg", "--policy", "dqn:published", "--toolbox", "classical")
    assert "--toolbox rl-restore" in result.stderr + result.stdout


# --- tools of our own -------------------------------------------------------------------------------------------------


def own_tensors(architecture: str) -> dict[str, Tensor]:
    torch.manual_seed(0)
    return {
        f"{spec.name}.{name}": value
        for index, spec in enumerate(rl_restore_specs())
        for name, value in own_network(architecture, index)().state_dict().items()
    }


def macs(network: torch.nn.Module, side: int) -> int:
    """Multiplications of the convolutions on one image."""
    total = 0

    def count(layer: Any, inputs: Any, output: Tensor) -> None:
        nonlocal total
        total += output[0].numel() * layer.weight[0].numel()

    hooks = [m.register_forward_hook(count) for m in network.modules() if isinstance(m, torch.nn.Conv2d)]
    network(torch.zeros(1, 3, side, side))
    for hook in hooks:
        hook.remove()
    return total


def test_the_compact_tools_cost_no_more_than_the_papers() -> None:
    for index in (0, 3):  # one of each size
        assert macs(own_network("compact", index)(), 64) <= macs(own_network("paper", index)(), 63)
    with pytest.raises(ConservatorError, match="expected paper, compact or plain"):
        own_network("big", 0)


@pytest.mark.parametrize("architecture", ["paper", "compact"])
def test_own_tools_keep_the_contract(architecture: str, tmp_path: Path) -> None:
    from conservator.training.experts.rl_restore import write_tools

    path = write_tools(tmp_path / "tools.safetensors", own_tensors(architecture), architecture)
    toolbox = make_toolbox(f"rl-restore:{path}")
    assert list(toolbox) == [spec.name for spec in rl_restore_specs()]
    for name in ("rl_blur_1", "rl_jpeg_4"):
        check_tool(toolbox[name])
    with pytest.raises(ConservatorError, match="no tool rl_blur_1"):
        own_tools({}, {"architecture": "paper"})


@pytest.mark.parametrize(("toolbox", "agent"), [("rl-restore", "dqn"), ("rl-restore:compact", "dqn:compact")])
def test_what_ships_restores_patches(toolbox: str, agent: str) -> None:
    tools = make_toolbox(toolbox)
    with LocalPool(tools, workers=1, max_batch=1, queue_size=256) as pool:
        policy = make_policy(agent, PolicyContext(pool, Blind()))
        patches = make_patches(PHOTOS, "moderate", PATCH_LEVELS["moderate"], 32, seed=3)
        gains = measure_patches("dqn", policy, patches, tools, pool).gains
        chance = measure_patches("random", RandomPolicy(0), patches, tools, pool).gains
    assert float(gains.mean()) > max(1.5, float(chance.mean()) + 0.3)


# --- benchmark --------------------------------------------------------------------------------------------------------


def test_the_oracle_bounds_single_tools_and_the_table_tells(rules: EpisodeRules) -> None:
    levels = [make_patches(PHOTOS, name, PATCH_LEVELS[name], 12, seed=1) for name in ("severe", "clean")]
    entry = PatchEntry("small", TOOLS, rules.pool, (DqnPolicy(small_agent()),))
    rows, oracles = measure_entry(entry, levels, lambda line: None)
    best, first = greedy_oracle("o", levels[0], TOOLS, rules.pool)
    alone = measure_patches("s", FixedOrder("smooth"), levels[0], TOOLS, rules.pool)
    assert torch.allclose(first[0], alone.gains, atol=1e-4)
    assert (best.gains >= alone.gains - 1e-4).all()
    assert (best.gains >= 0).all()
    text = "\n".join(patches_table(rows, oracles))
    assert "| small: greedy oracle | " in text
    assert "100.0% untouched | 100%" in text  # the oracle, on clean patches


def test_one_run_is_one_episode_of_the_session(rules: EpisodeRules) -> None:
    patch = make_patches(PHOTOS, "severe", PATCH_LEVELS["severe"], 1, seed=1).damaged
    policy = DqnPolicy(small_agent())
    alone = run(policy, Session(patch, TOOLS, rules.pool, Blind(), max_steps=3))
    (together,) = play(policy, patch, TOOLS, rules.pool)
    assert alone.toolchain() == together.toolchain()
    assert torch.equal(alone.last.image, together.last.image)


# --- regions ----------------------------------------------------------------------------------------------------------


class Lazy(DqnPolicy):
    """Smooths dark regions, and no others."""

    def __init__(self) -> None:
        super().__init__(small_agent())

    def act_together(self, observations: Any) -> list[Decision]:
        done = [bool(o.trajectory.toolchain()) for o in observations]
        dark = [float(o.image.mean()) < 0.5 for o in observations]
        return [Decision(Apply("smooth") if d and not t else Stop()) for d, t in zip(dark, done, strict=True)]


def test_regions_get_toolchains_of_their_own_without_seams(rules: EpisodeRules) -> None:
    from conservator.policies.regions import restore_regions

    image = torch.full((1, 3, 130, 400), 0.9)
    image[..., :200] = 0.1
    image += 0.05 * torch.rand(image.shape, generator=torch.Generator().manual_seed(0))
    treated, chains = restore_regions(image, Lazy(), TOOLS, rules.pool, side=63)
    assert set(chains) == {(), ("smooth",)}
    assert torch.allclose(treated[..., 280:], image[..., 280:], atol=1e-5)
    inside = (..., slice(20, 110), slice(20, 120))
    assert float(treated[inside].std()) < 0.5 * float(image[inside].std())
    everywhere, _ = restore_regions(image, Lazy(), TOOLS, rules.pool, side=500)  # one region: the whole image
    assert everywhere.shape == image.shape
    with pytest.raises(ConservatorError, match="63 at least"):
        restore_regions(image, Lazy(), TOOLS, rules.pool, side=20)

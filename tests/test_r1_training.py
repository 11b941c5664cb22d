"""The trainings of the policy r1, in small: what a step is paid, PPO against chance, and right answers."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from skimage import data

from conservator.degradations import Kind, degrade, parse_recipe
from conservator.errors import ConservatorError
from conservator.image import Image, to_image
from conservator.perception import Blind, StatisticalPerception
from conservator.perception.remembering import RememberingPerception
from conservator.policies import ActorCritic
from conservator.policies.actor_critic import MOST_TOOLS
from conservator.pool import LocalPool, MemoPool
from conservator.session import Apply, Decision, Step
from conservator.tools import Tool, Toolbox, ToolSpec, make_toolbox
from conservator.training.rl.check import check_reward
from conservator.training.rl.episode import EpisodeRules
from conservator.training.rl.feedback import QualityRater
from conservator.training.rl.imitation import ImitationSettings, answered, train_imitation
from conservator.training.rl.ppo import Played, PpoSettings, advantages, begun, clipped_loss, measure_starts, train_ppo
from conservator.training.rl.rewards import (
    Reward,
    call_cost,
    consistency_reward,
    joined,
    metric_change,
    step_psnr,
    step_quality,
)
from conservator.training.rl.starts import Starts
from conservator.training.rl.tree import Ratings, StartTree
from conservator.training.rl.weighting import FixedWeights, RunningScale

SEEING = StatisticalPerception.load()
REMEMBERED = RememberingPerception(SEEING)
PHOTOS = [to_image(photo()) for photo in (data.astronaut, data.coffee, data.chelsea, data.rocket)]


def fresh(tools: Toolbox, seed: int = 0, sure: float = 1.0) -> ActorCritic:
    """A policy with random weights; the surer, the more its chances depend on what it is told."""
    torch.manual_seed(seed)
    made = ActorCritic.new(tuple(tools), SEEING.features)
    with torch.no_grad():
        made.network.actor.weight.mul_(sure)
    return made


def test_consistency_punishes_what_took_the_photo_away(coffee: Image) -> None:
    tools = make_toolbox("classical").only("wavelet_denoise", "gamma_brighten")
    reward, clean = consistency_reward(tools), coffee[..., :200, :200]
    noisy = degrade(clean, parse_recipe("noise:medium", 1))
    percept = Blind().grade(clean)

    def paid(before: Image, after: Image, tool: str, error: str | None = None) -> float:
        was, now = Step(0, None, None, before, percept), Step(1, 0, Decision(Apply(tool)), after, percept, error=error)
        return reward(was, now, None)["consistency"]

    smooth = torch.nn.functional.avg_pool2d(clean, 5, 1, 2)
    assert paid(noisy, clean, "wavelet_denoise") == 0.0
    assert paid(clean, smooth, "wavelet_denoise") < -0.1
    assert paid(clean, smooth, "gamma_brighten") == paid(clean, smooth, "wavelet_denoise", "failed") == 0.0
    check_reward(joined(metric_change("ssim"), call_cost), clean, weighting=FixedWeights())
    check_reward(joined(step_quality, reward, call_cost), clean, SEEING)


def test_advantages_are_what_came_less_what_was_foretold() -> None:
    rewards, values = [1.0, 0.0, 2.0], [0.5, 1.0, 1.5]
    assert advantages(rewards, values, 1.0, 1.0) == pytest.approx([2.5, 1.0, 0.5])
    one_step = [1.0 + 0.9 * 1.0 - 0.5, 0.9 * 1.5 - 1.0, 2.0 - 1.5]
    assert advantages(rewards, values, 0.9, 0.0) == pytest.approx(one_step)
    assert advantages(rewards, values, 0.9, 0.5)[1] == pytest.approx(one_step[1] + 0.45 * one_step[2])
    assert advantages([], [], 0.9, 0.5) == []


def test_beyond_the_clip_a_change_counts_no_more() -> None:
    class Fixed(torch.nn.Module):
        def __init__(self, logits: list[float]) -> None:
            super().__init__()
            self.logits = torch.nn.Parameter(torch.tensor([logits, logits]))

        def forward(self, states: torch.Tensor, possible: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            return self.logits.masked_fill(~possible, float("-inf")), torch.zeros(2)

    possible = torch.tensor([[True, True, False]] * 2)
    chances = torch.tensor([0.5, 0.5]).log()
    played = Played(
        torch.zeros(2, 1), possible, torch.tensor([0, 1]), chances, torch.tensor([1.0, -1.0]), torch.zeros(2)
    )
    settings = PpoSettings()
    for far, moves in ((0.0, True), (2.0, False)):  # the better action is as likely as before, or far likelier
        network = Fixed([far, 0.0, 9.0])
        loss, told = clipped_loss(network, played, torch.arange(2), settings, 0.0)
        loss.backward()
        assert network.logits.grad is not None
        assert bool(network.logits.grad.abs().max() > 1e-4) == moves
        assert torch.isfinite(network.logits.grad).all()
        assert told["entropy"] == pytest.approx(
            torch.distributions.Categorical(logits=torch.tensor([far, 0.0])).entropy()
        )


class Smoother(Tool):
    """Averages 5x5 neighbours: what strong noise needs."""

    spec = ToolSpec("smoother", frozenset({Kind.NOISE}), "Averages.", "textbook", "Apache-2.0", tile=None)

    def restore(self, image: Image) -> Image:
        padded = torch.nn.functional.pad(image, (2, 2, 2, 2), mode="replicate")
        return torch.nn.functional.avg_pool2d(padded, 5, 1)


class Rougher(Tool):
    """Makes noise worse, and says that it is for it."""

    spec = ToolSpec("rougher", frozenset({Kind.NOISE}), "Sharpens.", "textbook", "Apache-2.0", tile=None)

    def restore(self, image: Image) -> Image:
        return (image + (image - Smoother().restore(image))).clamp(0, 1)


class Darker(Tool):
    """Darkens, and says that it is for JPEG."""

    spec = ToolSpec("darker", frozenset({Kind.JPEG}), "Darkens.", "textbook", "Apache-2.0", tile=None)

    def restore(self, image: Image) -> Image:
        return image * 0.5


TOOLS = Toolbox(Rougher(), Darker(), Smoother())


def starts(references: bool = True) -> Starts:
    """Noisy crops of three photos to learn from, and of a fourth."""
    pairs = []
    for number, photo in enumerate(PHOTOS):
        for part in range(3):
            clean = photo[..., 60 * part : 60 * part + 128, 80:208].contiguous()
            noisy = degrade(clean, parse_recipe("noise:very_high,jpeg:low", seed=10 * number + part))
            pairs.append((noisy, clean if references else None))
    return Starts(tuple(pairs[:9]), tuple(pairs[9:]))


@pytest.fixture
def rules() -> Iterator[EpisodeRules]:
    with LocalPool(TOOLS, workers=1, max_batch=1, queue_size=256) as pool:
        perception, reward = REMEMBERED, joined(step_quality, step_psnr, call_cost)
        remembering, weights = MemoPool(pool), {"quality": 0.0, "psnr": 1.0, "cost": 0.05}
        yield EpisodeRules(
            source=starts(),
            toolbox=TOOLS,
            pool=remembering,
            perception=perception,
            reward=reward,
            weighting=RunningScale(weights),
            longest=MOST_TOOLS,
            harm_ends=False,
            size=None,
        )


def ground(rules: EpisodeRules, found: Starts, folder: Path) -> tuple[StartTree, ActorCritic]:
    actor_critic = fresh(TOOLS)
    tree = StartTree(rules, actor_critic, SEEING, found, folder)
    return tree, begun(tree, actor_critic)


FEW = PpoSettings(updates=10, episodes=24, every=5, rate=3e-3)


@pytest.mark.parametrize("paid", ["psnr", "quality"])
def test_reward_rises_beyond_chance(paid: str, rules: EpisodeRules, tmp_path: Path) -> None:
    """At a hundredth of the size. PSNR is learned for other photos, too; the quality that statistics tell is raised by
    a tool that does harm, which they never met: a reward is raised, whatever it is."""
    weights = {"quality": 0.0, "psnr": 0.0, "cost": 0.05} | {paid: 1.0}
    tree, actor_critic = ground(rules, starts(), tmp_path / "states")
    of = tree.held_out if paid == "psnr" else tree.training
    chance = [measure_starts(tree, actor_critic, of, np.random.default_rng(i))[paid] for i in range(20)]
    trained = train_ppo(tree, actor_critic, RunningScale(weights), tmp_path / "run", FEW, report=lambda _: None)
    found = measure_starts(tree, trained.actor_critic, of)
    assert found[paid] > np.mean(chance) + 5 * np.std(chance, ddof=1) / np.sqrt(len(chance))
    assert found["psnr"] > 4 if paid == "psnr" else found["psnr"] < 0 < 4 < found["quality"]
    rows = (tmp_path / "run" / "curve.csv").read_text().splitlines()
    assert len(rows) == 3
    assert (tmp_path / "run" / "curve.png").exists()


def test_a_run_goes_on_to_the_bit_and_refuses_other_settings(rules: EpisodeRules, tmp_path: Path) -> None:
    def trained(folder: str, settings: PpoSettings) -> dict[str, torch.Tensor]:
        tree, actor_critic = ground(rules, starts(), tmp_path / "states")
        weighting = RunningScale({"quality": 0.0, "psnr": 1.0, "cost": 0.05})
        folder_ = tmp_path / folder
        train_ppo(tree, actor_critic, weighting, folder_, settings, identity={"photos": "these"}, report=lambda _: None)
        return actor_critic.network.state_dict()

    whole = trained("whole", FEW)

    def interrupt(line: str) -> None:
        if line.startswith("update 5"):
            raise KeyboardInterrupt

    tree, actor_critic = ground(rules, starts(), tmp_path / "states")
    weighting = RunningScale({"quality": 0.0, "psnr": 1.0, "cost": 0.05})
    with pytest.raises(KeyboardInterrupt):
        train_ppo(tree, actor_critic, weighting, tmp_path / "cut", FEW, identity={"photos": "these"}, report=interrupt)
    again = trained("cut", FEW)
    assert all(torch.equal(whole[name], value) for name, value in again.items())
    with pytest.raises(ConservatorError, match=r"gamma 0\.99, now 0\.5"):
        trained("cut", replace(FEW, gamma=0.5))


def test_what_is_remembered_is_not_made_again(rules: EpisodeRules, tmp_path: Path) -> None:
    tree, actor_critic = ground(rules, starts(), tmp_path)
    places = [(start, history) for start in (0, 10) for history in ((), ("smoother",), ("darker", "rougher"))]
    made = tree.visit(places)
    tree.save()

    def never(*_: object) -> dict[str, float]:
        raise AssertionError("a step was paid again")

    again = StartTree(replace(rules, reward=never), actor_critic, SEEING, starts(), tmp_path)
    assert len(again) == len(tree)
    for was, now in zip(made, again.visit(places), strict=True):
        assert torch.equal(was.state, now.state)
        assert torch.equal(was.possible, now.possible)
        assert was.components == now.components
    with pytest.raises(AssertionError, match="paid again"):
        again.visit([(1, ("smoother",))])


class Lightness(QualityRater):
    """Rates a study by how light its overview is, and its crops; it counts how often it was asked."""

    groups = ("overview", "crops")

    def __init__(self, never: bool = False) -> None:
        self.asked, self._never = 0, never

    def rate_apart(self, image: Image) -> dict[str, float]:
        """Each twice as much as the other."""
        assert not self._never, "a picture was rated again"
        self.asked += 1
        return {"overview": 3 * float(image.mean()), "crops": float(image.mean())}


@pytest.mark.parametrize("saved", [True, False])
def test_ratings_are_asked_later_once_and_no_tool_again(saved: bool, rules: EpisodeRules, tmp_path: Path) -> None:
    ways = [(), ("smoother",), ("smoother", "darker")]
    places = [(start, way) for start in (0, 10) for way in ways]
    rater = Lightness()
    tree, actor_critic = ground(rules, starts(), tmp_path)
    if saved:  # else the pictures are still in memory
        tree.visit(places)
        tree.save()
        unused = replace(rules, pool=MemoPool(LocalPool(Toolbox())))
        tree = StartTree(unused, actor_critic, SEEING, starts(), tmp_path, Ratings(rater, tmp_path / "r.pt"))
    else:
        tree = StartTree(rules, actor_critic, SEEING, starts(), tmp_path, Ratings(rater, tmp_path / "r.pt"))
    told = [node.components["feedback"] for node in tree.visit(places)]
    assert "feedback" in tree.told
    assert rater.asked == len(places)
    found = iter(told)
    for start in (0, 10):
        light = [2 * float(tree.picture((start, way)).mean()) if not saved else 0.0 for way in ways]
        rises = [next(found) for _ in ways]
        assert rises[0] == 0.0
        assert rises[2] < -0.1  # it was made dark
        if not saved:  # what is rated is the picture in 8 bits
            assert rises[1:] == pytest.approx([light[1] - light[0], light[2] - light[1]], abs=2 / 255)
    tree.save()
    again = StartTree(
        rules, actor_critic, SEEING, starts(), tmp_path, Ratings(Lightness(never=True), tmp_path / "r.pt")
    )
    assert [node.components["feedback"] for node in again.visit(places)] == told


def test_what_is_only_measured_is_measured_of_what_is_held_out(rules: EpisodeRules, tmp_path: Path) -> None:
    ssim = metric_change("ssim")
    tree = StartTree(rules, fresh(TOOLS), SEEING, starts(), tmp_path, measured=ssim)
    learned, held_out = tree.visit([(0, ("smoother",)), (10, ("smoother",))])
    assert "ssim" not in learned.components
    assert held_out.components["ssim"] > 0.1
    assert measure_starts(tree, fresh(TOOLS), tree.held_out)["ssim"] != 0.0


def test_without_references_the_same_is_learned(rules: EpisodeRules, tmp_path: Path) -> None:
    """Of photos whose originals nobody has, no reference can be read; and what is not paid for teaches nothing."""
    networks = []
    for references in (True, False):
        reward: Reward = joined(step_quality, call_cost, *([step_psnr] if references else []))
        weighting = RunningScale({"quality": 1.0, "psnr": 0.0, "cost": 0.05})
        tree, actor_critic = ground(
            replace(rules, reward=reward), starts(references), tmp_path / f"states-{references}"
        )
        folder = tmp_path / f"run-{references}"
        train_ppo(tree, actor_critic, weighting, folder, replace(FEW, updates=5), report=lambda _: None)
        networks.append(actor_critic.network.state_dict())
    assert all(torch.equal(value, networks[1][name]) for name, value in networks[0].items())


def test_imitation_learns_the_best_of_all_toolchains(rules: EpisodeRules, tmp_path: Path) -> None:
    tree, actor_critic = ground(rules, starts(), tmp_path / "states")
    tree.explore(10**6, 0)  # all
    tree.close()
    answers = answered(tree, actor_critic.tools, ImitationSettings(unit=0.01))
    first = dict(zip((*actor_critic.tools, "stop"), answers.targets[0].tolist(), strict=True))
    assert first["smoother"] > 0.99, "of the first start it is the best by far"
    trained = train_imitation(tree, actor_critic, ImitationSettings(rate=3e-3), report=lambda _: None)
    assert trained.scores["psnr"] > trained.chance["psnr"] + 1
    assert measure_starts(tree, actor_critic, tree.training)["calls"] == 1.0
    without = replace(rules, reward=joined(step_quality, call_cost))
    tree, actor_critic = ground(without, starts(references=False), tmp_path / "none")
    with pytest.raises(ConservatorError, match="have none"):
        train_imitation(tree, actor_critic, ImitationSettings(), report=lambda _: None)


def test_of_a_closed_tree_only_known_states_are_played(rules: EpisodeRules, tmp_path: Path) -> None:
    tree, actor_critic = ground(rules, starts(), tmp_path)
    tree.explore(22, 0)
    known = tree.close()
    assert 22 <= len(tree) < 30
    assert tree.known[:2] == [(0, ()), (0, ("darker",))]
    learning = PpoSettings(updates=4, episodes=64, every=4)
    train_ppo(tree, actor_critic, RunningScale({"quality": 0.0, "psnr": 1.0, "cost": 0.0}), tmp_path, learning)
    assert len(tree.known) == known
    assert len(tree) > known, "those held out are played on"

"""GRPO on a tiny model: calls are drawn and learned with the same chances, failures teach nothing, reward rises."""

from __future__ import annotations

import csv
import json
import math
import shutil
from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from conftest import BoxBlur, Broken, Gamma
from PIL import Image as PillowImage
from planner_lessons import SIZE
from skimage import data as photos
from test_environment import Noticing
from torch import Tensor
from typer.testing import CliRunner

from conservator.apps.cli import app
from conservator.degradations import degrade, parse_recipe
from conservator.errors import ConservatorError, PoolError
from conservator.image import Image
from conservator.perception.perception import Blind
from conservator.pool import LocalPool, MemoPool, Pool
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.session import Apply, Decision, Observation, Session, Stop, Trajectory
from conservator.tools import Toolbox

if find_spec("transformers") is None:
    pytest.skip("needs the extra: pip install 'conservator[mllm]'", allow_module_level=True)

from conservator.policies import PolicyContext, ToolCallingPolicy, check_policy, make_policy
from conservator.policies.dialects import ToolDialect
from conservator.policies.vision_language import VisionLanguageModel, load_model
from conservator.training.planner.exploring import Diversity, DrawnCalls, roll_out
from conservator.training.planner.grpo import GrpoRun
from conservator.training.planner.nano import new_nano
from conservator.training.planner.orders import GrpoOrder
from conservator.training.planner.turns import log_chances, turns_of
from conservator.training.rl.rollouts import RolloutReward

TOOLBOX = Toolbox(Gamma(), BoxBlur(), Broken())


@pytest.fixture(scope="module")
def model() -> VisionLanguageModel:
    """A tiny model with random weights that knows the words of this conversation."""
    dialect = ToolDialect()
    start = Session(torch.rand(1, 3, 32, 32), TOOLBOX, LocalPool(TOOLBOX), Noticing()).observe()
    texts = [message.text for message in dialect.ask(start, "balanced")]
    texts += [str(function).replace("'", '"') for function in dialect.functions(start)]
    tiny = new_nano(texts, **SIZE)
    tiny.network.eval()
    return tiny


@pytest.fixture(scope="module")
def checkpoint(model: VisionLanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tiny")
    model.save(folder, torch.float32)
    return folder


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with MemoPool(LocalPool(TOOLBOX, max_batch=1)) as pool:
        yield pool


@pytest.fixture(scope="module")
def pair(coffee: Image) -> tuple[Image, Image]:
    """A noisy picture, which a box blur improves and a gamma spoils."""
    clean = coffee[..., 100:164, 200:264].contiguous()
    return degrade(clean, parse_recipe("noise:very_high", 3)), clean


def drawn(model: VisionLanguageModel, seed: int = 0, temperature: float = 1.0) -> DrawnCalls:
    return DrawnCalls(ToolCallingPolicy(model, Noticing()), np.random.default_rng(seed), temperature)


def sessions(image: Image, pool: Pool, count: int) -> list[Session]:
    start = Session(image, TOOLBOX, pool, Noticing(), max_steps=4)
    return [start.fork() for _ in range(count)]


def actions(trajectory: Trajectory) -> tuple[object, ...]:
    return tuple(step.decision.action for step in trajectory.steps[1:] if step.decision is not None)


def played(model: VisionLanguageModel, pair: tuple[Image, Image], pool: Pool, count: int = 8) -> list[Trajectory]:
    found = roll_out(drawn(model), sessions(pair[0], pool, count))
    return [one for one in found if one is not None]


def test_rollouts_of_one_picture_differ_and_repeat_by_their_seed(
    model: VisionLanguageModel, pair: tuple[Image, Image], pool: Pool
) -> None:
    first, again = ([actions(t) for t in played(model, pair, pool)] for _ in range(2))
    assert first == again
    assert len(set(first)) > 3
    assert all(one[-1] == Stop() or len(one) == 4 for one in first)
    cold = roll_out(drawn(model, temperature=1e-4), sessions(pair[0], pool, 4))
    assert len({actions(one) for one in cold if one is not None}) == 1
    check_policy(ToolCallingPolicy(model, Noticing()), sessions(pair[0], pool, 1)[0])


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_what_is_learned_are_the_chances_by_which_it_was_drawn(
    model: VisionLanguageModel, pair: tuple[Image, Image], pool: Pool, temperature: float
) -> None:
    """The learner reads whole batches, with their beginning once; the policy reads token by token."""
    policy = ToolCallingPolicy(model, Noticing())
    trajectory = max(played(model, pair, pool), key=lambda one: len(one.steps))
    turns = turns_of(policy, trajectory, TOOLBOX.specs, 4)
    assert len(turns) == len(trajectory.steps) - 1 >= 2
    expected = []
    for turn in turns:
        reading = model.read(turn.prompt)
        shares = [
            (reading.next(turn.said[: fork.place])[list(fork.tokens)] / temperature).softmax(0)[fork.chosen]
            for fork in turn.way
        ]
        expected.append(math.log(math.prod(float(share) for share in shares)))
    assert log_chances(model, turns, temperature).tolist() == pytest.approx(expected, abs=1e-3)
    assert [turn.prompt.ids.tolist() for turn in turns] == [
        policy.prompt(Observation(Trajectory(trajectory.steps[:i]), TOOLBOX.specs, 5 - i)).ids.tolist()
        for i in range(1, len(trajectory.steps))
    ]


class Unreliable(LocalPool):
    """A pool that fails its first calls of a tool."""

    def __init__(self, failures: int) -> None:
        super().__init__(TOOLBOX, max_batch=1)
        self.left = failures

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        if name == "gamma" and self.left > 0:
            self.left -= 1
            raise PoolError("the worker died")
        return super().submit(name, *tensors)


def test_a_pool_that_fails_drops_the_rollout_and_pays_nothing(
    model: VisionLanguageModel, pair: tuple[Image, Image], checkpoint: Path, tmp_path: Path
) -> None:
    with Unreliable(10**6) as pool:
        found = roll_out(drawn(model), sessions(pair[0], pool, 12))
        kept = [one for one in found if one is not None]
        assert 0 < len(kept) < 12
        assert not any("gamma" in str(actions(one)) for one in kept)
    healthy = roll_out(drawn(model), sessions(pair[0], LocalPool(TOOLBOX), 12))
    wanted = [one is not None and actions(one)[0] == Apply("gamma") for one in healthy]
    assert any(wanted)
    # none of these may draw another call instead: that would teach the model to shun the tool
    assert all(one is None for one, gamma in zip(found, wanted, strict=True) if gamma)
    with Unreliable(2) as pool:  # twice: tried again
        again = roll_out(drawn(model), sessions(pair[0], pool, 12))
        assert [one and actions(one) for one in again] == [one and actions(one) for one in healthy]
    run = grpo_run(checkpoint, tmp_path, pair)
    groups = [run.paid([*kept[:3], None], pair[1]), run.paid([None] * 4, pair[1])]
    assert [len(group) for group in groups] == [3, 0]
    assert len(run.advantages(groups)) == 3


def grpo_run(checkpoint: Path, folder: Path, pair: tuple[Image, Image], **changed: object) -> GrpoRun:
    order = GrpoOrder(folder, str(checkpoint), folder / "out", longest=4, crops=1, starts=1, held_out=1, rate=1e-3)
    order = replace(order, device="cpu", **changed)  # type: ignore[arg-type]
    restorer = Restorer(Request(toolbox="classical"), toolbox=TOOLBOX, perception=Noticing())
    pools = MemoPool(restorer.models), None
    return GrpoRun(order, lambda number: pair, lambda number: pair, restorer, pools)


@pytest.mark.parametrize("weighting", ["static", "adaptive", "gdpo"])
def test_better_rollouts_of_a_picture_have_the_advantage(
    weighting: str, model: VisionLanguageModel, pair: tuple[Image, Image], pool: Pool, checkpoint: Path, tmp_path: Path
) -> None:
    run = grpo_run(checkpoint, tmp_path, pair, weighting=weighting)
    good, bad, nothing = (forced(pair[0], pool, *chain) for chain in (["box_blur"], ["gamma"], []))
    group = run.paid([good, bad, nothing], pair[1])
    better, worse, same = run.advantages([group])
    assert better > same > worse
    assert better + same + worse == pytest.approx(0, abs=1e-3)
    costly = forced(pair[0], pool, "box_blur", "broken")
    cheap, dear, _ = run.advantages([run.paid([good, costly, bad], pair[1])])
    assert cheap > dear


def forced(image: Image, pool: Pool, *chain: str) -> Trajectory:
    session = Session(image, TOOLBOX, pool, Noticing())
    for action in (*map(Apply, chain), Stop()):
        session.step(Decision(action))
    return session.trajectory


def test_reward_rises(checkpoint: Path, pair: tuple[Image, Image], tmp_path: Path) -> None:
    run = grpo_run(checkpoint, tmp_path, pair, rollouts=8, rate=5e-3)
    start = Session(pair[0], TOOLBOX, run.pool, Noticing(), max_steps=4).observe()
    before = run.policy.reply(start).chances
    for _ in range(12):
        run.play_and_learn()
    gained = [row["psnr"] for row in run.curve]
    assert np.mean(gained[-3:]) > np.mean(gained[:3]) + 1
    after = run.policy.reply(start).chances
    assert after[Apply("box_blur")] > max(0.5, before.get(Apply("box_blur"), 0.0))


def test_diversity_counts_what_differs(pair: tuple[Image, Image], pool: Pool) -> None:
    removes = {spec.name: spec.removes for spec in TOOLBOX.specs}
    a, b, c = (forced(pair[0], pool, *chain) for chain in (["box_blur", "gamma"], ["gamma", "box_blur"], []))
    assert Diversity.of([[a, b, a]], removes) == Diversity(2, 2, 1)
    assert Diversity.of([[a, b, c], [c, c, c]], removes) == Diversity(2, 2, 1.5)


@pytest.mark.slow
def test_training_by_command_goes_on_and_is_used(checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(10):  # one of ten is held out
        PillowImage.fromarray(photos.coffee()[:240, 10 * number : 240 + 10 * number]).save(folder / f"{number}.png")
    out = tmp_path / "out"
    command = ["train", "grpo", "--photos", folder, "--model", checkpoint, "-o", out, "--toolbox", "classical"]
    command += ["--crops", 1, "--starts", 1, "--rollouts", 3, "--longest", 2, "--held-out", 1, "--every", 1, "--steps"]

    def trained(steps: int, *more: object) -> None:
        result = CliRunner().invoke(app, [str(part) for part in (*command, steps, *more)])
        assert result.exit_code == 0, result.exception

    trained(1)
    trained(2)
    rows = list(csv.DictReader((out / "curve.csv").open()))
    assert [row["step"] for row in rows] == ["1.0", "2.0"]
    assert all(math.isfinite(float(row[name])) for row in rows for name in ("psnr", "ssim", "held_out_ssim", "orders"))
    was, now = (load_model(str(path)).network.state_dict() for path in (checkpoint, out / "model"))
    assert any(not torch.equal(was[name].half(), now[name].half()) for name in was)
    make_policy(f"tir:{out / 'model'}", PolicyContext(None, Blind()))  # type: ignore[arg-type]
    other = CliRunner().invoke(app, [str(part) for part in (*command, 2, "--weighting", "gdpo")])
    assert isinstance(other.exception, ConservatorError)


def test_adapters_are_trained_upon_adapters(checkpoint: Path, pair: tuple[Image, Image], tmp_path: Path) -> None:
    changes = {"lora": True, "rank": 2, "rollouts": 6, "rate": 0.1}  # so that each stage changes much
    first = grpo_run(checkpoint, tmp_path, pair, output=tmp_path / "first", **changes)
    first.play_and_learn()
    taught = first.write_model()
    second = grpo_run(taught, tmp_path, pair, output=tmp_path / "second", **changes)
    second.play_and_learn()
    both = second.write_model()
    start = Session(pair[0], TOOLBOX, second.pool, Noticing(), max_steps=4).observe()

    def chances(path: Path) -> dict[object, float]:
        return dict(ToolCallingPolicy(load_model(str(path)), Noticing()).reply(start).chances)

    trained = dict(second.policy.reply(start).chances)
    assert chances(both) == pytest.approx(trained, abs=0.01)
    assert chances(taught) != pytest.approx(trained, abs=0.02)
    raw = tmp_path / "raw"
    shutil.copytree(both, raw)
    told = json.loads((raw / "adapter_config.json").read_text())
    assert told["base_model_name_or_path"] == str(taught)
    (raw / "adapter_config.json").write_text(json.dumps(told | {"base_model_name_or_path": str(checkpoint)}))
    assert chances(raw) != pytest.approx(trained, abs=0.02)  # what the first adapters taught is in what is loaded


def test_what_cannot_be_measured_is_told_as_nothing(
    checkpoint: Path, pair: tuple[Image, Image], tmp_path: Path
) -> None:
    run = grpo_run(checkpoint, tmp_path, pair)
    assert math.isfinite(run.measure()["psnr"])

    def fails(one: object, clean: object) -> None:
        return None

    run.reward = fails  # type: ignore[assignment]
    assert run.measure() == {}
    with pytest.raises(ConservatorError, match="psnr cannot be left out"):
        RolloutReward(("psnr", "ssim"), "psnr", TOOLBOX)


def test_adapters_learn_alone(checkpoint: Path, pair: tuple[Image, Image], tmp_path: Path) -> None:
    run = grpo_run(checkpoint, tmp_path, pair, lora=True, rank=2, rollouts=6, output=tmp_path)
    run.play_and_learn()
    folder = run.write_model()
    assert {path.name for path in folder.glob("*.safetensors")} == {"adapter_model.safetensors"}
    was, now = (load_model(str(path)).network.state_dict() for path in (checkpoint, folder))
    changed = {name for name, value in was.items() if not torch.equal(value, now[name])}
    assert changed
    assert not any("embed_tokens" in name for name in changed)

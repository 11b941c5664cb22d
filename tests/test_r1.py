"""The policy r1 keeps the contract of policies, and what it learns from is what it says."""

from __future__ import annotations

import itertools
import tomllib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from safetensors.torch import load_file, save_file
from skimage import data
from test_cli import conservator

from conservator.degradations import Kind, degrade, parse_recipe
from conservator.errors import ConservatorError
from conservator.evaluation.decisions import decisions_table, time_decisions
from conservator.image import Image, to_image
from conservator.perception import Blind, StatisticalPerception, Verdict, study
from conservator.perception.perception import Look
from conservator.policies import ActorCritic, ActorCriticPolicy, PolicyContext, check_policy, make_policy
from conservator.policies.actor_critic import MOST_TOOLS, damage_first
from conservator.pool import LocalPool, MemoPool, Pool
from conservator.session import Apply, Decision, Scope, Session, Step, Stop, run, run_together
from conservator.tools import Toolbox, make_toolbox
from conservator.training.rl.starts import damaged_starts, found_starts

SEEING = StatisticalPerception.load()
PHOTOS = [to_image(photo()) for photo in (data.astronaut, data.coffee, data.chelsea, data.rocket)]


def fresh(tools: Toolbox, seed: int = 0, sure: float = 1.0) -> ActorCritic:
    """A policy with random weights; the surer, the more its chances depend on what it is told."""
    torch.manual_seed(seed)
    made = ActorCritic.new(tuple(tools), SEEING.features)
    with torch.no_grad():
        made.network.actor.weight.mul_(sure)
    return made


@pytest.fixture(scope="module")
def classical() -> Toolbox:
    return make_toolbox("classical").only(
        "wavelet_denoise", "tv_denoise", "deblock", "gamma_brighten", "stretch_brighten"
    )


@pytest.fixture(scope="module")
def pool(classical: Toolbox) -> Iterator[Pool]:
    with MemoPool(LocalPool(classical, max_batch=1)) as pool:
        yield pool


@pytest.fixture(scope="module")
def damaged(coffee: Image) -> Image:
    return degrade(coffee[..., :200, :240], parse_recipe("low_light:very_high,noise:low,jpeg:high", seed=4))


@pytest.mark.parametrize("seed", [0, 1])
def test_random_weights_hold_the_contract(seed: int, damaged: Image, classical: Toolbox, pool: Pool) -> None:
    policy = ActorCriticPolicy(fresh(classical, seed, sure=300), SEEING)
    check_policy(policy, Session(study(damaged), classical, pool, SEEING))
    first = policy.act(Session(study(damaged), classical, pool, SEEING).observe())
    assert first.thought.count("%") > 1


def test_it_tries_no_tool_and_measures_nothing_twice(damaged: Image, classical: Toolbox, pool: Pool) -> None:
    class Counting(StatisticalPerception):
        measured_again = 0

        def measured(self, look: Look):  # type: ignore[no-untyped-def]
            found = super().measured(look)
            Counting.measured_again += found.features is not look.percept.features  # type: ignore[attr-defined]
            return found

    class NoCalls(Pool):
        def submit(self, name: str, *tensors: torch.Tensor):  # type: ignore[no-untyped-def]
            raise AssertionError("a tool was tried")

        def close(self) -> None: ...

    seeing = Counting("statistics", "cpu")
    observation = Session(damaged, classical, NoCalls(), seeing).observe()
    decision = ActorCriticPolicy(fresh(classical, sure=300), seeing).act(observation)
    assert decision.thought
    assert Counting.measured_again == 0


def test_what_is_not_possible_has_no_chance(damaged: Image, classical: Toolbox, pool: Pool) -> None:
    """Not offered, not suspected, treated already, failed here, or after the last of its steps."""
    known = fresh(classical)
    session = Session(damaged, classical, pool, SEEING)
    named = dict(zip((*known.tools, "stop"), known.possible(session.observe()).tolist(), strict=True))
    assert named == dict.fromkeys(named, True), "the photo is dark, noisy and a JPEG"
    denied = Session(damaged, classical, pool, SEEING, scope=Scope(never=frozenset({Kind.LOW_LIGHT})))
    assert known.possible(denied.observe()).tolist() == [True, True, True, False, False, True]
    session.step(Decision(Apply("tv_denoise")))
    assert not known.possible(session.observe())[:2].any(), "noise was treated"
    blind = Session(damaged, classical, pool, Blind())
    assert known.possible(blind.observe()).tolist() == [False] * 5 + [True]
    observation = Session(damaged, classical, pool, SEEING).observe()
    last = observation.trajectory.last
    step = Step(1, 0, Decision(Apply("deblock")), last.image, last.percept, error="it failed")
    after = replace(observation, trajectory=observation.trajectory.add(step))
    assert known.possible(after).tolist() == [True, True, False, True, True, True]
    for name in ("a", "b", "c", "d"):
        step = Step(len(observation.trajectory.steps), 0, Decision(Apply(name)), last.image, last.percept)
        step = replace(step, parent=step.id - 1)
        observation = replace(observation, trajectory=observation.trajectory.add(step))
    assert len(observation.trajectory.toolchain()) == MOST_TOOLS
    assert known.possible(observation).tolist() == [False] * 5 + [True]


def test_what_is_treated_is_chosen_before_the_tool_for_it() -> None:
    rain, dark = frozenset({Kind.RAIN}), frozenset({Kind.LOW_LIGHT})
    treats = [rain, dark, dark, dark]
    assert damage_first([0.3, 0.1, 0.2, 0.15, 0.25], treats) == [2, 3, 1, 0, 4]  # 45 % for darkness
    assert damage_first([0.3, 0.1, 0.1, 0.05, 0.45], treats)[0] == 4  # to stop
    assert damage_first([0.5, 0.1, 0.2, 0.15, 0.05], treats)[0] == 0
    assert damage_first([0.0, 0.0, 0.0, 0.0, 1.0], treats)[0] == 4


def test_many_sessions_together_are_decided_as_each_alone(damaged: Image, classical: Toolbox, pool: Pool) -> None:
    policy = ActorCriticPolicy(fresh(classical, 1, sure=300), SEEING)
    images = [damaged, PHOTOS[0][..., :200, :240], degrade(PHOTOS[2][..., :200, :240], parse_recipe("noise:low", 1))]
    together = run_together(policy, [Session(image, classical, pool, SEEING) for image in images])
    alone = [run(policy, Session(image, classical, pool, SEEING)) for image in images]
    assert [one.toolchain() for one in together] == [one.toolchain() for one in alone]
    assert len({one.toolchain() for one in together}) > 1


def test_decisions_are_timed_alone_and_in_company(damaged: Image, classical: Toolbox, pool: Pool) -> None:
    policy = ActorCriticPolicy(fresh(classical, sure=300), SEEING)
    timed = time_decisions(policy, [Session(damaged, classical, pool, SEEING).observe()])
    assert timed.alone > 0
    assert timed.together > 0
    assert decisions_table([timed])[-1] == f"| r1 | {timed.alone:.2f} | {timed.together:.2f} | 64 |"


def test_what_risk_control_refuses_is_not_done_and_another_is_chosen(
    damaged: Image, classical: Toolbox, pool: Pool
) -> None:
    class NoDenoising:
        def judge(self, start: Look, before: Look, after: Look, treats: frozenset[Kind], treated: object) -> Verdict:
            return Verdict(1.0 if Kind.NOISE in treats else 0.0, 0.5)

    policy = ActorCriticPolicy(fresh(classical, sure=0.0), SEEING)  # all as likely: what more tools are for
    found = run(policy, Session(damaged, classical, pool, SEEING, admission=NoDenoising()))  # type: ignore[arg-type]
    assert [refusal.tool for refusal in found.refusals] == ["wavelet_denoise", "tv_denoise"]
    assert found.toolchain()[:1] == ("gamma_brighten",)


def test_it_is_saved_by_its_names_and_refuses_what_it_does_not_know(
    tmp_path: Path, damaged: Image, classical: Toolbox, pool: Pool
) -> None:
    known, file = fresh(classical, 3, sure=300), tmp_path / "r1.safetensors"
    save_file(known.tensors(), file, known.metadata())
    assert file.stat().st_size < 1e6
    assert sum(parameter.numel() for parameter in known.network.parameters()) < 1e6
    loaded = make_policy(f"r1:{file}", PolicyContext(pool, SEEING, toolbox=classical))
    observation = Session(damaged, classical, pool, SEEING).observe()
    assert loaded.name == f"r1:{file}"
    assert loaded.act(observation).action == ActorCriticPolicy(known, SEEING).act(observation).action
    with pytest.raises(ConservatorError, match="Blind measures"):
        make_policy(f"r1:{file}", PolicyContext(pool, Blind()))
    with pytest.raises(ConservatorError, match="none of its tools"):
        make_policy(f"r1:{file}", PolicyContext(pool, SEEING, toolbox=make_toolbox("conservator").only("derain")))
    others = replace(known, features=known.features[1:])
    save_file(others.tensors(), file, others.metadata())
    with pytest.raises(ConservatorError, match="no policy of the kind r1"):
        make_policy(f"r1:{file}", PolicyContext(pool, SEEING))
    swapped = replace(known, features=known.features[::-1])
    save_file(swapped.tensors(), file, swapped.metadata())
    with pytest.raises(ConservatorError, match="another perception"):
        make_policy(f"r1:{file}", PolicyContext(pool, SEEING))


def test_a_small_photo_is_enlarged_last_where_that_is_wanted(coffee: Image) -> None:
    tools = make_toolbox("conservator").only("upscale_x2", "denoise_light")
    policy, small = ActorCriticPolicy(fresh(tools.only("denoise_light")), SEEING), coffee[..., :96, :96]
    with LocalPool(tools) as pool:
        for upscale in (False, True):
            done = run(policy, Session(small, tools, pool, SEEING, scope=Scope(upscale=upscale)))
            assert done.toolchain()[-1:] == (("upscale_x2",) if upscale else done.toolchain()[-1:])
            assert isinstance(done.last.decision and done.last.decision.action, Stop)
            assert ("upscale_x2" in done.toolchain()) == upscale


@pytest.fixture
def old_photos(tmp_path: Path) -> Path:
    """A folder of damaged photos, one that needs nothing, one that is tiny and one that is no photo."""
    folder = tmp_path / "old"
    folder.mkdir()
    for number, photo in enumerate(PHOTOS[:3]):
        noisy = degrade(photo[..., :300, :320], parse_recipe("noise:very_high", seed=number))
        PillowImage.fromarray((noisy[0].permute(1, 2, 0).numpy() * 255).round().astype(np.uint8)).save(
            folder / f"noisy-{number}.png"
        )
    PillowImage.fromarray(data.coffee()).save(folder / "undamaged.png")
    PillowImage.fromarray(data.coffee()[:90, :300]).save(folder / "tiny.png")
    (folder / "torn.png").write_bytes(b"no photo")
    return folder


def test_undamaged_and_tiny_photos_are_told_and_left_out(old_photos: Path) -> None:
    told: list[str] = []
    found = found_starts(sorted(old_photos.iterdir()), 8, 0, SEEING, told.append)
    assert len(found.training) + len(found.held_out) == 8
    assert all(clean is None for _, clean in (*found.training, *found.held_out))
    said = "\n".join(told)
    assert "no damage is seen in undamaged.png" in said
    assert "tiny.png is tiny, 300x90 pixels" in said
    assert "torn.png cannot be read" in said
    assert "3 of 6 photos are learned from" in said
    with pytest.raises(ConservatorError, match="none of these photos"):
        found_starts([old_photos / "undamaged.png"], 8, 0, SEEING, told.append)


def test_parts_of_damaged_files_are_native(old_photos: Path) -> None:
    """Never resized: every row of a crop is a row of the file."""
    (noisy, _), *_ = found_starts(
        [old_photos / "noisy-0.png", old_photos / "noisy-1.png"], 2, 0, SEEING, print
    ).training
    whole = to_image(np.asarray(PillowImage.open(old_photos / "noisy-1.png")))
    assert torch.equal(noisy, whole[..., : noisy.shape[-2], : noisy.shape[-1]])


def test_drawn_starts_are_the_same_again_and_hold_out_whole_photos(tmp_path: Path) -> None:
    paths = []
    for name in ("astronaut", "coffee"):
        PillowImage.fromarray(getattr(data, name)()).save(tmp_path / f"{name}.png")
        paths.append(tmp_path / f"{name}.png")
    one, two = (damaged_starts(paths, 4, 3) for _ in range(2))
    assert len(one.training) == len(one.held_out) == 2
    for (a, b), (c, d) in itertools.chain(zip(one.training, two.training, strict=True)):
        assert torch.equal(a, c)
        assert b is not None
        assert d is not None
        assert torch.equal(b, d)
        assert a.shape == b.shape


def test_the_command_learns_from_damaged_files_alone(old_photos: Path, tmp_path: Path) -> None:
    asked = ["train", "r1", "--damaged", str(old_photos), "--perception", "statistics", "--toolbox", "classical"]
    asked += [
        "--starts",
        "4",
        "--explored",
        "6",
        "--updates",
        "2",
        "--episodes",
        "4",
        "--threads",
        "1",
        "-o",
        str(tmp_path / "run"),
    ]
    asked += ["--states", str(tmp_path / "states")]
    result = conservator(*asked)
    assert result.returncode == 0, result.stderr
    assert "left out: no damage is seen in undamaged.png" in result.stdout
    assert "psnr" not in result.stdout
    file = tmp_path / "run" / "r1.safetensors"
    with LocalPool(make_toolbox("classical")) as pool:
        assert make_policy(f"r1:{file}", PolicyContext(pool, SEEING)).name == f"r1:{file}"
    was = load_file(file)
    weights = tmp_path / "weights"
    shipped = conservator(*asked, "--into", str(weights))
    assert "update 2" not in shipped.stdout, "it was done already"
    assert all(torch.equal(was[name], value) for name, value in load_file(file).items())
    assert all(torch.equal(was[name], value) for name, value in load_file(weights / "r1.safetensors").items())
    entry = tomllib.loads((weights / "manifest.toml").read_text("utf-8"))["r1"]
    assert "--damaged" in entry["command"]
    assert entry["made_with"].keys() >= {"statistics", "toolbox classical"}
    for more, said in (
        (["--seed", "1"], "seed 0, now 1"),
        (["--reward", "psnr"], "give no PSNR"),
        (["--method", "imitation"], "no right answers"),
        (["--reward", "feedback"], "--model"),
        (["--photos", str(old_photos)], "--damaged"),
    ):
        refused = conservator(*asked, *more)
        assert refused.returncode == 2
        assert said in refused.stderr

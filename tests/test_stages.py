"""Agents with a fixed order of damages, on real photos: which tools they try, in which order, and what they keep."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Future

import pytest
import torch
from torch import Tensor

from conservator.degradations import Kind, degrade, parse_recipe
from conservator.image import Image
from conservator.metrics.fidelity import psnr
from conservator.perception import Look, NetworkPerception
from conservator.perception.remembering import RememberingPerception
from conservator.policies import PolicyContext, check_policy, make_policy
from conservator.policies.fixed import EXPERT_ORDER
from conservator.policies.stages import IMAGING_PROCESS, ONE_BY_ONE
from conservator.pool import LocalPool, MemoPool, Pool
from conservator.session import Apply, Decision, Session, Stop, run
from conservator.tools import make_toolbox

PERCEPTION = RememberingPerception(NetworkPerception.load())
TOOLBOX = make_toolbox("conservator")


class Counting(MemoPool):
    """Notes which tools were called on which picture."""

    def __init__(self, pool: Pool) -> None:
        super().__init__(pool)
        self.calls: list[str] = []

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        self.calls.append(name)
        return super().submit(name, *tensors)


@pytest.fixture(scope="module")
def local() -> Iterator[Pool]:
    with LocalPool(TOOLBOX, max_batch=1) as pool:
        yield MemoPool(pool)


@pytest.fixture(scope="module")
def clean(coffee: Image) -> Image:
    return coffee[..., :192, :256]


def session(image: Image, pool: Pool, *tools: str, steps: int = 12) -> Session:
    return Session(image, TOOLBOX.only(*tools) if tools else TOOLBOX, pool, PERCEPTION, steps)


def test_every_kind_with_an_expert_has_a_stage_and_only_one() -> None:
    for stages in (ONE_BY_ONE, IMAGING_PROCESS):
        assert sorted(kind for stage in stages for kind in stage) == sorted(EXPERT_ORDER)


@pytest.mark.parametrize("name", ["traverse", "stages"])
def test_it_keeps_the_contract_and_gains(name: str, clean: Image, local: Pool) -> None:
    damaged = degrade(clean, parse_recipe("noise:high,jpeg:high", seed=4))
    started = session(damaged, local)
    check_policy(make_policy(name, PolicyContext(local, PERCEPTION)), started)
    assert started.stopped
    assert psnr(started.trajectory.last.image, clean) > psnr(damaged, clean) + 2


def test_every_tool_for_a_damage_is_tried_and_the_best_is_kept(clean: Image, local: Pool) -> None:
    noisy = degrade(clean, parse_recipe("noise:high", seed=4))
    pool = Counting(local)
    started = session(noisy, pool, *(n for n in TOOLBOX if n.startswith(("denoise", "derain"))))
    denoisers = {name for name in started.tools if Kind.NOISE in name.removes}
    run(make_policy("traverse", PolicyContext(pool, PERCEPTION)), started)
    assert {spec.name for spec in denoisers} <= set(pool.calls)
    assert "derain" not in pool.calls  # no rain was seen
    (kept,) = started.trajectory.toolchain()  # once for the damage, though noise may still be seen
    look = started.trajectory.steps[0].look
    gains = {}
    for spec in denoisers:
        image = local.submit(spec.name, noisy).result()
        after = Look(image, PERCEPTION.grade(image))
        gains[spec.name] = PERCEPTION.weigh(look, after, spec.removes).cautious("balanced")
    assert kept == max(gains, key=lambda name: gains[name])


def test_the_camera_comes_before_the_scene(clean: Image, local: Pool) -> None:
    damaged = degrade(clean, parse_recipe("low_light:high,noise:high", seed=4))
    chains = {}
    for name in ("traverse", "stages"):
        chains[name] = run(make_policy(name, PolicyContext(local, PERCEPTION)), session(damaged, local)).toolchain()
        kinds = [TOOLBOX[tool].spec.removes for tool in chains[name]]
        assert len(kinds) >= 2
        stages = ONE_BY_ONE if name == "traverse" else IMAGING_PROCESS
        places = [max(i for i, stage in enumerate(stages) if stage & removed) for removed in kinds]
        assert places == sorted(places)


def test_a_stage_is_never_entered_again(clean: Image, local: Pool) -> None:
    damaged = degrade(clean, parse_recipe("low_light:high,noise:high", seed=4))
    started = session(damaged, local)
    started.step(Decision(Apply("brighten_mild")))
    policy = make_policy("stages", PolicyContext(local, PERCEPTION))
    while not started.over:
        decision = policy.act(started.observe())
        assert decision.action == Stop() or Kind.NOISE not in TOOLBOX[decision.action.tool].spec.removes  # type: ignore[union-attr]
        started.step(decision)


@pytest.mark.parametrize("name", ["traverse", "stages"])
def test_a_clean_photo_stays_untouched(name: str, clean: Image, local: Pool) -> None:
    started = session(clean, local)
    assert torch.equal(run(make_policy(name, PolicyContext(local, PERCEPTION)), started).last.image, clean)

"""Policies that ask a model or a network go on sensibly where risk control refuses what they said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from chat_endpoint import STOP, TOOLBOX, Endpoint, options, plans
from skimage import data
from test_risk import Told, of_kinds
from test_rl_restore import TOOLS, small_agent

from conservator import Apply, Session, Stop, run
from conservator.degradations import degrade, parse_recipe
from conservator.image import Image, in_8_bits, to_image
from conservator.kinds import Kind
from conservator.perception import Blind, StatisticalPerception, load_perception
from conservator.perception.risk import Admission
from conservator.photo import load_photo
from conservator.policies import Chat, PolicyContext, check_policy, make_policy
from conservator.policies.dqn import DqnPolicy
from conservator.pool import LocalPool, MemoPool
from conservator.session import Trajectory
from conservator.tools import make_toolbox

BRIGHT = Admission(of_kinds(low_light=0.9), 0.1)
"""Admits everything but what brightens."""


def chatted(endpoint: Endpoint, photo: Path, replan: bool, admission: Admission = BRIGHT) -> Trajectory:
    pytest.importorskip("httpx")
    with LocalPool(TOOLBOX) as pool:
        dark = load_photo(photo).image * 0.4  # or there is nothing to brighten
        session = Session(dark, TOOLBOX, pool, StatisticalPerception.load(), admission=admission)
        return run(Chat(options(endpoint, replan=replan), Blind()), session)


def test_a_plan_goes_on_after_its_first_tool_was_refused(endpoint: Endpoint, noisy_file: Path) -> None:
    endpoint.script = [plans("gamma_brighten", "wavelet_denoise", "tv_denoise"), STOP]
    trajectory = chatted(endpoint, noisy_file, replan=False)
    assert trajectory.toolchain() == ("wavelet_denoise", "tv_denoise")
    assert [refusal.tool for refusal in trajectory.refusals] == ["gamma_brighten"]
    assert len(endpoint.bodies) == 1


def test_a_model_is_told_what_was_refused_and_offered_the_others(endpoint: Endpoint, noisy_file: Path) -> None:
    endpoint.script = [plans("gamma_brighten"), plans("gamma_brighten"), plans("wavelet_denoise"), STOP]
    trajectory = chatted(endpoint, noisy_file, replan=True)
    assert trajectory.toolchain() == ("wavelet_denoise",)
    first, second, third, last = endpoint.bodies
    enum = second["response_format"]["json_schema"]["schema"]["properties"]["tools"]["items"]["enum"]
    assert enum == ["wavelet_denoise", "tv_denoise"]
    assert "gamma_brighten was not admitted" in second["messages"][1]["content"][-1]["text"]
    assert trajectory.steps[2].error == "the plan names gamma_brighten, not in the toolbox"  # and it is asked once more
    assert "gamma_brighten" in str(first)
    assert isinstance(last, dict)
    assert third is not None


def test_a_chat_that_nothing_is_admitted_of_ends_with_the_photo_as_it_came(
    endpoint: Endpoint, noisy_file: Path
) -> None:
    endpoint.script = [plans("gamma_brighten"), plans("wavelet_denoise"), plans("tv_denoise")]
    nothing = Admission(Told(lambda before, after, treated: 0.5), 0.0)
    trajectory = chatted(endpoint, noisy_file, replan=True, admission=nothing)
    assert trajectory.toolchain() == ()
    assert trajectory.last.decision is not None
    assert trajectory.last.decision.thought == "there is no tool to choose"
    assert len(trajectory.refusals) == 3


@pytest.fixture(scope="module")
def noisy() -> Image:
    return in_8_bits(degrade(to_image(data.coffee()[100:228, 200:328]), parse_recipe("noise:high", 3)))


def test_the_planner_chooses_another_tool_for_one_that_was_refused(noisy: Image) -> None:
    tools, eye = make_toolbox("conservator"), load_perception("perception")
    with MemoPool(LocalPool(tools, workers=1, max_batch=1)) as pool:
        policy = make_policy("mllm", PolicyContext(pool, eye, toolbox=tools))
        first = policy.act(Session(noisy, tools, pool, eye).observe()).action
        assert isinstance(first, Apply)
        refused = pool.submit(first.tool, noisy).result()
        admission = Admission(Told(lambda before, after, treated: float(torch.equal(after.image, refused))), 0.5)
        trajectory = run(policy, Session(noisy, tools, pool, eye, admission=admission))
        assert [refusal.tool for refusal in trajectory.refusals] == [first.tool]
        assert any(Kind.NOISE in tools[tool].spec.removes for tool in trajectory.toolchain())
        once = make_policy("mllm-once", PolicyContext(pool, eye, toolbox=tools))
        free = run(once, Session(noisy, tools, pool, eye)).toolchain()
        held = run(once, Session(noisy, tools, pool, eye, admission=admission))
        assert held.toolchain() == free[1:]  # the plan goes on after its first tool


def test_an_agent_votes_again_where_its_tool_was_refused(noisy: Image) -> None:
    policy = DqnPolicy(small_agent())
    with MemoPool(LocalPool(TOOLS, max_batch=1)) as pool:
        first = policy.act(Session(noisy, TOOLS, pool, Blind()).observe()).action
        assert isinstance(first, Apply)
        refused = TOOLS[first.tool](noisy)
        admission = Admission(Told(lambda before, after, treated: float(torch.equal(after.image, refused))), 0.5)
        session = Session(noisy, TOOLS, pool, Blind(), admission=admission)
        assert session.step(policy.act(session.observe())).refusal is not None
        then = policy.act(session.observe())
        assert then.thought != ""
        assert "failed" not in then.thought
        assert then.action != first
        check_policy(policy, Session(noisy, TOOLS, pool, Blind(), admission=admission))
        nothing = Admission(Told(lambda before, after, treated: 1.0), 0.0)
        end = run(policy, Session(noisy, TOOLS, pool, Blind(), admission=nothing))
        assert end.toolchain() == ()
        assert end.last.decision is not None
        assert end.last.decision.action == Stop()

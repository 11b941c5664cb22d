"""What planners learn from: the right answer to a situation, the words it is asked in, and the files of the data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage
from skimage import data
from typer.testing import CliRunner

from conservator.apps.cli import app
from conservator.degradations import Kind
from conservator.degradations.kinds import Severity
from conservator.errors import ConservatorError
from conservator.evaluation.enumerate import Enumeration
from conservator.perception import Blind, Look, Percept
from conservator.perception.perception import Gain
from conservator.policies.conversation import IMAGE, ask, judged, read_reply, write_reply
from conservator.session import Apply, Decision, Observation, Rollback, Step, Stop, Trajectory
from conservator.tools import make_toolbox
from conservator.training.situations import HARM, TIE, Outlook, Situation, questions

TOOLS = make_toolbox("classical").only("wavelet_denoise", "deblock", "gamma_brighten").specs


def observed(*actions: Apply | Rollback) -> Observation:
    steps = [Step(0, None, None, torch.zeros(2, 3, 8, 8), Percept())]
    for action in actions:
        parent = action.to if isinstance(action, Rollback) else steps[-1].id
        steps.append(Step(len(steps), parent, Decision(action), torch.zeros(2, 3, 8, 8), Percept()))
    return Observation(Trajectory(tuple(steps)), TOOLS, 9)


def outlook(scores: dict[tuple[str, ...], float]) -> Outlook:
    chains = tuple(scores)
    found = Enumeration(chains, ("psnr",), np.array([[v] for v in scores.values()]), 0)
    return Outlook(found, np.array(list(scores.values())))


HARMFUL = outlook({(): 0.0, ("a",): 1.0, ("b",): -2.0, ("a", "b"): 3.0, ("b", "a"): -1.0})
"""First a, then b is right; the other way round nothing is to be saved."""


def test_each_situation_gets_its_right_answer() -> None:
    found = {q.situation: q for seed in range(20) for q in questions(HARMFUL, np.random.default_rng(seed))}
    assert set(found) == set(Situation)
    assert found[Situation.PLAN].answer == Decision(Apply("a"), ("b",))
    assert (found[Situation.ADJUST].toolchain, found[Situation.ADJUST].answer) == (("a",), Decision(Apply("b")))
    assert found[Situation.ROLLBACK].answer == Decision(Rollback(0))
    assert found[Situation.AVOID].history == (Apply("b"), Rollback(0))
    assert found[Situation.AVOID].answer == Decision(Apply("a"), ("b",))
    assert (found[Situation.STOP].toolchain, found[Situation.STOP].answer) == (("a", "b"), Decision(Stop()))
    assert found[Situation.PLAN].values == {"a": 3.0, "b": -1.0, "stop": 0.0}


def test_a_photo_that_every_tool_spoils_is_left_alone() -> None:
    found = list(questions(outlook({(): 0.0, ("a",): -3.0}), np.random.default_rng(0)))
    assert {q.situation for q in found} == {Situation.ROLLBACK, Situation.AVOID, Situation.STOP}
    assert all(q.answer.action == Stop() for q in found if q.situation is not Situation.ROLLBACK)


@given(st.lists(st.floats(-5, 5), min_size=16, max_size=16), st.integers(0, 2**32 - 1))
def test_no_answer_is_worse_than_a_tie_with_the_best(scores: list[float], seed: int) -> None:
    chains = [(), *((a,) for a in "abc"), *((a, b) for a in "abc" for b in "abc" if a != b)]
    chains += [(*chain, next(iter(set("abc") - set(chain)))) for chain in chains if len(chain) == 2]
    found = outlook(dict(zip(chains, scores, strict=True)))
    best = max(scores)
    for question in questions(found, np.random.default_rng(seed)):
        action = question.answer.action
        if isinstance(action, Rollback):
            kept = question.toolchain[: action.to]
            assert found.reach[question.toolchain] < best - HARM <= found.reach[kept]
            continue
        tools = (action.tool, *question.answer.plan) if isinstance(action, Apply) else ()
        reached = found.scores[question.toolchain + tools]
        assert reached >= found.reach[question.toolchain] - TIE
        if question.situation is not Situation.ADJUST:
            assert reached >= best - HARM - TIE


def test_a_conversation_shows_toolbox_history_and_pictures() -> None:
    system, user = ask(observed(Apply("deblock"), Rollback(0)), "perceptual")
    assert all(spec.name in system.text and spec.description in system.text for spec in TOOLS)
    assert user.text.count(IMAGE) == len(user.images) == 2
    assert user.images[0].shape == (1, 3, 8, 8)
    assert user.text.index("Step 1: deblock") < user.text.index("Step 2: rolled back to step 0")
    assert "good to look at" in system.text
    assert "good to look at" not in ask(observed(), "fidelity")[0].text


def test_a_conversation_says_what_the_eye_found_and_what_each_step_gained() -> None:
    class Eye(Blind):
        def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
            return Gain.sure(-1.25 if Kind.JPEG in treated else 0.5)

    percept = Percept(
        {Kind.JPEG: Severity.HIGH, Kind.LOW_LIGHT: Severity.NONE, Kind.RAIN: Severity.LOW},
        {Kind.JPEG: 0.97, Kind.LOW_LIGHT: 0.21, Kind.RAIN: 0.8},
    )
    observation = observed(Apply("deblock"), Rollback(0))
    steps = observation.trajectory.steps
    seen = replace(observation, trajectory=Trajectory(tuple(replace(step, percept=percept) for step in steps)))
    _, user = ask(seen, "fidelity", judged(seen, Eye(), "fidelity"))
    assert "Examined: JPEG artefacts high 100 %, low light none 20 %.\n" in user.text  # no tool here treats rain
    assert "Step 1: deblock (-1.2 dB by the eye)\nStep 2: rolled back to step 0\n" in user.text
    assert "Examined" not in ask(observation, "fidelity")[1].text
    assert not judged(observation, Eye(), "fidelity")  # nothing was examined


@pytest.mark.parametrize(
    "decision",
    [
        Decision(Apply("deblock"), ("gamma_brighten",)),
        Decision(Apply("deblock")),
        Decision(Rollback(1)),
        Decision(Stop()),
    ],
)
def test_a_reply_is_read_as_it_was_written(decision: Decision) -> None:
    read = read_reply(write_reply(decision), observed(Apply("deblock")))
    assert (read.action, read.plan) == (decision.action, decision.plan)


@pytest.mark.parametrize(
    ("reply", "action"),
    [
        ("It is noisy.\n**Plan: wavelet_denoise > deblock**", Apply("wavelet_denoise")),
        ("Rollback: step 0.", Rollback(0)),
        ("STOP", Stop()),
        ("plan: wavelet_denoise\nplan: deblock", Apply("wavelet_denoise")),
    ],
)
def test_a_chatty_reply_is_understood(reply: str, action: Apply | Rollback | Stop) -> None:
    assert read_reply(reply, observed()).action == action


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("plan: photoshop", "photoshop"),
        ("plan:", "the plan is empty"),
        ("rollback: 7", "steps are 0 to 1"),
        ("rollback: -1", "steps are 0 to 1"),
        ("", "no plan"),
        ("I would stop the noise first", "no plan"),
    ],
)
def test_nonsense_is_no_action_and_says_why(reply: str, why: str) -> None:
    decision = read_reply(reply, observed(Apply("deblock")))
    assert decision.action is None
    assert why in decision.thought
    assert decision.reply == reply


@given(st.text(max_size=300))
def test_no_reply_is_an_exception(reply: str) -> None:
    decision = read_reply(reply, observed())
    assert decision.reply == reply


@pytest.mark.slow
def test_data_is_built_shown_and_resumed(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "data"
    photos.mkdir()
    PillowImage.fromarray(data.coffee()).save(photos / "coffee.png")
    command = ["data", "build", "--photos", str(photos), "-o", str(out), "--count", "3", "--jobs", "1"]
    command += ["--toolbox", "experts"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    files = {name: (out / f"{name}.jsonl").read_text() for name in ("conversations", "decisions")}
    rows, asked = ([json.loads(line) for line in text.splitlines()] for text in files.values())
    assert len(rows) == len(asked) > 9
    for conversation in rows:
        system, user, reply = (turn["value"] for turn in conversation["conversations"])
        assert user.count(IMAGE) == len(conversation["images"])
        assert all(PillowImage.open(out / path).size == (224, 224) for path in conversation["images"])
        assert reply == "stop" or reply.split(":")[0] in {"plan", "rollback"}
        assert "denoise_medium" in system
    assert all(row["values"] for row in asked)
    assert (out / "index.html").read_text().count("<article>") == min(30, len(rows))
    (out / "parts" / "000001.jsonl").unlink()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert {name: (out / f"{name}.jsonl").read_text() for name in files} == files
    other = CliRunner().invoke(app, [*command, "--seed", "1"])
    assert isinstance(other.exception, ConservatorError)


def test_every_crop_can_be_made_to_have_a_kind(tmp_path: Path) -> None:
    photos, out = tmp_path / "photos", tmp_path / "data"
    photos.mkdir()
    PillowImage.fromarray(data.coffee()).save(photos / "coffee.png")
    command = ["data", "build", "--photos", str(photos), "-o", str(out), "--count", "4", "--jobs", "1"]
    command += ["--toolbox", "classical"]
    assert CliRunner().invoke(app, [*command, "--always", "snow"]).exit_code == 0
    rows = [json.loads(line) for line in (out / "decisions.jsonl").read_text().splitlines()]
    assert len({row["id"][:6] for row in rows}) == 4
    assert all("snow" in row["kinds"] and len(row["kinds"]) <= 3 for row in rows)
    assert isinstance(CliRunner().invoke(app, command).exception, ConservatorError)
    wrong = CliRunner().invoke(app, [*command, "--always", "hail"]).exception
    assert wrong is not None
    assert "hail" in str(wrong)

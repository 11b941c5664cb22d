"""What planners learn from: the right answer to a situation, the words it is asked in, and the files of the data."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage
from skimage import data
from typer.testing import CliRunner

from conservator.apps.cli import app
from conservator.degradations import parse_recipe
from conservator.errors import ConservatorError
from conservator.evaluation.enumerate import Enumeration
from conservator.kinds import NO_WISH, Kind, Severity, Wish
from conservator.perception import Percept
from conservator.policies.dialects import IMAGE
from conservator.session import Apply, Decision, Observation, Rollback, Step, Stop, Trajectory
from conservator.tools import make_toolbox
from conservator.training.planner.lessons import (
    PlannerLesson,
    read_lessons,
    without_pictures,
    write_conversations,
    write_lessons,
)
from conservator.training.planner.situations import LOST, TIE, Outlook, Situation, questions
from conservator.training.planner.teaching import DIALECT


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
    assert found[Situation.PLAN].values == {Apply("a"): 3.0, Apply("b"): -1.0, Stop(): 0.0}
    avoid = found[Situation.AVOID].values
    assert avoid == {Apply("a"): 3.0, Apply("b"): -1.0, Rollback(1): -1.0, Stop(): 0.0}
    lost = next(q for s in range(20) for q in questions(HARMFUL, np.random.default_rng(s)) if q.toolchain == ("b", "a"))
    assert lost.values == {Rollback(0): 3.0, Rollback(1): -1.0, Stop(): -1.0}


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
            assert found.reach[question.toolchain] < best - LOST <= found.reach[kept]
            continue
        tools = (action.tool, *question.answer.plan) if isinstance(action, Apply) else ()
        reached = found.scores[question.toolchain + tools]
        assert reached >= found.reach[question.toolchain] - TIE
        if question.situation is not Situation.ADJUST:
            assert reached >= best - LOST - TIE


def folder_of_photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    PillowImage.fromarray(data.coffee()).save(folder / "coffee.png")
    return folder


def contents(folder: Path) -> dict[str, bytes]:
    names = ("lessons.jsonl", "conversations.jsonl", "README.md")
    return {name: (folder / name).read_bytes() for name in names}


@pytest.mark.slow
def test_data_is_built_shown_and_resumed(tmp_path: Path) -> None:
    out = tmp_path / "data"
    command = ["data", "build", "--photos", str(folder_of_photos(tmp_path)), "-o", str(out), "--count", "3"]
    command += ["--jobs", "1", "--toolbox", "experts"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    before, lessons = contents(out), read_lessons(out)
    assert len(lessons) > 9
    for lesson in lessons:
        check_lesson(lesson)
    assert (out / "index.html").read_text().count('<article class="lesson">') == min(30, len(lessons))
    (out / "parts" / "000001.jsonl").unlink()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert contents(out) == before
    other = CliRunner().invoke(app, [*command, "--seed", "1"])
    assert isinstance(other.exception, ConservatorError)


def check_lesson(lesson: PlannerLesson) -> None:
    """What is kept is what a session would have shown, and the pictures are those that the tools make."""
    steps = lesson.observation.trajectory.steps
    assert lesson.observation.steps_left == 13 - len(steps)
    assert "denoise_medium" in {spec.name for spec in lesson.observation.tools}
    assert len(lesson.pictures) == len(steps)
    assert lesson.load().shape == (1, 3, 224, 224)
    assert lesson.observe(lesson.load()).image.shape == (1, 3, 224, 224)
    assert all(len(step.percept.confidences) == len(step.percept.severities) > 8 for step in steps)
    for step, picture in zip(steps, lesson.pictures, strict=True):
        action = step.decision.action if step.decision is not None else None
        if isinstance(action, Rollback):
            assert picture == lesson.pictures[action.to]
        if isinstance(action, Apply):
            assert step.id in lesson.gains
    assert lesson.answer.action in lesson.values
    assert Stop() in lesson.values
    assert {Rollback(step.id) for step in steps if lesson.pictures[step.id] != lesson.pictures[-1]} == {
        action for action in lesson.values if isinstance(action, Rollback)
    }
    if not isinstance(lesson.answer.action, Rollback):
        now = [value for action, value in lesson.values.items() if not isinstance(action, Rollback)]
        assert lesson.best >= max(now) - TIE


def test_every_crop_can_be_made_to_have_a_kind(tmp_path: Path) -> None:
    out = tmp_path / "data"
    command = ["data", "build", "--photos", str(folder_of_photos(tmp_path)), "-o", str(out), "--count", "4"]
    command += ["--jobs", "1", "--toolbox", "classical"]
    assert CliRunner().invoke(app, [*command, "--always", "snow"]).exit_code == 0
    lessons = read_lessons(out)
    assert len({lesson.name[:6] for lesson in lessons}) == 4
    assert all(Kind.SNOW in lesson.kinds and len(lesson.kinds) <= 3 for lesson in lessons)
    assert isinstance(CliRunner().invoke(app, command).exception, ConservatorError)
    wrong = CliRunner().invoke(app, [*command, "--always", "hail"]).exception
    assert wrong is not None
    assert "hail" in str(wrong)


def a_lesson(folder: Path, **changed: Any) -> PlannerLesson:
    """A lesson with all that a lesson can have: a step that failed, one taken back, findings, gains, values."""
    percept = Percept({Kind.NOISE: Severity.HIGH, Kind.HAZE: Severity.NONE}, {Kind.NOISE: 0.1 + 0.2, Kind.HAZE: 0.05})
    image = torch.rand(1, 3, 32, 32)
    steps = (
        Step(0, None, None, image, percept),
        Step(1, 0, Decision(Apply("wavelet_denoise")), image, percept, error="it failed"),
        Step(2, 1, Decision(Apply("deblock")), image, Percept()),
        Step(3, 0, Decision(Rollback(0)), image, percept),
        Step(4, 3, Decision(None), image, percept, error="the plan is empty"),
    )
    tools = make_toolbox("classical").only("wavelet_denoise", "deblock").specs
    values = {Apply("wavelet_denoise"): 1.25, Rollback(2): -0.5, Stop(): 0.75}
    lesson = PlannerLesson(
        name="000007-fidelity-avoid",
        folder=folder,
        pictures=("images/a.webp", "images/a.webp", "images/b.webp", "images/a.webp", "images/a.webp"),
        observation=without_pictures(Observation(Trajectory(steps), tools, 8)),
        objective="fidelity",
        gains={1: 0.0, 2: -1.0 / 3.0},
        answer=Decision(Apply("wavelet_denoise"), ("deblock",)),
        plans={("wavelet_denoise", "deblock"): 1.25, ("deblock", "wavelet_denoise"): 1.2, (): 1.15},
        wish=Wish(frozenset({Kind.NOISE}), prefer="sharp"),
        withheld=True,
        values=values,
        situation=Situation.AVOID,
        photo="größer.png",
        recipe=parse_recipe("noise:high", seed=3),
    )
    return replace(lesson, **changed)


def test_lessons_are_read_as_they_were_written(tmp_path: Path) -> None:
    plain: dict[str, Any] = {"gains": {}, "plans": {}, "wish": NO_WISH, "withheld": False}
    lessons = [a_lesson(tmp_path), a_lesson(tmp_path, name="other", objective="balanced", **plain)]
    write_lessons(tmp_path, lessons)
    read = read_lessons(tmp_path)
    for was, now in zip(lessons, read, strict=True):
        # tools are kept as a planner knows them: name, what they remove, and their sentence
        assert [(t.name, t.removes, t.description) for t in was.observation.tools] == [
            (t.name, t.removes, t.description) for t in now.observation.tools
        ]
        assert replace(was, observation=replace(was.observation, tools=())) == replace(
            now, observation=replace(now.observation, tools=())
        )
        assert DIALECT.ask(was.observation, was.objective, was.gains)[1].text == (
            DIALECT.ask(now.observation, now.objective, now.gains)[1].text
        )


def test_lessons_of_another_format_are_refused_in_a_sentence(tmp_path: Path) -> None:
    with pytest.raises(ConservatorError, match="data build"):
        read_lessons(tmp_path)
    (tmp_path / "decisions.jsonl").write_text("{}\n")
    with pytest.raises(ConservatorError, match="holds lessons of format 1, but this program reads format 3"):
        read_lessons(tmp_path)
    write_lessons(tmp_path, [a_lesson(tmp_path)])
    path = tmp_path / "lessons.jsonl"
    path.write_text(path.read_text().replace('"version": 3', '"version": 4'))
    with pytest.raises(ConservatorError, match="format 4, but this program reads format 3"):
        read_lessons(tmp_path)
    for text in ("", "[]\n", "plain words\n", '{"format": "something else"}\n'):
        path.write_text(text)
        with pytest.raises(ConservatorError, match="format unknown"):
            read_lessons(tmp_path)


def test_other_trainers_get_the_same_in_sharegpt_form(tmp_path: Path) -> None:
    write_conversations(tmp_path, [a_lesson(tmp_path)], DIALECT)
    (row,) = (json.loads(line) for line in (tmp_path / "conversations.jsonl").read_text().splitlines())
    assert (row["id"], row["images"]) == ("000007-fidelity-avoid", ["images/a.webp"])
    system, user, answer = row["conversations"]
    assert [turn["from"] for turn in (system, user, answer)] == ["system", "human", "gpt"]
    assert "- deblock (JPEG artefacts)" in system["value"]
    assert user["value"].count(IMAGE) == 1
    assert "Step 2: deblock (-0.3 dB by the eye)" in user["value"]
    assert answer["value"] == "plan: wavelet_denoise, deblock"

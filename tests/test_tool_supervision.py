"""Teaching a model to call tools: perturbed trajectories, what each call is worth, and learning all that are good."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from planner_lessons import SIZE, TOOLS, observed, questions, write_data
from test_planner import a_lesson, contents, folder_of_photos
from typer.testing import CliRunner

from conservator.apps.cli import app
from conservator.evaluation.enumerate import Enumeration
from conservator.kinds import Kind
from conservator.perception.perception import Blind
from conservator.session import Action, Apply, Decision, Rollback, Stop
from conservator.tools import make_toolbox
from conservator.training.planner.lessons import PlannerLesson, read_lessons, write_lessons
from conservator.training.planner.situations import TIE, Outlook, Question, Situation
from conservator.training.planner.trajectories import CALL_COST, Perturbation, perturbed, trajectory_questions

REMOVES = {"n1": frozenset({Kind.NOISE}), "n2": frozenset({Kind.NOISE}), "j": frozenset({Kind.JPEG})}
CHAINS = ((), ("n1",), ("n2",), ("j",), ("n1", "j"), ("n2", "j"), ("j", "n1"), ("j", "n2"))


def enumerated(*values: float) -> tuple[Enumeration, np.ndarray]:  # type: ignore[type-arg]
    scores = np.array(values, np.float64)
    return Enumeration(CHAINS, ("psnr",), scores[:, None], 0), scores


ALIKE = enumerated(0, 1, 1, 1, 3, 2.98, 2.99, 1)
"""Three toolchains are nearly as good as the best, and one is not."""


def asked(seed: int, perturbation: Perturbation) -> list[Question]:
    return list(trajectory_questions(*ALIKE, REMOVES, perturbation, np.random.default_rng(seed)))


def walked(found: list[Question]) -> tuple[str, ...]:
    on_the_way = [q for q in found if q.situation in (Situation.PLAN, Situation.ADJUST)]
    return tuple(q.answer.action.tool for q in on_the_way if isinstance(q.answer.action, Apply))


def test_a_trajectory_is_a_question_for_each_call_and_one_for_the_stop() -> None:
    found = asked(0, Perturbation(0, 0))
    plan, adjust, stop = found[:3]
    assert [q.situation for q in found[:3]] == [Situation.PLAN, Situation.ADJUST, Situation.STOP]
    assert {q.situation for q in found[3:]} <= {Situation.ROLLBACK, Situation.AVOID}
    assert (plan.answer, adjust.answer, stop.answer) == (Decision(Apply("n1")), Decision(Apply("j")), Decision(Stop()))
    assert adjust.history == (Apply("n1"),)
    two, one = 3 - 2 * CALL_COST, 3 - CALL_COST
    assert plan.values[Apply("n1")] == pytest.approx(two)
    assert plan.values[Stop()] == 0
    assert adjust.values[Apply("j")] == pytest.approx(one)  # the call that was made is paid already
    assert adjust.values[Stop()] == pytest.approx(1)
    assert adjust.values[Rollback(0)] == pytest.approx(two - CALL_COST)
    assert stop.values[Stop()] == pytest.approx(3)


def test_perturbed_trajectories_differ_and_lose_little() -> None:
    plain = {walked(asked(seed, Perturbation(0, 0))) for seed in range(40)}
    both = Counter(walked(asked(seed, Perturbation(0.3, 0.3))) for seed in range(40))
    assert plain == {("n1", "j")}
    assert set(both) == {("n1", "j"), ("n2", "j"), ("j", "n1")}  # and never ("j", "n2")
    assert both["n1", "j"] < 30
    swapped = {walked(asked(seed, Perturbation(1, 0))) for seed in range(5)}
    replaced = {walked(asked(seed, Perturbation(0, 1))) for seed in range(5)}
    assert (swapped, replaced) == ({("j", "n1")}, {("n2", "j")})
    assert walked(asked(0, Perturbation(1, 1, tolerance=0))) == ("n1", "j")


def test_a_tool_is_called_where_it_is_worth_its_call() -> None:
    def trajectory(values: tuple[float, ...], perturbation: Perturbation) -> tuple[str, ...]:
        asked_about = trajectory_questions(*enumerated(*values), REMOVES, perturbation, np.random.default_rng(0))
        return walked(list(asked_about))

    plain = Perturbation(0, 0)
    assert trajectory((0, 1.5 * CALL_COST, 0, 0, 0, 0, 0, 0), plain) == ("n1",)
    assert trajectory((0, 0.9 * CALL_COST, 0, 0, 0, 0, 0, 0), plain) == ()
    assert trajectory((0, 1, 0, 0, 1 + 1.5 * CALL_COST, 0, 0, 0), plain) == ("n1", "j")
    # a tool in place of another one may leave more to do, which is then done
    left = (0, 3.2, 3.0, 0, 0, 3.25, 0, 0)
    assert trajectory(left, plain) == ("n1",)
    assert trajectory(left, Perturbation(0, 1, tolerance=0.1)) == ("n2", "j")


@settings(max_examples=60)
@given(st.lists(st.floats(-5, 5), min_size=8, max_size=8), st.integers(0, 99), st.floats(0, 0.3))
def test_a_perturbation_never_loses_more_than_the_tolerance(values: list[float], seed: int, tolerance: float) -> None:
    outlook = Outlook(*enumerated(*values))
    best = outlook.completions(())[0]
    found = perturbed(best, outlook, REMOVES, Perturbation(0.5, 0.5, tolerance), np.random.default_rng(seed))
    assert outlook.scores[found] >= outlook.scores[best] - tolerance * (max(values) - min(values)) - 1e-9
    assert len(found) == len(best)


# --- what is right ----------------------------------------------------------------------------------------------------

needs_mllm = pytest.mark.skipif(find_spec("transformers") is None, reason="needs conservator[mllm]")
needs_sft = pytest.mark.skipif(find_spec("trl") is None, reason="needs conservator[sft]")


def valued(folder: Path, answer: Action, values: dict[Action, float], *history: Apply | Rollback) -> PlannerLesson:
    toolbox = make_toolbox("classical").only(*TOOLS)
    observation = observed(toolbox, torch.zeros(1, 3, 1, 1), *history)
    return a_lesson(folder, observation=observation, answer=Decision(answer), values=values)


@needs_mllm
def test_all_calls_that_are_nearly_as_good_are_right(tmp_path: Path) -> None:
    from conservator.training.planner.answers import right_calls

    a, b, c = map(Apply, TOOLS)
    shares = right_calls(valued(tmp_path, a, {a: 2.0, b: 2.0 - TIE / 2, c: 2.0 - 2 * TIE, Stop(): 0.0}))
    assert set(shares) == {a, b}
    assert shares[b] / shares[a] == pytest.approx(np.exp(-1))
    assert sum(shares.values()) == pytest.approx(1)
    shares = right_calls(valued(tmp_path, a, {a: 2.0, b: 2.0, c: 2.0, Stop(): 2.0}))
    assert shares[Stop()] == pytest.approx(0.5)  # beside the best tool, however many are as good
    assert shares[a] == shares[b] == shares[c] == pytest.approx(1 / 6)
    back = (Apply(TOOLS[0]), Rollback(0))
    assert right_calls(valued(tmp_path, b, {a: 2.0, b: 1.0, c: 0.0}, *back)) == {b: 1.0}  # a was taken back: no call
    assert right_calls(valued(tmp_path, Stop(), {a: 2.0, Stop(): 2.0})) == {Stop(): 1.0}
    back_to = {Rollback(0): 2.0, Rollback(1): 2.0, Stop(): 0.0}
    assert right_calls(valued(tmp_path, Rollback(1), back_to, a, b)) == {Rollback(1): 1.0}  # 0 throws away a good call
    assert right_calls(valued(tmp_path, Rollback(0), {**back_to, Rollback(1): 1.0}, a, b)) == {Rollback(0): 1.0}
    assert set(right_calls(valued(tmp_path, b, {a: 2.0, b: 1.7}))) == {a, b}  # the answer of a perturbed trajectory


@pytest.fixture(scope="module")
def lessons(tmp_path_factory: pytest.TempPathFactory) -> list[PlannerLesson]:
    """The four questions; two tools are as good for the noisy photo."""
    folder = write_data(tmp_path_factory.mktemp("planner"))
    noisy, *others = read_lessons(folder)
    tied = replace(noisy, answer=Decision(Apply("wavelet_denoise")), values={**noisy.values, Apply("deblock"): 1.0})
    write_lessons(folder, [tied, *others])
    return read_lessons(folder)


@pytest.fixture(scope="module")
def taught(lessons: list[PlannerLesson], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A nano model that has learned the questions by heart."""
    pytest.importorskip("datasets", reason="needs the extra: pip install 'conservator[sft]'")
    from conservator.training.planner.orders import SftOrder
    from conservator.training.planner.sft import train_sft

    order = SftOrder((lessons[0].folder,), tmp_path_factory.mktemp("sft"), steps=200, batch=4, rate=3e-3, studies=0.0)
    order = replace(order, **SIZE, words=0.2, every=200, dialect="tools")
    return train_sft(order, lambda line: None).folder


@needs_sft
def test_a_model_learns_to_call_tools(taught: Path) -> None:
    from conservator.policies import ToolCallingPolicy
    from conservator.policies.vision_language import load_model

    toolbox = make_toolbox("classical").only(*TOOLS)
    policy = ToolCallingPolicy(load_model(str(taught)), Blind())
    for name, image, history, answer, _ in questions(toolbox)[1:]:
        replied = policy.reply(observed(toolbox, image, *history))
        assert replied.decision.action == answer.action, name
        assert next(iter(replied.chances.values())) > 0.8
    chances = policy.reply(observed(toolbox, questions(toolbox)[0][1])).chances
    assert chances[Apply("wavelet_denoise")] == pytest.approx(0.5, abs=0.15)  # both tools, and neither alone
    assert chances[Apply("deblock")] == pytest.approx(0.5, abs=0.15)


@needs_sft
def test_the_losses_agree(lessons: list[PlannerLesson], taught: Path) -> None:
    from conservator.policies.dialects import ToolDialect
    from conservator.policies.vision_language import load_model
    from conservator.training.planner.prefix import IGNORED, shared_prefix_loss, whole_loss
    from conservator.training.planner.teaching import Collator

    model = load_model(str(taught))
    rows = [{"lesson": i, "turn": turn} for i in range(4) for turn in range(2)]
    soft = Collator(model, lessons, 0, 0.5, ToolDialect(), spread=True)(rows)
    hard = Collator(model, lessons, 0, 0.5, ToolDialect())(rows)
    assert soft["shares"].sum(-1).eq((soft["labels"] != IGNORED).float()).all()
    only = {
        **hard,
        "choices": hard["labels"].clamp(min=0)[..., None],
        "shares": (hard["labels"] >= 0).float()[..., None],
    }
    with torch.inference_mode():
        losses = [
            float(loss(model.network, batch)) for loss in (shared_prefix_loss, whole_loss) for batch in (soft, hard)
        ]
        same = float(whole_loss(model.network, only))
    assert losses[0] == pytest.approx(losses[2], rel=1e-4)
    assert losses[1] == pytest.approx(losses[3], rel=1e-4) == pytest.approx(same, rel=1e-4)
    assert losses[0] < losses[1]  # what was learned is both tools, and the hard answer names one


@needs_sft
def test_the_whole_conversation_is_shown(lessons: list[PlannerLesson], taught: Path) -> None:
    from conservator.policies.dialects import ToolDialect
    from conservator.policies.vision_language import load_model
    from conservator.training.planner.teaching import Collator

    model = load_model(str(taught))
    collate = Collator(model, lessons, 0, 0.0, ToolDialect())
    counts = [int((collate([{"lesson": i, "turn": 0}])["input_ids"] == model.image).sum()) for i in (0, 3)]
    assert counts == [16, 32]  # a picture of 128 pixels a step
    words = collate([{"lesson": 3, "turn": 0, "words": True}])
    assert "pixel_values" not in words


@pytest.fixture
def photo_folder(tmp_path: Path) -> Path:
    return folder_of_photos(tmp_path)


@pytest.mark.slow
def test_trajectories_are_built_by_command_and_resumed(photo_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "data"
    command = ["data", "build", "--photos", str(photo_folder), "-o", str(out), "--count", "2", "--jobs", "1"]
    command += ["--toolbox", "classical", "--trajectories"]
    result = CliRunner().invoke(app, command)
    assert result.exit_code == 0, result.output
    before, lessons = contents(out), read_lessons(out)
    assert b"--trajectories" in before["README.md"]
    assert len({lesson.name for lesson in lessons}) == len(lessons)
    walks: dict[str, list[PlannerLesson]] = {}
    for lesson in lessons:
        if lesson.situation in (Situation.PLAN, Situation.ADJUST, Situation.STOP):
            walks.setdefault(lesson.name.partition(f"-{lesson.situation}")[0], []).append(lesson)
    assert sum("wish" not in walk for walk in walks) == 6  # three objectives for each crop
    assert any("wish" in walk for walk in walks)
    for walk in walks.values():
        *calls, stop = walk
        assert stop.answer.action == Stop()
        done = [lesson.answer.action for lesson in calls]
        for count, lesson in enumerate(walk):
            steps = lesson.observation.trajectory.steps
            assert [step.decision.action for step in steps[1:] if step.decision] == done[:count]
            assert lesson.load(0).shape == (1, 3, 224, 224)
    (out / "parts" / "000001.jsonl").unlink()
    assert CliRunner().invoke(app, command).exit_code == 0
    assert contents(out) == before
    assert CliRunner().invoke(app, [*command, "--swaps", "0.5"]).exit_code != 0
    assert CliRunner().invoke(app, command[:-1]).exit_code != 0


@pytest.mark.slow
def test_another_build_runs_no_toolchain_again(
    photo_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from conservator.evaluation import enumerate as enumerating

    kept = ["--scores", str(tmp_path / "scores"), "--measured", str(tmp_path / "measured.sqlite")]
    command = ["data", "build", "--photos", str(photo_folder), "--count", "1", "--toolbox", "classical"]
    command += ["--trajectories", "--wishes", "0", "--jobs", "1"]
    for name, options in (("alone", []), ("first", kept)):
        assert CliRunner().invoke(app, [*command, "-o", str(tmp_path / name), *options]).exit_code == 0
    lessons = [(tmp_path / name / "lessons.jsonl").read_bytes() for name in ("alone", "first")]
    assert lessons[0] == lessons[1]
    scores = {path.name: path.read_bytes() for path in (tmp_path / "scores").iterdir()}
    assert scores

    def run_again(*_: object) -> None:
        raise AssertionError("a toolchain was run again")

    monkeypatch.setattr(enumerating._Walk, "_call", run_again)
    plain = [*command, "-o", str(tmp_path / "plain"), "--swaps", "0", "--substitutes", "0", *kept]
    result = CliRunner().invoke(app, plain)
    assert result.exit_code == 0, result.output
    assert {path.name: path.read_bytes() for path in (tmp_path / "scores").iterdir()} == scores

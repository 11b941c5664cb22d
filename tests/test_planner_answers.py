"""Which answers are right and how much of each is learned; wishes that change them; and findings that are withheld."""

from __future__ import annotations

from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from planner_lessons import TOOLS, observed, questions, tiny_model, write_data
from test_planner import a_lesson

from conservator.errors import ConservatorError
from conservator.evaluation.enumerate import Enumeration
from conservator.image import Image
from conservator.kinds import NO_WISH, Kind, Preference, Severity, Wish
from conservator.perception.perception import Blind, Percept
from conservator.photo import Photo
from conservator.policies.dialects import PlanDialect
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.session import Apply, Decision, Rollback, Stop
from conservator.tools import make_toolbox
from conservator.training.planner.answers import is_right, right_answers
from conservator.training.planner.lessons import PlannerLesson, read_lessons
from conservator.training.planner.situations import TIE, Outlook, Situation
from conservator.training.planner.situations import questions as asked_about
from conservator.training.planner.wishes import (
    LEFT_GRAIN,
    LOST_DETAIL,
    changes_the_answer,
    draw_wishes,
    wished,
)

A, B, C = TOOLS
TOOLBOX = make_toolbox("classical").only(*TOOLS)


def planned(folder: Path, plans: dict[tuple[str, ...], float], **changed: Any) -> PlannerLesson:
    first = next(iter(plans))
    answer = Decision(Apply(first[0]), first[1:]) if first else Decision(Stop())
    observation = observed(TOOLBOX, torch.zeros(1, 3, 1, 1))
    values = {Apply(plan[0]) if plan else Stop(): score for plan, score in sorted(plans.items(), key=lambda p: p[1])}
    return a_lesson(folder, observation=observation, answer=answer, plans=plans, values=values, **changed)


def test_plans_that_are_as_good_share_the_answer_and_longer_ones_get_less(tmp_path: Path) -> None:
    plans = {(A, B): 3.0, (B, A): 3.0 - TIE / 2, (A, B, C): 3.05, (B, C): 2.5, (): 0.0}
    shares = right_answers(planned(tmp_path, plans), plans=True)
    best, other = Decision(Apply(A), (B,)), Decision(Apply(B), (A,))
    assert sum(shares.values()) == pytest.approx(1)
    assert shares[other] / shares[best] == pytest.approx(np.exp(-1))
    assert shares[Decision(Apply(A), (B, C))] / shares[best] == pytest.approx(np.exp(-1))  # 0.05 more, for a tool more
    assert len(shares) == 3
    one_call = right_answers(planned(tmp_path, plans), plans=False)  # of models that say the next call alone
    assert {decision.action for decision in one_call} == {Apply(A), Apply(B)}


def test_stopping_competes_with_the_best_plan_and_what_does_nothing_is_wrong(tmp_path: Path) -> None:
    stop, a, b, c = (Decision(Stop()), *(Decision(Apply(tool)) for tool in TOOLS))
    lesson = planned(tmp_path, {(): 2.0, (A,): 2.0 + TIE / 2, (B,): 2.0 + TIE / 2, (C,): 2.0})
    shares = right_answers(lesson, plans=True)
    assert set(shares) == {stop, a, b}
    assert shares[a] == shares[b]
    assert (shares[a] + shares[b]) / shares[stop] == pytest.approx(np.exp(-1))  # two as good do not make it likelier
    assert sum(shares.values()) == pytest.approx(1)
    asked = (stop, a, c, Decision(Rollback(0)))
    assert [is_right(lesson, decision) for decision in asked] == [True, True, False, False]
    assert right_answers(planned(tmp_path, {(): 2.0, (A,): 2.0}), plans=True) == {stop: 1.0}


def test_of_going_back_one_answer_is_right(tmp_path: Path) -> None:
    stop = planned(tmp_path, {(): 2.0, (A,): 2.05})
    history = observed(TOOLBOX, torch.zeros(1, 3, 1, 1), Apply(A), Apply(B))
    values = {Rollback(0): 3.0, Rollback(1): 1.0, Stop(): 0.0}
    lesson = replace(stop, observation=history, answer=Decision(Rollback(0)), values=values, plans={})
    assert right_answers(lesson, plans=True) == {Decision(Rollback(0)): 1.0}
    assert is_right(lesson, Decision(Rollback(0)))
    assert not is_right(lesson, Decision(Rollback(1)))


def test_a_tool_that_was_taken_back_begins_no_right_plan(tmp_path: Path) -> None:
    avoided = observed(TOOLBOX, torch.zeros(1, 3, 1, 1), Apply(B), Rollback(0))
    lesson = replace(planned(tmp_path, {(A, B): 3.0, (B, A): 3.0}), observation=avoided)
    assert right_answers(lesson, plans=True) == {Decision(Apply(A), (B,)): 1.0}


def test_a_question_keeps_the_scores_of_its_plans() -> None:
    chains = ((), ("a",), ("b",), ("a", "b"), ("b", "a"))
    scores = np.array([0.0, 1.0, -2.0, 3.0, 2.95])
    found = Enumeration(chains, ("psnr",), scores[:, None], 0)
    plan = next(q for q in asked_about(Outlook(found, scores), np.random.default_rng(0)) if q.situation == "plan")
    assert dict(plan.plans) == {("a", "b"): 3.0, ("b", "a"): 2.95}


# --- wishes -----------------------------------------------------------------------------------------------------------

SPECS = make_toolbox("classical").only("wavelet_denoise", "nlm_denoise", "deblock").specs
NOISE = frozenset({Kind.NOISE})
CHAINS = ((), ("wavelet_denoise",), ("nlm_denoise",), ("deblock",), ("wavelet_denoise", "deblock"))
#                  psnr  lost detail  left grain
SCORED = np.array([[20, 0.00, 0.30], [25, 0.10, 0.10], [24, 0.30, 0.01], [21, 0.01, 0.29], [27, 0.30, 0.09]])
FOUND = Enumeration(CHAINS, ("psnr", LOST_DETAIL.name, LEFT_GRAIN.name), SCORED, 0)
SCORES = (SCORED[:, 0] - SCORED[:, 0].mean()) / SCORED[:, 0].std()


def best_under(wish: Wish) -> tuple[str, ...]:
    return Outlook(*wished(FOUND, SCORES, wish, SPECS)).completions(())[0]


def test_the_right_answer_differs_with_the_wish() -> None:
    assert best_under(NO_WISH) == ("wavelet_denoise", "deblock")
    assert best_under(Wish(only=NOISE)) == ("wavelet_denoise",)
    assert best_under(Wish(never=NOISE)) == ("deblock",)
    assert best_under(Wish(only=frozenset({Kind.HAZE}))) == ()
    assert best_under(Wish(prefer="smooth")) == ("nlm_denoise",)
    assert best_under(Wish(prefer="sharp")) == ("wavelet_denoise",)
    assert best_under(Wish(only=frozenset({Kind.JPEG}), prefer="smooth")) == ("deblock",)
    assert changes_the_answer(FOUND, SCORES, Wish(only=NOISE), SPECS)
    assert not changes_the_answer(FOUND, SCORES, Wish(only=frozenset({Kind.NOISE, Kind.JPEG})), SPECS)


def test_only_wishes_that_change_the_answer_are_drawn() -> None:
    kinds = frozenset({Kind.NOISE, Kind.JPEG})
    drawn = {w for seed in range(9) for w in draw_wishes(FOUND, SCORES, SPECS, kinds, 2, np.random.default_rng(seed))}
    assert all(changes_the_answer(FOUND, SCORES, wish, SPECS) for wish in drawn)
    assert Wish(only=NOISE) in drawn
    assert Wish(only=kinds) not in drawn
    assert {Wish(prefer="sharp"), Wish(prefer="smooth")} <= drawn  # rare among all wishes, and drawn as often as others
    assert len(draw_wishes(FOUND, SCORES, SPECS, kinds, 99, np.random.default_rng(0))) > 4


@pytest.mark.parametrize(("metric", "worse"), [(LOST_DETAIL, "smoothed"), (LEFT_GRAIN, "noisy")])
def test_what_is_preferred_is_measured(metric: Any, worse: str, coffee: Image) -> None:
    clean = coffee[..., :64, :64]
    noisy = (clean + 0.1 * torch.randn(clean.shape, generator=torch.Generator().manual_seed(0))).clamp(0, 1)
    smoothed = torch.nn.functional.avg_pool2d(clean, 5, 1, 2)
    scores = {"smoothed": metric.score(smoothed, clean), "noisy": metric.score(noisy, clean)}
    assert metric.score(clean, clean) == 0
    assert max(scores, key=lambda name: scores[name]) == worse


@pytest.mark.parametrize(
    ("wish", "said"),
    [
        (Wish(only=frozenset({Kind.NOISE, Kind.RAIN})), "Treat only noise and rain."),
        (Wish(never=frozenset({Kind.LOW_LIGHT})), "Leave the mood dark."),
        (
            Wish(never=frozenset({Kind.HAZE}), prefer="sharp"),
            "Leave haze as it is. Sharp is more important than smooth.",
        ),
    ],
)
def test_a_wish_is_told_in_words_and_else_nothing_is(wish: Wish, said: str) -> None:
    observation = observed(TOOLBOX, torch.zeros(1, 3, 8, 8))
    plain, told = (PlanDialect().ask(observation, "fidelity", {}, w) for w in (NO_WISH, wish))
    assert plain[0].text == PlanDialect().ask(observation, "fidelity")[0].text
    assert [line for line in told[0].text.splitlines() if line not in plain[0].text.splitlines()] == [said]
    assert told[1].text == plain[1].text


def test_a_preference_is_for_policies_that_are_told_of_it() -> None:
    assert Request(policy="mllm", prefer="sharp", never=NOISE).wish == Wish(never=NOISE, prefer="sharp")
    Restorer(Request(policy="none", prefer="sharp"))
    for policy in ("greedy", "search:12"):
        with pytest.raises(
            ConservatorError, match=rf"{policy} knows no preference \(--prefer sharp\); take one of mllm"
        ):
            Restorer(Request(policy=policy, prefer="sharp"))


# --- with a model -----------------------------------------------------------------------------------------------------

needs_mllm = pytest.mark.skipif(find_spec("transformers") is None, reason="needs conservator[mllm]")


@needs_mllm
@pytest.mark.parametrize("prefer", ["neither", "sharp"])
def test_a_model_is_told_the_wishes_that_it_was_taught(prefer: Preference, tmp_path: Path) -> None:
    from conservator.policies import MllmPolicy
    from conservator.policies.vision_language import load_model, pack, unpack

    model = tiny_model(write_data(tmp_path))
    wish, asked = Wish(only=NOISE, prefer=prefer), list[str]()
    observation = observed(TOOLBOX, questions(TOOLBOX)[0][1])
    if prefer == "neither":  # what is not offered needs no word
        plain = MllmPolicy(model, Blind(), wish=wish).reply(observation)
        assert plain == MllmPolicy(model, Blind()).reply(observation)
    else:
        with pytest.raises(ConservatorError, match="taught no preferences"):
            MllmPolicy(model, Blind(), wish=wish)
    model.heeds_wishes = True
    model.save(tmp_path / "model")
    assert unpack(*pack(model)).heeds_wishes
    folder = str(tmp_path / "model")
    kept = load_model(folder, "cpu")
    read = kept.prompt
    kept.prompt = lambda messages, functions=(): asked.append(messages[0].text) or read(messages, functions)  # type: ignore[func-returns-value, method-assign]
    request = Request(f"mllm:{folder}", "classical", "statistics", only=wish.only, prefer=wish.prefer, risk=1)
    with Restorer(request) as restorer:
        restorer.plan(Photo(questions(TOOLBOX)[0][1]))
    assert "Treat only noise." in asked[0]
    assert ("Sharp is more important" in asked[0]) == (prefer == "sharp")


@needs_mllm
def test_withheld_findings_are_not_told_and_stay_in_the_data(tmp_path: Path) -> None:
    from conservator.training.planner.teaching import ask_lesson

    seen = Percept({Kind.NOISE: Severity.HIGH}, {Kind.NOISE: 0.9})
    told = replace(read_lessons(write_data(tmp_path))[0], withheld=False)
    steps = told.observation.trajectory.steps
    trajectory = replace(told.observation.trajectory, steps=(replace(steps[0], percept=seen),))
    told = replace(told, observation=replace(told.observation, trajectory=trajectory))
    hidden = replace(told, withheld=True)
    said, unsaid = (ask_lesson(lesson, [told.load()])[1] for lesson in (told, hidden))
    assert "Examined: noise" in said.text
    assert "Examined" not in unsaid.text
    assert "Examined: noise" in ask_lesson(hidden, [])[1].text  # without a picture there is nothing else to go by
    assert len(unsaid.images) == 1
    assert hidden.observation == told.observation


@needs_mllm
def test_all_good_plans_are_learned_and_situations_come_as_often(tmp_path: Path) -> None:
    from conservator.training.planner.prefix import IGNORED
    from conservator.training.planner.teaching import Collator, balance_situations

    lessons = read_lessons(write_data(tmp_path))
    noisy = replace(lessons[0], plans={(A, B): 1.0, (B, A): 1.0})
    model = tiny_model(tmp_path)
    batch = Collator(model, [noisy], 0, 0.0, spread=True)([{"lesson": 0, "turn": turn} for turn in range(8)])
    learned = batch["labels"] != IGNORED
    assert batch["shares"].sum(-1).eq(learned.float()).all()
    forks = batch["shares"][learned]
    assert ((forks > 0).sum(-1) == 2).any()  # "plan: " is followed by the one tool or the other, half of the time
    assert forks[(forks > 0).sum(-1) == 2].max() == pytest.approx(0.5)
    said = {tuple(row[mask].tolist()) for row, mask in zip(batch["labels"], learned, strict=True)}
    assert len(said) == 2
    shares = [
        sum(lesson.situation is s for lesson in balance_situations([*lessons, *lessons[:1]] * 3)) for s in Situation
    ]
    assert set(shares) == {0, max(shares)}


@needs_mllm
def test_a_nano_that_begins_with_perceptions_encoder_is_kept_with_it(
    tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    from planner_lessons import SIZE, texts

    from conservator.policies.reading import inputs_of
    from conservator.policies.vision_language import load_model, pack, unpack
    from conservator.training.planner.nano import encoder_named, new_nano
    from conservator.training.planner.teaching import DIALECT, ask_lesson

    data = write_data(tmp_path)
    encoder = encoder_named("perception")
    assert encoder is not None
    model = new_nano(texts(data), 0, encoder, **SIZE)
    patches = model.network.model.visual.patch_embed
    model.network.train()
    assert not patches.encoder.training
    picture = torch.rand(1, 3, 64, 32)
    own, told = patches.proj, patches.told
    flat, _ = model.patches(picture)
    seen = patches.encoder.standardise(
        patches.encoder.trunk.each(picture[..., 32:, :])
    )  # the second block of 32 pixels
    expected = told(seen) + own(flat[4:].view(4, 3, 1, 16, 16)).flatten(1)
    assert torch.allclose(patches(flat)[4:], expected, atol=1e-4)
    lesson = read_lessons(data)[0]
    prompt = inputs_of(model, [model.prompt(ask_lesson(lesson, [lesson.load()], DIALECT))])
    model.network(**prompt).logits.sum().backward()
    assert patches.told.weight.grad is not None
    assert all(parameter.grad is None for parameter in patches.encoder.parameters())
    model.save(tmp_path / "model", torch.float32)
    model.network.eval()
    with torch.inference_mode():
        logits = model.network(**prompt).logits
        for kept, tolerance in ((load_model(str(tmp_path / "model")), 1e-5), (unpack(*pack(model)), 0.1)):
            assert torch.allclose(kept.network(**prompt).logits, logits, atol=tolerance)
    assert "UNEXPECTED" not in capfd.readouterr().err

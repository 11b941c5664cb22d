"""Risk control: nothing is done whose chance of harm is above what is admitted, and what was not done is told."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from skimage import data

from conservator import Apply, Decision, Photo, Request, Restorer, Rollback, Session, Stop, Tool, Toolbox, ToolSpec, run
from conservator.degradations import degrade, parse_recipe
from conservator.errors import ConservatorError
from conservator.image import Image, digest, in_8_bits, to_image
from conservator.kinds import OBJECTIVES, Kind, Severity
from conservator.metrics.fidelity import psnr
from conservator.perception import Gain, Look, Percept, Perception, StatisticalPerception, study
from conservator.perception.perception import STRANGE
from conservator.perception.risk import Admission, HarmEstimate, RiskControl, RiskCurve, Verdict
from conservator.perception.study import most_changed
from conservator.policies import PolicyContext, make_policy
from conservator.policies.fixed import FixedOrder
from conservator.policies.search import MeasuredGain
from conservator.pool import LocalPool, MemoPool, Pool
from conservator.restoration import Suggestion
from conservator.session import Policy, Trajectory, run_together
from conservator.session.trajectory import made_by
from conservator.tools import make_toolbox

CLEAN = to_image(data.coffee())
NOISY = in_8_bits(degrade(CLEAN, parse_recipe("noise:high", 3)))
EYE = StatisticalPerception.load()
CLASSICAL = make_toolbox("classical")
SEARCHING = ("greedy", "search", "beam")
ORDERED = ("traverse", "stages")
TRYING = ("rules", "reflect", "random", "random_both", "predefined")


class Told:
    """Estimates what it is told."""

    def __init__(self, chance: Callable[[Look, Look, frozenset[Kind]], float]) -> None:
        self._chance = chance

    def chance(self, before: Look, after: Look, treated: frozenset[Kind]) -> float:
        return self._chance(before, after, treated)


def of_kinds(**chances: float) -> HarmEstimate:
    """The chance of the riskiest kind that is treated; 0 for all others."""
    return Told(lambda before, after, treated: max(chances.get(kind, 0.0) for kind in treated))


def drawn(seed: int) -> HarmEstimate:
    """A chance drawn for each pair of pictures."""

    def chance(before: Look, after: Look, treated: frozenset[Kind]) -> float:
        told = f"{seed} {digest(before.image)} {digest(after.image)}"
        return hashlib.sha256(told.encode()).digest()[0] / 256

    return Told(chance)


class Mix(Tool):
    """Goes a part of the way to a blurred picture: changes little, and something else with every amount."""

    def __init__(self, name: str, *removes: Kind, amount: float = 0.1) -> None:
        self.spec = ToolSpec(name, frozenset(removes), "Smooths.", "textbook", "Apache-2.0", tile=None)
        self._amount = amount

    def restore(self, image: Image) -> Image:
        smooth = torch.nn.functional.avg_pool2d(image, 3, 1, 1, count_include_pad=False)
        return torch.lerp(image, smooth, self._amount)


class Promise(Perception):
    """Sees some kinds for sure, however they are treated, and promises a gain in dB for each."""

    def __init__(self, **gains: float) -> None:
        self._gains = {Kind(kind): gain for kind, gain in gains.items()}

    def grade(self, image: Image) -> Percept:
        seen = {kind: Severity.HIGH if kind in self._gains else Severity.NONE for kind in Kind}
        return Percept(seen, {kind: 0.85 if severity else 0.0 for kind, severity in seen.items()}, 20.0)

    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        same = torch.equal(before.image, after.image)
        gain = 0.0 if same else sum(self._gains.get(kind, 0.0) for kind in treated)
        return Gain(dict.fromkeys(OBJECTIVES, gain), dict.fromkeys(OBJECTIVES, 0.0))


MANY = Toolbox(
    Mix("denoise", Kind.NOISE),
    Mix("denoise_more", Kind.NOISE, amount=0.2),
    Mix("deblock", Kind.JPEG, amount=0.15),
    Mix("derain", Kind.RAIN, amount=0.12),
    Mix("sharpen", Kind.DEFOCUS_BLUR, Kind.GAUSSIAN_BLUR, amount=-0.1),
    Mix("brighten", Kind.LOW_LIGHT, amount=0.05),
)
HOPEFUL = Promise(noise=3.0, jpeg=2.0, rain=1.5, defocus_blur=2.5, low_light=4.0)
SMALL = CLEAN[..., 100:148, 200:264]


@pytest.fixture
def pool() -> Iterator[Pool]:
    with MemoPool(LocalPool(MANY, max_batch=1)) as pool:
        yield pool


def policy(name: str, pool: Pool, eye: Perception = HOPEFUL, toolbox: Toolbox = MANY) -> Policy:
    return make_policy(name, PolicyContext(pool, eye, toolbox=toolbox))


def session(pool: Pool, admission: Admission | None = None, image: Image = SMALL, max_steps: int = 12) -> Session:
    return Session(image, MANY, pool, HOPEFUL, max_steps, admission=admission)


def actions(trajectory: Trajectory) -> list[object]:
    return [step.decision.action for step in trajectory.steps if step.decision is not None]


def all_admitted(trajectory: Trajectory, admission: Admission) -> bool:
    """Whether each picture on the way to the last one is admitted beside the one before and beside the first."""
    start = trajectory.steps[0]
    pairs = [pair for step in trajectory.path() for pair in ((start, step), (trajectory.steps[step.parent or 0], step))]
    treated = frozenset({Kind.NOISE})  # what is drawn goes by the pictures alone
    return all(admission.estimate.chance(a.look, b.look, treated) <= admission.threshold for a, b in pairs)


@pytest.mark.parametrize("name", [*SEARCHING, *ORDERED, *TRYING])
def test_no_policy_ends_with_what_is_not_admitted(name: str, pool: Pool) -> None:
    refused = treated = 0
    for seed in range(6):
        admission = Admission(drawn(seed), (0.3, 0.7)[seed % 2])
        trajectory = run(policy(name, pool), session(pool, admission))
        assert all_admitted(trajectory, admission)
        assert trajectory.last.decision is not None
        assert trajectory.last.decision.action == Stop()
        refused += len(trajectory.refusals)
        treated += bool(trajectory.toolchain())
    assert refused  # or else nothing was tested
    assert treated


@pytest.mark.parametrize("name", [*SEARCHING, *ORDERED, *TRYING])
def test_a_threshold_of_1_is_no_check_and_one_of_0_lets_nothing_through(name: str, pool: Pool) -> None:
    free = run(policy(name, pool), session(pool))
    admission = Admission(Told(lambda before, after, treated: 0.97), 1.0)
    assert actions(run(policy(name, pool), session(pool, admission))) == actions(free)
    assert free.toolchain()
    nothing = run(policy(name, pool), session(pool, replace(admission, threshold=0.0)))
    assert nothing.toolchain() == ()
    assert nothing.last.image is nothing.steps[0].image
    assert nothing.refusals


def test_much_gain_may_be_doubted_more_than_little(pool: Pool) -> None:
    """Of two treatments that are as likely to harm, the one is admitted that promises more for it."""
    estimate, both = of_kinds(noise=0.2, jpeg=0.2, rain=0.2), Promise(noise=5.0, jpeg=1.0, rain=0.0)
    start = Look(SMALL, both.grade(SMALL))

    def verdict(tool: str, *kinds: Kind, weighing: Perception | None = both, before: Look = start) -> Verdict:
        after = MANY[tool](before.image)
        admission = Admission(estimate, 0.1, weighing=weighing)
        return admission.judge(start, before, Look(after, both.grade(after)), frozenset(kinds), frozenset(kinds))

    much, little, none = verdict("denoise", Kind.NOISE), verdict("deblock", Kind.JPEG), verdict("derain", Kind.RAIN)
    # of the gain four fifths are expected, less a fifth of what harm costs
    assert (much.doubt, little.doubt, none.doubt) == (pytest.approx(0.2 / 3.7), pytest.approx(0.2 / 0.5), 1.0)
    assert (much.admitted, little.admitted, none.admitted) == (True, False, False)
    assert much.words.endswith("put at 20.0%; at most 30.3% is admitted for a gain of 5.0 dB")
    assert none.words.endswith("put at 20.0%; at most 0.5% is admitted where no gain is expected")
    assert not verdict("denoise", Kind.NOISE, weighing=None).admitted
    assert verdict("denoise", Kind.NOISE, weighing=None).words.endswith("put at 20.0%; at most 10.0% is admitted")
    # what was gained before does not pay for what follows, and what follows must be worth it since the start
    later = Look(MANY["denoise"](SMALL), start.percept)
    assert not verdict("deblock", Kind.JPEG, before=later).admitted


@pytest.mark.parametrize("gain", [None, -20.0, -3.5, 0.0, 0.2, 1.0, 6.0])
@pytest.mark.parametrize("cost", [1.5, 8.0])
@pytest.mark.parametrize("threshold", [0.02, 0.3, 0.5])
def test_the_chance_that_is_said_to_be_admitted_is_and_no_larger_one(
    gain: float | None, cost: float, threshold: float
) -> None:
    asked = Verdict(0.99, threshold, gain=gain, cost=cost)
    match = re.search(r"at most ([\d.]+)% is admitted", asked.words)
    assert match is not None
    most = float(match[1]) / 100
    assert replace(asked, chance=most - 0.0006).admitted
    assert not replace(asked, chance=most + 0.0006).admitted
    doubts = [replace(asked, chance=chance / 100).doubt for chance in range(101)]
    assert doubts == sorted(doubts), "what is likelier to harm is more doubtful"
    assert (doubts[0], doubts[-1]) == (0.0, 1.0)
    assert Verdict(threshold, threshold).admitted


@pytest.mark.parametrize(
    ("kinds", "doubt"),
    [
        ({Kind.NOISE}, 0.2 / (0.8 * 5 - 0.2 * 1.5)),
        ({Kind.LOW_LIGHT}, 0.2 / (0.8 * 5 - 0.2 * 8)),
        ({Kind.HAZE}, 0.2 / (0.8 * 5 - 0.2 * 8)),
        ({Kind.NOISE, Kind.HAZE}, 0.2 / (0.8 * 10 - 0.2 * 8)),
    ],
)
def test_harm_to_the_light_costs_more(kinds: set[Kind], doubt: float) -> None:
    eye = Promise(noise=5.0, low_light=5.0, haze=5.0)
    start, after = Look(SMALL, eye.grade(SMALL)), Look(SMALL + 0.01, eye.grade(SMALL))
    admission = Admission(Told(lambda before, after, treated: 0.2), 0.1, weighing=eye)
    assert admission.judge(start, start, after, frozenset(kinds), frozenset(kinds)).doubt == pytest.approx(doubt)


def test_the_greater_doubt_counts_and_not_the_greater_chance() -> None:
    """A step that is likelier to harm than all that was done, but that gains more for it."""

    class Worth(Promise):
        def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
            return Gain.sure(0.5 if before is start else 6.0)

    eye = Worth(noise=1.0)
    start, before, after = (Look(SMALL + number / 100, eye.grade(SMALL)) for number in range(3))
    estimate = Told(lambda one, other, treated: 0.1 if one is start else 0.2)
    noise = frozenset({Kind.NOISE})
    verdict = Admission(estimate, 0.1, weighing=eye).judge(start, before, after, noise, noise)
    assert (verdict.chance, verdict.where) == (0.1, "beside the photo as it came")
    assert not verdict.admitted
    assert Admission(estimate, 0.1, weighing=eye).judge(before, before, after, noise, noise).admitted


@pytest.mark.parametrize("chance", [math.nan, math.inf, -math.inf, 1.2, -0.1, 0.5])
@pytest.mark.parametrize("gain", [None, math.nan, math.inf, 6.0])
def test_what_is_no_number_is_certain_harm(chance: float, gain: float | None) -> None:
    eye = None if gain is None else Promise(noise=gain)
    start, after = Look(SMALL, Promise().grade(SMALL)), Look(SMALL + 0.01, Promise().grade(SMALL))
    noise = frozenset({Kind.NOISE})
    admission = Admission(Told(lambda before, after, treated: chance), 0.999, weighing=eye)
    verdict = admission.judge(start, start, after, noise, noise)
    known = math.isfinite(chance) and (gain is None or math.isfinite(gain))
    assert verdict.chance == (min(1.0, max(0.0, chance)) if known else 1.0)
    assert 0 <= verdict.doubt <= 1
    assert replace(admission, threshold=1.0).judge(start, start, after, noise, noise).admitted


def test_thresholds_are_held_against_doubts(pool: Pool) -> None:
    control = RiskControl({"balanced": RiskCurve(99, (0.0, 0.1, 1.0), (0.0, 0.0, 50.0))}, "greedy", "own", {})
    for promised, admitted in ((5.0, ("denoise",)), (1.0, ())):
        eye = Promise(noise=promised)
        admission = control.admission(of_kinds(noise=0.2), eye, "balanced", 0.02)
        assert admission.threshold == 0.1
        held = Session(SMALL, MANY.only("denoise"), pool, eye, 12, admission=admission)
        assert run(policy("greedy", pool, eye, MANY.only("denoise")), held).toolchain() == admitted


def test_a_photo_that_is_strange_is_not_treated_however_harmless_that_seems(pool: Pool) -> None:
    class Puzzled(Promise):
        """Finds every picture strange."""

        def grade(self, image: Image) -> Percept:
            return replace(super().grade(image), strangeness=1.2)

    admission = Admission(Told(lambda before, after, treated: 0.0), 0.3)
    eye = Puzzled(noise=3.0, jpeg=2.0)
    held = Session(SMALL, MANY, pool, eye, 12, admission=admission)
    trajectory = run(policy("greedy", pool, eye), held)
    assert trajectory.toolchain() == ()
    assert "put at 100.0% because the picture is strange" in trajectory.refusals[0].words
    assert run(policy("greedy", pool), session(pool, admission)).toolchain(), "others are treated"
    step = trajectory.steps[0]
    other = Look(MANY["denoise"](SMALL), step.percept)
    assert admission.judge(step.look, step.look, other, frozenset({Kind.NOISE}), frozenset(), part=True).admitted
    restored = Restorer(
        Request(), toolbox=MANY, perception=eye, policy=policy("greedy", pool, eye), admission=admission
    ).restore(Photo(SMALL))
    assert restored.notes == (STRANGE,)
    assert torch.equal(restored.photo.image, SMALL)


def test_what_is_refused_is_recorded_and_offered_no_more(pool: Pool) -> None:
    held = session(pool, Admission(of_kinds(noise=0.4), 0.1))
    step = held.step(Decision(Apply("denoise"), ("deblock",)))
    assert step.refusal is not None
    assert step.error == step.refusal.words
    assert step.error == "denoise was not admitted: the chance that it harms is put at 40.0%; at most 10.0% is admitted"
    assert (step.refusal.tool, step.refusal.treats) == ("denoise", {Kind.NOISE})
    assert math.isnan(step.refusal.gain)
    assert step.refusal.before is held.trajectory.steps[0].image is step.image
    assert torch.equal(step.refusal.after, MANY["denoise"](SMALL))
    assert held.steps_left == 12
    assert "denoise" not in {spec.name for spec in held.observe().tools}
    assert held.step(Decision(Apply("denoise_more"))).refusal is not None
    assert held.step(Decision(Apply("deblock"))).error is None
    assert held.observe().treated == {Kind.JPEG}
    assert [refusal.tool for refusal in held.trajectory.refusals] == ["denoise", "denoise_more"]
    again = held.step(Decision(Apply("denoise")))
    assert held.stopped
    assert again.decision is not None
    assert again.decision.action == Stop()


def test_what_a_chain_gained_must_not_be_lost_again(pool: Pool) -> None:
    """Each treatment is harmless beside the picture before it; both together are harm beside the photo as it came."""
    once = MANY["denoise"](SMALL)

    def chance(before: Look, after: Look, treated: frozenset[Kind]) -> float:
        far = not torch.equal(after.image, once) and torch.equal(before.image, SMALL)
        return 0.8 if far and treated == {Kind.NOISE, Kind.JPEG} else 0.1

    trajectory = run(FixedOrder("denoise", "deblock"), session(pool, Admission(Told(chance), 0.5)))
    assert trajectory.toolchain() == ("denoise",)
    (refusal,) = trajectory.refusals
    assert refusal.verdict.chance == 0.8
    assert "beside the photo as it came" in refusal.words


def test_one_refusal_does_not_spoil_a_chain(pool: Pool) -> None:
    admission = Admission(of_kinds(low_light=0.9), 0.1)
    listed = run(FixedOrder("brighten", "denoise", "deblock"), session(pool, admission))
    assert listed.toolchain() == ("denoise", "deblock")
    for name in (*SEARCHING, "rules", "predefined"):
        trajectory = run(policy(name, pool), session(pool, admission))
        assert {"denoise", "denoise_more"} & set(trajectory.toolchain()), name
        assert "brighten" not in trajectory.toolchain()
        assert [refusal.tool for refusal in trajectory.refusals] == ["brighten"], name


def test_a_refusal_costs_no_step(pool: Pool) -> None:
    """A list of many tools with few steps: those that are not admitted must not use them up."""
    admission = Admission(of_kinds(noise=0.9, jpeg=0.9, rain=0.9), 0.1)
    listed = FixedOrder("denoise", "denoise_more", "deblock", "derain", "sharpen")
    trajectory = run(listed, session(pool, admission, max_steps=2))
    assert trajectory.toolchain() == ("sharpen",)
    assert len(trajectory.refusals) == 4


@pytest.mark.parametrize("name", SEARCHING)
def test_a_policy_that_searches_plans_around_what_is_not_admitted(name: str, pool: Pool) -> None:
    """Of two tools for one damage it takes the one that is admitted, and says which others it would have preferred."""
    better = Told(lambda before, after, treated: 0.9 if torch.equal(after.image, MANY["denoise_more"](SMALL)) else 0.0)
    trajectory = run(policy(name, pool), session(pool, Admission(better, 0.1)))
    assert "denoise" in trajectory.toolchain()
    assert all(step.refusal is None for step in trajectory.steps)  # nothing was asked for that could not be done
    held = session(pool, Admission(of_kinds(noise=0.9, low_light=0.6, rain=0.5), 0.1))
    first = policy(name, pool).act(held.observe())
    assert [refusal.treats for refusal in first.refused[:2]] == [{Kind.LOW_LIGHT}, {Kind.NOISE}]
    assert [round(refusal.gain, 1) for refusal in first.refused[:2]] == [4.0, 3.0]
    assert [refusal.verdict.chance for refusal in first.refused[:2]] == [0.6, 0.9]
    found = run(policy(name, pool), held)
    assert found.toolchain()
    assert {refusal.treats for refusal in found.refusals} == {frozenset({k}) for k in ("noise", "low_light", "rain")}


def test_what_promises_too_little_is_no_refusal(pool: Pool) -> None:
    eye = Promise(noise=0.05, jpeg=2.0)
    held = Session(SMALL, MANY, pool, eye, admission=Admission(of_kinds(noise=0.9, jpeg=0.9), 0.1))
    trajectory = run(make_policy("greedy", PolicyContext(pool, eye)), held)
    assert [refusal.tool for refusal in trajectory.refusals] == ["deblock"]


def test_many_sessions_in_step_are_held_to_it_like_each_alone(pool: Pool) -> None:
    def sessions() -> list[Session]:
        crops = [CLEAN[..., 40 * i : 40 * i + 48, 200:264] for i in range(4)]
        return [session(pool, Admission(drawn(7), 0.5), crop) for crop in crops]

    listed = FixedOrder(*MANY)
    together, alone = sessions(), sessions()
    found = run_together(listed, together)
    assert [actions(t) for t in found] == [actions(run(listed, one)) for one in alone]
    assert [[r.tool for r in t.refusals] for t in found] == [[r.tool for r in s.trajectory.refusals] for s in alone]
    assert any(t.refusals for t in found)
    assert any(t.toolchain() for t in found)


def test_a_chance_that_is_no_number_admits_nothing() -> None:
    blind = Admission(Told(lambda before, after, treated: math.nan), 0.9)
    start, after = Look(SMALL, Percept()), Look(SMALL / 2, Percept())
    assert not blind.judge(start, start, after, frozenset(), frozenset()).admitted
    assert blind.judge(start, start, start, frozenset(), frozenset()).admitted  # nothing was changed
    larger = Look(CLEAN, Percept())
    assert blind.judge(start, start, larger, frozenset(), frozenset()).admitted  # the user asked for it


def restored(name: str | Policy, toolbox: Toolbox, admission: Admission | None, image: Image = NOISY, **wanted: object):  # type: ignore[no-untyped-def]
    request = Request(name if isinstance(name, str) else "greedy", risk=1, **wanted)  # type: ignore[arg-type]
    given = None if isinstance(name, str) else name
    with Restorer(request, toolbox=toolbox, perception=EYE, policy=given, admission=admission) as restorer:
        return restorer.restore(Photo(image))


FEW = CLASSICAL.only("tv_denoise", "median_derain", "gamma_brighten")


@pytest.mark.parametrize("name", ["greedy", "search", "rules"])
def test_a_whole_photo_is_left_byte_for_byte_at_threshold_0_and_as_ever_at_1(name: str) -> None:
    always = Told(lambda before, after, treated: 0.5)
    untouched = restored(name, FEW, Admission(always, 0.0))
    assert untouched.untouched
    assert torch.equal(untouched.photo.image, NOISY)
    assert untouched.suggestions
    free, checked = restored(name, FEW, None), restored(name, FEW, Admission(always, 1.0))
    assert free.toolchain == checked.toolchain != ()
    assert torch.equal(free.photo.image, checked.photo.image)
    assert not checked.suggestions


LARGE = torch.nn.functional.interpolate(CLEAN, (800, 1200), mode="bilinear") / 2


class Stain(Mix):
    """Smooths, and leaves a bright spot in one corner of a large photo, where no crop of its study lies."""

    def restore(self, image: Image) -> Image:
        smooth = super().restore(image)
        if image.shape[-2:] == LARGE.shape[-2:]:
            smooth[..., 40:80, 24:56] = 1
        return smooth


def test_harm_that_no_study_shows_is_caught_where_the_photo_changed_most() -> None:
    tools = Toolbox(Mix("derain", Kind.RAIN), Stain("stain", Kind.NOISE))
    stained = tools["stain"](LARGE)
    top, left = most_changed(LARGE, stained)
    assert top <= 40 < 80 <= top + 256
    assert left <= 24 < 56 <= left + 256
    crops = study(stained, like=LARGE)[1:] - study(LARGE)[1:]
    assert float(crops.abs().amax()) < 0.3  # of the crops of the study none shows it

    def chance(before: Look, after: Look, treated: frozenset[Kind]) -> float:
        return 0.9 if float((after.image - before.image)[-1].abs().amax()) > 0.3 else 0.1

    request, admission = Request(risk=1), Admission(Told(chance), 0.5)
    chain = FixedOrder("derain", "stain")
    with Restorer(request, toolbox=tools, perception=HOPEFUL, policy=chain, admission=admission) as restorer:
        found = restorer.restore(Photo(LARGE))
    assert found.toolchain == ("derain",)
    assert found.treatments[1].told == (
        "stain was taken back: the chance that it harms is put at 90.0% on the part that changed most; "
        "at most 50.0% is admitted"
    )
    assert [(s.tool, s.toolchain) for s in found.suggestions] == [("stain", ("derain", "stain"))]


def test_the_best_admitted_beginning_is_kept() -> None:
    """On the study all is well; the second treatment is not admitted on the whole, and is left out of the plan."""
    whole = list[frozenset[Kind]]()

    def chance(before: Look, after: Look, treated: frozenset[Kind]) -> float:
        if len(after.image) > 1:
            return 0.1
        whole.append(treated)  # a part of the whole photo
        return 0.9 if Kind.LOW_LIGHT in treated else 0.1

    order, request = FixedOrder("denoise", "brighten", "derain"), Request(risk=1)
    admission = Admission(Told(chance), 0.5)
    with Restorer(request, toolbox=MANY, perception=HOPEFUL, policy=order, admission=admission) as restorer:
        found = restorer.restore(Photo(NOISY))
        alone = restorer.apply(Photo(NOISY), found.toolchain)
    kept = [(t.tool, t.kept) for t in found.treatments]
    assert kept == [("denoise", True), ("brighten", False), ("derain", True)]
    assert torch.equal(alone.photo.image, found.photo.image)
    assert {Kind.NOISE, Kind.RAIN} in whole  # beside the photo as it came
    (suggestion,) = found.suggestions
    assert suggestion.tool == "brighten"
    assert suggestion.toolchain == ("denoise", "derain", "brighten")
    assert suggestion.chance == 0.9
    assert suggestion.gain == 4
    assert suggestion.before.shape == suggestion.after.shape == study(NOISY).shape


def test_suggestions_are_few_and_the_most_promising_first() -> None:
    with Restorer(
        Request(risk=1),
        toolbox=MANY,
        perception=HOPEFUL,
        admission=Admission(of_kinds(**dict.fromkeys(Kind, 0.6)), 0.1),
    ) as restorer:
        plan, found = restorer.plan(Photo(SMALL)), restorer.restore(Photo(SMALL))
    assert plan.suggestions == found.suggestions
    assert [s.treats for s in found.suggestions] == [
        {Kind.LOW_LIGHT},
        {Kind.NOISE},
        {Kind.DEFOCUS_BLUR, Kind.GAUSSIAN_BLUR},
    ]
    assert all(isinstance(s, Suggestion) and s.chance == 0.6 and s.toolchain == (s.tool,) for s in found.suggestions)
    assert "was not admitted" in found.trajectory.last.decision.thought


def test_nothing_is_suggested_for_what_was_treated() -> None:
    more = Told(lambda before, after, treated: float(torch.equal(after.image, MANY["denoise_more"](before.image))))
    with Restorer(Request(risk=1), toolbox=MANY, perception=HOPEFUL, admission=Admission(more, 0.5)) as restorer:
        found = restorer.restore(Photo(SMALL))
    assert "denoise_more" in [refusal.tool for refusal in found.trajectory.refusals]
    assert "denoise" in found.toolchain
    assert found.suggestions == ()


def test_what_is_asked_for_by_name_is_done() -> None:
    never = Admission(Told(lambda before, after, treated: 1.0), 0.0)
    with Restorer(Request(risk=1), toolbox=FEW, perception=EYE, admission=never) as restorer:
        found = restorer.apply(Photo(NOISY), ["tv_denoise"])
    assert found.toolchain == ("tv_denoise",)
    assert not found.suggestions


def test_the_oracle_and_those_who_see_nothing_need_no_admission(pool: Pool) -> None:
    noisy = in_8_bits(degrade(CLEAN[..., :64, :64], parse_recipe("noise:high", 3)))
    oracle = make_policy("oracle", PolicyContext(pool, HOPEFUL, reference=CLEAN[..., :64, :64]))
    trajectory = run(oracle, session(pool, image=noisy))
    assert psnr(trajectory.last.image, CLEAN[..., :64, :64]) > psnr(noisy, CLEAN[..., :64, :64])
    assert MeasuredGain  # the oracle's


def test_a_risk_is_certified_by_enough_photos() -> None:
    curve = RiskCurve(99, (0.0, 0.1, 0.2, 0.3), (0, 0, 4, 5))
    assert curve.threshold(0.05) == 0.2
    assert curve.threshold(0.06) == 0.3
    assert curve.threshold(0.04) == 0.1
    with pytest.raises(ConservatorError, match=r"least that can is 0\.01"):
        curve.threshold(0.009)


@pytest.mark.parametrize("risk", [0, -0.1, 1.1, math.nan])
def test_a_risk_is_a_share(risk: float) -> None:
    with pytest.raises(ConservatorError, match="risk is"):
        Request(risk=risk)


def test_a_rollback_after_a_refusal_goes_where_it_says(pool: Pool) -> None:
    held = session(pool, Admission(of_kinds(low_light=0.9), 0.1))
    for decision in (Apply("denoise"), Apply("brighten"), Apply("deblock"), Rollback(1)):
        held.step(Decision(decision))
    assert held.trajectory.toolchain() == ("denoise",)
    assert [made_by(step) for step in held.trajectory.path()] == ["denoise"]

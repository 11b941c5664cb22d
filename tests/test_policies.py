"""The policies on real photos and classical tools: they gain, they stop, they do no harm."""

from __future__ import annotations

import re
from collections.abc import Iterator
from concurrent.futures import Future
from itertools import pairwise

import numpy as np
import pytest
import torch
from skimage import data

from conservator.degradations import Downpour, Kind, Severity, degrade, parse_recipe
from conservator.errors import ConservatorError, NameNotFoundError, ToolFailedError
from conservator.image import Image, to_image
from conservator.metrics.fidelity import psnr
from conservator.perception import Look, Percept, StatisticalPerception, study
from conservator.perception.perception import Gain, Perception
from conservator.photo import Photo
from conservator.policies import FixedOrder, MeasuredGain, PolicyContext, check_policy, make_policy
from conservator.pool import LocalPool, MemoPool, Pool
from conservator.request import Request
from conservator.restoration import Restored
from conservator.restorer import Restorer
from conservator.session import Apply, Decision, Policy, Rollback, Scope, Session, run
from conservator.tools import Toolbox, make_toolbox

EYE = StatisticalPerception.load()


@pytest.fixture(scope="module")
def toolbox() -> Toolbox:
    return make_toolbox("classical")


@pytest.fixture(scope="module")
def pool(toolbox: Toolbox) -> Iterator[Pool]:
    with MemoPool(LocalPool(toolbox, max_batch=1)) as pool:
        yield pool


@pytest.fixture(scope="module")
def noisy(coffee: Image) -> Image:
    return degrade(coffee[..., :320, :400], parse_recipe("noise:high", seed=4))


@pytest.mark.parametrize(
    "name", ["greedy", "search", "rules", "beam", "reflect", "random", "random_both", "predefined", "none"]
)
def test_every_policy_holds_the_contract(name: str, noisy: Image, toolbox: Toolbox, pool: Pool) -> None:
    small = toolbox.only("wavelet_denoise", "tv_denoise", "gamma_brighten")
    policy = make_policy(name, PolicyContext(pool, EYE))
    assert policy.name == name
    check_policy(policy, Session(study(noisy), small, pool, EYE))


def test_a_search_keeps_to_its_budget(noisy: Image, toolbox: Toolbox, pool: Pool) -> None:
    few = toolbox.only("wavelet_denoise", "tv_denoise", "deblock", "gamma_brighten")
    observation = Session(study(degrade(noisy, parse_recipe("jpeg:high", seed=4))), few, pool, EYE).observe()
    tried = []
    for name in ("search:1", "search:20"):
        policy = make_policy(name, PolicyContext(pool, EYE))
        assert policy.name == name
        found = re.search(r"best of (\d+) toolchains", policy.act(observation).thought)
        assert found is not None
        tried.append(int(found[1]))
    assert 1 <= tried[0] < tried[1] <= 24  # the round that was begun is finished
    for wrong in ("search:0", "search:", "search:many", "greedy:3"):
        with pytest.raises(NameNotFoundError, match=wrong):
            make_policy(wrong, PolicyContext(pool, EYE))


@pytest.mark.parametrize("name", ["greedy", "search", "rules", "beam", "reflect"])
def test_policies_that_look_gain_on_noise(name: str, noisy: Image, coffee: Image, toolbox: Toolbox, pool: Pool) -> None:
    clean = coffee[..., :320, :400]
    policy = make_policy(name, PolicyContext(pool, EYE))
    restored = restore(Photo(noisy), policy, toolbox, pool, EYE)
    assert psnr(restored.photo.image, clean) > psnr(noisy, clean) + 3
    assert restored.after.quality > restored.before.quality


def test_the_oracle_beats_the_eye_and_needs_a_reference(
    noisy: Image, coffee: Image, toolbox: Toolbox, pool: Pool
) -> None:
    clean = coffee[..., :320, :400]
    with pytest.raises(ConservatorError, match="give it a reference"):
        make_policy("oracle", PolicyContext(pool, EYE))
    few = toolbox.only("wavelet_denoise", "tv_denoise", "stretch_brighten")
    scores = {}
    for name in ("oracle", "greedy"):
        context = PolicyContext(pool, EYE, reference=study(clean, like=noisy))
        trajectory = run(make_policy(name, context), Session(study(noisy), few, pool, EYE))
        scores[name] = psnr(trajectory.last.image[1:2], study(clean, like=noisy)[1:2])
    assert scores["oracle"] >= scores["greedy"] - 0.05


def test_clean_photos_stay_untouched_to_the_pixel(coffee: Image, toolbox: Toolbox) -> None:
    for name in ("greedy", "search", "rules", "beam", "reflect"):
        with Restorer(Request(name), toolbox=toolbox) as restorer:
            restored = restorer.restore(Photo(coffee))
        assert restored.untouched, f"{name} applied {restored.toolchain}"
        assert torch.equal(restored.photo.image, coffee)


def restore(
    photo: Photo,
    policy: Policy,
    toolbox: Toolbox,
    pool: Pool,
    perception: Perception = EYE,
    *,
    scope: Scope | None = None,
    strength: float = 1.0,
) -> Restored:
    request = Request(strength=strength, risk=1)
    return Restorer(request, toolbox=toolbox, perception=perception, policy=policy, pool=pool, scope=scope).restore(
        photo
    )


class Pessimist(Perception):
    """An eye to which every change is for the worse."""

    def __init__(self, start: Image) -> None:
        self._start = start

    def grade(self, image: Image) -> Percept:
        same = image.shape == self._start.shape and torch.equal(image, self._start)
        return Percept(EYE.grade(image).severities, quality=30.0 if same else 20.0)

    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        return Gain.sure(after.percept.quality - before.percept.quality)


def test_rules_take_back_what_did_harm(noisy: Image, toolbox: Toolbox, pool: Pool) -> None:
    eye = Pessimist(study(noisy))
    session = Session(study(noisy), toolbox, pool, eye)
    trajectory = run(make_policy("rules", PolicyContext(pool, eye)), session)
    actions = [step.decision.action for step in trajectory.steps if step.decision]
    assert any(isinstance(action, Apply) for action in actions)
    for before, after in pairwise(actions):
        if isinstance(before, Apply):
            assert isinstance(after, Rollback)
    assert trajectory.toolchain() == ()
    assert torch.equal(trajectory.last.image, study(noisy))


def test_a_treatment_that_harms_the_whole_is_taken_back(noisy: Image, toolbox: Toolbox, pool: Pool) -> None:
    eye = Pessimist(study(noisy))
    restored = restore(Photo(noisy), FixedOrder("tv_denoise"), toolbox, pool, eye)
    assert restored.untouched
    assert torch.equal(restored.photo.image, noisy)
    assert "taken back" in restored.treatments[0].note


def test_strength_blends(noisy: Image, toolbox: Toolbox, pool: Pool) -> None:
    def treated(strength: float) -> Image:
        policy = FixedOrder("tv_denoise")
        return restore(Photo(noisy), policy, toolbox, pool, EYE, strength=strength).photo.image

    full, half, none = treated(1.0), treated(0.5), treated(0.0)
    assert torch.equal(none, noisy)
    assert torch.allclose(half, (noisy + full) / 2, atol=1e-6)
    with pytest.raises(ConservatorError, match="strength is 2"):
        treated(2)


def test_alpha_survives_a_restoration(noisy: Image, toolbox: Toolbox, pool: Pool) -> None:
    alpha = torch.ones(1, 1, *noisy.shape[-2:])
    alpha[..., :100] = 0
    restored = restore(Photo(noisy, alpha=alpha), FixedOrder("tv_denoise"), toolbox, pool, EYE).photo
    assert restored.alpha is not None
    assert torch.equal(restored.alpha, alpha)
    assert torch.equal(restored.image[..., :100], noisy[..., :100])
    assert not torch.equal(restored.image[..., 100:], noisy[..., 100:])


def test_small_photos_are_enlarged_only_when_told(coffee: Image, toolbox: Toolbox, pool: Pool) -> None:
    small = coffee[..., :128, :128]
    few = toolbox.only("lanczos_x4", "lanczos_x2")
    for name in ("greedy", "rules"):
        policy = make_policy(name, PolicyContext(pool, EYE))
        assert restore(Photo(small), policy, few, pool, EYE).photo.image.shape == small.shape
        enlarged = restore(Photo(small), policy, few, pool, EYE, scope=Scope(upscale=True))
        assert enlarged.photo.image.shape == (1, 3, 512, 512)


def test_unknown_policies_are_refused(pool: Pool) -> None:
    with pytest.raises(NameNotFoundError, match="did you mean greedy"):
        make_policy("gredy", PolicyContext(pool, EYE))


def test_policies_without_weights_say_how_to_give_some(pool: Pool) -> None:
    with pytest.raises(NameNotFoundError, match=r"no weights of the policy tir ship.*--policy tir:PATH"):
        make_policy("tir", PolicyContext(pool, EYE))


def test_the_reference_judge_measures_gain(noisy: Image, coffee: Image, toolbox: Toolbox) -> None:
    from conservator.policies.search import State

    clean = coffee[..., :320, :400]
    better = torch.lerp(noisy, clean, 0.5)
    scoring = MeasuredGain(clean)
    gain = scoring(State(noisy, Percept()), toolbox["tv_denoise"].spec, better, Percept())
    assert gain == pytest.approx(psnr(better, clean) - psnr(noisy, clean), abs=1e-3)


def test_a_photo_that_is_dim_by_nature_is_not_brightened(own_home: object) -> None:
    """What hurt people most: rooms that are dim, with a little noise, came back 20 dB worse."""
    cat = to_image(data.chelsea())
    dim = degrade(cat, parse_recipe("low_light:high", seed=3))
    noisy = degrade(dim, parse_recipe("noise:low", seed=5))
    with Restorer(Request(toolbox="conservator")) as restorer:
        restored = restorer.restore(Photo(noisy))
        assert restored.before.confidences[Kind.LOW_LIGHT] > 0.5
        assert psnr(restored.photo.image, dim) > psnr(noisy, dim) + 3
    with Restorer(Request(toolbox="conservator", risk=1)) as restorer:
        assert psnr(restorer.restore(Photo(noisy)).photo.image, dim) < psnr(noisy, dim) - 5


def test_heavy_rain_which_brightens_large_areas_is_taken_out(own_home: object) -> None:
    clean, rng = to_image(data.chelsea()[:224, :224]), np.random.default_rng(1)
    rainy = degrade(clean, tuple(Downpour.sample(Severity.VERY_HIGH, rng) for _ in range(3)))
    brighter = torch.nn.functional.avg_pool2d(rainy - clean, 16)
    assert float(brighter.square().mean().sqrt()) > 0.1
    with Restorer(Request(toolbox="conservator")) as restorer:
        restored = restorer.restore(Photo(rainy))
    assert "derain" in restored.toolchain
    assert psnr(restored.photo.image, clean) > psnr(rainy, clean) + 6


def test_a_scope_offers_what_the_user_allows() -> None:
    tools = make_toolbox("conservator")

    def offered(scope: Scope) -> set[str]:
        return {spec.name for spec in tools.specs if scope.offers(spec)}

    usual = offered(Scope())
    assert {"brighten_dark", "dehaze"} <= usual
    assert "upscale_x2" not in usual
    assert "upscale_x2" in offered(Scope(upscale=True))
    for_noise = {name for name in usual if Kind.NOISE in tools[name].spec.removes}
    assert offered(Scope(only=frozenset({Kind.NOISE}))) == for_noise - {
        "generalist"
    }  # it would treat all the rest, too
    assert not any(Kind.NOISE in tools[name].spec.removes for name in offered(Scope(never=frozenset({Kind.NOISE}))))


def test_a_session_refuses_what_is_not_offered(noisy: Image, toolbox: Toolbox, pool: Pool) -> None:
    session = Session(study(noisy), toolbox, pool, EYE)
    step = session.step(Decision(Apply("lanczos_x2")))
    assert step.error is not None
    assert "not offered" in step.error
    assert step.image is session.trajectory.steps[0].image


@pytest.mark.parametrize("name", ["search", "beam"])
def test_nobody_elses_decision_is_taken_for_a_plan_of_ones_own(
    name: str, noisy: Image, toolbox: Toolbox, pool: Pool
) -> None:
    """A search that is asked in the middle of a session searches from there; it does not stop as if it were done."""
    few = toolbox.only("wavelet_denoise", "deblock", "gamma_brighten")
    policy = make_policy(name, PolicyContext(pool, EYE))
    session = Session(study(noisy), few, pool, EYE)
    for stranger in (
        Decision(Apply("deblock")),
        Decision(Apply("deblock"), ("gamma_brighten",)),
        Decision(Rollback(0)),
    ):
        session.step(stranger)
        decision = policy.act(session.observe())
        assert decision.action == Apply("wavelet_denoise")
    session.step(policy.act(session.observe()))
    assert policy.act(session.observe()).thought in (
        "as planned",
        "the plan is carried out",
    )  # its own plan it goes on with
    assert "wavelet_denoise" in run(policy, session).toolchain()


def test_a_plan_is_made_anew_where_its_step_failed(noisy: Image, toolbox: Toolbox, pool: Pool) -> None:
    few = toolbox.only("wavelet_denoise", "deblock")
    policy = make_policy("search", PolicyContext(pool, EYE))
    session = Session(study(noisy), few, pool, EYE)
    broken = Future[Image]()
    broken.set_exception(ToolFailedError("no memory"))
    first = policy.act(session.observe())
    assert session.step(first, broken).error is not None
    assert isinstance(policy.act(session.observe()).action, Apply)

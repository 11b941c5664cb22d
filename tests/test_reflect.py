"""AgenticIR's strategy on real photos: it keeps what helped, takes back what failed, comes back to it later."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest
import torch

from conservator.degradations import Kind, Severity, degrade, parse_recipe
from conservator.image import Image, digest
from conservator.metrics.fidelity import psnr
from conservator.perception import NetworkPerception
from conservator.policies import PolicyContext, check_policy, make_policy
from conservator.pool import LocalPool, MemoPool, Pool
from conservator.session import Action, Apply, Decision, Rollback, Session, Stop, Trajectory, run
from conservator.tools import Tool, Toolbox, ToolSpec, make_toolbox

EYE = NetworkPerception.load()
REAL = make_toolbox("conservator")


class Faint(Tool):
    """A real denoiser whose effect is mixed into the picture by a share that is too small."""

    def __init__(self, name: str, share: float) -> None:
        what = frozenset({Kind.NOISE})
        self.spec, self._share = ToolSpec(name, what, "Removes a little noise.", "a test", "Apache-2.0"), share

    def setup(self, device: str) -> None:
        REAL["denoise_heavy"].setup(device)

    def restore(self, image: Image) -> Image:
        return torch.lerp(image, REAL["denoise_heavy"].restore(image), self._share)


TOOLBOX = Toolbox(Faint("fainter", 0.05), Faint("faint", 0.2), Faint("half", 0.4), *REAL.values())


@pytest.fixture(scope="module")
def pool() -> Iterator[Pool]:
    with MemoPool(LocalPool(TOOLBOX, max_batch=1)) as pool:
        yield pool


@pytest.fixture(scope="module")
def clean(coffee: Image) -> Image:
    return coffee[..., :192, :256]


@pytest.fixture(scope="module")
def noisy(clean: Image) -> Image:
    return degrade(clean, parse_recipe("noise:high", seed=4))


def session(image: Image, pool: Pool, *tools: str, max_steps: int = 12) -> Session:
    return Session(image, TOOLBOX.only(*tools), pool, EYE, max_steps)


def actions(trajectory: Trajectory) -> list[Action | None]:
    return [step.decision.action for step in trajectory.steps if step.decision is not None]


def walk(started: Session, pool: Pool) -> list[Action | None]:
    return actions(run(make_policy("reflect", PolicyContext(pool, EYE)), started))


def test_the_first_tool_that_removes_the_damage_is_kept(noisy: Image, clean: Image, pool: Pool) -> None:
    started = session(noisy, pool, *REAL)
    assert walk(started, pool) == [Apply("denoise_medium"), Stop()]
    last = started.trajectory.last
    assert last.percept.severities[Kind.NOISE] <= Severity.LOW
    assert psnr(last.image, clean) > psnr(noisy, clean) + 5


def test_a_clean_photo_stays_untouched(clean: Image, pool: Pool) -> None:
    assert walk(session(clean, pool, *REAL), pool) == [Stop()]


def test_the_next_tool_gets_the_picture_that_the_failed_one_got(noisy: Image, pool: Pool) -> None:
    got = walk(session(noisy, pool, "faint", "generalist", "derain", "half"), pool)
    assert got[:3] == [Apply("faint"), Rollback(0), Apply("half")]
    assert Apply("generalist") not in got  # it is for everything
    assert Apply("derain") not in got  # no rain is seen


def test_of_tools_that_all_fail_the_best_is_kept(noisy: Image, pool: Pool) -> None:
    first, second = Apply("half"), Apply("faint")
    assert walk(session(noisy, pool, "half", "faint"), pool) == [first, Rollback(0), second, Rollback(1), Stop()]
    assert walk(session(noisy, pool, "faint", "half"), pool) == [second, Rollback(0), first, Stop()]
    assert walk(session(noisy, pool, "fainter"), pool) == [Apply("fainter"), Rollback(0), Stop()]  # it gains nothing


def test_what_no_tool_achieves_is_tried_again_after_the_other_damages(clean: Image, pool: Pool) -> None:
    hazy = degrade(clean, parse_recipe("haze:high,noise:high", seed=4))
    started = session(hazy, pool, "fainter", "dehaze")
    got = walk(started, pool)
    assert got[:4] == [Apply("fainter"), Rollback(0), Apply("dehaze"), Apply("fainter")]  # on the dehazed photo
    assert got.count(Apply("fainter")) == 2
    assert started.trajectory.toolchain()[0] == "dehaze"


@pytest.mark.parametrize("recipe", ["noise:high", "haze:high,noise:high", "low_light:high,noise:medium"])
def test_no_tool_is_applied_twice_to_the_same_picture(recipe: str, clean: Image, pool: Pool) -> None:
    damaged = degrade(clean, parse_recipe(recipe, seed=4))
    tools = ("fainter", "faint", "dehaze", "brighten_mild", "brighten_dark")
    started = session(damaged, pool, *tools, max_steps=30)
    check_policy(make_policy("reflect", PolicyContext(pool, EYE)), started)
    assert started.stopped
    steps = started.trajectory.steps
    calls = [(digest(steps[s.parent or 0].image), s.decision.action) for s in steps if s.decision is not None]
    treatments = [call for call in calls if isinstance(call[1], Apply)]
    assert len(treatments) >= 2
    assert len(set(treatments)) == len(treatments)


@pytest.mark.parametrize("max_steps", [1, 2, 3, 4])
def test_it_never_ends_on_a_treatment_that_it_did_not_look_at(max_steps: int, noisy: Image, pool: Pool) -> None:
    got = walk(session(noisy, pool, "faint", "half", max_steps=max_steps), pool)
    assert (
        got
        == {
            1: [Stop()],
            2: [Apply("faint"), Stop()],
            3: [Apply("faint"), Rollback(0), Rollback(1)],
            4: [Apply("faint"), Rollback(0), Apply("half"), Stop()],
        }[max_steps]
    )


def test_a_step_for_what_no_order_has_is_no_obstacle(noisy: Image, pool: Pool) -> None:
    reflect = make_policy("reflect", PolicyContext(pool, EYE))
    first, *others = TOOLBOX.specs
    session = Session(noisy, TOOLBOX, pool, EYE)
    session.step(Decision(Apply(first.name)))
    observation = replace(session.observe(), tools=(replace(first, removes=frozenset({Kind.SNOW})), *others))
    assert reflect.act(observation).action is not None


def test_what_others_did_is_taken_into_account(noisy: Image, pool: Pool) -> None:
    started = session(noisy, pool, "faint", "half", "denoise_heavy")
    for action in (Apply("no_such_tool"), None, Apply("denoise_heavy"), Rollback(0), Apply("faint")):
        started.step(Decision(action))
    assert walk(started, pool)[5:] == [Rollback(0), Apply("half"), Rollback(3), Stop()]

"""``check_policy`` finds every way to break the contract, and lets through all that is legal."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import pytest

from conservator.image import Image
from conservator.perception import Blind
from conservator.policies import check_policy
from conservator.pool import LocalPool, Pool
from conservator.session import Apply, Decision, Observation, Rollback, Session, Stop
from conservator.tools import Toolbox


@pytest.fixture
def pool(small_toolbox: Toolbox) -> Iterator[Pool]:
    with LocalPool(small_toolbox) as pool:
        yield pool


class Saying:
    """Decides by a function of the observation."""

    name = "saying"

    def __init__(self, decide: Callable[[Observation], Decision]) -> None:
        self.act = decide


def once(decision: Decision) -> Callable[[Observation], Decision]:
    return lambda observation: Decision(Stop()) if len(observation.trajectory.steps) > 1 else decision


@pytest.mark.parametrize(
    "decide",
    [
        once(Decision(None, thought="the reply holds no plan, rollback or stop")),
        lambda observation: Decision(None, thought="no answer"),
        once(Decision(Apply("broken"))),
        once(Decision(Apply("gamma"), ("box_blur",))),
        once(Decision(Rollback(0))),
        once(Decision(Stop())),
    ],
)
def test_what_is_legal_passes(
    decide: Callable[[Observation], Decision], photo: Image, small_toolbox: Toolbox, pool: Pool
) -> None:
    session = Session(photo, small_toolbox, pool, Blind(), max_steps=4)
    check_policy(Saying(decide), session)
    assert session.stopped or session.exhausted


def crashes_after_an_error(observation: Observation) -> Decision:
    error = observation.trajectory.last.error
    assert error is None, error
    return once(Decision(Apply("gamma")))(observation)


def plans_nonsense_after_an_error(observation: Observation) -> Decision:
    if observation.trajectory.last.error is not None:
        return Decision(Apply("photoshop"))
    return once(Decision(Apply("gamma")))(observation)


def looks_up_what_was_refused(observation: Observation) -> Decision:
    last = observation.trajectory.last.decision
    if last is None:
        return Decision(Apply("gamma"))
    tools = {spec.name: spec for spec in observation.tools}
    return Decision(Stop(), thought=tools["gamma"].description)


class ChangingPlans:
    """The same action each time, but another plan."""

    name = "changing"

    def __init__(self) -> None:
        self._asked = 0

    def act(self, observation: Observation) -> Decision:
        if len(observation.trajectory.steps) > 1:
            return Decision(Stop())
        self._asked += 1
        return Decision(Apply("gamma"), ("box_blur",) * self._asked)


@pytest.mark.parametrize(
    ("policy", "why"),
    [
        (Saying(once(Decision("gamma"))), "'gamma' is no action"),  # type: ignore[arg-type]
        (Saying(once(Decision(Apply("photoshop")))), "asked for 'photoshop'"),
        (Saying(once(Decision(Apply("gamma"), ("photoshop",)))), "plans with 'photoshop'"),
        (Saying(once(Decision(Rollback(3)))), "rolled back to step 3, but steps are 0 to 0"),
        (Saying(crashes_after_an_error), "the tool failed"),
        (Saying(plans_nonsense_after_an_error), "asked for 'photoshop'"),
        (Saying(looks_up_what_was_refused), "gamma"),
        (ChangingPlans(), "only memory is the trajectory"),
    ],
)
def test_what_breaks_the_contract_is_found(
    policy: Saying | ChangingPlans, why: str, photo: Image, small_toolbox: Toolbox, pool: Pool
) -> None:
    with pytest.raises((AssertionError, KeyError), match=why):
        check_policy(policy, Session(photo, small_toolbox, pool, Blind(), max_steps=4))


def test_a_policy_needs_a_name(photo: Image, small_toolbox: Toolbox, pool: Pool) -> None:
    nameless = Saying(once(Decision(Stop())))
    nameless.name = ""
    with pytest.raises(AssertionError, match="must have a name"):
        check_policy(nameless, Session(photo, small_toolbox, pool, Blind()))


class Together(Saying):
    """Decides on many observations by a function of all of them."""

    def __init__(self, together: Callable[[Sequence[Observation]], list[Decision]]) -> None:
        super().__init__(lambda observation: together([observation])[0])
        self.act_together = together


def each(observations: Sequence[Observation]) -> list[Decision]:
    return [once(Decision(Apply("gamma"), ("box_blur",)))(observation) for observation in observations]


def test_deciding_together_must_be_deciding_alone(photo: Image, small_toolbox: Toolbox, pool: Pool) -> None:
    def check(together: Callable[[Sequence[Observation]], list[Decision]]) -> None:
        check_policy(Together(together), Session(photo, small_toolbox, pool, Blind(), max_steps=4))

    check(each)
    with pytest.raises(AssertionError, match="in company"):
        check(lambda observations: each(observations[:1]) * len(observations))
    with pytest.raises(AssertionError, match="in company"):
        check(lambda observations: each(sorted(observations, key=lambda o: -len(o.trajectory.steps))))
    with pytest.raises(AssertionError, match="gave 1 decisions"):
        check(lambda observations: each(observations)[:1])
    with pytest.raises(AssertionError, match="on no observations"):
        check(lambda observations: each(observations) or [Decision(Stop())])

"""How a model is asked, and how its answer is written and read: to the letter, for models were trained on the words."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conservator.errors import ToolFailedError
from conservator.kinds import Kind, Objective, Severity
from conservator.perception import Blind, Look, Percept
from conservator.perception.perception import Gain
from conservator.policies.dialects import IMAGE, Dialect, JsonDialect, PlanDialect
from conservator.policies.planning import estimated_gains
from conservator.session import Apply, Decision, Observation, Rollback, Step, Stop, Trajectory
from conservator.tools import make_toolbox

TOOLS = make_toolbox("classical").only("wavelet_denoise", "deblock", "gamma_brighten").specs
PLAN = PlanDialect()
PERCEPT = Percept(
    {Kind.JPEG: Severity.HIGH, Kind.LOW_LIGHT: Severity.NONE, Kind.RAIN: Severity.LOW},
    {Kind.JPEG: 0.97, Kind.LOW_LIGHT: 0.21, Kind.RAIN: 0.8},
)


def observed(*actions: Apply | Rollback | None, percept: Percept = PERCEPT, pictures: int = 2) -> Observation:
    image = torch.zeros(pictures, 3, 8, 8)
    steps = [Step(0, None, None, image, percept)]
    for action in actions:
        parent = action.to if isinstance(action, Rollback) else steps[-1].id
        steps.append(Step(len(steps), parent, Decision(action), image, percept))
    return Observation(Trajectory(tuple(steps)), TOOLS, 13 - len(steps))


def eventful() -> Observation:
    """A treatment taken back, a reply that could not be read, a tool that failed; on a study of five pictures."""
    seen = observed(Apply("deblock"), Rollback(0), None, Apply("wavelet_denoise"), pictures=5)
    errors = {3: "the plan is empty", 4: str(ToolFailedError("no noise could be found"))}
    steps = (replace(step, error=errors.get(step.id)) for step in seen.trajectory.steps)
    return replace(seen, trajectory=Trajectory(tuple(steps)))


# What the nano model that ships was trained on. It may change only together with its weights.
TASK = "You restore damaged photos. You see a photo and decide on the next step. Your tools:\n"
TOOL_LINES = (
    "- wavelet_denoise (noise): Removes light to moderate noise by wavelet shrinkage; the gentlest and fastest of the "
    "denoisers.\n"
    "- deblock (JPEG artefacts): Softens block edges and ringing of a JPEG by compressing it again on shifted grids; "
    "cautious.\n"
    "- gamma_brighten (low light): Brightens a dark photo by a gamma curve, lifting shadows most; keeps black and "
    "white points.\n"
)
HOW = (
    'Answer with one line: "plan: " and the tools to apply in order, joined by ", "; or "rollback: " and the number of '
    'the step to return to, when a step did harm; or "stop", when nothing more helps.'
)
QUESTION = """The photo now, the whole of it and 4 details at full size: <image><image><image><image><image>
Examined: JPEG artefacts high 100 %, low light none 20 %.
Step 0: the photo as it came
Step 1: deblock (-1.2 dB by the eye)
Step 2: rolled back to step 0
Step 3: nothing, but the plan is empty
Step 4: wavelet_denoise, but no noise could be found
8 steps are left. What is next?"""


@pytest.mark.parametrize(
    ("objective", "said"),
    [
        ("fidelity", "as near to the undamaged photo as can be"),
        ("balanced", "near to the undamaged photo and good to look at"),
        ("perceptual", "good to look at"),
    ],
)
def test_the_words_are_those_that_the_shipped_model_was_trained_on(objective: Objective, said: str) -> None:
    system, user = PLAN.ask(eventful(), objective, {1: -1.25})
    assert (system.role, user.role) == ("system", "user")
    assert system.text == f"{TASK}{TOOL_LINES}The result shall be {said}.\n{HOW}"
    assert user.text == QUESTION


def test_in_words_neither_tools_nor_pictures_are_shown() -> None:
    system, user = PlanDialect(in_words=True).ask(observed(Apply("deblock"), pictures=1), "perceptual", {1: 0.31})
    assert system.text == f"{TASK}The result shall be good to look at.\n{HOW}"
    assert user.images == ()
    assert user.text == (
        "The photo now: \nExamined: JPEG artefacts high 100 %, low light none 20 %.\nStep 0: the photo as it came\n"
        "Step 1: deblock (+0.3 dB by the eye)\n11 steps are left. What is next?"
    )


@pytest.mark.parametrize("dialect", [PLAN, JsonDialect(), JsonDialect(lines=True)])
def test_each_picture_has_its_place(dialect: Dialect) -> None:
    system, user = dialect.ask(observed(percept=Percept()), "fidelity")
    assert user.text.count(IMAGE) == len(user.images) == 2
    assert user.images[0].shape == (1, 3, 8, 8)
    assert IMAGE not in system.text
    assert "Examined" not in user.text


def test_the_json_dialect_asks_for_json_and_else_the_same() -> None:
    (plain, question), (system, user) = (d.ask(eventful(), "balanced", {1: 2.0}) for d in (PLAN, JsonDialect()))
    assert user.text == question.text
    assert system.text.startswith(plain.text + "\nWrite the answer as JSON")
    assert JsonDialect(lines=True).ask(eventful(), "balanced")[0].text == plain.text


def test_gains_are_those_of_treatments_that_were_examined() -> None:
    class Sees(Blind):
        def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
            return Gain.sure(-1.25 if Kind.JPEG in treated else 0.5)

    assert estimated_gains(eventful(), Sees(), "fidelity") == {1: -1.25}  # step 4 failed: nothing was gained or lost
    assert not estimated_gains(observed(Apply("deblock"), percept=Percept()), Sees(), "fidelity")
    larger = observed(Apply("deblock"))
    steps = larger.trajectory.steps
    enlarged = Trajectory((steps[0], replace(steps[1], image=torch.zeros(2, 3, 16, 16))))
    assert not estimated_gains(replace(larger, trajectory=enlarged), Sees(), "fidelity")


DECISIONS = [
    (Decision(Apply("deblock"), ("gamma_brighten",)), "plan: deblock, gamma_brighten"),
    (Decision(Apply("deblock")), "plan: deblock"),
    (Decision(Rollback(1)), "rollback: 1"),
    (Decision(Stop()), "stop"),
]


@pytest.mark.parametrize(("decision", "line"), DECISIONS)
def test_a_reply_is_read_as_it_was_written(decision: Decision, line: str) -> None:
    assert PLAN.write(decision) == line
    for dialect in (PLAN, JsonDialect(), JsonDialect(lines=True)):
        read = dialect.read(dialect.write(decision), observed(Apply("deblock")))
        assert (read.action, read.plan) == (decision.action, decision.plan)


def test_what_is_written_is_legal_by_the_schema() -> None:
    observation = observed(Apply("deblock"))
    schema = JsonDialect().schema(observation)
    assert schema is not None
    fields = schema["properties"]
    for decision, _ in DECISIONS:
        written = json.loads(JsonDialect().write(replace(decision, thought="It looks so.")))
        assert list(written) == list(fields) == schema["required"]
        assert written["thought"] == "It looks so."
        assert written["action"] in fields["action"]["enum"]
        assert set(written["tools"]) <= set(fields["tools"]["items"]["enum"])
        assert written["step"] in [*fields["step"]["anyOf"][0]["enum"], None]
    assert PLAN.schema(observation) is None
    assert JsonDialect(lines=True).schema(observation) is None


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
    for dialect in (PLAN, JsonDialect()):
        assert dialect.read(reply, observed()).action == action


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
    for dialect in (PLAN, JsonDialect()):
        decision = dialect.read(reply, observed(Apply("deblock")))
        assert decision.action is None
        assert why in decision.thought
        assert decision.reply == reply


@given(st.text(max_size=300) | st.dictionaries(st.sampled_from(["action", "tools", "step"]), st.text()).map(json.dumps))
def test_no_reply_is_an_exception(reply: str) -> None:
    for dialect in (PLAN, JsonDialect()):
        assert dialect.read(reply, observed()).reply == reply

"""Decoding that can say nothing but legal replies, whatever a model holds likely."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from conservator.errors import ConservatorError
from conservator.perception import Percept
from conservator.policies.dialects import Dialect, JsonDialect, PlanDialect
from conservator.policies.mllm import told
from conservator.policies.planning import legal_actions
from conservator.policies.replies import Speaker, choose, likeliest
from conservator.session import Action, Apply, Decision, Observation, Rollback, Step, Stop, Trajectory
from conservator.tools import ToolSpec

END = 256


def speaks(dialect: Dialect) -> Speaker:
    """Every byte is a token."""
    return Speaker(lambda text: tuple(text.encode()), END, dialect)


SPEAKER = speaks(PlanDialect())


def observed(tools: Sequence[str], actions: Sequence[Action], left: int = 6, failed: int | None = None) -> Observation:
    steps = [Step(0, None, None, torch.zeros(1, 3, 8, 8), Percept())]
    for action in actions:
        parent = action.to if isinstance(action, Rollback) else steps[-1].id
        error = "broken" if len(steps) == failed else None
        steps.append(Step(len(steps), parent, Decision(action), torch.zeros(1, 3, 8, 8), Percept(), error=error))
    specs = tuple(ToolSpec(name, frozenset(), "Helps.", "", "") for name in tools)
    return Observation(Trajectory(tuple(steps)), specs, left)


def whim(seed: int, sharpness: float = 3.0):  # type: ignore[no-untyped-def]
    """A model that holds anything likely, but always the same after the same tokens."""

    def next_(path: tuple[int, ...]) -> torch.Tensor:
        generator = torch.Generator().manual_seed(hash((seed, path)) % 2**31)
        return (sharpness * torch.randn(257, generator=generator)).log_softmax(0)

    return next_


NAMES = st.lists(
    st.sampled_from(["denoise", "denoise_high", "denoise_medium", "derain", "d", "dehaze", "stop", "plan"]),
    min_size=1,
    max_size=6,
    unique=True,
)


@pytest.mark.parametrize("dialect", [PlanDialect(), JsonDialect()])
@given(names=NAMES, seed=st.integers(0, 2**20), left=st.integers(1, 5), data=st.data())
def test_every_reply_is_legal(dialect: Dialect, names: list[str], seed: int, left: int, data: st.DataObject) -> None:
    actions = [Apply(name) for name in data.draw(st.lists(st.sampled_from(names), max_size=3))]
    observation = observed(names, actions, left)
    replied = choose(observation, whim(seed), speaks(dialect))
    read = dialect.read(replied.decision.reply, observation)
    assert (read.action, read.plan) == (replied.decision.action, replied.decision.plan)
    assert replied.decision.action in legal_actions(observation)
    assert set(replied.chances) <= set(legal_actions(observation))
    assert 0 < sum(replied.chances.values()) <= 1 + 1e-6
    ways = {kind: [c for a, c in replied.chances.items() if isinstance(a, kind)] for kind in (Apply, Rollback, Stop)}
    way = type(replied.decision.action)
    assert sum(ways[way]) == max(map(sum, ways.values()))
    assert replied.chances[replied.decision.action] == max(ways[way])
    assert next(iter(replied.chances)) == replied.decision.action
    if isinstance(read.action, Apply):
        whole = (read.action.tool, *read.plan)
        assert len(set(whole)) == len(whole) <= left


@given(NAMES, st.integers(0, 2**20))
def test_chances_are_those_of_sampling_legal_tokens(names: list[str], seed: int) -> None:
    """Against the definition: at every token of every sequence, the model's share among the tokens that are legal."""
    options = {
        name: [SPEAKER.write(Decision(Apply(name))), SPEAKER.write(Decision(Apply(name), ("d",)))] for name in names
    }
    everything = [tokens for sequences in options.values() for tokens in sequences]
    next_ = whim(seed)

    def chance(tokens: tuple[int, ...]) -> float:
        product = 1.0
        for at, token in enumerate(tokens):
            legal = sorted({other[at] for other in everything if other[:at] == tokens[:at]})
            product *= float(next_(tokens[:at])[legal].softmax(0)[legal.index(token)])
        return product

    found = likeliest(options, next_, least=0.0)
    for name, sequences in options.items():
        assert found[name] == pytest.approx(sum(map(chance, sequences)), abs=1e-5)


def test_what_was_taken_back_or_failed_is_not_offered_again() -> None:
    tools = ["a", "b", "c"]
    assert legal_actions(observed(tools, [])) == (Apply("a"), Apply("b"), Apply("c"), Stop())
    assert Rollback(0) in legal_actions(observed(tools, [Apply("a")]))
    back = legal_actions(observed(tools, [Apply("a"), Rollback(0)]))
    assert back == (Apply("b"), Apply("c"), Rollback(1), Stop())
    assert Apply("a") in legal_actions(observed(tools, [Apply("a"), Rollback(0), Apply("b")]))
    failed = legal_actions(observed(tools, [Apply("a")], failed=1))
    assert failed == (Apply("b"), Apply("c"), Stop())


def test_many_likely_tools_are_not_lost_to_one_stop() -> None:
    chances = {Apply("a"): 0.21, Apply("b"): 0.22, Apply("c"): 0.2, Stop(): 0.37}

    def next_(path: tuple[int, ...]) -> torch.Tensor:
        logs = torch.full((257,), -30.0)
        for action, chance in chances.items():
            written = SPEAKER.write(Decision(action))
            if written[: len(path)] == path:
                logs[written[len(path)]] = torch.logaddexp(logs[written[len(path)]], torch.tensor(chance).log())
        return logs.log_softmax(0)

    replied = choose(observed(["a", "b", "c"], []), next_, SPEAKER)
    assert replied.decision == Decision(Apply("b"), reply="plan: b")
    assert replied.chances[Stop()] == pytest.approx(0.37, abs=1e-3)


def test_numbers_that_are_none_are_an_error() -> None:
    with pytest.raises(ConservatorError, match="no numbers"):
        choose(observed(["a"], []), lambda path: torch.full((257,), math.nan), SPEAKER)


def test_chances_are_told_in_words() -> None:
    said = told({Apply("denoise"): 0.71, Rollback(2): 0.2, Stop(): 0.06})
    assert said == "denoise 71 %, rollback to step 2 20 %, stop 6 %"

"""Models that call tools: what they are told, to the letter; that only legal calls can be said; how they are drawn."""

from __future__ import annotations

import itertools
import json
import math
from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from planner_lessons import TOOLS, observed, tiny_model, write_data
from test_dialects import eventful
from test_dialects import observed as told

from conservator.degradations import degrade, parse_recipe
from conservator.errors import ConservatorError, NameNotFoundError
from conservator.extras import import_mllm
from conservator.image import Image
from conservator.perception import study
from conservator.perception.perception import Blind
from conservator.policies import PolicyContext, ToolCallingPolicy, check_policy, make_policy
from conservator.policies.beginnings import Beginnings
from conservator.policies.dialects import IMAGE, Message, ToolDialect
from conservator.policies.reading import inputs_of
from conservator.policies.replies import Fork, draw, follow, forks_of, likeliest
from conservator.policies.vision_language import VisionLanguageModel
from conservator.pool import LocalPool, Pool
from conservator.session import Action, Apply, Decision, Rollback, Session, Stop
from conservator.tools import Toolbox, make_toolbox

needs_mllm = pytest.mark.skipif(find_spec("transformers") is None, reason="needs conservator[mllm]")
DIALECT = ToolDialect()
SYSTEM = (
    "You restore damaged photos. You call one tool at a time, see what it made of the photo, and call the next. "
    'Call "rollback" when a step did harm. Answer "stop" when nothing more helps.'
)
SIDES = ((128, 224), (224, 128))
"""Height and width of pictures of as many patches."""
GOAL = "The result shall be near to the undamaged photo and good to look at."
FIVE = "The photo now, the whole of it and 4 details at full size: <image><image><image><image><image>"
SEEN = "Examined: JPEG artefacts high 100 %, low light none 20 %."


def test_the_conversation_to_the_letter() -> None:
    messages = DIALECT.ask(eventful(), "balanced", {1: -1.25})
    assert [(m.role, m.text) for m in messages] == [
        ("system", SYSTEM),
        ("user", f"{GOAL}\nStep 0: the photo as it came.\n{FIVE}\n{SEEN}\n12 steps are left."),
        ("assistant", '<tool_call>\n{"name": "deblock", "arguments": {}}\n</tool_call>'),
        (
            "tool",
            f"Step 1: deblock. It gained -1.2 dB by perception's estimate.\n{FIVE}\n{SEEN}\n11 steps are left.",
        ),
        ("assistant", '<tool_call>\n{"name": "rollback", "arguments": {"to": 0}}\n</tool_call>'),
        ("tool", f"Step 2: rolled back to step 0.\n{FIVE}\n{SEEN}\n10 steps are left."),
        ("assistant", ""),
        ("user", "Step 3. Nothing changed: the plan is empty\n9 steps are left."),
        ("assistant", '<tool_call>\n{"name": "wavelet_denoise", "arguments": {}}\n</tool_call>'),
        ("tool", "Step 4: wavelet_denoise. Nothing changed: no noise could be found\n8 steps are left."),
    ]
    assert [len(m.images) for m in messages] == [0, 5, 0, 5, 0, 5, 0, 0, 0, 0]
    assert messages[4].call == {"name": "rollback", "arguments": {"to": 0}}
    assert messages[6].call is None


def test_the_conversation_of_a_step_is_the_beginning_of_the_next() -> None:
    actions = (Apply("deblock"), Rollback(0), Apply("gamma_brighten"))
    before = list[Message]()
    for count in range(4):
        now = list(DIALECT.ask(told(*actions[:count]), "fidelity", {1: 0.3}))
        assert [(m.role, m.text) for m in now[: len(before)]] == [(m.role, m.text) for m in before]
        assert len(now) == 2 + 2 * count
        before = now


def test_in_words_neither_pictures_nor_functions_are_shown() -> None:
    in_words = ToolDialect(in_words=True)
    assert not in_words.functions(eventful())
    assert not any(message.images or IMAGE in message.text for message in in_words.ask(eventful(), "balanced"))


def test_tools_are_functions_and_so_is_going_back() -> None:
    *tools, back = (f["function"] for f in DIALECT.functions(eventful()))
    assert [tool["name"] for tool in tools] == ["wavelet_denoise", "deblock", "gamma_brighten"]
    assert tools[1]["description"].startswith("JPEG artefacts: Softens block edges")
    assert tools[1]["parameters"] == {"type": "object", "properties": {}, "required": []}
    assert (back["name"], back["parameters"]["required"]) == ("rollback", ["to"])
    observation = eventful()
    odd = replace(observation.tools[0], name="rollback")
    with pytest.raises(ConservatorError, match="rename it"):
        DIALECT.functions(replace(observation, tools=(odd,)))


@pytest.mark.parametrize("action", [Apply("deblock"), Rollback(1), Stop()])
def test_a_call_is_read_as_it_was_written(action: Action) -> None:
    read = DIALECT.read(DIALECT.write(Decision(action, ("gamma_brighten",))), told(Apply("deblock")))
    assert (read.action, read.plan) == (action, ())


@pytest.mark.parametrize(
    ("reply", "action", "thought"),
    [
        ('It is noisy.\n<tool_call>{"name": "deblock"}</tool_call>', Apply("deblock"), "It is noisy."),
        ('<think>stop</think><tool_call>\n{"name": "rollback", "arguments": "{\\"to\\": 0}"}', Rollback(0), ""),
        ("Nothing more helps.\n**Stop.**", Stop(), "Nothing more helps."),
        ('<tool_call>{"name": "photoshop"}</tool_call>', None, "the call names 'photoshop', not in the toolbox"),
        ('<tool_call>{"name": "rollback", "arguments": {"to": 9}}', None, "rollback to '9', but steps are 0 to 1"),
        (
            '<tool_call>{"name": "rollback", "arguments": {"to": true}}',
            None,
            "rollback to 'True', but steps are 0 to 1",
        ),
        ('<tool_call>{"name": ["deblock"]}', None, "the call names \"['deblock']\", not in the toolbox"),
        ("<tool_call>[]</tool_call>", None, "the call is no JSON object with a name and arguments"),
        ("I would stop the noise first", None, 'the reply holds no call of a tool, and no "stop"'),
    ],
)
def test_what_a_stranger_says(reply: str, action: Action | None, thought: str) -> None:
    decision = DIALECT.read(reply, told(Apply("deblock")))
    assert (decision.action, decision.thought[: len(thought)]) == (action, thought)
    assert decision.reply == reply


@given(
    st.text(max_size=99) | st.recursive(st.none() | st.text() | st.integers(), st.lists).map(json.dumps), st.booleans()
)
def test_no_reply_is_an_exception(text: str, called: bool) -> None:
    reply = f"<tool_call>{text}</tool_call>" if called else text
    assert DIALECT.read(reply, told()).reply == reply


# --- drawing ----------------------------------------------------------------------------------------------------------

REPLIES = {"a": (1, 2, 3, 9), "b": (1, 2, 4, 9), "c": (1, 5, 9), "stop": (7, 9)}
LOGITS = torch.log_softmax(torch.tensor([0.0, 1.0, 0.3, -0.5, 0.8, 0.1, 2.0, 0.2, 0.0, 0.4]), 0)


def test_replies_are_drawn_as_likely_as_the_model_finds_them() -> None:
    chances = likeliest({name: [tokens] for name, tokens in REPLIES.items()}, lambda path: LOGITS, 0.0)
    rng, counts = np.random.default_rng(0), Counter[str]()
    names = {tokens: name for name, tokens in REPLIES.items()}
    for _ in range(2000):
        way = draw(list(REPLIES.values()), lambda path: LOGITS, rng)
        name = names[follow(REPLIES.values(), way)]
        counts[name] += 1
        assert math.prod(fork.shares[fork.chosen] for fork in way) == pytest.approx(chances[name])
    assert all(counts[name] / 2000 == pytest.approx(chance, abs=0.04) for name, chance in chances.items())
    cold = {follow(REPLIES.values(), draw(list(REPLIES.values()), lambda path: LOGITS, rng, 0.01)) for _ in range(20)}
    assert len(cold) == 1


def test_shares_at_the_forks_are_the_whole_distribution() -> None:
    wanted = {REPLIES["a"]: 0.5, REPLIES["b"]: 0.25, REPLIES["stop"]: 0.25}
    for reply, share in wanted.items():
        way = forks_of(wanted, reply)
        assert math.prod(fork.shares[fork.chosen] for fork in way) == pytest.approx(share)
        assert all(sum(fork.shares) == pytest.approx(1) for fork in way)
        assert follow(wanted, way) == reply
    assert forks_of(wanted, REPLIES["a"]) == [Fork(0, (1, 7), (0.75, 0.25), 0), Fork(2, (3, 4), (2 / 3, 1 / 3), 0)]
    assert forks_of({REPLIES["c"]: 1.0}, REPLIES["c"]) == []


# --- the policy -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def toolbox() -> Toolbox:
    return make_toolbox("classical").only(*TOOLS)


@pytest.fixture(scope="module")
def pool(toolbox: Toolbox) -> Iterator[Pool]:
    with LocalPool(toolbox, max_batch=1) as pool:
        yield pool


@pytest.fixture(scope="module")
def noisy(coffee: Image) -> Image:
    return degrade(coffee[..., :200, :200], parse_recipe("noise:high", seed=4))


def model(folder: Path, template: str) -> VisionLanguageModel:
    """A tiny model with random weights that lies on disk as real ones do, with a chat template that knows tools."""
    tiny = tiny_model(write_data(folder))
    if template != "nano":
        if find_spec("trl") is None:
            pytest.skip("needs the extra: pip install 'conservator[sft]'")
        tiny.tokenizer.chat_template = import_mllm("trl.chat_template_utils").qwen3_vl_chat_template
    return tiny


@pytest.fixture(scope="module", params=["nano", "Qwen3-VL"])
def tiny(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VisionLanguageModel:
    return model(tmp_path_factory.mktemp("data"), request.param)


@needs_mllm
def test_the_template_shows_functions_calls_and_results(tiny: VisionLanguageModel, toolbox: Toolbox) -> None:
    observation = observed(toolbox, torch.rand(1, 3, 64, 64), Apply("deblock"), Rollback(0))
    prompt = tiny.prompt(DIALECT.ask(observation, "balanced"), DIALECT.functions(observation))
    text = tiny.tokenizer.decode(prompt.ids)
    assert all(json.dumps(function) in text for function in DIALECT.functions(observation))
    for said in (DIALECT.write(Decision(Apply("deblock"))), DIALECT.write(Decision(Rollback(0)))):
        assert f"<|im_start|>assistant\n{said}<|im_end|>" in text
    assert text.endswith("<|im_start|>assistant\n")
    assert len(prompt.grids) == 3


@needs_mllm
def test_random_weights_hold_the_contract(
    tiny: VisionLanguageModel, noisy: Image, toolbox: Toolbox, pool: Pool
) -> None:
    session = Session(noisy, toolbox, pool, Blind(), max_steps=4)
    check_policy(ToolCallingPolicy(tiny, Blind()), session)
    first = session.trajectory.steps[1].decision
    assert first is not None
    assert "%" in first.thought
    assert DIALECT.read(first.reply, session.observe()).action == first.action
    assert all(step.decision is None or not step.decision.plan for step in session.trajectory.steps)


@needs_mllm
def test_only_legal_calls_can_be_said_and_all_of_them(tiny: VisionLanguageModel, toolbox: Toolbox) -> None:
    observation = observed(toolbox, torch.rand(1, 3, 64, 64), Apply("deblock"))
    policy = ToolCallingPolicy(tiny, Blind())
    replies = policy.replies(observation)
    assert set(replies) == {*map(Apply, TOOLS), Rollback(0), Stop()}
    assert all(tiny.tokenizer.decode(t) == DIALECT.write(Decision(a)) + "<|im_end|>" for a, t in replies.items())
    chances = policy.reply(observation).chances
    assert set(chances) <= set(replies)
    assert sum(chances.values()) == pytest.approx(1, abs=0.05)


@needs_mllm
def test_of_large_images_studies_are_seen_at_the_same_places(
    tiny: VisionLanguageModel, toolbox: Toolbox, coffee: Image
) -> None:
    policy = ToolCallingPolicy(tiny, Blind())
    large = observed(toolbox, coffee, Apply("deblock"))
    prompt = policy.prompt(large)
    assert torch.equal(prompt.ids, policy.prompt(observed(toolbox, study(coffee), Apply("deblock"))).ids)
    half = len(prompt.patches) // 2
    assert torch.equal(prompt.patches[:half], prompt.patches[half:])  # both steps show the same picture


@needs_mllm
def test_what_was_read_before_is_not_read_again_and_changes_nothing(
    tiny: VisionLanguageModel, toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    photo, other = torch.rand(2, 1, 3, 192, 192)
    deblocked = observed(toolbox, photo, Apply("deblock"))
    told = [
        observed(toolbox, photo),
        deblocked,  # goes on
        deblocked,  # the same again
        observed(toolbox, other),  # shares the functions alone
        observed(toolbox, photo, Apply("gamma_brighten"), Rollback(0), Apply("deblock")),
    ]
    policy, reply = ToolCallingPolicy(tiny, Blind()), (tiny.tokens("<tool_call>"), tiny.tokens("stop"))
    prompts = [policy.prompt(observation) for observation in told]

    def said(beginnings: Beginnings | None, *numbers: int) -> list[torch.Tensor]:
        monkeypatch.setattr(tiny, "beginnings", beginnings)
        readings = [tiny.read(prompts[i]) for i in numbers]  # all before one is asked: none may disturb another
        return [reading.next(path) for reading in readings for path in ((), *reply)]

    apart = [said(Beginnings(tiny.image, tiny.end, 2), i) for i in range(5)]
    known = Beginnings(tiny.image, tiny.end, 2)
    together = said(known, 0, 1, 2, 3, 4)
    assert all(torch.equal(a, b) for a, b in zip(together, itertools.chain(*apart), strict=True))  # to the bit
    backwards = said(known, 4, 3, 2, 1, 0)
    assert all(torch.equal(a, b) for a, b in zip(backwards, itertools.chain(*reversed(apart)), strict=True))
    whole = said(None, 0, 1, 2, 3, 4)
    assert all(torch.allclose(a, b, atol=1e-4) for a, b in zip(together, whole, strict=True))
    assert not torch.allclose(whole[0], whole[9], atol=1e-3)  # the picture counts, so that its mistake would show
    found = [known.find(prompt)[:2] for prompt in prompts]
    assert found == [
        (known.parts(prompt.ids)[-2], known.shown(prompt, known.parts(prompt.ids)[-2])) for prompt in prompts
    ]
    assert max(shown for _, shown in found) == 4
    fresh = Beginnings(tiny.image, tiny.end, 2)
    said(fresh, 0)
    functions = fresh.find(prompts[3])[:2]
    assert functions == (fresh.parts(prompts[3].ids)[0], 0)
    assert len(prompts[3].ids) / 2 < functions[0]


@needs_mllm
def test_a_picture_of_another_shape_is_another_picture(tiny: VisionLanguageModel, toolbox: Toolbox) -> None:
    policy = ToolCallingPolicy(tiny, Blind())
    wide, high = (policy.prompt(observed(toolbox, torch.zeros(1, 3, *side), Apply("deblock"))) for side in SIDES)
    assert torch.equal(wide.ids, high.ids)
    assert torch.equal(wide.patches, high.patches)
    known = Beginnings(tiny.image, tiny.end, 2)
    known.keep(wide, tiny.network(**inputs_of(tiny, [wide]), use_cache=True).past_key_values)
    assert known.find(wide)[1] == known.shown(wide, known.parts(wide.ids)[-2]) > 0
    assert known.find(high)[1] == 0


@needs_mllm
def test_what_is_remembered_is_bounded(
    tiny: VisionLanguageModel, toolbox: Toolbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("conservator.policies.beginnings._MEMORY", 0)
    monkeypatch.setattr(tiny, "beginnings", Beginnings(tiny.image, tiny.end, 2))
    policy = ToolCallingPolicy(tiny, Blind())
    first, second = (
        policy.prompt(observed(toolbox, photo, Apply("deblock"))) for photo in torch.rand(2, 1, 3, 192, 192)
    )
    known = tiny.beginnings
    assert known is not None
    for prompt in (first, second):
        tiny.read(prompt)
    assert [known.find(prompt)[1] for prompt in (first, second)] == [0, 2]  # the last one alone
    known.forget()
    assert known.find(second)[0] == 0


@needs_mllm
def test_rounded_weights_forget_what_others_read(
    tiny: VisionLanguageModel, toolbox: Toolbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tiny, "beginnings", Beginnings(tiny.image, tiny.end, 2))
    prompt = ToolCallingPolicy(tiny, Blind()).prompt(observed(toolbox, torch.rand(1, 3, 64, 96)))
    tiny.read(prompt)
    assert tiny.beginnings is not None
    assert tiny.beginnings.find(prompt)[0] > 0
    tiny.save(tmp_path)
    assert tiny.beginnings.find(prompt)[0] == 0


@needs_mllm
def test_a_model_that_calls_no_tools_is_refused(tmp_path: Path) -> None:
    deaf = model(tmp_path, "nano")
    deaf.tokenizer.chat_template = "{% for message in messages %}{{ message['content'][0]['text'] }}{% endfor %}"
    with pytest.raises(ConservatorError, match="does not speak of them"):
        ToolCallingPolicy(deaf, Blind())
    deaf.tokenizer.chat_template = "{{ raise_exception('only user and assistant') }}"
    with pytest.raises(ConservatorError, match="does not speak of them"):
        ToolCallingPolicy(deaf, Blind())


@needs_mllm
def test_it_is_loaded_by_name(tmp_path: Path, pool: Pool, noisy: Image, toolbox: Toolbox) -> None:
    model(tmp_path, "nano").save(tmp_path / "model")
    policy = make_policy(f"tir:{tmp_path / 'model'}", PolicyContext(pool, Blind()))
    assert policy.act(Session(noisy, toolbox, pool, Blind()).observe()).by == policy.name == f"tir:{tmp_path / 'model'}"
    with pytest.raises(NameNotFoundError):
        make_policy(f"tir:{tmp_path / 'nothing'}", PolicyContext(pool, Blind()))

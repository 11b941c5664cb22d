"""The policy ``chat`` over real HTTP: what a model is asked, and what becomes of good answers and of nonsense."""

from __future__ import annotations

import base64
import gzip
import io
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from chat_endpoint import STOP, TOOLBOX, Endpoint, Reply, done, options, plans, restored, rolls_back, says
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image as PillowImage
from typer.testing import CliRunner

from conservator.apps.cli import app
from conservator.errors import ConservatorError
from conservator.image import Image, to_array
from conservator.perception import Blind, Percept, StatisticalPerception
from conservator.photo import load_photo
from conservator.policies import Chat, PolicyContext, check_policy, make_policy
from conservator.policies.chat import read_answer
from conservator.policies.dialects import JsonDialect
from conservator.policies.endpoint import MAX_BYTES, read_request
from conservator.pool import LocalPool
from conservator.record import load_record
from conservator.session import Apply, Observation, Rollback, Scope, Session, Step, Stop, Trajectory, run
from conservator.tools import Toolbox

pytest.importorskip("httpx")


def test_a_good_model_plans_looks_again_and_stops(endpoint: Endpoint, noisy_file: Path) -> None:
    endpoint.script = [plans("wavelet_denoise", "gamma_brighten"), STOP]
    outcome, record = restored(noisy_file, options(endpoint))
    assert done(record) == [("apply", "wavelet_denoise"), ("stop", None)]
    assert (outcome.status, record.toolchain) == ("restored", ["wavelet_denoise"])
    assert (record.steps[1].reason, record.steps[1].plan) == ("It is noisy.", ["gamma_brighten"])
    assert endpoint.paths == ["/v1/chat/completions"] * 2
    usages = [step.usage for step in record.steps]
    assert [usage and (usage.calls, usage.prompt_tokens, usage.completion_tokens) for usage in usages] == [
        None,
        (1, 1200, 30),
        (1, 1200, 30),
    ]
    page = (noisy_file.parents[1] / "out" / "noisy.conservator.html").read_text()
    assert "2 calls, 2,400 + 60 tokens" in page
    assert f"chat a-model at {endpoint.url}" in page


def test_the_model_is_asked_as_it_is_taught(endpoint: Endpoint, noisy_file: Path) -> None:
    endpoint.script = [plans("wavelet_denoise"), STOP]
    restored(noisy_file, options(endpoint, request={"temperature": None, "top_p": 0.5}), objective="perceptual")
    first, second = endpoint.bodies
    assert (first["model"], first["max_tokens"], first["top_p"]) == ("a-model", 2000, 0.5)
    assert "temperature" not in first
    system, user = first["messages"]
    assert "good to look at" in system["content"]
    assert "wavelet_denoise" in system["content"]
    assert "JSON" in system["content"]
    assert "lanczos_x2" not in json.dumps(first), "nothing enlarges a photo unless the user wants that"
    assert [part["type"] for part in user["content"]] == ["text", "image_url", "text"]
    kind, sent = user["content"][1]["image_url"]["url"].split(",")
    assert kind == "data:image/png;base64"
    picture = np.asarray(PillowImage.open(io.BytesIO(base64.b64decode(sent))))
    assert np.array_equal(picture, to_array(load_photo(noisy_file).image, np.uint8)), (
        "the model sees the photo's own pixels"
    )
    assert "Step 1: wavelet_denoise" in second["messages"][1]["content"][-1]["text"]
    schema = second["response_format"]["json_schema"]["schema"]
    assert schema["properties"]["tools"]["items"]["enum"] == ["wavelet_denoise", "tv_denoise", "gamma_brighten"]
    assert schema["properties"]["step"]["anyOf"][0]["enum"] == [0, 1]
    assert set(schema["required"]) == set(schema["properties"])


def test_a_server_that_takes_no_schema_is_asked_for_lines(endpoint: Endpoint, noisy_file: Path) -> None:
    endpoint.script = [says("It is noisy.\nplan: wavelet_denoise"), STOP]
    _, record = restored(noisy_file, options(endpoint, request={"response_format": None}))
    assert record.toolchain == ["wavelet_denoise"]
    assert record.steps[1].reason == "It is noisy."
    assert "response_format" not in endpoint.bodies[0]
    assert "JSON" not in endpoint.bodies[0]["messages"][0]["content"]


def test_a_large_photo_is_shown_as_its_study(endpoint: Endpoint, coffee: Image) -> None:
    from conservator.perception import study

    endpoint.script = [STOP]
    with LocalPool(TOOLBOX) as pool:
        for views, count in ((5, 5), (2, 2), (9, 5)):
            session = Session(study(coffee), TOOLBOX, pool, StatisticalPerception.load())
            run(Chat(options(endpoint, views=views), Blind()), session)
            parts = endpoint.bodies[-1]["messages"][1]["content"]
            assert sum(part["type"] == "image_url" for part in parts) == count
            assert f"{count - 1} details" in parts[0]["text"]
            assert len(json.dumps(endpoint.bodies[-1])) < 2_000_000


def test_a_model_takes_back_what_did_harm(endpoint: Endpoint, noisy_file: Path) -> None:
    endpoint.script = [plans("gamma_brighten"), rolls_back(0), plans("tv_denoise"), STOP]
    _, record = restored(noisy_file, options(endpoint))
    assert done(record) == [("apply", "gamma_brighten"), ("rollback", 0), ("apply", "tv_denoise"), ("stop", None)]
    assert record.toolchain == ["tv_denoise"]


def test_a_plan_can_be_asked_for_once(endpoint: Endpoint, noisy_file: Path) -> None:
    endpoint.script = [plans("gamma_brighten", "wavelet_denoise"), Reply(status=500)]
    outcome, record = restored(noisy_file, options(endpoint, replan=False))
    planned = [("apply", "gamma_brighten"), ("apply", "wavelet_denoise"), ("stop", None)]
    assert done(record) == [*planned, ("rollback", 0), ("apply", "wavelet_denoise"), ("stop", None)]
    assert record.steps[4].reason == "gamma_brighten changed nothing on the whole photo"
    assert record.toolchain == ["wavelet_denoise"]
    assert len(endpoint.bodies) == 1
    assert outcome.status != "incomplete"


@pytest.mark.parametrize(
    "text",
    [
        "The photo is noisy.\nplan: wavelet_denoise",
        '```json\n{"action": "plan", "tools": ["wavelet_denoise"]}\n```',
        '<think>{"action": "stop"}\nstop\n</think>\n{"action": "plan", "tools": ["wavelet_denoise"], "step": 0}',
    ],
)
def test_a_server_that_ignores_the_schema_is_understood(endpoint: Endpoint, noisy_file: Path, text: str) -> None:
    endpoint.script = [says(text), STOP]
    assert restored(noisy_file, options(endpoint))[1].toolchain == ["wavelet_denoise"]


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (plans("photoshop"), "photoshop"),
        (plans("lanczos_x2"), "lanczos_x2, not in the toolbox"),
        (plans(), "the plan is empty"),
        (rolls_back(7), "steps are 0 to 0"),
        (says("I am only a language model."), "no plan, rollback or stop"),
        (says(""), "the model wrote nothing (stop)"),
        (says('{"action": ["' + "[" * 50_000), "no plan, rollback or stop"),
        (says("{" * 1_000_000), "no plan, rollback or stop"),  # an hour, where the time is the square of the length
        (says("plan: " + "." * 1_000_000 + "x"), "the plan is empty"),
        (Reply("<html>Log in to the hotel's network</html>"), "no chat completion"),
        (Reply('{"choices": []}'), "no chat completion"),
        (Reply(b"\xff\xfe\x00{"), "no chat completion"),
        (Reply("[" * 100_000), "no chat completion"),
        (Reply(gzip.compress(bytes(10 * MAX_BYTES)), headers={"Content-Encoding": "gzip"}), "no chat completion"),
        (Reply("x" * (MAX_BYTES + 1)), "larger than"),
        (says("stop" * MAX_BYTES), "larger than"),
    ],
)
def test_a_bad_answer_is_a_step_that_the_model_sees(endpoint: Endpoint, noisy_file: Path, bad: Reply, why: str) -> None:
    endpoint.script = [bad, plans("wavelet_denoise"), STOP]
    outcome, record = restored(noisy_file, options(endpoint))
    assert done(record) == [("unusable", None), ("apply", "wavelet_denoise"), ("stop", None)]
    assert why in (record.steps[1].error or "")
    assert outcome.status == "restored"
    assert f"Step 1: nothing, but {record.steps[1].error}" in endpoint.bodies[1]["messages"][1]["content"][-1]["text"]


def test_nothing_but_nonsense_ends_soon(endpoint: Endpoint, noisy_file: Path) -> None:
    endpoint.script = [plans("wavelet_denoise"), says("lorem ipsum")]
    outcome, record = restored(noisy_file, options(endpoint))
    assert done(record) == [("apply", "wavelet_denoise"), *[("unusable", None)] * 3, ("stop", None)]
    assert (outcome.status, record.toolchain) == ("incomplete", ["wavelet_denoise"])
    assert "then the policy gave up: the reply holds no plan" in outcome.message


def test_words_of_a_stranger_are_cleaned(endpoint: Endpoint, noisy_file: Path) -> None:
    endpoint.script = [plans("wavelet_denoise", thought="\x1b[31m<script>\u202e red \n\x00" + "a" * 5000), STOP]
    _, record = restored(noisy_file, options(endpoint))
    assert record.steps[1].reason.startswith("[31m<script> red aaa")
    assert len(record.steps[1].reason) == 600
    assert "<script>" not in (noisy_file.parents[1] / "out" / "noisy.conservator.html").read_text()


def test_it_holds_the_contract_of_a_policy(endpoint: Endpoint, noisy_file: Path) -> None:
    endpoint.script = [plans("wavelet_denoise")]
    with LocalPool(TOOLBOX) as pool:
        policy = make_policy(
            "chat", PolicyContext(pool, StatisticalPerception.load(), chat=options(endpoint, max_calls=99))
        )
        session = Session(load_photo(noisy_file).image, TOOLBOX, pool, StatisticalPerception.load(), max_steps=3)
        check_policy(policy, session)
        endpoint.script = [plans("lanczos_x2"), STOP]
        photo = load_photo(noisy_file).image
        session = Session(photo, TOOLBOX, pool, StatisticalPerception.load(), scope=Scope(upscale=True))
        assert run(Chat(options(endpoint), Blind()), session).last.image.shape == (1, 3, 320, 400)
        only = Toolbox(TOOLBOX["lanczos_x2"])
        asked = len(endpoint.bodies)
        stopped = run(
            Chat(options(endpoint), Blind()),
            Session(load_photo(noisy_file).image, only, pool, StatisticalPerception.load()),
        )
        assert stopped.last.decision is not None
        assert (stopped.last.decision.action, len(endpoint.bodies)) == (Stop(), asked)


def test_the_command_line_asks_for_consent_and_then_restores(
    endpoint: Endpoint, noisy_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "out" / "result.png"
    command = ["restore", str(noisy_file), "-o", str(output), "--policy", "chat", "--model", "a-model"]
    monkeypatch.setenv("OPENAI_BASE_URL", endpoint.url)
    refused = CliRunner().invoke(app, command)
    assert isinstance(refused.exception, ConservatorError)
    assert "--allow-upload" in str(refused.exception)
    assert not output.parent.exists()
    assert not endpoint.bodies
    endpoint.script = [plans("denoise_medium"), STOP]
    result = CliRunner().invoke(app, [*command, "--allow-upload", "--max-calls", "4", "--request", '{"top_k": 1}'])
    assert result.exit_code == 0, result.output
    assert endpoint.bodies[0]["top_k"] == 1
    record = load_record(output.with_name("result.conservator.json"))
    assert record.toolchain == ["denoise_medium"]
    assert record.request.chat is not None
    assert (record.request.chat.endpoint, record.request.chat.max_calls) == (endpoint.url, 4)
    nonsense = CliRunner().invoke(app, [*command, "--allow-upload", "--request", "[]"])
    assert "expected a JSON object" in str(nonsense.exception)
    with pytest.raises(ConservatorError, match="is no JSON"):
        read_request("{")


def test_python_restores_with_it_too(endpoint: Endpoint, noisy_file: Path) -> None:
    import conservator

    with pytest.raises(ConservatorError, match="endpoint"):
        conservator.restore_file(noisy_file, policy="chat")
    endpoint.script = [plans("tv_denoise"), STOP]
    result = conservator.restore_file(noisy_file, policy="chat", toolbox="classical", chat=options(endpoint))
    assert result.trajectory.usage.prompt_tokens == 2400
    assert result.toolchain == ("tv_denoise",)


@given(st.text(max_size=300) | st.dictionaries(st.sampled_from(["action", "tools", "step"]), st.text()).map(json.dumps))
def test_no_answer_is_an_exception_nor_illegal(text: str) -> None:
    step = Step(0, None, None, torch.zeros(1, 3, 8, 8), Percept())
    decision = read_answer(JsonDialect(), text, Observation(Trajectory((step,)), TOOLBOX.specs, 9))
    assert decision.reply == text
    match decision.action:
        case Apply(tool):
            assert {tool, *decision.plan} <= set(TOOLBOX)
        case Rollback(to):
            assert to == 0

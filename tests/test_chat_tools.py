"""The policy ``chat`` with models that call tools: what an endpoint is sent, and what is made of its calls."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from chat_endpoint import Endpoint, Reply, done, options, restored, says

from conservator.errors import ConservatorError
from conservator.perception import Blind
from conservator.policies import Chat

pytest.importorskip("httpx")


def calls(*named: tuple[str, Any], content: str | None = None) -> Reply:
    """A chat completion that calls these functions, as endpoints write it."""
    made = [
        {"id": f"c{i}", "type": "function", "function": {"name": name, "arguments": arguments}}
        for i, (name, arguments) in enumerate(named)
    ]
    message = {"role": "assistant", "content": content, "tool_calls": made}
    return Reply(json.dumps({"choices": [{"message": message, "finish_reason": "tool_calls"}]}))


def test_a_model_calls_sees_the_result_goes_back_and_stops(endpoint: Endpoint, noisy_file: Path) -> None:
    endpoint.script = [
        calls(("tv_denoise", "{}"), content="It is noisy."),
        calls(("rollback", '{"to": 0}')),
        calls(("wavelet_denoise", {}), ("tv_denoise", {})),
        says("Nothing more helps.\nstop"),
    ]
    _, record = restored(noisy_file, options(endpoint, call_tools=True))
    tools = ("tv_denoise", "wavelet_denoise")
    assert done(record) == [("apply", tools[0]), ("rollback", 0), ("apply", tools[1]), ("stop", None)]
    assert record.steps[1].reason == "It is noisy."
    first, *_, last = endpoint.bodies
    assert [tool["function"]["name"] for tool in first["tools"]] == [
        *("wavelet_denoise", "tv_denoise", "gamma_brighten", "rollback")
    ]
    assert "response_format" not in first
    assert [message["role"] for message in last["messages"]] == [
        *("system", "user"),
        *("assistant", "tool", "user") * 3,
    ]
    for said, result, shown in zip(*(last["messages"][2 + i :: 3] for i in range(3)), strict=True):
        (call,) = said["tool_calls"]
        assert json.loads(call["function"]["arguments"]) == (
            {"to": 0} if call["function"]["name"] == "rollback" else {}
        )
        assert result["tool_call_id"] == call["id"]
        assert isinstance(result["content"], str)
        assert [part["type"] for part in shown["content"]] == ["image_url"]
    assert len({message["tool_call_id"] for message in last["messages"] if message["role"] == "tool"}) == 3
    assert last["messages"][4]["content"][0] != last["messages"][1]["content"][1]  # it was treated
    assert last["messages"][7]["content"][0] == last["messages"][1]["content"][1]  # and taken back


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (calls(("photoshop", "{}")), "photoshop"),
        (calls(("rollback", "not json")), "no JSON"),
        (calls(("rollback", '{"to": 7}')), "steps are 0 to 0"),
        (says("I would denoise it."), "holds no call"),
    ],
)
def test_a_bad_call_is_a_step_that_the_model_sees(endpoint: Endpoint, noisy_file: Path, bad: Reply, why: str) -> None:
    endpoint.script = [bad, calls(("wavelet_denoise", "")), says("stop")]
    _, record = restored(noisy_file, options(endpoint, call_tools=True))
    assert record.toolchain == ["wavelet_denoise"]
    assert why in endpoint.bodies[1]["messages"][-1]["content"]


def test_pictures_are_no_more_than_the_user_wants_at_each_step(endpoint: Endpoint, noisy_file: Path) -> None:
    endpoint.script = [calls(("wavelet_denoise", "{}")), says("stop")]
    restored(noisy_file, options(endpoint, call_tools=True, views=1))
    assert json.dumps(endpoint.bodies[1]).count('image_url"') == 2 * 2


def test_a_call_is_no_plan(endpoint: Endpoint) -> None:
    with pytest.raises(ConservatorError, match="--plan-once"):
        Chat(options(endpoint, call_tools=True, replan=False), Blind())
    with pytest.raises(ConservatorError, match="tools cannot be changed"):
        Chat(options(endpoint, call_tools=True, request={"tools": []}), Blind())

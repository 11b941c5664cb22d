"""The policy ``chat`` where HTTP goes wrong: errors, refusals, slowness, silence, budgets, and a key to be kept."""

from __future__ import annotations

import json
import logging
import socket
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from chat_endpoint import STOP, TOOLBOX, Endpoint, Reply, done, options, plans, restored, says

from conservator.batch import JOURNAL, FileRestorer, Journal, Task, run_batch
from conservator.errors import ConservatorError, MissingExtraError
from conservator.perception import Blind, StatisticalPerception
from conservator.policies import Chat
from conservator.request import Request
from conservator.restorer import Restorer

pytest.importorskip("httpx")
KEY = "sk-a-secret-of-the-user-0123456789"


CUT_OFF = replace(STOP, headers={"Content-Length": "9999"})


@pytest.mark.parametrize("reply", [Reply(status=500), Reply("busy", 503), Reply(status=529), CUT_OFF])
def test_a_server_that_fails_is_asked_again(endpoint: Endpoint, noisy_file: Path, reply: Reply) -> None:
    endpoint.script = [reply, reply, plans("wavelet_denoise"), STOP]
    outcome, record = restored(noisy_file, options(endpoint))
    assert (outcome.status, record.toolchain) == ("restored", ["wavelet_denoise"])
    assert record.steps[1].usage is not None
    assert record.steps[1].usage.calls == 3


def test_an_endpoint_that_is_busy_says_how_long(endpoint: Endpoint, noisy_file: Path) -> None:
    endpoint.script = [Reply(status=429, headers={"Retry-After": "1"}), STOP]
    start = time.monotonic()
    outcome, _ = restored(noisy_file, options(endpoint, backoff=0))
    assert outcome.status == "untouched"
    assert time.monotonic() - start > 1
    assert len(endpoint.bodies) == 2


@pytest.mark.parametrize(
    ("asked", "least", "most"),
    [
        ("7", 7, 7),
        ("86400", 30, 30),
        ("9" * 5000, 30, 30),
        ("Fri, 31 Dec 2100 23:59:59 GMT", 30, 30),
        ("Fri, 31 Dec 1999 23:59:59 GMT", 0, 0),
        ("soon", 2, 4),
        ("-5", 2, 4),
        ("nan", 2, 4),
        ("", 2, 4),
    ],
)
def test_pauses_are_as_asked_within_limits(asked: str, least: float, most: float) -> None:
    from conservator.policies.endpoint import _pause

    pauses = [_pause(asked, 4.0, np.random.default_rng(seed)) for seed in (0, 0, 1)]
    assert all(least <= pause <= most for pause in pauses)
    assert pauses[0] == pauses[1]
    assert (pauses[0] == pauses[2]) == (least == most)


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        (Reply('{"error": {"message": "No such key"}}', 401), "(No such key); the key comes from the environment"),
        (Reply(status=403), "OPENAI_API_KEY: it is not set"),
        (Reply("model not found", 404), "(model not found); check --endpoint, which often ends in /v1, and --model"),
        (Reply('{"error": {"message": "response_format?"}}', 400), "--request '{\"response_format\": null}'"),
        (Reply(status=413), "--views"),
        (Reply(status=307, headers={"Location": "/v1/elsewhere"}), "redirects are not followed"),
        (Reply(status=204), "HTTP 204"),
    ],
)
def test_a_refusal_is_not_repeated_and_says_what_to_do(
    endpoint: Endpoint, noisy_file: Path, reply: Reply, why: str
) -> None:
    endpoint.script = [plans("wavelet_denoise"), reply]
    outcome, record = restored(noisy_file, options(endpoint))
    assert done(record) == [("apply", "wavelet_denoise"), ("unusable", None), ("stop", None)]
    assert why in (record.steps[2].error or "")
    assert (outcome.status, record.toolchain) == ("incomplete", ["wavelet_denoise"])
    assert why in outcome.message
    assert len(endpoint.bodies) == 2


@pytest.mark.parametrize("slow", [replace(STOP, delay=4), replace(STOP, drip=0.1), replace(STOP, drip_head=30)])
def test_a_slow_endpoint_is_left_and_the_photo_is_kept(endpoint: Endpoint, noisy_file: Path, slow: Reply) -> None:
    endpoint.script = [slow]  # from the first on, for no reply would surely come within the time
    outcome, record = restored(noisy_file, options(endpoint, timeout=1.5, retries=1))
    assert done(record) == [("unusable", None), ("stop", None)]
    assert "asked 2 times: nothing within 1.5 s" in (record.steps[1].error or "")
    assert (outcome.status, record.toolchain) == ("incomplete", [])


def test_nobody_answers_and_the_photo_is_written_as_it_came(endpoint: Endpoint, noisy_file: Path) -> None:
    with socket.socket() as unused:
        unused.bind(("127.0.0.1", 0))
        url = f"http://127.0.0.1:{unused.getsockname()[1]}/v1"
        outcome, record = restored(noisy_file, options(endpoint, endpoint=url))
    assert done(record) == [("unusable", None), ("stop", None)]
    assert f"no answer from {url}, asked 4 times" in (record.steps[1].error or "")
    assert outcome.status == "incomplete"
    assert outcome.message.startswith("left untouched, then the policy gave up: no answer from")


def test_what_is_incomplete_is_done_again_by_resume(endpoint: Endpoint, noisy_file: Path) -> None:
    task = Task(noisy_file, noisy_file.parents[1] / "out" / "noisy.png")
    request = Request("chat", chat=options(endpoint, retries=0), risk=1)
    restorer = FileRestorer(Restorer(request, toolbox=TOOLBOX, perception=StatisticalPerception.load()))
    journal = Journal(task.target.parent / JOURNAL)
    endpoint.script = [Reply(status=500)]
    assert run_batch([task], restorer, journal).exit_code == 1
    endpoint.script = [plans("wavelet_denoise"), STOP]
    again = run_batch([task], restorer, journal, resume=True)
    assert (again.exit_code, again.outcomes[0].status) == (0, "restored")
    assert run_batch([task], restorer, journal, resume=True).outcomes[0].status == "skipped"


def test_the_budget_of_calls_holds(endpoint: Endpoint, noisy_file: Path) -> None:
    endpoint.script = [plans("wavelet_denoise"), Reply(status=500), plans("tv_denoise")]
    outcome, record = restored(noisy_file, options(endpoint, max_calls=3))
    assert len(endpoint.bodies) == 3
    planned = [("apply", "wavelet_denoise"), ("apply", "tv_denoise"), ("unusable", None), ("stop", None)]
    assert done(record) == [*planned, ("rollback", 1), ("unusable", None), ("stop", None)]  # and nobody is asked again
    assert record.steps[3].error == "the budget of 3 calls is spent (--max-calls)"
    assert outcome.status == "restored", "a budget that the user set is no failure"
    assert record.toolchain
    endpoint.script = [Reply(status=500)]
    before = len(endpoint.bodies)
    (noisy_file.parents[1] / "out" / "noisy.png").unlink()
    outcome, _ = restored(noisy_file, options(endpoint, max_calls=2))
    assert (outcome.status, len(endpoint.bodies) - before) == ("incomplete", 2)


def test_the_key_goes_to_the_endpoint_and_nowhere_else(
    endpoint: Endpoint,
    noisy_file: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f" {KEY}\n")
    caplog.set_level(logging.DEBUG)
    endpoint.script = [
        plans("wavelet_denoise", thought=f"I was told {KEY}."),
        says(f"key {KEY}, plan: {KEY}"),
        Reply(json.dumps({"error": {"message": f"Bearer {KEY} is blocked"}}), 403, {"X-Echo": KEY}),
    ]
    _, record = restored(noisy_file, options(endpoint))
    assert {headers["Authorization"] for headers in endpoint.headers} == {f"Bearer {KEY}"}
    assert record.steps[1].reason == "I was told [OPENAI_API_KEY]."
    assert "Bearer [OPENAI_API_KEY] is blocked" in (record.steps[3].error or "")
    assert "does it hold the right key?" in (record.steps[3].error or "")
    files = [path for path in (noisy_file.parents[1] / "out").rglob("*") if path.is_file()]
    assert len(files) == 5  # result, record, page, thumbnail, journal
    assert all(KEY.encode() not in path.read_bytes() for path in files)
    printed = capfd.readouterr()
    assert KEY not in printed.out + printed.err
    # httpcore logs the headers of an answer, and only a server that sends the key back gets it into them
    assert all("X-Echo" in line for line in caplog.text.splitlines() if KEY in line)


def test_a_key_that_is_none_is_never_shown(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", f"{KEY}\nX-Other: 1")
    with pytest.raises(ConservatorError, match="characters that no key has") as caught:
        Chat(options(endpoint), Blind())
    assert KEY not in str(caught.value)


@pytest.mark.parametrize("usage", [{"prompt_tokens": -5}, {"prompt_tokens": 10**30}, {"prompt_tokens": "many"}])
def test_tokens_that_cannot_be_are_not_counted(endpoint: Endpoint, noisy_file: Path, usage: dict[str, Any]) -> None:
    endpoint.script = [says("stop", **usage)]
    record = restored(noisy_file, options(endpoint))[1]
    assert record.steps[1].usage is not None
    assert (record.steps[1].usage.prompt_tokens, record.steps[1].usage.completion_tokens) == (0, 30)


@pytest.mark.parametrize(
    ("changed", "why"),
    [
        ({"allow_upload": False}, r"sends up to 5 small pictures .* say --allow-upload"),
        ({"endpoint": ""}, "OPENAI_BASE_URL"),
        ({"endpoint": "localhost:11434"}, "expected http"),
        ({"endpoint": "ftp://host/v1"}, "expected http"),
        ({"endpoint": "http://[::1/v1"}, "expected http"),
        ({"endpoint": "http://host:99999/v1"}, "expected http"),
        ({"endpoint": f"https://me:{KEY}@host/v1"}, "environment variable OPENAI_API_KEY"),
        ({"endpoint": f"https://host/v1?key={KEY}"}, "environment variable OPENAI_API_KEY"),
        ({"model": ""}, "--model"),
        ({"max_calls": 0}, "max_calls is 0, expected 1 or more"),
        ({"timeout": float("nan")}, "timeout is nan"),
        ({"request": {"messages": []}}, "messages cannot be changed"),
    ],
)
def test_what_is_missing_is_said_before_any_work(endpoint: Endpoint, changed: dict[str, Any], why: str) -> None:
    with pytest.raises(ConservatorError, match=why) as caught:
        Chat(options(endpoint, **changed), Blind())
    assert KEY not in str(caught.value)
    assert not endpoint.bodies


def test_without_httpx_the_error_says_how_to_get_it(endpoint: Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "httpx", None)  # Python's own way to make an import fail
    with pytest.raises(MissingExtraError, match=r"pip install 'conservator\[chat\]'"):
        Chat(options(endpoint), Blind())

"""An OpenAI-compatible endpoint: one question over HTTP, asked again where that can help, and what came of it.

What comes back is a stranger's bytes: bounded in size and time, read by a schema, cleaned before anybody sees it.
"""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import numpy as np
from pydantic import BaseModel, Field, ValidationError

from conservator.errors import ConservatorError, MissingExtraError
from conservator.request import BASE_URL, ChatOptions
from conservator.session.trajectory import Usage

if TYPE_CHECKING:
    import httpx

KEY = "OPENAI_API_KEY"
"""The environment variable of the key: read when a question is sent, never kept, shown or written."""
MAX_BYTES = 2**20
"""Of an answer. A decision has a few hundred."""
_LONGEST_WAIT = 30.0
"""Seconds between two requests, whatever the endpoint asks for."""
_OURS = frozenset({"model", "messages", "stream", "n", "tools"})


def check_options(options: ChatOptions) -> None:
    """Raise before any work: ConservatorError where something is missing or wrong, MissingExtraError for httpx."""
    _check_endpoint(options.endpoint)
    if not options.model:
        raise ConservatorError("the policy chat needs the name of a model; give it with --model")
    if not options.allow_upload:
        raise ConservatorError(
            f"the policy chat sends up to {options.views} small pictures of each photo to {options.endpoint}; "
            "if you want that, say --allow-upload (from Python: ChatOptions(..., allow_upload=True))"
        )
    for name, least in {"max_calls": 1, "views": 1, "retries": 0, "timeout": 0.001, "backoff": 0}.items():
        if not getattr(options, name) >= least:
            raise ConservatorError(f"{name} is {getattr(options, name)}, expected {least} or more")
    if options.call_tools and not options.replan:
        raise ConservatorError("a model that calls tools is asked after each of them; leave out --plan-once")
    if ours := _OURS & set(options.request):
        raise ConservatorError(f"the request's {', '.join(sorted(ours))} cannot be changed, only added fields can")
    if not all("!" <= c <= "~" for c in _key()):
        raise ConservatorError(f"the environment variable {KEY} holds characters that no key has; set it again")
    try:
        import httpx  # noqa: F401 - here, where it can be said in time that it is missing
    except ImportError as error:
        raise MissingExtraError("the policy chat needs httpx; get it with: pip install 'conservator[chat]'") from error


def _check_endpoint(endpoint: str) -> None:
    if not endpoint:
        raise ConservatorError(
            f"the policy chat needs an endpoint; give --endpoint http://localhost:11434/v1, or set {BASE_URL}"
        )
    try:
        url = urlsplit(endpoint)
        good = url.scheme in ("http", "https") and url.hostname and (url.port is None or url.port > 0)
    except ValueError:
        good = False
    if not good:
        raise ConservatorError(f"{endpoint!r} is no endpoint; expected http(s)://HOST[:PORT]/v1")
    if url.username or url.password or url.query or url.fragment:  # not shown: it may hold a secret
        raise ConservatorError(
            "the endpoint's address holds more than http(s)://HOST[:PORT]/PATH, and it goes into the record; "
            f"put a key into the environment variable {KEY}"
        )


def read_request(text: str) -> dict[str, Any]:
    """The fields of ``ChatOptions.request`` from JSON; raises ConservatorError when it is no object."""
    try:
        fields = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise ConservatorError(f"--request {text[:80]!r} is no JSON ({error})") from error
    if not isinstance(fields, dict):
        raise ConservatorError(f"--request is {text[:80]!r}, expected a JSON object, say '{{\"max_tokens\": 8000}}'")
    return fields


@dataclass(frozen=True)
class Answer:
    """What came of a question: the model's words, or the problem, in words a reader understands."""

    text: str
    usage: Usage
    problem: str = ""


def ask_endpoint(options: ChatOptions, body: Mapping[str, Any], calls: int, rng: np.random.Generator) -> Answer:
    """Send a request, at most ``calls`` times, and read the answer; never raises for what an endpoint does.

    It is sent again when no answer came, for 429 (after the time that the endpoint asks for, within limits) and for
    5xx; ``rng`` spreads the pauses. ``usage.answers`` is 0 when the endpoint is of no use.
    """
    import httpx

    attempts = max(1, min(1 + options.retries, calls))
    content = json.dumps(body).encode()
    for attempt in range(attempts):
        with httpx.Client(timeout=options.timeout, follow_redirects=False) as client:
            # httpx begins its time anew with every byte; headers that drip are cut off here
            timer = threading.Timer(options.timeout, client.close)
            timer.daemon = True
            timer.start()
            came = _send(client, options, content)
            timer.cancel()
        if came.status == 200:
            return _read(came, attempt + 1)
        again = came.status in (0, 429) or came.status >= 500
        if not again or attempt + 1 == attempts:
            break
        time.sleep(_pause(came.retry_after, options.backoff * 2**attempt, rng))
    times = "" if attempt == 0 else f", asked {attempt + 1} times"
    return Answer("", Usage(calls=attempt + 1), f"no answer from {options.endpoint}{times}: {_problem(came)}")


@dataclass(frozen=True)
class _Came:
    """What came back for one request; status 0 when nothing did."""

    status: int = 0
    body: bytes = b""
    retry_after: str = ""
    problem: str = ""


def _send(client: httpx.Client, options: ChatOptions, content: bytes) -> _Came:
    import httpx

    key = _key()
    headers = {"Content-Type": "application/json", "Accept-Encoding": "identity", "User-Agent": "conservator"}
    if key:
        headers["Authorization"] = f"Bearer {key}"
    url = options.endpoint.rstrip("/") + "/chat/completions"
    late = _Came(problem=f"nothing within {options.timeout:g} s (--timeout)")
    end, body = time.monotonic() + options.timeout, bytearray()
    try:
        with client.stream("POST", url, content=content, headers=headers) as response:
            waiting = response.headers.get("Retry-After", "")
            for part in response.iter_raw():  # not unpacked: a small answer stays small
                body += part
                if len(body) > MAX_BYTES:
                    return _Came(response.status_code, b"", waiting, f"it is larger than {MAX_BYTES:,} bytes")
                if time.monotonic() > end:
                    return late
            return _Came(response.status_code, bytes(body), waiting)
    except httpx.TimeoutException:
        return late
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError) as error:
        if time.monotonic() > end:
            return late
        return _Came(problem=clean_words(str(error)) or type(error).__name__)


def _pause(retry_after: str, backoff: float, rng: np.random.Generator) -> float:
    """Seconds until the next request: what the endpoint asks for, or half to all of ``backoff``."""
    asked = backoff * float(rng.uniform(0.5, 1.0))
    if retry_after.isascii() and retry_after.isdigit():
        asked = float(retry_after[:9])
    elif retry_after:
        with suppress(ValueError, OverflowError):  # where it is no date, our own pause it is
            asked = (parsedate_to_datetime(retry_after).astimezone(UTC) - datetime.now(UTC)).total_seconds()
    return min(max(0.0, asked), _LONGEST_WAIT)


def _problem(came: _Came) -> str:
    """Why there is no answer, and what the user can do."""
    if not came.status:
        return came.problem
    said = clean_words(_error_message(came.body), 300)
    told = f"HTTP {came.status}" + (f" ({said})" if said else "")
    if came.status in (401, 403):
        have = "does it hold the right key?" if _key() else "it is not set"
        return f"{told}; the key comes from the environment variable {KEY}: {have}"
    if 300 <= came.status < 400:
        return f"{told}; redirects are not followed, give the address itself with --endpoint"
    hints = {
        400: "a field that it does not know is left out with --request '{\"response_format\": null}'",
        404: "check --endpoint, which often ends in /v1, and --model",
        413: "send fewer pictures with --views",
        422: "a field that it does not know is left out with --request '{\"response_format\": null}'",
    }
    return f"{told}; {hints[came.status]}" if came.status in hints else told


def _error_message(body: bytes) -> str:
    """The sentence in an error's body, {"error": {"message": ...}} or whatever it is."""
    try:
        return _Error.model_validate_json(body).error.message
    except ValidationError:
        return body[:1000].decode("utf-8", "replace")


class _ErrorText(BaseModel):
    message: str


class _Error(BaseModel):
    error: _ErrorText


class _Function(BaseModel):
    name: str
    arguments: str | dict[str, Any] = Field(default_factory=dict)


class _Called(BaseModel):
    function: _Function


class _Message(BaseModel):
    content: str | None = None
    refusal: str | None = None
    tool_calls: list[_Called] | None = None

    def text(self) -> str:
        """Its words, then the first call as chat templates write it."""
        said = (self.content or "").strip()
        if not self.tool_calls:
            return said
        return f"{said}\n<tool_call>\n{self.tool_calls[0].function.model_dump_json()}\n</tool_call>".strip()


class _Choice(BaseModel):
    message: _Message
    finish_reason: str | None = None


class _Completion(BaseModel):
    choices: list[_Choice] = Field(min_length=1)
    usage: Any = None


def _read(came: _Came, calls: int) -> Answer:
    """The model's words in a chat completion."""
    if came.problem:
        return Answer("", Usage(calls, 1), f"the answer cannot be used: {came.problem}")
    try:
        completion = _Completion.model_validate_json(came.body)
    except ValidationError:
        return Answer("", Usage(calls, 1), "the answer cannot be used: it is no chat completion")
    usage = Usage(calls, 1, *(_count(completion.usage, name) for name in ("prompt_tokens", "completion_tokens")))
    choice = completion.choices[0]
    if text := choice.message.text():
        return Answer(_without_key(text), usage)
    why = clean_words(choice.message.refusal or choice.finish_reason or "it gave no reason", 300)
    more = ", let it write more with --request '{\"max_tokens\": 8000}'" if why == "length" else ""
    return Answer("", usage, f"the model wrote nothing ({why}){more}")


def _count(usage: Any, name: str) -> int:
    """A number of tokens, 0 where there is none to believe."""
    value = usage.get(name) if isinstance(usage, dict) else None
    return value if type(value) is int and 0 <= value < 10**9 else 0


def clean_words(text: str, limit: int = 600) -> str:
    """A stranger's words as one line: no control characters, no key, no more than ``limit`` characters."""
    line = "".join(c for c in " ".join(_without_key(text).split()) if c.isprintable())
    return line if len(line) <= limit else line[: limit - 1] + "…"


def _key() -> str:
    return os.environ.get(KEY, "").strip()


def _without_key(text: str) -> str:
    """The text without our key, should an endpoint send it back; one of a few letters is a stand-in, and no secret."""
    key = _key()
    return text.replace(key, f"[{KEY}]") if len(key) >= 8 else text

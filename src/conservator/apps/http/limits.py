"""What is refused before a photo is read: strangers, other people's pages, bodies that are too large or too slow."""

from __future__ import annotations

import asyncio
import contextlib
import hmac
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conservator.apps.http.settings import ServeOptions
from conservator.apps.listening import is_own

OPEN = frozenset({"/healthz"})
"""Paths that need no token: they tell nothing but that somebody is there."""
_DRAINED = 2**24
"""Bytes that are still read of a body that is refused: a client that is sending hears the answer only afterwards."""
_DRAINING = 2.0
"""Seconds for which they are read."""


class Limits:
    """An ASGI layer around the API. ``room`` says in how many seconds a further job may be queued; None: now."""

    def __init__(
        self, app: ASGIApp, options: ServeOptions, token: str | None, room: Callable[[int], float | None]
    ) -> None:
        self._app, self._options, self._token, self._room = app, options, token, room
        self._arriving = 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        body = _Body(receive, self._options)
        refusal = self._refusal(scope, headers)
        if refusal is not None:
            if "expect" not in headers:  # who asked first is still waiting to send
                await _drain(receive)
            answer = JSONResponse({"detail": refusal.detail}, refusal.status_code, refusal.headers)
            await answer(scope, receive, _closing(send, body))
        elif scope["method"] != "POST":
            await self._app(scope, receive, send)
        else:
            self._arriving += 1
            try:
                await self._app(scope, body.receive, _closing(send, body))
            finally:
                self._arriving -= 1

    def _refusal(self, scope: Scope, headers: Headers) -> HTTPException | None:
        if scope["path"] not in OPEN:
            if self._token is not None and not _is_token(headers.get("authorization", ""), self._token):
                return HTTPException(
                    401, "send the header Authorization: Bearer TOKEN with the token of this API", _ASK_FOR_TOKEN
                )
            if self._token is None and not is_own(headers.get("host", ""), headers.get("origin")):
                return HTTPException(
                    403, "without a token, this API answers only to programs and pages of its own machine"
                )
        if scope["method"] != "POST":
            return None
        length = headers.get("content-length", "")
        if length.isdecimal() and int(length[:20]) > self._options.max_bytes:
            return too_large(self._options)
        wait = self._room(self._arriving)
        return None if wait is None else too_many(wait)


class _Body:
    """The body of a request, as long as it is neither too large nor too slow."""

    def __init__(self, receive: Receive, options: ServeOptions) -> None:
        self._receive, self._options = receive, options
        self._got, self._end = 0, time.monotonic() + options.max_upload_seconds
        self.whole = False
        """Whether all of it was read."""

    async def receive(self) -> Message:
        """The next part; raises HTTPException for one that is too much or too late."""
        if self.whole:
            return await self._receive()  # that the client hangs up, whenever that is
        try:
            message = await asyncio.wait_for(self._receive(), max(0.0, self._end - time.monotonic()))
        except TimeoutError:
            limit = self._options.max_upload_seconds
            raise HTTPException(408, f"the upload took longer than the limit of {limit:g} s") from None
        self._got += len(message.get("body", b""))
        if self._got > self._options.max_bytes:
            await _drain(self._receive)
            raise too_large(self._options)
        self.whole = not message.get("more_body", False)
        return message


def _closing(send: Send, body: _Body) -> Send:
    """Close the connection after an answer that came before the body was whole: nobody reads the rest, if it ends."""

    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start" and not body.whole:
            MutableHeaders(scope=message)["Connection"] = "close"
        await send(message)

    return sent


_ASK_FOR_TOKEN = {"WWW-Authenticate": "Bearer"}


def too_large(options: ServeOptions) -> HTTPException:
    """The answer to an upload that is larger than it may be."""
    return HTTPException(413, f"the upload is larger than the limit of {options.max_upload:g} MB")


def too_many(seconds: float) -> HTTPException:
    """The answer to a job for which there is no room."""
    return HTTPException(
        429, "the queue is full; send it again when Retry-After says", {"Retry-After": f"{max(1, round(seconds))}"}
    )


def _is_token(header: str, token: str) -> bool:
    scheme, _, given = header.partition(" ")
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode(), token.encode())


async def _drain(receive: Receive) -> None:
    """Read and drop the rest of a body, within bounds."""
    left, end = _DRAINED, time.monotonic() + _DRAINING
    with contextlib.suppress(TimeoutError):
        while left > 0:
            message = await asyncio.wait_for(receive(), max(0.0, end - time.monotonic()))
            if message["type"] != "http.request" or not message.get("more_body", False):
                return
            left -= len(message.get("body", b""))

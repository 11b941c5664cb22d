"""Who is let in to the page, and what the browser may load for it."""

from __future__ import annotations

from urllib.parse import urlsplit

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from conservator.apps.listening import is_own

_CLOSED = ("/gradio_api/proxy=", "/gradio_api/file=http", "/gradio_api/file/", "/gradio_api/runs", "/monitoring")
"""Paths of Gradio that would fetch from the network for whoever asks, or tell of others."""
_POLICY = (
    "default-src 'self'; img-src 'self' data: blob:; style-src 'self' 'unsafe-inline'; font-src 'self' data:; "
    "script-src 'self' 'unsafe-inline' 'unsafe-eval'; connect-src 'self'; frame-ancestors 'none'; form-action 'self'; "
    "base-uri 'self'; object-src 'none'"
)
"""Gradio makes functions of text, and writes scripts and styles into its page. Nothing comes from elsewhere."""


class Gate:
    """An ASGI layer around the page."""

    def __init__(self, app: ASGIApp, password: bool) -> None:
        """With a ``password``, which the page asks for, it is open to other machines."""
        self._app, self._password = app, password

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Let a request through, or answer why not."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        host, origin = headers.get("host", ""), headers.get("origin")
        if not (_from_there(host, origin) if self._password else is_own(host, origin)):
            told = "Without a password, this page answers only to browsers of its own machine."
            await PlainTextResponse(f"{told}\n", 403)(scope, receive, send)
        elif scope["path"].lower().startswith(_CLOSED):
            await PlainTextResponse("There is no such page.\n", 404)(scope, receive, send)
        else:
            await self._app(scope, receive, _strict(send))


def _from_there(host: str, origin: str | None) -> bool:
    """Whether a request comes from the page itself: a stranger's page has another origin."""
    return origin is None or urlsplit(origin).netloc == host


def _strict(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            headers = MutableHeaders(scope=message)
            headers["Content-Security-Policy"] = _POLICY
            headers["X-Content-Type-Options"] = "nosniff"
            headers["Referrer-Policy"] = "no-referrer"
        await send(message)

    return sent

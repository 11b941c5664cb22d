"""The two ways to reach the tools: standard input and output, or streamable HTTP."""

from __future__ import annotations

import hmac
import os
import signal
import socket
import sys
import traceback
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

import anyio
import uvicorn
from starlette.datastructures import Headers
from starlette.responses import PlainTextResponse

from conservator.apps.mcp.offering import offer
from conservator.apps.mcp.workbench import Workbench
from conservator.errors import ConservatorError
from conservator.files import abandon_workspaces, reason

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

TOKEN_VARIABLE = "CONSERVATOR_MCP_TOKEN"
"""The environment variable of the secret that HTTP callers must send; on a command line others could read it."""

_LOOPBACK = ("127.0.0.1", "localhost", "::1")
_SHORTEST_TOKEN = 16  # characters; fewer could be tried out
_GRACE = 1.5
"""Seconds for what is in work to stop when the other side has gone: hosts end a program that takes more than two."""


def serve_stdio(workbench: Workbench) -> None:
    """Serve one assistant over standard input and output, until it closes them."""
    if sys.stdin.isatty():
        _say(f"waiting for an assistant on standard input, which opens {workbench.roots} to it; Ctrl-C ends this")
    _serve(workbench, offer(workbench).run_stdio_async)


def serve_http(workbench: Workbench, address: str) -> None:
    """Serve assistants at http://ADDRESS/mcp, ``[HOST:]PORT``, until Ctrl-C.

    Raises ConservatorError for an address that cannot be had, and for one beyond loopback without a token.
    """
    host, port = parsed_address(address)
    token = os.environ.get(TOKEN_VARIABLE, "")
    if token and len(token) < _SHORTEST_TOKEN:
        raise ConservatorError(f"{TOKEN_VARIABLE} has {len(token)} characters; give {_SHORTEST_TOKEN} or more")
    if host not in _LOOPBACK and not token:
        raise ConservatorError(
            f"others can reach {host}; set a secret in {TOKEN_VARIABLE}, which callers then send as "
            "'Authorization: Bearer ...', or leave the host out"
        )
    app: ASGIApp = offer(workbench).streamable_http_app(host=host)
    config = uvicorn.Config(Bearer(app, token) if token else app, log_level="warning", timeout_graceful_shutdown=1)
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family)
    except OSError as error:
        raise ConservatorError(f"{address} cannot be listened at ({reason(error)}); choose another port") from error
    with listening:
        shown = f"[{host}]" if ":" in host else host
        _say(f"http://{shown}:{listening.getsockname()[1]}/mcp opens {workbench.roots} to assistants; Ctrl-C ends this")
        served = uvicorn.Server(config)

        async def run() -> None:
            await served.serve(sockets=[listening])

        _serve(workbench, run)


def parsed_address(address: str) -> tuple[str, int]:
    """Host and port of ``[HOST:]PORT``, loopback where no host is given; raises ConservatorError for anything else."""
    host, _, port = address.rpartition(":")
    if not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise ConservatorError(f"{address!r} is no address; give a port, say 8000, or host and port, 127.0.0.1:8000")
    return host.strip("[]") or _LOOPBACK[0], int(port)


class Bearer:
    """Lets only those pass who send the token."""

    def __init__(self, app: ASGIApp, token: str) -> None:
        self._app, self._expected = app, f"Bearer {token}".encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer 401 to a request without it."""
        if scope["type"] == "http":
            given = Headers(scope=scope).get("authorization", "").encode()
            if not hmac.compare_digest(given, self._expected):
                refused = PlainTextResponse(
                    f"Send the secret of {TOKEN_VARIABLE} as 'Authorization: Bearer ...'.\n",
                    status_code=401,
                    headers={"WWW-Authenticate": "Bearer"},
                )
                await refused(scope, receive, send)
                return
        await self._app(scope, receive, send)


def _serve(workbench: Workbench, run: Callable[[], object]) -> None:
    """Serve until the other side has gone or a signal came; what is in work then stops, and leaves nothing half."""

    def leave(number: int, frame: FrameType | None) -> None:
        abandon_workspaces()
        os._exit(128 + number)  # threads that compute cannot be stopped

    signal.signal(signal.SIGTERM, leave)
    code = 0
    try:
        anyio.run(run)  # type: ignore[arg-type]
    except KeyboardInterrupt:
        code = 128 + signal.SIGINT
    except BaseExceptionGroup as failures:
        if failures.split(BrokenPipeError)[1] is not None:  # other than that the assistant has gone
            traceback.print_exc()
            code = 1
    if not workbench.close(_GRACE):
        abandon_workspaces()
    os._exit(code)  # a thread that computes would hold an ordinary end up


def _say(sentence: str) -> None:
    print(f"conservator: {sentence}", file=sys.stderr, flush=True)  # noqa: T201 - standard output is the assistant's

"""The process of the API: a data folder of its own, a socket, workers, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import tempfile
from collections.abc import Callable

import uvicorn

from conservator.apps.http.app import Api, make_app
from conservator.apps.http.crew import Crew
from conservator.apps.http.desk import Desk
from conservator.apps.http.jobs import JobStore
from conservator.apps.http.limits import Limits
from conservator.apps.http.settings import TOKEN, ServeOptions, check_token
from conservator.apps.listening import listening_at
from conservator.apps.running import Running
from conservator.errors import ConservatorError
from conservator.files import reason, workspace

_CONNECTIONS = 400
"""Connections at most: a system allows a process 1024 open files as a rule, and each connection may need two."""
_FAREWELL = 3
"""Seconds that open connections have when the API is stopped."""


def run_api(options: ServeOptions, say: Callable[[str], None]) -> None:
    """Serve until a signal ends it; ``say`` is told where. Raises ConservatorError where it cannot begin."""
    token = os.environ.get(TOKEN) or None
    check_token(options, token)
    try:
        options.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        with workspace(options.data / "jobs.sqlite") as own:
            if own is None:
                raise ConservatorError(f"{options.data} is in use by another conservator serve; give another --data")
            tempfile.tempdir = str(own.absolute())  # uploads grow where jobs lie, not in what may be memory
            with listening_at(options.host, options.port) as listening, contextlib.suppress(KeyboardInterrupt):
                asyncio.run(_serve(options, token, listening, say))
    except OSError as error:
        raise ConservatorError(f"{options.data} cannot hold the jobs ({reason(error)}); give another --data") from error


async def _serve(
    options: ServeOptions, token: str | None, listening: socket.socket, say: Callable[[str], None]
) -> None:
    host = f"[{options.host}]" if ":" in options.host else options.host
    store, api = JobStore(options.data), Api()
    crew = Crew(store, options)
    try:
        api.desk = Desk(options, store, crew, await crew.start())
        app = Limits(make_app(api, token is not None), options, token, api.desk.room)
        config = uvicorn.Config(
            app,
            lifespan="off",
            loop="asyncio",
            http="h11",
            ws="none",
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            limit_concurrency=_CONNECTIONS,
            timeout_graceful_shutdown=_FAREWELL,
        )
        address = f"http://{host}:{listening.getsockname()[1]}"
        running = Running(config, lambda: say(f"listening on {address} (description: {address}/openapi.json)"))
        api.desk.closing = lambda: running.should_exit
        await running.serve([listening])
    finally:
        await crew.close()
        store.close()

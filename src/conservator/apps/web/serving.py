"""The process of the page: a folder of its own for what visitors open, a socket, and an orderly end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import tempfile
import threading
import webbrowser
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import uvicorn

from conservator.apps.listening import listening_at
from conservator.apps.running import Running
from conservator.apps.web.gate import Gate
from conservator.apps.web.settings import WebOptions, find_password
from conservator.errors import MissingExtraError
from conservator.files import abandon_workspaces
from conservator.request import Request

_FAREWELL = 1
"""Seconds that open connections have when the page is stopped: each open page holds one for as long as it is open."""


def run_page(options: WebOptions, request: Request, say: Callable[[str], None]) -> None:
    """Serve the page until a signal ends it; ``say`` is told where. Raises ConservatorError where it cannot begin."""
    password = find_password(options, os.environ)
    with _own_folder() as folder, listening_at(options.host, options.port) as listening:
        app, leave = _make_app(options, request, folder, password)
        host = f"[{options.host}]" if ":" in options.host else options.host
        address = f"http://{host}:{listening.getsockname()[1]}"

        def listens() -> None:
            say(f"the page is at {address}; Ctrl-C ends it")
            if not options.no_browser:
                # in a thread: a browser without windows would hold the page up
                threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()

        config = uvicorn.Config(
            Gate(app, password is not None),
            log_level="warning",
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_graceful_shutdown=_FAREWELL,
        )
        with contextlib.suppress(KeyboardInterrupt):
            asyncio.run(Running(config, listens).serve([listening]))
        leave()
        abandon_workspaces()


def _make_app(
    options: WebOptions, request: Request, folder: Path, password: str | None
) -> tuple[Any, Callable[[], None]]:
    """The page as an ASGI application, and what ends its work.

    Gradio must first be imported here: it then reads where to write, and that it is to tell nobody.
    """
    os.environ |= {
        "GRADIO_TEMP_DIR": str(folder / "files"),
        "GRADIO_EXAMPLES_CACHE": str(folder / "examples"),
        "GRADIO_ANALYTICS_ENABLED": "False",
        "HF_HUB_DISABLE_TELEMETRY": "1",
    }
    try:
        from conservator.apps.web.mounting import mount
    except ImportError as error:
        raise MissingExtraError(
            f"the page needs packages that are missing here ({error}); get them with: pip install 'conservator[web]'"
        ) from error
    return mount(options, request, folder / "files", password)


@contextmanager
def _own_folder() -> Iterator[Path]:
    """A folder that only this user may look into; it is deleted at the end."""
    folder = Path(tempfile.mkdtemp(prefix="conservator-web-")).resolve()
    before = tempfile.tempdir
    tempfile.tempdir = str(folder)  # where uploads grow
    (folder / "files").mkdir(mode=0o700)
    try:
        yield folder
    finally:
        tempfile.tempdir = before
        shutil.rmtree(folder, ignore_errors=True)

"""Gradio's page in an application of our own, with all switched off that it would do beyond showing the page."""

from __future__ import annotations

import hmac
from collections.abc import Callable
from pathlib import Path

import gradio as gr
from fastapi import FastAPI

from conservator.apps.restorers import Restorers
from conservator.apps.roots import Roots
from conservator.apps.web.folder_work import FolderWork
from conservator.apps.web.page import build_page, theme
from conservator.apps.web.script import style
from conservator.apps.web.settings import WebOptions
from conservator.apps.web.visit import Visits
from conservator.request import Request


def mount(
    options: WebOptions, request: Request, folder: Path, password: str | None
) -> tuple[FastAPI, Callable[[], None]]:
    """The application, and what ends its work; files of visitors go below ``folder``, which Gradio serves."""
    restorers = Restorers()
    with restorers.lend(request):
        pass  # what cannot be met is said now
    visits = Visits(folder / "visits", restorers)
    work = FolderWork(Roots(options.folders), restorers, folder / "sheets")
    page = build_page(visits, work, request)
    page.queue(api_open=False, max_size=64)
    app = gr.mount_gradio_app(
        FastAPI(docs_url=None, redoc_url=None, openapi_url=None),
        page,
        path="",
        auth=None if password is None else _asks_for(password),
        auth_message="Give any name, and the password of this page.",
        footer_links=[],
        run_history=False,
        allowed_paths=[],
        show_error=False,
        max_file_size=int(options.max_upload * 1_000_000),
        ssr_mode=False,
        enable_monitoring=False,
        pwa=False,
        mcp_server=False,
        theme=theme(),
        css=style(),
    )

    def leave() -> None:
        work.close()
        visits.close()

    return app, leave


def _asks_for(password: str) -> Callable[[str, str], bool]:
    def asked(name: str, given: str) -> bool:
        return hmac.compare_digest(given.encode(), password.encode())

    return asked

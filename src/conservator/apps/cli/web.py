"""``conservator web``: the page."""

from __future__ import annotations

import os

import typer

from conservator.apps.cli.options import with_options
from conservator.apps.web.settings import WebOptions
from conservator.errors import MissingExtraError
from conservator.request import Request


@with_options(WebOptions, "options")
@with_options(Request, "request", leave_out=("chat",))
def web(*, options: WebOptions, request: Request) -> None:
    """Open the page in your browser: restore a photo or a folder there (needs: pip install 'conservator[web]').

    Only browsers of this machine reach it; beyond it, it asks for a password. The options of a restoration are what the
    page begins with. See docs/web.md.
    """
    try:
        from conservator.apps.web.serving import run_page
    except ImportError as error:
        raise MissingExtraError(
            f"the page needs packages that are missing here ({error}); get them with: pip install 'conservator[web]'"
        ) from error
    run_page(options, request, lambda line: typer.echo(line, err=True))
    os._exit(0)  # a thread that computes would hold an ordinary end up

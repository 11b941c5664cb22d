"""The command that opens the toolbox to assistants."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conservator.apps.cli.options import with_options
from conservator.errors import MissingExtraError
from conservator.request import Request


@with_options(Request, "request", leave_out=("chat",))
def mcp(
    roots: Annotated[
        list[Path],
        typer.Argument(help="Folders that assistants may read and write in; nothing else.", show_default=False),
    ],
    http: Annotated[
        str | None,
        typer.Option(
            "--http",
            metavar="[HOST:]PORT",
            help="Serve over HTTP, at http://127.0.0.1:PORT/mcp, instead of standard input and output. Any other host "
            "needs a secret in CONSERVATOR_MCP_TOKEN.",
        ),
    ] = None,
    *,
    request: Request,
) -> None:
    """Offer the tools to assistants, over the Model Context Protocol (MCP).

    An assistant can let the program restore photos, or decide itself, step by step. The options are what it does unless
    the assistant asks for something else.
    """
    try:
        from conservator.apps.mcp.serving import serve_http, serve_stdio
    except ModuleNotFoundError as error:
        if (error.name or "").split(".")[0] not in ("mcp", "mcp_types", "anyio", "uvicorn", "starlette"):
            raise
        raise MissingExtraError(
            f"assistants are served by packages that are missing here ({error}); get them with: "
            "pip install 'conservator[mcp]'"
        ) from error
    from conservator.apps.mcp.workbench import Workbench

    workbench = Workbench(roots, request)
    if http is None:
        serve_stdio(workbench)
    else:
        serve_http(workbench, http)

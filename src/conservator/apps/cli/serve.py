"""``conservator serve``: the HTTP API."""

from __future__ import annotations

import typer

from conservator.apps.cli.options import with_options
from conservator.apps.http.settings import ServeOptions
from conservator.errors import MissingExtraError


@with_options(ServeOptions, "options")
def serve(*, options: ServeOptions) -> None:
    """Serve the HTTP API: photos in, restored photos and their records out (needs: pip install 'conservator[serve]').

    Jobs survive a restart. Beyond this machine it serves only with a token in CONSERVATOR_TOKEN. See docs/serve.md.
    """
    try:
        from conservator.apps.http.run import run_api
    except ImportError as error:
        raise MissingExtraError(
            f"the HTTP API needs packages that are missing here ({error}); get them with: "
            "pip install 'conservator[serve]'"
        ) from error
    run_api(options, lambda line: typer.echo(line, err=True))

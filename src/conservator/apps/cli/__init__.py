"""The command line. Heavy imports happen inside the commands, so ``--help`` answers at once."""

from __future__ import annotations

import io
import sys
from typing import Annotated, NoReturn

import typer

from conservator import __version__
from conservator.apps.cli import (  # noqa: F401 - they add their commands
    assistants,
    bench_decisions,
    bench_feedback,
    bench_planners,
    bench_policies,
    bench_risk,
    bench_rl_restore,
    bench_why,
    photos,
    restoring,
    train_all,
    train_assessor,
    train_mllm,
    train_queue,
    train_r1,
    train_risk,
    train_rl_restore,
)
from conservator.apps.cli.bench import bench_app
from conservator.apps.cli.data import data_app
from conservator.apps.cli.lway import adapt_app
from conservator.apps.cli.pool import pool_app
from conservator.apps.cli.serve import serve
from conservator.apps.cli.tools import tools_app
from conservator.apps.cli.train import train_app
from conservator.apps.cli.web import web
from conservator.errors import ConservatorError

app = typer.Typer(
    name="conservator",
    help="Restores damaged photographs by itself: it examines the photo, plans, treats it, looks again, "
    "takes back what did harm, and documents what it did.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
)
for command in (restoring.restore, restoring.examine, restoring.apply, photos.compare, photos.replay, photos.demo):
    app.command()(command)
app.command("calibrate")(train_risk.calibrate)
app.command("degrade")(photos.degrade_photo)
app.command()(assistants.mcp)
app.command()(serve)
app.command()(web)
app.add_typer(tools_app, name="tools")
app.add_typer(train_app, name="train")
app.add_typer(adapt_app, name="adapt")
app.add_typer(bench_app, name="bench")
app.add_typer(data_app, name="data")
app.add_typer(pool_app, name="pool")


def main() -> None:
    """Entry point: errors made on purpose become one sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name or a mark that the terminal cannot show must stop nothing
    try:
        app()
    except ConservatorError as error:
        _end(str(error))
    except BrokenPipeError:
        sys.exit(1)
    except OSError as error:
        _end(f"{error.filename or 'a file'}: {error.strerror or error}")


def _end(sentence: str) -> NoReturn:
    """Say why nothing was done, and end with exit code 2."""
    from rich.console import Console
    from rich.text import Text

    Console(stderr=True, soft_wrap=True).print(Text(f"conservator: {sentence}", style="red"))
    sys.exit(2)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"conservator {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass

"""The command group ``conservator train``, and the options that its commands have in common."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

train_app = typer.Typer(help="Train tools, perception and planners.", no_args_is_help=True)

PhotosOption = Annotated[Path, typer.Option(help="Folder of clean photos, searched recursively.", exists=True)]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of checkpoints and curves.")]
Into = Annotated[Path | None, typer.Option("--into", help="Folder of weights with a manifest.toml to put it into.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that damage the photos.")]
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]
Threads = Annotated[int, typer.Option(min=1, help="Threads that compute.")]

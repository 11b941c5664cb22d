"""``conservator train assessor``: a small model that says how good a picture looks, for policies to learn from."""

from __future__ import annotations

import typer

from conservator.apps.cli.common import ThreadsOption
from conservator.apps.cli.options import with_options
from conservator.apps.cli.train import train_app
from conservator.training.assessor.order import AssessorOrder


@train_app.command("assessor")
@with_options(AssessorOrder, "order", flags={"output": "--output -o"})
def train_assessor_command(threads: ThreadsOption = 2, *, order: AssessorOrder) -> None:
    """Teach a nano model to rate pictures; the same command again goes on after an interruption."""
    import torch

    from conservator.training.assessor.train import train_assessor

    torch.set_num_threads(threads)
    trained = train_assessor(order, typer.echo)
    for name in ("spearman", "level_error"):
        typer.echo(f"{name:12} {trained.scores[name]:.3f} on pictures of held-out photos")
    typer.echo(f"use it with: conservator train r1 --reward feedback --model {trained.folder}")

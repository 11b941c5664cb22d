"""``conservator train``: experts, perception, and what tells harm, from a folder of clean photos."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conservator.apps.cli.options import with_options
from conservator.training.experts.order import Order
from conservator.training.perception.order import HarmOrder, PerceptionOrder

train_app = typer.Typer(help="Train tools, and perception, from clean photos.", no_args_is_help=True)

PhotosOption = Annotated[Path, typer.Option(help="Folder of clean photos, searched recursively.", exists=True)]
Output = Annotated[Path, typer.Option("--output", "-o", help="Folder of checkpoints and curves.")]
Into = Annotated[Path | None, typer.Option("--into", help="Folder of weights with a manifest.toml to put it into.")]
Workers = Annotated[int, typer.Option(min=0, help="Processes that damage the photos.")]


@train_app.command("expert")
@with_options(Order, "order", flags={"output": "--output -o"}, leave_out=("changed", "beside"))
def train_expert_command(into: Into = None, *, order: Order) -> None:
    """Train an expert; run the same command again to go on after an interruption."""
    from conservator.tools.user import user_tool_dir
    from conservator.training.experts.orders import install, ship, train

    trained = train(order, typer.echo)
    typer.echo(
        f"{trained.steps} steps in {trained.minutes:.1f} minutes: "
        f"{trained.psnr_in:.2f} -> {trained.psnr_out:.2f} dB (RGB) on crops of held-out photos"
    )
    if order.damage is None:
        typer.echo(ship(trained, order, into or order.output / "weights"))
    else:
        typer.echo(f"{install(trained, order, user_tool_dir())}\nit is now in the toolbox 'user'")


@train_app.command("perception")
@with_options(PerceptionOrder, "order", flags={"output": "--output -o"}, leave_out=("toolbox",))
def train_perception(into: Into = None, *, order: PerceptionOrder) -> None:
    """Train what sees the damage of a photo and weighs its treatments."""
    from conservator.training.perception.train import train_perceptions

    for name, found in train_perceptions(order, into or order.output / "weights").items():
        for score, value in found.items():
            typer.echo(f"{name:12} {score:24} {value:.3f}")


@train_app.command("harm")
@with_options(HarmOrder, "order", flags={"output": "--output -o"}, leave_out=("toolbox",))
def train_harm_command(into: Into = None, *, order: HarmOrder) -> None:
    """Train what tells whether a treatment did harm, from the pictures before and after it."""
    from conservator.training.perception.harm import train_harm

    for score, value in train_harm(order, into or order.output / "weights").items():
        typer.echo(f"{score:32} {value:.3f}")

"""``conservator train lway`` and ``conservator adapt lway``."""

from __future__ import annotations

import typer

from conservator.apps.cli.options import with_options
from conservator.apps.cli.train import Into, train_app
from conservator.training.experts.order import CollectionOrder, TransferOrder

adapt_app = typer.Typer(help="Adapt tools to the photos of one camera or scanner.", no_args_is_help=True)


@train_app.command("lway")
@with_options(TransferOrder, "order", flags={"output": "--output -o"})
def train_lway(into: Into = None, *, order: TransferOrder) -> None:
    """Train what tells LWay how a photo was degraded; run the same command again to go on after an interruption."""
    from conservator.training.experts.lway import ship_transfer, train_transfer

    trained = train_transfer(order, typer.echo)
    typer.echo(f"{trained.steps} steps in {trained.minutes:.1f} minutes")
    typer.echo(ship_transfer(trained, order, into or order.output / "weights"))


@adapt_app.command("lway")
@with_options(CollectionOrder, "order")
def adapt_lway(*, order: CollectionOrder) -> None:
    """Adapt an upscaler to photos of one origin by LWay, and put it into the toolbox 'user' under a name of its own."""
    from conservator.tools.user import user_tool_dir
    from conservator.training.experts.lway import adapt_to_collection

    typer.echo(f"{adapt_to_collection(order, user_tool_dir(), typer.echo)}\nit is now in the toolbox 'user'")

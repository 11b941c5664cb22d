"""``conservator train r1``: the light policy, by reward or from right answers."""

from __future__ import annotations

import typer

from conservator.apps.cli.common import ThreadsOption
from conservator.apps.cli.options import with_options
from conservator.apps.cli.train import Into, train_app
from conservator.training.rl.order import R1Order


@train_app.command("r1")
@with_options(R1Order, "order", flags={"output": "--output -o"})
def train_r1_command(into: Into = None, threads: ThreadsOption = 2, *, order: R1Order) -> None:
    """Train the policy r1, by reward or from right answers; the same command again goes on after an interruption."""
    import torch

    from conservator.training.rl.r1 import R1_FILE, r1_needs, ship_r1, train_r1

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    made_with = r1_needs(order)
    trained = train_r1(order, typer.echo)
    for name, value in trained.scores.items():
        typer.echo(f"{name:12} {value:+.3f}, by chance {trained.chance.get(name, 0.0):+.3f}")
    typer.echo(f"{trained.minutes:.1f} minutes; use it with: --policy r1:{order.output / R1_FILE}")
    if into is not None:
        typer.echo(ship_r1(trained, order, into, made_with))

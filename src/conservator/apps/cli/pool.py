"""``conservator pool``: a pool on a cluster that many processes share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from conservator.apps.cli.options import with_options
from conservator.errors import PoolError
from conservator.hosting import PoolSettings

if TYPE_CHECKING:
    from conservator.pool.wire import PoolState

pool_app = typer.Typer(help="Share one pool of models among processes and machines (Ray).", no_args_is_help=True)

NameArgument = Annotated[str, typer.Argument(help="NAME of a pool, or NAME@HOST:PORT with the address of its cluster.")]

_COUNTS = (
    "calls",
    "results",
    "tool_errors",
    "pool_errors",
    "late",
    "cancelled",
    "batches",
    "retried",
    "killed",
    "lost",
    "loads",
    "evictions",
)
"""What a pool counts (``PoolState.counts``), in the order in which it is told."""


@pool_app.command("start")
@with_options(PoolSettings, "settings")
def start_command(name: NameArgument, *, settings: PoolSettings) -> None:
    """Start a pool, and keep it until Ctrl-C or 'pool stop'; a cluster is begun for it where none runs here."""
    from conservator.pool.shared import start_pool, wait_until_over

    short, _, address = name.partition("@")
    with start_pool(short, settings, address) as pool:
        typer.echo(f"the pool {short} is ready; use it with: conservator train grpo --pool {name}")
        try:
            wait_until_over(pool)
        except KeyboardInterrupt:
            typer.echo("stopped; calls in work were not finished ('conservator pool stop' finishes them)")
            return
    typer.echo(f"the pool {short} was stopped")


@pool_app.command("status")
def status_command(name: NameArgument) -> None:
    """Show the workers of a pool, the models that they hold, and what was called."""
    from conservator.pool.shared import state_of

    typer.echo("\n".join(told_state(state_of(name))))


@pool_app.command("stop")
def stop_command(
    name: NameArgument,
    seconds: Annotated[float, typer.Option(min=0, help="How long calls in work may take to finish.")] = 600.0,
) -> None:
    """Let a pool finish its calls, and end it."""
    from conservator.pool.shared import stop_pool

    if not stop_pool(name, seconds):
        raise PoolError(f"the pool {name} was ended with calls in work, for they took more than {seconds:g} seconds")
    typer.echo(f"the pool {name} was stopped")


def told_state(state: PoolState) -> list[str]:
    """The state of a pool, in lines."""
    counts, batches = state.counts, state.counts.get("batches", 0)
    lines = [
        f"{len(state.workers)} of {state.settings.workers} workers, {state.running} calls run, {state.waiting} wait"
    ]
    for worker in state.workers:
        models = ", ".join(f"{key.split(' ')[0]} {size / 2**20:.1f} MiB" for key, size in worker.held.items()) or "none"
        lines.append(f"  {worker.host}, process {worker.pid}, {'busy' if worker.busy else 'idle'}: models {models}")
    done = max(1, counts.get("calls", 0))
    lines.append("  " + ", ".join(f"{name} {counts.get(name, 0)}" for name in _COUNTS))
    lines.append(f"  a call waited {state.waited / done:.3f} s, a batch took {state.worked / max(1, batches):.3f} s")
    return lines

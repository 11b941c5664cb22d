"""``conservator train lway``, ``conservator adapt lway`` and ``conservator bench lway``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conservator.adapting import Manner
from conservator.apps.cli.bench import bench_app
from conservator.apps.cli.options import with_options
from conservator.apps.cli.train import Into, train_app
from conservator.commands import command_line, shown_path
from conservator.errors import ConservatorError
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


@bench_app.command("lway")
@with_options(Manner, "manner")
def bench_lway(
    photos: Annotated[Path, typer.Argument(help="Folder of clean photos; with --pairs, of NAME_lr and NAME_gt.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of results; the same again resumes.")],
    tool: Annotated[str, typer.Option(help="The tool that enlarges; its adapted twin is measured with it.")] = (
        "upscale_x2"
    ),
    pairs: Annotated[bool, typer.Option("--pairs", help="The photos are pairs, as City100 has them.")] = False,
    prefix: Annotated[str, typer.Option(help="Of pairs, only those whose names begin so.")] = "",
    only: Annotated[list[str] | None, typer.Option(help="Only this way of reducing; may be given again.")] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first photos only.")] = None,
    why: Annotated[
        str | None, typer.Option("--open", help="Why a test part is opened, which is refused without a reason.")
    ] = None,
    together: Annotated[bool, typer.Option("--together", help="Adapt once to all photos reduced in one way.")] = False,
    threads: Annotated[int, typer.Option(min=1, help="Threads that compute.")] = 2,
    *,
    manner: Manner,
) -> None:
    """What an upscaler gains by LWay: on photos reduced in known ways, or on real pairs.

    Writes results.csv and summary.md; resumes. Another manner of adapting adds its rows to those that are there.
    """
    import torch

    from conservator.evaluation.lway import adapted_summary, bench_adapted, paired_cases, reduced_cases
    from conservator.evaluation.parts import opened_part, opening
    from conservator.files import write_text
    from conservator.photo import find_photos
    from conservator.tools import make_toolbox

    if pairs and only:
        raise ConservatorError("--only names ways of reducing clean photos; leave it out with --pairs")
    torch.set_num_threads(threads)
    command = command_line(
        *("bench", "lway", shown_path(photos)),
        **{"tool": tool, "pairs": pairs, "prefix": prefix or None, "only": only, "limit": limit},
        **{"together": together, **manner.changed(), "threads": threads, "output": output},
    )
    files = [path for path in find_photos(photos) if not pairs or path.name.startswith(prefix)]
    if line := opening(opened_part(files), why, command):
        typer.echo(f"Add this line to docs/results/openings.md:\n{line}")
    tools = make_toolbox("conservator+user").only(tool, f"{tool}_adapted")
    scale = tools[tool].spec.scale
    cases = paired_cases(photos, scale, prefix, limit) if pairs else reduced_cases(photos, scale, only or (), limit)
    rows = bench_adapted(cases, tools, output, manner, together, typer.echo)
    lines = ["# LWay", "", f"`{command}`", "", *adapted_summary(rows)]
    write_text(output / "summary.md", "\n".join(lines))
    typer.echo("\n".join(lines))

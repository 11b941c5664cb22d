"""``conservator bench why``: the panels of docs/why.md, each a table and a picture."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from conservator.apps.cli.bench import bench_app
from conservator.apps.cli.common import ThreadsOption

Panel = Literal["levels", "all-in-one", "orders", "patterns", "one-model"]


@bench_app.command("why")
def bench_why_command(
    panel: Annotated[Panel, typer.Argument(help="Which claim of RestoreAgent's motivation.")],
    photos: Annotated[Path, typer.Option(help="Folder of clean photos.", exists=True)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of the table and the picture.")],
    toolbox: Annotated[str, typer.Option(help="Toolboxes, joined by +.")] = "conservator",
    limit: Annotated[int, typer.Option(min=1, help="Use the first photos only.")] = 10,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the damage.")] = 0,
    threads: ThreadsOption = 1,
) -> None:
    """Measure why one would want an agent: PANEL.md with the table, PANEL.png with pictures at full size."""
    import torch

    from conservator.apps.strips import save_strips
    from conservator.commands import command_line
    from conservator.evaluation.why import PANELS, Bench
    from conservator.files import write_text
    from conservator.photo import find_photos
    from conservator.request import Request
    from conservator.restorer import Restorer

    torch.set_num_threads(threads)
    with Restorer(Request(toolbox=toolbox)) as restorer:
        bench = Bench(find_photos(photos)[:limit], restorer.toolbox, restorer.models, seed)
        found = PANELS[panel](bench)
    asked = {"photos": photos, "toolbox": toolbox, "limit": limit, "seed": seed, "output": output}
    command = command_line("bench", "why", panel, **asked)
    lines = [f"# Why agents: {panel}", "", f"`{command}`, the middles of {len(bench.names)} photos", ""]
    lines += [line for grid in found.grids for line in grid.markdown()]
    output.mkdir(parents=True, exist_ok=True)
    write_text(output / f"{panel}.md", "\n".join(lines))
    save_strips(found.strips, output / f"{panel}.png")
    typer.echo("\n".join(lines))

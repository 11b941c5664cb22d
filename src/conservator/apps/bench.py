"""``conservator bench``: what tools and policies are worth, on photos with references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

bench_app = typer.Typer(help="Measure tools and policies on photos with references.", no_args_is_help=True)


@bench_app.command("tools")
def bench_tools(
    data: Annotated[Path, typer.Argument(help="Folder that holds CBSD68, LIVE1_10, CID22_val and the others.")],
    toolbox: Annotated[str, typer.Option(help="Toolboxes, joined by +.")] = "conservator+classical",
    only: Annotated[str | None, typer.Option(help="Only protocols whose name contains this.")] = None,
    tools: Annotated[str | None, typer.Option(help="Only these tools, joined by commas.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the tables as Markdown.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads that compute.")] = 2,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, mps.")] = "cpu",
) -> None:
    """PSNR in and out, SSIM, seconds and size of every tool on the damage it is for."""
    import torch

    from conservator.evaluation.tools import bench_tools as bench
    from conservator.files import write_text
    from conservator.tools import make_toolbox

    torch.set_num_threads(threads)
    chosen = make_toolbox(toolbox)
    if tools:
        chosen = chosen.only(*tools.split(","))
    lines = bench(chosen, data, only, typer.echo, device)
    if output:
        command = f"conservator bench tools VAL --toolbox {toolbox}" + (f" --only '{only}'" if only else "")
        command += f" --tools {tools}" if tools else ""
        write_text(output, "\n".join(["# Tools, each alone", "", f"`{command}`", "", *lines]) + "\n")


@bench_app.command("eye")
def bench_eye(
    photos: Annotated[Path, typer.Argument(help="Folder of clean photos.", exists=True)],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the damage.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the tables as Markdown.")] = None,
) -> None:
    """How well damage is seen: both eyes, on the combinations of the public protocols and on the clean photos."""
    from conservator.evaluation.eye import bench_eye as bench
    from conservator.files import write_text
    from conservator.perception import NetworkPerception, StatisticalPerception
    from conservator.photo import PHOTO_SUFFIXES

    files = sorted(path for path in photos.rglob("*") if path.suffix.lower() in PHOTO_SUFFIXES)
    lines = bench({"network": NetworkPerception(), "statistics": StatisticalPerception()}, files, typer.echo, seed)
    if output:
        head = ["# The eye", "", f"`conservator bench eye PHOTOS --seed {seed}`, {len(files)} photos", ""]
        write_text(output, "\n".join([*head, *lines]) + "\n")

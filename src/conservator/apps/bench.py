"""``conservator bench``: what tools and policies are worth, on photos with references."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

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
    """How well the eyes that ship see damage: the public protocols' combinations, and clean photos."""
    from conservator.evaluation.eye import bench_eye as bench
    from conservator.files import write_text
    from conservator.perception import NetworkPerception, Perception, StatisticalPerception
    from conservator.photo import find_photos
    from conservator.weights import manifest

    files = find_photos(photos)
    eyes: dict[str, Perception] = {"statistics": StatisticalPerception()}
    if "eye" in manifest():
        eyes["network"] = NetworkPerception()
    lines = bench(eyes, files, typer.echo, seed)
    if output:
        head = ["# The eye", "", f"`conservator bench eye PHOTOS --seed {seed}`, {len(files)} photos", ""]
        write_text(output, "\n".join([*head, *lines]) + "\n")


@bench_app.command("policies")
def bench_policies(
    benchmark: Annotated[str, typer.Argument(help="mio, restoreagent, clean, pairs or real.")],
    photos: Annotated[Path, typer.Option(help="Folder of photos; for pairs, of an input and a target folder.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of results; the same again resumes.")],
    policies: Annotated[str, typer.Option(help="Policies, joined by commas.")] = "none,rules,greedy",
    toolbox: Annotated[str, typer.Option(help="Toolboxes, joined by +.")] = "conservator",
    eye: Annotated[Literal["network", "statistics"], typer.Option(help="What looks at the photos.")] = "statistics",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the damage.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first photos only.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads that compute.")] = 2,
) -> None:
    """Gain, harm and cost of policies; writes results.csv, settings.json and summary.md."""
    import torch

    from conservator.evaluation.cases import make_cases
    from conservator.evaluation.evaluate import Row, Settings, evaluate
    from conservator.evaluation.tables import summary
    from conservator.files import write_text
    from conservator.perception import NetworkPerception, StatisticalPerception
    from conservator.tools import make_toolbox

    def tell(done: int, total: int, row: Row | None) -> None:
        if row is not None:
            treated = f"{row.psnr - row.psnr_in:+.2f} dB {row.toolchain or 'untouched'} ({row.seconds:.1f} s)"
            typer.echo(f"{done}/{total} {row.combination} {row.photo} {row.policy}: {treated}")

    torch.set_num_threads(threads)
    perception = NetworkPerception() if eye == "network" else StatisticalPerception()
    settings = Settings(benchmark, photos.name, toolbox, eye, seed, limit)
    cases = make_cases(benchmark, photos, seed, limit)
    rows = evaluate(cases, policies.split(","), make_toolbox(toolbox), perception, settings, output, tell)
    command = f"conservator bench policies {benchmark} --photos {photos.name} --policies {policies}"
    command += f" --toolbox {toolbox} --eye {eye} --seed {seed}" + (f" --limit {limit}" if limit else "")
    lines = [f"# {benchmark}", "", f"`{command}`", "", *summary(rows)]
    write_text(output / "summary.md", "\n".join(lines))
    typer.echo("\n".join(lines))

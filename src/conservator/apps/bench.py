"""``conservator bench``: what tools, eyes and policies are worth; one command per policy benchmark."""

from __future__ import annotations

import math
import time
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from conservator.commands import command_line, shown_path

if TYPE_CHECKING:
    from conservator.evaluation.rows import BenchmarkRow, BenchmarkSettings

bench_app = typer.Typer(help="Measure tools, eyes and policies, and report on it.", no_args_is_help=True)


@bench_app.callback()
def refuse_stale(context: typer.Context) -> None:
    """Measure tools, eyes and policies, and report on it. Weights that are stale are an error here."""
    from conservator.weights.chain import stale_is_an_error

    context.with_resource(stale_is_an_error())


@bench_app.command("tools")
def bench_tools_command(
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
        command = command_line(
            *("bench", "tools", shown_path(data)), toolbox=toolbox, only=only, tools=tools, output=output
        )
        write_text(output, "\n".join(["# Tools, each alone", "", f"`{command}`", "", *lines]) + "\n")


@bench_app.command("quality")
def bench_quality_command(
    photos: Annotated[Path, typer.Argument(help="Folder of clean photos.", exists=True)],
    toolbox: Annotated[str, typer.Option(help="Toolboxes, joined by +.")] = "conservator",
    eye: Annotated[Literal["network", "statistics"], typer.Option(help="Which eye.")] = "network",
    seed: Annotated[int, typer.Option(min=0, help="Seed of damage and toolchains.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the tables as Markdown.")] = None,
) -> None:
    """How well an eye tells which of two treated pictures is nearer to the undamaged photo, which it does not see."""
    from conservator.evaluation.quality import bench_quality as bench
    from conservator.files import write_text
    from conservator.perception import NetworkPerception, StatisticalPerception
    from conservator.photo import find_photos
    from conservator.tools import make_toolbox

    files = find_photos(photos)
    perception = NetworkPerception() if eye == "network" else StatisticalPerception()
    lines = bench(perception, files, make_toolbox(toolbox), typer.echo, seed)
    if output:
        command = command_line(
            *("bench", "quality", shown_path(photos)), toolbox=toolbox, eye=eye, seed=seed, output=output
        )
        write_text(
            output, "\n".join(["# Which is better?", "", f"`{command}`, {len(files)} photos", "", *lines]) + "\n"
        )


@bench_app.command("eye")
def bench_eye_command(
    photos: Annotated[Path, typer.Argument(help="Folder of clean photos.", exists=True)],
    seed: Annotated[int, typer.Option(min=0, help="Seed of the damage.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the tables as Markdown.")] = None,
) -> None:
    """How well the eyes that ship see damage: the public protocols' combinations, and clean photos."""
    from conservator.evaluation.eye import bench_eye as bench
    from conservator.files import write_text
    from conservator.perception import NetworkPerception, Perception, StatisticalPerception
    from conservator.photo import find_photos

    files = find_photos(photos)
    eyes: dict[str, Perception] = {"statistics": StatisticalPerception(), "network": NetworkPerception()}
    lines = bench(eyes, files, typer.echo, seed)
    if output:
        command = command_line("bench", "eye", shown_path(photos), seed=seed, output=output)
        head = ["# The eye", "", f"`{command}`, {len(files)} photos", ""]
        write_text(output, "\n".join([*head, *lines]) + "\n")


@bench_app.command("rollback")
def bench_rollback_command(
    photos: Annotated[Path, typer.Option(help="Folder of clean photos.", exists=True)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of results; the same again resumes.")],
    policies: Annotated[str, typer.Option(help="Policies, joined by commas.")] = "rules,greedy,search,reflect",
    toolbox: Annotated[str, typer.Option(help="Toolboxes, joined by +.")] = "conservator",
    eye: Annotated[Literal["network", "statistics"], typer.Option(help="What looks at the photos.")] = "network",
    seed: Annotated[int, typer.Option(min=0, help="Seed of the damage.")] = 0,
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first photos only.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Threads that compute.")] = 2,
) -> None:
    """Whether policies take back a harmful step that was made before they looked: MiO's cases, each harmed by a tool.

    Writes results.csv, settings.json and summary.md; resumes.
    """
    import torch

    from conservator.evaluation.cases import mio_cases
    from conservator.evaluation.rollback import MEASURED, measure_repairs, repair_summary
    from conservator.evaluation.rows import BenchmarkSettings, content_of
    from conservator.files import write_text
    from conservator.perception import NetworkPerception, StatisticalPerception
    from conservator.photo import find_photos
    from conservator.tools import make_toolbox

    torch.set_num_threads(threads)
    tools = make_toolbox(toolbox)
    content = content_of(find_photos(photos)[:limit], photos, tools, toolbox, output)
    settings = BenchmarkSettings("rollback", photos.name, toolbox, eye, seed, limit, metrics=MEASURED)
    perception = NetworkPerception() if eye == "network" else StatisticalPerception()
    cases, names = list(mio_cases(photos, seed, limit)), policies.split(",")
    rows = measure_repairs(cases, names, tools, perception, settings, output, typer.echo, content)
    asked = {"photos": photos, "policies": policies, "toolbox": toolbox, "eye": eye, "seed": seed, "limit": limit}
    command = command_line("bench", "rollback", **asked, output=output)
    lines = ["# rollback", "", f"`{command}`", "", *repair_summary(rows, len(cases))]
    write_text(output / "summary.md", "\n".join(lines))
    typer.echo("\n".join(lines))


BENCHMARK_HELP = {
    "mio": "AgenticIR's 16 combinations of two and three damages (MiO), on clean photos damaged by seed.",
    "restoreagent": "RestoreAgent's seven combinations of two to four damages, on clean photos damaged by seed.",
    "clean": "Photos that need nothing: whatever is done to them is harm.",
    "pairs": "Photos that were really damaged, in a folder with subfolders input and target.",
    "real": "Photos that were really damaged, without references: what is done, its cost, no-reference scores.",
}
"""The policy benchmarks, evaluation/cases.py makes them; each is a command."""


def _register(benchmark: str, told: str) -> None:
    """Make ``conservator bench BENCHMARK``."""

    @bench_app.command(benchmark, help=told + " Writes results.csv, settings.json and summary.md; resumes.")
    def command(
        photos: Annotated[Path, typer.Option(help="Folder of photos; for pairs, of an input and a target folder.")],
        output: Annotated[Path, typer.Option("--output", "-o", help="Folder of results; the same again resumes.")],
        policies: Annotated[
            str, typer.Option(help="Policies and strategies, joined by commas; random_order:greedy derives one.")
        ] = "none,rules,greedy",
        toolbox: Annotated[str, typer.Option(help="Toolboxes, joined by +.")] = "conservator",
        eye: Annotated[Literal["network", "statistics"], typer.Option(help="What looks at the photos.")] = "network",
        rank: Annotated[
            bool, typer.Option("--rank", help="Enumerate all toolchains of each case and rank each policy's.")
        ] = False,
        objective: Annotated[
            Literal["fidelity", "balanced", "perceptual"], typer.Option(help="What toolchains are ranked by.")
        ] = "balanced",
        seed: Annotated[int, typer.Option(min=0, help="Seed of the damage.")] = 0,
        limit: Annotated[int | None, typer.Option(min=1, help="Use the first photos only.")] = None,
        threads: Annotated[int, typer.Option(min=1, help="Threads that compute.")] = 2,
    ) -> None:
        import torch

        from conservator.evaluation.rows import BenchmarkSettings
        from conservator.metrics import metrics_at_hand

        torch.set_num_threads(threads)
        ranked, metrics = objective if rank else None, tuple(metric.name for metric in metrics_at_hand())
        settings = BenchmarkSettings(benchmark, photos.name, toolbox, eye, seed, limit, ranked, metrics)
        _run(settings, photos, output, policies)


for _name, _told in BENCHMARK_HELP.items():
    _register(_name, _told)


@bench_app.command("report")
def bench_report_command(
    results: Annotated[Path, typer.Argument(help="Output folder of a policy benchmark.")],
    photos: Annotated[
        Path | None, typer.Option(help="The folder of photos that was used: examples are made from it again.")
    ] = None,
) -> None:
    """One HTML page (report.html) and Markdown tables (summary.md) of a benchmark's results, plots, examples."""
    from conservator.apps.bench_report import save_bench_report

    typer.echo(save_bench_report(results, photos))


class Telling:
    """Lines about a benchmark as it runs: each result, and now and then how far an enumeration is."""

    def __init__(self) -> None:
        self._told = time.monotonic()

    def result(self, done: int, total: int, row: BenchmarkRow | None) -> None:
        """Print what a policy made of a case."""
        if row is not None:
            rank = f", rank {row.rank:.0%}" if row.toolchains else ""
            gain = "" if math.isnan(row.gain) else f"{row.gain:+.2f} dB "
            treated = f"{gain}{row.toolchain or 'untouched'}{rank} ({row.seconds:.1f} s)"
            typer.echo(f"{done}/{total} {row.combination} {row.photo} {row.policy}: {treated}")

    def enumeration(self, case: str, done: int, total: int, left: float) -> None:
        """Print how many toolchains are scored, at most every five seconds."""
        if time.monotonic() - self._told > 5:
            self._told = time.monotonic()
            typer.echo(f"{case}: {done} of {total} toolchains, about {left:.0f} s left", err=True)


def _run(settings: BenchmarkSettings, photos: Path, output: Path, policies: str) -> None:
    """Measure policies, telling each result as it comes, then the tables."""
    from conservator.apps.bench_report import write_summary
    from conservator.evaluation.cases import make_cases
    from conservator.evaluation.evaluate import evaluate
    from conservator.evaluation.rows import content_of
    from conservator.perception import NetworkPerception, StatisticalPerception
    from conservator.photo import find_photos
    from conservator.tools import make_toolbox

    eye = NetworkPerception() if settings.eye == "network" else StatisticalPerception()
    cases = make_cases(settings.benchmark, photos, settings.seed, settings.limit)
    told, toolbox = Telling(), make_toolbox(settings.toolbox)
    # of pairs all, since both of each must stay as they are
    limit = None if settings.benchmark == "pairs" else settings.limit
    content = content_of(find_photos(photos)[:limit], photos, toolbox, settings.toolbox, output)
    evaluate(cases, policies.split(","), toolbox, eye, settings, output, told.result, told.enumeration, content)
    typer.echo("\n".join(write_summary(output)))

"""``conservator bench``: what tools, perceptions and policies are worth; one command per policy benchmark."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from conservator.apps.cli.options import with_options
from conservator.commands import command_line, shown_path
from conservator.errors import name_not_found
from conservator.kinds import Objective
from conservator.request import Request

if TYPE_CHECKING:
    from conservator.evaluation.rows import BenchmarkRow, BenchmarkSettings, Content

bench_app = typer.Typer(help="Measure tools, perceptions and policies, and report on it.", no_args_is_help=True)

PerceptionOption = Annotated[
    str, typer.Option(help="What looks at the photos: perception or statistics, which ship, or a file of weights.")
]


@bench_app.callback()
def refuse_stale(context: typer.Context) -> None:
    """Measure tools, perceptions and policies, and report on it. Weights that are stale are an error here."""
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
    perception: PerceptionOption = "perception",
    seed: Annotated[int, typer.Option(min=0, help="Seed of damage and toolchains.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the tables as Markdown.")] = None,
) -> None:
    """How well perception tells which of two treated pictures is nearer to the undamaged photo, without seeing that."""
    from conservator.evaluation.quality import bench_quality as bench
    from conservator.files import write_text
    from conservator.photo import find_photos
    from conservator.restorer import Restorer

    files = find_photos(photos)
    restorer = Restorer(Request(toolbox=toolbox, perception=perception))
    tools, seeing = restorer.toolbox, restorer.perception
    lines = bench(seeing, files, tools, typer.echo, seed)
    if output:
        asked = {"toolbox": toolbox, "perception": perception, "seed": seed}
        command = command_line("bench", "quality", shown_path(photos), **asked, output=output)
        write_text(
            output, "\n".join(["# Which is better?", "", f"`{command}`, {len(files)} photos", "", *lines]) + "\n"
        )


@bench_app.command("perception")
def bench_perception_command(
    photos: Annotated[Path, typer.Argument(help="Folder of clean photos.", exists=True)],
    weights: Annotated[
        list[str] | None,
        typer.Option(help="A trained perception: one that ships or a file of weights; may be given again."),
    ] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the damage.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the tables as Markdown.")] = None,
) -> None:
    """How well perceptions see damage, those that ship or any other: the protocols' combinations, and clean photos."""
    from conservator.evaluation.perception import bench_perception as bench
    from conservator.files import write_text
    from conservator.networks.store import NetworkStore
    from conservator.perception import load_perception
    from conservator.photo import find_photos

    files, networks = find_photos(photos), NetworkStore()
    perceptions = {name: load_perception(name, networks=networks) for name in weights or ("statistics", "perception")}
    lines = bench(perceptions, files, typer.echo, seed)
    if output:
        chosen = [part for name in weights or () for part in ("--weights", name)]
        command = command_line("bench", "perception", shown_path(photos), *chosen, seed=seed, output=output)
        head = ["# Perception", "", f"`{command}`, {len(files)} photos", ""]
        write_text(output, "\n".join([*head, *lines]) + "\n")


@bench_app.command("rollback")
def bench_rollback_command(
    photos: Annotated[Path, typer.Option(help="Folder of clean photos.", exists=True)],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of results; the same again resumes.")],
    policies: Annotated[str, typer.Option(help="Policies, joined by commas.")] = "rules,greedy,search,reflect",
    toolbox: Annotated[str, typer.Option(help="Toolboxes, joined by +.")] = "conservator",
    perception: PerceptionOption = "perception",
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
    from conservator.photo import find_photos
    from conservator.restorer import Restorer

    torch.set_num_threads(threads)
    restorer = Restorer(Request(toolbox=toolbox, perception=perception))
    tools, seeing = restorer.toolbox, restorer.perception
    content = _with_file(content_of(find_photos(photos)[:limit], photos, tools, toolbox, output), perception)
    settings = BenchmarkSettings("rollback", photos.name, toolbox, perception, seed, limit, metrics=MEASURED)
    cases, names = list(mio_cases(photos, seed, limit)), policies.split(",")
    rows = measure_repairs(cases, names, tools, seeing, settings, output, typer.echo, content)
    asked = {"photos": photos, "policies": policies, "toolbox": toolbox, "perception": perception, "seed": seed}
    command = command_line("bench", "rollback", **asked, limit=limit, output=output)
    lines = ["# rollback", "", f"`{command}`", "", *repair_summary(rows, len(cases))]
    write_text(output / "summary.md", "\n".join(lines))
    typer.echo("\n".join(lines))


BENCHMARK_HELP = {
    "mio": "AgenticIR's 16 combinations of two and three damages (MiO), on clean photos damaged by seed.",
    "restoreagent": "RestoreAgent's seven combinations of two to four damages, on clean photos damaged by seed.",
    "settings": "Restore-R1's four settings of two to five damages, on clean photos damaged by seed.",
    "all-in-one": "The four combinations on which RestoreAgent meets all-in-one networks, damaged by seed.",
    "mixture": "The natural mixture of risk control: half undamaged, a quarter one damage, a quarter two or three.",
    "clean": "Undamaged pictures of many kinds, or those of a folder: whatever is done to them is harm.",
    "pairs": "Photos that were really damaged, in a folder with subfolders input and target.",
    "real": "Photos that were really damaged, with references: the sets of a part of the photos (docs/data.md).",
    "unpaired": "Photos that were really damaged, without references: what is done, its cost, no-reference scores.",
}
"""The policy benchmarks, evaluation/cases.py makes them; each is a command."""
_WRITES = " Writes results.csv, settings.json and summary.md; resumes."
_FLAGS = {"output": "--output -o", "why": "--open"}
MeasuredPhotos = Annotated[Path, typer.Option(help="Folder of photos; with --part, the one of train/research and val.")]
MeasuredFolder = Annotated[Path, typer.Option(help="Folder of photos; for pairs, of an input and a target folder.")]
DataRoot = Annotated[Path, typer.Argument(help="The folder that holds train/research and val.", exists=True)]
PartName = Literal["development", "calibration", "test_1", "test_2"]
WholePart = Annotated[PartName, typer.Option("--part", help="The part of the photos.")]
PerhapsPart = Annotated[PartName | None, typer.Option("--part", help="The part of the photos, instead of a folder.")]


@dataclass(frozen=True)
class Comparison:
    """The options that all policy benchmarks have."""

    output: Path
    """Folder of results; the same again resumes."""
    policies: str = "none,rules,greedy"
    """Policies and strategies, joined by commas; random_order:greedy derives one."""
    against: str | None = None
    """The policy that the others are compared with, photo by photo (default: the first that ships)."""
    toolbox: str = "conservator"
    """Toolboxes, joined by +."""
    perception: str = "perception"
    """What looks at the photos: perception or statistics, which ship, or a file of weights."""
    rank: bool = False
    """Enumerate all toolchains of each case and rank each policy's."""
    objective: Objective = "balanced"
    """What toolchains are ranked by."""
    enumerations: Path | None = None
    """Folder of enumerations that several results share, say those at two risks (default: one within the output)."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of damage and drawings."""
    limit: int | None = field(default=None, metadata={"min": 1})
    """Use the first photos only, of each set or stratum where there are several."""
    risk: float = field(default=Request.risk, metadata={"min": 0, "max": 1})
    """The risk that policies are held to, as users are; 1: to none."""
    upscale: bool = False
    """Let every policy enlarge, as users may; else none does."""
    threads: int = field(default=2, metadata={"min": 1})
    """Threads that compute."""
    why: str | None = None
    """Why a test part is opened, which is refused without a reason."""

    def settings(self, benchmark: str, photos: Path, part: str | None) -> BenchmarkSettings:
        """What the results depend on."""
        from conservator.evaluation.rows import BenchmarkSettings
        from conservator.metrics import metrics_at_hand

        ranked, metrics = self.objective if self.rank else None, tuple(metric.name for metric in metrics_at_hand())
        asked = self.toolbox, self.perception, self.seed, self.limit, ranked, metrics, self.risk
        return BenchmarkSettings(benchmark, photos.name, *asked, part=part, upscale=self.upscale)


def _damaged_by_seed(benchmark: str) -> None:
    """Make ``conservator bench BENCHMARK`` of undamaged photos, which may be those of a part."""

    @bench_app.command(benchmark, help=BENCHMARK_HELP[benchmark] + _WRITES)
    @with_options(Comparison, "asked", flags=_FLAGS)
    def command(photos: MeasuredPhotos, part: PerhapsPart = None, *, asked: Comparison) -> None:
        run_benchmark(benchmark, photos, part, asked)


def _of_one_folder(benchmark: str) -> None:
    """Make ``conservator bench BENCHMARK`` of the photos of one folder."""

    @bench_app.command(benchmark, help=BENCHMARK_HELP[benchmark] + _WRITES)
    @with_options(Comparison, "asked", flags=_FLAGS)
    def command(photos: MeasuredFolder, *, asked: Comparison) -> None:
        run_benchmark(benchmark, photos, None, asked)


@bench_app.command("real", help=BENCHMARK_HELP["real"] + _WRITES)
@with_options(Comparison, "asked", flags=_FLAGS)
def bench_real_command(data: DataRoot, part: WholePart, *, asked: Comparison) -> None:
    """Real pairs of a part."""
    run_benchmark("real", data, part, asked)


@bench_app.command("clean", help=BENCHMARK_HELP["clean"] + _WRITES)
@with_options(Comparison, "asked", flags=_FLAGS)
def bench_clean_command(
    data: Annotated[
        Path, typer.Argument(help="Folder of photos; with --part, the one of train/research and val.", exists=True)
    ],
    part: PerhapsPart = None,
    *,
    asked: Comparison,
) -> None:
    """Undamaged pictures of a part, or the photos of a folder."""
    run_benchmark("clean", data, part, asked)


for _name in ("mio", "restoreagent", "all-in-one", "settings", "mixture"):
    _damaged_by_seed(_name)
for _name in ("pairs", "unpaired"):
    _of_one_folder(_name)


@bench_app.command("report")
def bench_report_command(
    results: Annotated[Path, typer.Argument(help="Output folder of a policy benchmark.")],
    photos: Annotated[
        Path | None, typer.Option(help="The folder of photos that was used: examples are made from it again.")
    ] = None,
    against: Annotated[
        str | None, typer.Option(help="The policy that the others are compared with (default: the first that ships).")
    ] = None,
) -> None:
    """One HTML page (report.html) and Markdown tables (summary.md) of a benchmark's results, plots, examples."""
    from conservator.apps.bench_report import save_bench_report

    typer.echo(save_bench_report(results, photos, against))


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


def _with_file(content: Content, perception: str) -> Content:
    """The content with the hash of a perception's file of weights, where it is not one that ships."""
    from conservator.files import sha256

    path = Path(perception)
    if path.suffix != ".safetensors":
        return content
    return replace(content, weights={**content.weights, path.name: sha256(path)})


def run_benchmark(benchmark: str, photos: Path, part: str | None, asked: Comparison) -> None:
    """Measure policies, telling each result as it comes, then the tables."""
    import torch

    from conservator.apps.bench_report import benchmark_command, write_summary
    from conservator.evaluation.cases import make_cases
    from conservator.evaluation.evaluate import evaluate
    from conservator.evaluation.parts import opened_part, opening
    from conservator.evaluation.rows import content_of
    from conservator.restorer import Restorer

    torch.set_num_threads(asked.threads)
    policies, settings, output = asked.policies.split(","), asked.settings(benchmark, photos, part), asked.output
    if asked.against is not None and asked.against not in policies:
        raise name_not_found("policy", asked.against, policies)
    cases = make_cases(benchmark, photos, settings.seed, settings.limit, part)
    files = list(dict.fromkeys(path for case in cases for path in case.files))
    command = benchmark_command(settings, policies, shown_path(photos), output)
    opened = opening(part or opened_part(files), asked.why, command)
    told, restorer = Telling(), Restorer(Request(toolbox=settings.toolbox, perception=settings.perception))
    toolbox, perception = restorer.toolbox, restorer.perception
    content = content_of(files, photos, toolbox, settings.toolbox, output)
    content = _with_file(content, settings.perception)
    if opened:
        typer.echo(f"Add this line to docs/results/openings.md:\n{opened}")
    evaluate(
        cases,
        policies,
        toolbox,
        perception,
        settings,
        output,
        told.result,
        told.enumeration,
        content,
        enumerations=asked.enumerations,
    )
    typer.echo("\n".join(write_summary(output, asked.against)))

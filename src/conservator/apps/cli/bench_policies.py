"""``conservator bench policies``: the one table of all policies."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from conservator.apps.cli.bench import Comparison, MeasuredPhotos, PerhapsPart, bench_app, run_benchmark
from conservator.errors import ConservatorError
from conservator.request import Request

_USUAL = (
    "none,random_both,predefined,rules,reflect,stages,traverse,generalist,mllm-once,mllm,r1,greedy,beam,search,oracle"
)
_OTHERS = ("rl-restore:compact=dqn:compact",)


@bench_app.command("policies")
def bench_policies_command(
    photos: MeasuredPhotos,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of results; the same again resumes.")],
    part: PerhapsPart = None,
    benchmark: Annotated[
        Literal["mio", "restoreagent", "mixture"], typer.Option(help="What the photos are damaged by.")
    ] = "mio",
    policies: Annotated[str, typer.Option(help="Policies of the default toolbox, joined by commas.")] = _USUAL,
    entry: Annotated[
        list[str] | None,
        typer.Option(help="TOOLBOX=POLICY,...: policies with tools of their own; may be given again."),
    ] = None,
    risks: Annotated[str, typer.Option(help="Risks that they are held to, joined by commas.")] = f"{Request.risk:g},1",
    limit: Annotated[int | None, typer.Option(min=1, help="Use the first photos only.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of damage and drawings.")] = 0,
    threads: Annotated[int, typer.Option(min=1, help="Threads that compute.")] = 1,
    why: Annotated[str | None, typer.Option("--open", help="Why a test part is opened.")] = None,
) -> None:
    """Gain, harm, calls and seconds of the policies that ship, by default at the usual risk and without risk control.

    Models of your own (tir, mllm) are named by --policies; chat is left out. Writes policies.md, and the results of
    each toolbox at each risk into a folder; resumes.
    """
    from conservator.commands import command_line
    from conservator.evaluation.every_policy import MeasuredWith, policies_table
    from conservator.evaluation.rows import BenchmarkRow, read_rows
    from conservator.evaluation.strategies import is_baseline
    from conservator.files import write_text

    entries = [f"conservator={policies}", *(_OTHERS if entry is None else entry)]
    wrong = [one for one in entries if not all(one.partition("="))]
    if wrong:
        raise ConservatorError(f"--entry {wrong[0]} names no toolbox and policy; say rl-restore:compact=dqn:compact")
    asked = Comparison(output, seed=seed, limit=limit, threads=threads, why=why)
    measured: dict[MeasuredWith, list[BenchmarkRow]] = {}
    for toolbox, _, names in (one.partition("=") for one in entries):
        for place, risk in enumerate(_risks(risks)):
            # chance, the oracle and the like are held to no risk: once is enough
            chosen = [name for name in names.split(",") if place == 0 or not is_baseline(name)]
            if chosen:
                folder = output / f"{toolbox.replace(':', '_')}_{risk:g}"
                here = replace(asked, output=folder, policies=",".join(chosen), toolbox=toolbox, risk=risk)
                run_benchmark(benchmark, photos, part, here)
                rows = read_rows(folder / "results.csv", BenchmarkRow)
                found = measured.setdefault(MeasuredWith(toolbox, risk), [])  # another entry may name this toolbox
                found += [row for row in rows if row.policy in chosen]
    told = {"photos": photos, "part": part, "benchmark": benchmark, "policies": policies, "entry": entry}
    command = command_line("bench", "policies", **told, risks=risks, limit=limit, seed=seed, output=output)
    lines = [f"# All policies: {benchmark}", "", f"`{command}`", "", *policies_table(measured).markdown()]
    write_text(output / "policies.md", "\n".join(lines))
    typer.echo("\n".join(lines))


def _risks(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = []
    if not found or not all(0 < risk <= 1 for risk in found):
        raise ConservatorError(f"--risks {text} are no risks above 0 and up to 1, joined by commas; say 0.02,1")
    return found

"""``conservator bench rl-restore``: agents of RL-Restore's kind on its patches."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conservator.apps.cli.bench import bench_app
from conservator.errors import ConservatorError

if TYPE_CHECKING:
    from conservator.degradations.patches import Patches
    from conservator.evaluation.rl_restore import PatchRow


@bench_app.command("rl-restore")
def bench_rl_restore(
    photos: Annotated[list[Path], typer.Option(help="Folder of clean photos; give it again for more.", exists=True)],
    entry: Annotated[
        list[str] | None,
        typer.Option(help="TOOLBOX=POLICY, or TOOLBOX= for its baselines alone; give it again for more."),
    ] = None,
    network: Annotated[
        list[str] | None, typer.Option(help="TOOLBOX/TOOL that stands for itself, say experts/denoise_medium.")
    ] = None,
    count: Annotated[int, typer.Option(min=1, help="Patches per level.")] = 1000,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the patches and of chance.")] = 0,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the table as Markdown.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="Tools that run at the same time.")] = 2,
) -> None:
    """Gain of agents, chance, the best single tool and the greedy oracle: mild, moderate, severe and clean patches."""
    import torch

    from conservator.degradations.patches import PATCH_LEVELS, load_pyramids, make_patches
    from conservator.evaluation.rl_restore import patches_table
    from conservator.files import write_text

    torch.set_num_threads(1)
    entries = entry or ["rl-restore:published=dqn:published"]

    def make_levels() -> list[Patches]:
        pyramids = load_pyramids(photos)
        return [make_patches(pyramids, name, draw, count, seed) for name, draw in PATCH_LEVELS.items()]

    rows, oracles = _measured(entries, network or [], make_levels, seed, threads)
    command = f"conservator bench rl-restore {' '.join(f'--photos {p.name}' for p in photos)}"
    command += "".join(f" --entry {e}" for e in entries) + "".join(f" --network {n}" for n in network or [])
    lines = [f"`{command} --count {count} --seed {seed}`", "", *patches_table(rows, oracles)]
    typer.echo("\n".join(lines))
    if output:
        write_text(output, "\n".join(["# RL-Restore's patches", "", *lines]))


def _measured(
    entries: Sequence[str],
    networks: Sequence[str],
    make_levels: Callable[[], list[Patches]],
    seed: int,
    threads: int,
) -> tuple[list[PatchRow], list[PatchRow]]:
    """The rows of the table, and those of the oracles among them."""
    from conservator.evaluation.rl_restore import PatchEntry, measure_entry, measure_patches
    from conservator.perception import Blind
    from conservator.policies import FixedOrder, PolicyContext, make_policy
    from conservator.pool import LocalPool
    from conservator.tools import make_toolbox

    rows: list[PatchRow] = []
    oracles: list[PatchRow] = []
    with ExitStack() as stack:
        prepared = []
        for text in entries:  # whatever is wrong with one of them is said before anything is computed
            name, _, policy = text.partition("=")
            toolbox = make_toolbox(name)
            pool = stack.enter_context(LocalPool(toolbox, workers=threads, max_batch=1, queue_size=4096))
            agents = [make_policy(policy, PolicyContext(pool, Blind(), seed=seed))] if policy else []
            prepared.append(PatchEntry(name, toolbox, pool, agents))
        levels = make_levels()
        for item in prepared:
            found, best = measure_entry(item, levels, typer.echo, seed)
            rows += found
            oracles += best
        for text in networks:
            name, _, tool = text.rpartition("/")
            toolbox = make_toolbox(name).only(tool)
            pool = stack.enter_context(LocalPool(toolbox, workers=threads, max_batch=1, queue_size=4096))
            rows += [measure_patches(text, FixedOrder(tool), patches, toolbox, pool) for patches in levels]
    return rows, oracles


@bench_app.command("rl-restore-picks")
def bench_rl_restore_picks(
    photos: Annotated[list[Path], typer.Option(help="Folder of clean photos; give it again for more.", exists=True)],
    entry: Annotated[str, typer.Option(help="TOOLBOX=POLICY.")] = "rl-restore=dqn",
    count: Annotated[int, typer.Option(min=1, help="Patches per damage.")] = 200,
    whole: Annotated[int, typer.Option(min=0, help="Whole photos on which regions are compared with the vote.")] = 20,
    side: Annotated[int, typer.Option(min=63, help="Of a region, in pixels.")] = 192,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the damage.")] = 0,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of picks.md and picks.png.")] = Path(
        "out/picks"
    ),
    threads: Annotated[int, typer.Option(min=1, help="Tools that run at the same time.")] = 2,
) -> None:
    """What an agent picks first per damage and strength, and whether a choice per region beats its vote."""
    import torch

    from conservator.degradations.patches import load_pyramids
    from conservator.evaluation.rl_restore_picks import draw_picks, first_picks, picks_table, regions_against_vote
    from conservator.files import write_text
    from conservator.perception import Blind
    from conservator.policies import DqnPolicy, PolicyContext, make_policy
    from conservator.pool import LocalPool
    from conservator.tools import make_toolbox

    torch.set_num_threads(1)
    name, _, agent = entry.partition("=")
    toolbox, pyramids = make_toolbox(name), load_pyramids(photos)
    with LocalPool(toolbox, workers=threads, max_batch=1, queue_size=4096) as pool:
        policy = make_policy(agent, PolicyContext(pool, Blind(), seed=seed))
        if not isinstance(policy, DqnPolicy):
            raise ConservatorError(f"{agent} picks no tools for patches; give an agent: dqn, dqn:published or dqn:FILE")
        names, shares = first_picks(policy, pyramids, toolbox, pool, count, seed)
        actions = (*toolbox, "stop")
        draw_picks(output / "picks.png", names, shares, actions)
        lines = ["# First picks", "", f"`{entry}`, {count} patches each", "", *picks_table(names, shares, actions)]
        if whole:
            lines += ["# Regions", "", *regions_against_vote(policy, pyramids[:whole], toolbox, pool, seed, side)]
    write_text(output / "picks.md", "\n".join(lines))
    typer.echo("\n".join(lines))

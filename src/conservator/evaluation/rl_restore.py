"""RL-Restore's benchmark: what agents, chance, single tools and an oracle gain on patches (table 3 of the paper)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from conservator.degradations.patches import UNDAMAGED_PSNR, Patches
from conservator.evaluation.intervals import interval
from conservator.image import Image
from conservator.metrics.fidelity import psnr_of_each
from conservator.perception.perception import Blind
from conservator.policies import FixedOrder, RandomPolicy
from conservator.policies.dqn import LONGEST
from conservator.pool import Pool
from conservator.session import Policy, Session, Stop, Trajectory, run_together
from conservator.tools.tool import Toolbox

_TOGETHER = 64
"""Sessions that are held at the same time."""


@dataclass(frozen=True)
class PatchRow:
    """What one method makes of the patches of one level; all (N,)."""

    method: str
    level: str
    psnr_in: Tensor
    psnr: Tensor
    tools: Tensor
    """How many tools it applied."""
    stopped: Tensor
    """Whether it stopped by itself."""

    @property
    def gains(self) -> Tensor:
        """PSNR (RGB) gained over the input, dB."""
        return self.psnr - self.psnr_in


def play(policy: Policy, images: Image, toolbox: Toolbox, pool: Pool) -> list[Trajectory]:
    """One episode of at most three decisions on each image of (N, 3, H, W), many of them stepping together."""
    trajectories: list[Trajectory] = []
    for part in images.split(_TOGETHER):
        sessions = [Session(image[None], toolbox, pool, Blind(), LONGEST) for image in part]
        trajectories += run_together(policy, sessions)
    return trajectories


def measure_patches(method: str, policy: Policy, patches: Patches, toolbox: Toolbox, pool: Pool) -> PatchRow:
    """What a policy gains."""
    trajectories = play(policy, patches.damaged, toolbox, pool)
    decisions = [t.last.decision for t in trajectories]
    return PatchRow(
        method,
        patches.level,
        psnr_of_each(patches.damaged, patches.clean, UNDAMAGED_PSNR),
        psnr_of_each(torch.cat([t.last.image for t in trajectories]), patches.clean, UNDAMAGED_PSNR),
        torch.tensor([len(t.toolchain()) for t in trajectories]),
        torch.tensor([d is not None and isinstance(d.action, Stop) for d in decisions]),
    )


def greedy_oracle(method: str, patches: Patches, toolbox: Toolbox, pool: Pool) -> tuple[PatchRow, Tensor]:
    """The tool that gains most at each of three steps, none where none gains; and the first gains (tools, N)."""
    image, clean = patches.damaged.clone(), patches.clean
    before = best = psnr_of_each(image, clean, UNDAMAGED_PSNR)
    live, count = torch.ones(len(image), dtype=torch.bool), torch.zeros(len(image), dtype=torch.int64)
    first = torch.empty(0)
    for step in range(LONGEST):
        indices = live.nonzero()[:, 0]
        if not len(indices):
            break
        tried = try_all(image[indices], toolbox, pool)
        scores = torch.stack([psnr_of_each(t, clean[indices], UNDAMAGED_PSNR) for t in tried])
        if step == 0:
            first = scores - before
        top, winner = scores.max(0)
        better = top > best[indices]
        moved = indices[better]
        image[moved] = torch.stack(tried)[winner[better], better.nonzero()[:, 0]]
        best = best.index_copy(0, moved, top[better])
        count[moved] += 1
        live[indices[~better]] = False
    return PatchRow(method, patches.level, before, best, count, ~live), first


def try_all(images: Image, toolbox: Toolbox, pool: Pool) -> list[Image]:
    """What every tool makes of images (N, 3, H, W): one such batch for each tool, in the toolbox's order."""
    calls = [[pool.submit(name, part) for part in images.split(_TOGETHER)] for name in toolbox]
    return [torch.cat([call.result() for call in parts]) if parts else images for parts in calls]


@dataclass(frozen=True)
class PatchEntry:
    """A toolbox, where its models run, and the agents that work with it."""

    name: str
    toolbox: Toolbox
    pool: Pool
    agents: Sequence[Policy] = ()


def measure_entry(
    entry: PatchEntry, levels: Sequence[Patches], report: Callable[[str], None], seed: int = 0
) -> tuple[list[PatchRow], list[PatchRow]]:
    """Rows of an entry's agents, chance, its best single tool and its oracle; and the oracle's alone.

    The best single tool is that of each level, which a user could not know.
    """
    rows, oracles, firsts = [], [], {}
    for patches in levels:
        row, first = greedy_oracle(f"{entry.name}: greedy oracle", patches, entry.toolbox, entry.pool)
        oracles.append(row)
        firsts[patches.level] = first
        report(_said(row))
    names = list(entry.toolbox)
    policies: list[tuple[str, Policy]] = [(f"{entry.name}: {agent.name}", agent) for agent in entry.agents]
    policies.append((f"{entry.name}: random chain", RandomPolicy(seed)))
    for patches in levels:
        # the and the paper's: the best for the level, which a user could not know
        best = names[int(firsts[patches.level].mean(1).argmax())]
        single = measure_patches(
            f"{entry.name}: best single tool", FixedOrder(best), patches, entry.toolbox, entry.pool
        )
        rows.append(single)
        report(f"{_said(single)} ({best})")
    for name, policy in policies:
        for patches in levels:
            rows.append(measure_patches(name, policy, patches, entry.toolbox, entry.pool))
            report(_said(rows[-1]))
    return [*rows, *oracles], oracles


def _said(row: PatchRow) -> str:
    before, gain, tools = (float(x.mean()) for x in (row.psnr_in, row.gains, row.tools.float()))
    return f"{row.level}: {row.method}: {before:.2f} {gain:+.2f} dB, {tools:.1f} tools"


def patches_table(rows: Sequence[PatchRow], oracles: Sequence[PatchRow]) -> list[str]:
    """Gain per method and level with its confidence interval, its share of the oracle's, and who stops, as Markdown."""
    levels = list(dict.fromkeys(row.level for row in rows))
    best = {(_entry(row.method), row.level): float(row.gains.mean()) for row in oracles}
    inputs = {row.level: float(row.psnr_in.mean()) for row in rows}
    head = [f"{level}, input {inputs[level]:.2f} dB" for level in levels]
    lines = [
        f"| method | {' | '.join(head)} | of the oracle's gain | tools | stops |",
        "|---" * (len(levels) + 4) + "|",
    ]
    for method in dict.fromkeys(row.method for row in rows):
        part = {row.level: row for row in rows if row.method == method}
        cells = [_cell(part[level]) if level in part else "" for level in levels]
        shared = [le for le in levels if le != "clean" and (_entry(method), le) in best]
        share = " / ".join(_share(float(part[le].gains.mean()), best[_entry(method), le]) for le in shared)
        used = " / ".join(f"{part[le].tools.float().mean():.1f}" for le in levels if le in part)
        stops = " / ".join(f"{part[le].stopped.float().mean():.0%}" for le in levels if le in part)
        lines.append(f"| {method} | {' | '.join(cells)} | {share} | {used} | {stops} |")
    return [*lines, ""]


def _share(gain: float, oracle: float) -> str:
    return f"{gain / oracle:.0%}" if oracle > 0 else "–"


def _entry(method: str) -> str:
    return method.rpartition(": ")[0]


def _cell(row: PatchRow) -> str:
    if row.level == "clean":
        return f"{(row.tools == 0).float().mean():.1%} untouched"
    low, high = interval(row.gains.double().numpy())
    return f"{float(row.gains.mean()):+.2f} ({low:+.2f}, {high:+.2f})"

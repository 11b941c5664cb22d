"""What an agent picks first, per damage and strength, as a table and as a picture; and regions against the vote."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from conservator.degradations import degrade, rl_restore_recipe
from conservator.degradations.patches import (
    DAMAGE_BANDS,
    PATCH_LEVELS,
    UNDAMAGED_PSNR,
    DrawRecipe,
    Pyramid,
    make_patches,
    single,
)
from conservator.evaluation.rl_restore import play
from conservator.image import Image, to_image
from conservator.metrics.fidelity import psnr_of_each
from conservator.perception.perception import Blind
from conservator.policies import DqnPolicy
from conservator.policies.dqn import LONGEST
from conservator.policies.regions import restore_regions
from conservator.pool import Pool
from conservator.session import Session, run
from conservator.tools.tool import Toolbox

_CELL, _LEFT, _TOP = 56, 150, 40


def first_picks(
    policy: DqnPolicy, pyramids: Sequence[Pyramid], toolbox: Toolbox, pool: Pool, count: int, seed: int
) -> tuple[list[str], NDArray[np.float64]]:
    """For each single damage in each range, and for each level, the share (rows, tools + 1) of first actions."""
    draws: dict[str, DrawRecipe] = {
        f"{kind} {low:g} to {high:g}": single(kind, band)
        for kind, bands in DAMAGE_BANDS.items()
        for band, (low, high) in enumerate(bands)
    }
    draws |= PATCH_LEVELS
    rows = []
    for name, draw in draws.items():
        patches = make_patches(pyramids, name, draw, count, seed)
        chains = [t.toolchain() for t in play(policy, patches.damaged, toolbox, pool)]
        first = [chain[0] if chain else "stop" for chain in chains]
        rows.append([first.count(action) / count for action in (*toolbox, "stop")])
    return list(draws), np.array(rows)


def picks_table(names: Sequence[str], shares: NDArray[np.float64], actions: Sequence[str]) -> list[str]:
    """The shares as Markdown; empty cells are below one half per cent."""
    lines = [f"| damage | {' | '.join(actions)} |", "|---" * (len(actions) + 1) + "|"]
    for name, row in zip(names, shares, strict=True):
        lines.append(f"| {name} | " + " | ".join(f"{v:.0%}" if v >= 0.005 else "" for v in row) + " |")
    return [*lines, ""]


def draw_picks(path: Path, names: Sequence[str], shares: NDArray[np.float64], actions: Sequence[str]) -> None:
    """The shares as a picture: the darker, the oftener picked."""
    from PIL import Image as Pictures
    from PIL import ImageDraw

    picture = Pictures.new("RGB", (_LEFT + _CELL * len(actions), _TOP + 24 * len(names)), "white")
    draw = ImageDraw.Draw(picture)
    for column, action in enumerate(actions):
        kind, _, number = action.removeprefix("rl_").rpartition("_")
        draw.text((_LEFT + _CELL * column + 4, 14), f"{kind} {number}".strip(), fill="black")
    for row, name in enumerate(names):
        top = _TOP + 24 * row
        draw.text((6, top + 6), name, fill="black")
        for column, share in enumerate(shares[row]):
            left = _LEFT + _CELL * column
            shade = tuple(round(255 + float(share) * (dark - 255)) for dark in (31, 90, 160))
            draw.rectangle([left, top, left + _CELL - 2, top + 22], fill=shade)
            if share >= 0.005:
                draw.text((left + 12, top + 6), f"{share:.0%}", fill="white" if share > 0.5 else "black")
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path)


def regions_against_vote(
    policy: DqnPolicy, pyramids: Sequence[Pyramid], toolbox: Toolbox, pool: Pool, seed: int, side: int
) -> list[str]:
    """Mean gain (PSNR, RGB, dB) on whole photos of one vote and of a choice per region, as Markdown.

    Photos are damaged alike everywhere, or otherwise in their left than in their right half (all levels moderate).
    """
    lines = ["| damage | photos | input | one vote | per region |", "|---|---|---|---|---|"]
    for differs in (False, True):
        scores = []
        for i, pyramid in enumerate(pyramids):
            rng = np.random.default_rng([seed, i])
            clean = to_image(pyramid[0])
            damaged = _damaged(clean, differs, rng)
            voted = run(policy, Session(damaged, toolbox, pool, Blind(), LONGEST)).last.image
            parts, _ = restore_regions(damaged, policy, toolbox, pool, side)
            scores.append([float(psnr_of_each(x, clean, UNDAMAGED_PSNR)) for x in (damaged, voted, parts)])
        before, voted_psnr, parts_psnr = np.mean(scores, axis=0)
        what = "differs from left to right" if differs else "the same everywhere"
        gains = f"{voted_psnr - before:+.2f} | {parts_psnr - before:+.2f}"
        lines.append(f"| {what} | {len(scores)} | {before:.2f} | {gains} |")
    return [*lines, ""]


def _damaged(clean: Image, differs: bool, rng: np.random.Generator) -> Image:
    left = degrade(clean, rl_restore_recipe("moderate", rng))
    if not differs:
        return left
    right = degrade(clean, rl_restore_recipe("moderate", rng))
    middle = clean.shape[-1] // 2
    return torch.cat([left[..., :middle], right[..., middle:]], -1)

"""An agent region by region, for photos whose damage differs from place to place: choose per tile, blend."""

from __future__ import annotations

from collections import defaultdict

import torch
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.image import Image, check_image
from conservator.networks.dqn import Q_PATCH
from conservator.perception.perception import Blind
from conservator.policies.dqn import BLOCK, LONGEST
from conservator.pool import Pool
from conservator.session import Policy, Session, run_together
from conservator.tools.tool import Toolbox

_TOGETHER = 64
"""Regions that are held at the same time."""


def restore_regions(
    image: Image, policy: Policy, toolbox: Toolbox, pool: Pool, side: int = 3 * (Q_PATCH + 1)
) -> tuple[Image, dict[tuple[str, ...], int]]:
    """Give every region of an image (1, 3, H, W) a toolchain of its own; also how many regions got which.

    Regions of ``side`` pixels or a little more overlap by half and are blended by a raised cosine, so that no seam
    shows where the toolchains of neighbours differ. They begin at multiples of 8 pixels, as JPEG's blocks do. In a
    region the agent's patches vote, as they do in a whole photo. Raises ConservatorError for regions smaller than a
    patch.
    """
    check_image(image)
    if side < Q_PATCH:
        raise ConservatorError(f"regions are {side} pixels wide, expected {Q_PATCH} at least")
    height, width = image.shape[-2:]
    places = [(rows, columns) for rows in _spans(height, side) for columns in _spans(width, side)]
    total, weight = torch.zeros_like(image), torch.zeros_like(image[:, :1])
    chains: dict[tuple[str, ...], int] = defaultdict(int)
    for first in range(0, len(places), _TOGETHER):
        part = places[first : first + _TOGETHER]
        sessions = [Session(image[..., rows, columns], toolbox, pool, Blind(), LONGEST) for rows, columns in part]
        run_together(policy, sessions)
        for (rows, columns), session in zip(part, sessions, strict=True):
            treated = session.trajectory.last.image
            window = _window(treated.shape[-2], treated.shape[-1]).to(image.device)
            place = (..., rows, columns)
            total[place] += treated * window
            weight[place] += window
            chains[session.trajectory.toolchain()] += 1
    return total / weight, dict(chains)


def _spans(length: int, side: int) -> list[slice]:
    """Where regions lie: they begin half a side apart, the last one as late as it can, and goes on to the end."""
    last = max(0, length - side) // BLOCK * BLOCK
    step = max(BLOCK, side // 2 // BLOCK * BLOCK)
    return [*(slice(start, start + side) for start in range(0, last, step)), slice(last, length)]


def _window(height: int, width: int) -> Tensor:
    """Weights (height, width) that fall towards the borders, above 0."""
    rows, columns = (torch.hann_window(n + 2, periodic=False)[1:-1] + 1e-3 for n in (height, width))
    return rows[:, None] * columns[None, :]

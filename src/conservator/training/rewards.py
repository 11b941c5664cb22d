"""Rewards: plain functions of what one step did. Each maps (before, after, clean) images (B, 3, H, W) to (B,)."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from torch import Tensor

from conservator.evaluation.patches import batch_psnr
from conservator.image import Image

Reward: TypeAlias = Callable[[Image, Image, Image], Tensor]


def step_psnr(before: Image, after: Image, clean: Image) -> Tensor:
    """The PSNR (RGB, dB) that the step gained: RL-Restore's reward. Over an episode it sums to the whole gain."""
    return batch_psnr(after, clean) - batch_psnr(before, clean)


def step_error(before: Image, after: Image, clean: Image) -> Tensor:
    """By how much the step lowered the root mean square error, of 255: large where a patch is badly damaged."""
    return 255 * (_rms(before, clean) - _rms(after, clean))


def _rms(image: Image, clean: Image) -> Tensor:
    return (image - clean).square().mean(dim=(1, 2, 3)).sqrt()

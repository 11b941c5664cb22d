"""What to measure of models that call tools; as in orders.py, nothing heavy is imported."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conservator.kinds import Objective
from conservator.request import Request

_ONE_OR_MORE: dict[str, Any] = {"min": 1}
_EXISTS: dict[str, Any] = {"exists": True}


@dataclass(frozen=True)
class ExplorationOrder:
    """Which models to measure, on what."""

    photos: Path = field(metadata=_EXISTS)
    """Folder of clean photos, searched recursively; crops of them are damaged."""
    model: tuple[str, ...] = field()
    """A model that calls tools: a folder or an id. Give it again for more models, which see the same crops."""
    output: Path = Path("out/exploration")
    """Folder of summary.md, report.html and what was measured; the same command again goes on."""
    crops: int = field(default=40, metadata=_ONE_OR_MORE)
    """Damaged crops."""
    rollouts: int = field(default=8, metadata={"min": 2})
    """Rollouts of each crop, of which is counted what is distinct."""
    longest: int = field(default=Request.max_steps, metadata=_ONE_OR_MORE)
    """Decisions of a rollout at most."""
    temperature: float = field(default=1.0, metadata={"min": 0.01})
    """At which calls are drawn, the same for all models."""
    worth: bool = False
    """Also measure what each tool is worth: decide once more without it, by the likeliest calls."""
    toolbox: str = "conservator"
    """Toolboxes, joined by +."""
    objective: Objective = "balanced"
    """What the models are told that the result shall be."""
    metrics: tuple[str, ...] = ("psnr", "ssim", "quality")
    """What is measured; give it again for more. quality is perception's estimate."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of everything random."""
    device: str = "auto"
    """auto, cpu or cuda."""
    pool: str | None = None
    """Where tools and metrics run: NAME or NAME@HOST:PORT of a pool that 'pool start' started (default: here)."""
    measured: Path | None = None
    """File that keeps what perception measured of pictures, for runs that come to the same ones."""


@dataclass(frozen=True)
class RewardTrial:
    """Which rewards to compare, and on what."""

    tested: Path = field(metadata=_EXISTS)
    """Folder of clean photos on which the trained models are compared; none of them may be trained on."""
    tried: int = field(default=40, metadata=_ONE_OR_MORE)
    """Damaged crops of them."""
    weightings: tuple[str, ...] = ("adaptive", "static", "gdpo")
    """The rewards: how metrics are weighed. The others are compared with the first."""


@dataclass(frozen=True)
class LeftOutTrial:
    """Which pairs of damage to leave out of training, and on what to compare."""

    data: tuple[Path, ...] = field(metadata=_EXISTS)
    """Folder that 'data build --trajectories' made; give it again for more."""
    tested: Path = field(metadata=_EXISTS)
    """Folder of clean photos that are damaged by each pair alone; none of them may be trained on."""
    pairs: tuple[str, ...] = ("rain+noise", "haze+jpeg", "low_light+noise")
    """Kinds of damage that training never sees together; each pair is a training of its own."""
    tried: int = field(default=20, metadata=_ONE_OR_MORE)
    """Photos of each pair."""
    taught: int = field(default=2000, metadata=_ONE_OR_MORE)
    """Steps of supervision of each training."""

"""How the assessor is trained; it imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

_ONE_OR_MORE = {"min": 1}


@dataclass(frozen=True)
class AssessorOrder:
    """What assessor to train. The learning rate warms up, and falls to zero along a cosine."""

    photos: Path = field(metadata={"exists": True})
    """Folder of clean photos, searched recursively: the third of them that no policy learns on is used."""
    output: Path = Path("out/train/assessor")
    """Folder of the rated pictures, checkpoint and curve; the model is in its folder "model"."""
    toolbox: str = "conservator"
    """Toolboxes, joined by +, whose tools treat some of the pictures: it must know what they leave."""
    starts: int = field(default=400, metadata={"min": 2})
    """Damaged parts of photos that the pictures are made from."""
    states: int = field(default=4, metadata=_ONE_OR_MORE)
    """Pictures of each part, the damaged one and what toolchains leave of it."""
    steps: int = field(default=4000, metadata=_ONE_OR_MORE)
    """Budget in steps."""
    batch: int = field(default=16, metadata=_ONE_OR_MORE)
    """Pictures at once."""
    rate: float = 6e-4
    """Learning rate at its highest: as the vision of the nano planner learns."""
    width: int | None = field(default=None, metadata={"min": 64})
    """Width of the nano model, a multiple of 64 (default: 192)."""
    layers: int | None = field(default=None, metadata=_ONE_OR_MORE)
    """Layers of the nano model (default: 6)."""
    encoder: str | None = None
    """The perception whose encoder its vision begins with beside its own patches: a name, or a file of weights."""
    every: int = field(default=250, metadata=_ONE_OR_MORE)
    """Steps between checkpoints."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of everything random."""
    device: str = "auto"
    """auto, cpu or cuda."""

"""What an expert is trained for and on; it imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from conservator.kinds import Kind


@dataclass(frozen=True)
class Order:
    """What to train, on what, and where it goes."""

    name: str = field(metadata={"argument": True})
    """An expert that ships, or a name for your own."""
    photos: Path = field(metadata={"exists": True})
    """Folder of clean photos, searched recursively."""
    output: Path = Path("out/train")
    """Folder of checkpoints and curves, one subfolder for each expert."""
    minutes: float | None = field(default=None, metadata={"min": 0.01})
    """Budget of training time."""
    steps: int | None = field(default=None, metadata={"min": 1})
    """Budget in steps, which can be repeated exactly."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of everything random."""
    device: str = "auto"
    """auto, cpu, cuda or mps."""
    workers: int = field(default=1, metadata={"min": 0})
    """Processes that damage the photos."""
    damage: str | None = None
    """For your own: the damage it learns, as in degrade: noise:high,jpeg."""
    removes: frozenset[Kind] = frozenset()
    """For your own: the kinds it removes: noise,jpeg."""
    start: str | None = None
    """Expert to start from, or 'nothing' (default: as it was made)."""
    changed: bool = False
    """Go on although the course draws other damage now."""
    beside: bool = True
    """Start from weights that were trained in the same folder, where there are any, and not from those that ship."""

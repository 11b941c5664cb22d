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


@dataclass(frozen=True)
class TransferOrder:
    """How LWay's degradation transfer is trained."""

    photos: Path = field(metadata={"exists": True})
    """Folder of clean photos, searched recursively."""
    output: Path = Path("out/train")
    """Folder of checkpoints and curves; the transfer's is the subfolder lway."""
    steps: int = field(default=6000, metadata={"min": 1})
    """Steps of eight pairs of crops."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of everything random."""
    workers: int = field(default=1, metadata={"min": 0})
    """Processes that degrade the photos."""


@dataclass(frozen=True)
class CollectionOrder:
    """How an upscaler is adapted to a collection."""

    photos: Path = field(metadata={"exists": True})
    """Folder of photos from one camera or scanner, as they came from it, searched recursively."""
    name: str
    """What the new tool is called."""
    tool: str = "upscale_x2"
    """The tool to adapt: one that enlarges, and that ships or that you trained."""
    iterations: int = field(default=200, metadata={"min": 1})
    """Iterations at most; LWay's authors take 200 to 600 for a collection."""
    most: int = field(default=32, metadata={"min": 1})
    """Photos to learn from at most, drawn by chance where there are more."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of everything random."""

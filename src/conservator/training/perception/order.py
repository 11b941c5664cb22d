"""What perceptions are trained on; it imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class PerceptionOrder:
    """What to train perceptions on; the defaults are those of the perceptions that ship."""

    photos: Path = field(metadata={"exists": True})
    """Folder of clean photos, searched recursively."""
    output: Path = Path("out/train")
    """Folder of the samples."""
    count: int = field(default=2500, metadata={"min": 100})
    """Damaged photos."""
    toolbox: str = "conservator"
    """The tools that work on them."""
    chains: int = 2
    """Toolchains that are tried on each."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of everything random."""
    jobs: int = field(default=2, metadata={"min": 1})
    """Processes that make the samples."""


@dataclass(frozen=True)
class HarmOrder:
    """What to train the network of harm on; the defaults are those of the one that ships."""

    photos: Path = field(metadata={"exists": True})
    """Folder of clean photos, searched recursively."""
    output: Path = Path("out/train")
    """Folder of the samples."""
    count: int = field(default=1360, metadata={"min": 100})
    """Photos, damaged and not, on which treatments are tried."""
    toolbox: str = "conservator"
    """The tools that treat them."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of everything random."""
    jobs: int = field(default=2, metadata={"min": 1})
    """Processes that make the samples."""

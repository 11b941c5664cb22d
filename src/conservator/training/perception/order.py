"""What perceptions are trained on; it imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class PerceptionOrder:
    """What to train perceptions on. With a count of 1,000 they saw too little (docs/results/perception.md)."""

    photos: Path = field(metadata={"exists": True})
    """Folder of clean photos, searched recursively."""
    output: Path = Path("out/train")
    """Folder of the samples, and of what else is kept for a run that goes on."""
    count: int = field(default=2500, metadata={"min": 100})
    """Photos, damaged and not, on which tools are tried."""
    toolbox: str = "conservator"
    """The tools that are tried."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of everything random."""
    jobs: int = field(default=2, metadata={"min": 1})
    """Processes that make the samples, and that train at once."""


@dataclass(frozen=True)
class HarmOrder(PerceptionOrder):
    """What to train the network of harm on: the samples of the perception that ships, by its photos, count and seed.

    They are made once for both; the photos held out are the same.
    """

    folds: int = field(default=4, metadata={"min": 2})
    """Perceptions that are trained beside the one that ships, each without one share of the photos, to look at them."""

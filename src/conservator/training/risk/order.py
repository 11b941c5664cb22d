"""What risk thresholds are calibrated on; it imports nothing heavy, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class RiskOrder:
    """How to calibrate risk thresholds; the defaults are those of the thresholds that ship."""

    output: Path = Path("out/train")
    """Folder of the results, in a subfolder of their own; the same again goes on."""
    policy: str = "greedy"
    """The policy whose restorations are counted."""
    toolbox: str = "conservator"
    """The tools that it has."""
    perception: str = "perception"
    """What looks at the photos: perception, which ships, or a file of weights."""
    harm: str = "harm"
    """What estimates the chance of harm: harm, which ships, or a file of weights."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of the damage and of the policy."""
    jobs: int = field(default=2, metadata={"min": 1})
    """Processes that restore photos, of one thread each."""

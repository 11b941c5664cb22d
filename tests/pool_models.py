"""Models for tests of shared pools: what they do to their worker's process is real. Workers find them by this name."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

import torch
from gated_policy import taken
from ray_policies import kill_machine_once
from torch import Tensor


class Doubles:
    """2 x; it has an identity, so whoever brings it calls the same."""

    identity = "2x"

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Double the first tensor."""
        return 2 * tensors[0]


@dataclass
class Gated(Doubles):
    """Doubles, but not before the file ``gate`` is there; those of other gates are other models."""

    gate: Path

    def __post_init__(self) -> None:
        self.identity = f"gated by {self.gate}"

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Wait, and double."""
        limit = time.monotonic() + 900
        while not self.gate.exists() and time.monotonic() < limit:
            time.sleep(0.02)
        return super().__call__(*tensors)


@dataclass
class Large(Doubles):
    """Doubles, and takes so many MiB of memory once it is loaded."""

    mib: int
    identity = ""

    def setup(self, device: str) -> None:
        """Take the memory."""
        self.weights = [torch.zeros(self.mib, 2**18)]


@dataclass
class KillsItsWorker(Doubles):
    """Doubles; but where a tensor holds 1, it notes its process in ``log`` and kills it, if ``marker`` can be taken.

    Without a marker it always does.
    """

    log: Path
    marker: Path | None = None
    identity = ""

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Die, or double."""
        if (tensors[0] == 1).any() and (self.marker is None or taken(self.marker)):
            with self.log.open("a") as file:
                file.write(f"{os.getpid()} {tensors[0].shape[0]}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().__call__(*tensors)


@dataclass
class KillsItsMachine(Doubles):
    """Doubles; but on the machine ``node`` it kills Ray's process of that machine, which takes all workers along.

    Elsewhere it waits until that has happened, so that there is a call in work there.
    """

    marker: Path
    node: str
    identity = ""

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Kill, or wait and double."""
        kill_machine_once(self.marker, self.node, patience=300)
        return super().__call__(*tensors)

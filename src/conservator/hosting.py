"""What a shared pool is: its workers and its limits. Nothing heavy is imported, so that ``--help`` answers at once."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

_ONE_OR_MORE: dict[str, Any] = {"min": 1}
_MORE_THAN_NONE: dict[str, Any] = {"min": 0.01}


@dataclass(frozen=True)
class PoolSettings:
    """How a pool on a cluster runs the models of all who join it."""

    workers: int | None = field(default=None, metadata=_ONE_OR_MORE)
    """Processes that run models (default: as many as the cluster has cores, or room on its GPUs)."""
    threads: int = field(default=1, metadata=_ONE_OR_MORE)
    """Threads that compute in each worker, and cores that it takes."""
    device: str = "cpu"
    """cpu or cuda."""
    gpu_share: float = field(default=1.0, metadata={"min": 0.01, "max": 1})
    """The share of a GPU that a worker takes where the device is cuda."""
    memory: float = field(default=4.0, metadata=_MORE_THAN_NONE)
    """GiB of loaded models in each worker; beyond that those that were used least recently go."""
    max_batch: int = field(default=8, metadata=_ONE_OR_MORE)
    """Waiting calls of one model and shape that run as one batch at most; with 1 results repeat to the bit."""
    queue_size: int = field(default=64, metadata=_ONE_OR_MORE)
    """Calls that each process that joins may have open; it waits with the next one until one is answered."""

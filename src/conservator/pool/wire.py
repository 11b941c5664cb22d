"""What travels between the processes of a shared pool: calls, models, tensors, answers, and what a pool tells."""

from __future__ import annotations

import pickle
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conservator.errors import ConservatorError, ImageError, PoolError, ToolFailedError
from conservator.hosting import PoolSettings
from conservator.pool.calling import Model
from conservator.pool.ray_cluster import Surroundings

Wire: TypeAlias = tuple[NDArray[np.uint8], str, tuple[int, ...]]
"""A tensor as it travels: its bytes, which Ray copies without pickling, the name of its type, its shape."""
_OUTCOMES: dict[str, type[ConservatorError]] = {"tool": ToolFailedError, "image": ImageError, "pool": PoolError}
"""What a call that failed comes to, by the word that travels."""


def to_wire(tensor: Tensor) -> Wire:
    """A tensor of any device and type, to be sent."""
    plain = tensor.detach().cpu().contiguous()
    return plain.reshape(-1).view(torch.uint8).numpy(), str(plain.dtype).removeprefix("torch."), tuple(plain.shape)


def from_wire(wire: Wire) -> Tensor:
    """A tensor as it was sent, on the CPU, in memory of its own."""
    data, dtype, shape = wire
    tensor = torch.empty(shape, dtype=getattr(torch, dtype))
    if data.size:
        tensor.reshape(-1).view(torch.uint8).numpy()[:] = data  # copied, for what Ray gives may only be read
    return tensor


@dataclass(frozen=True)
class SentModel:
    """A model on its way to a worker."""

    name: str
    key: str
    """Equal for models that give the same results: they are loaded once, whoever calls them."""
    identity: str
    """What it calls itself here; there it must say the same, or its weights are others."""
    pickled: bytes
    surroundings: Surroundings

    def load(self, device: str) -> Model:
        """The model, loaded; raises PoolError where the one of this machine is another, and what its loading raises."""
        self.surroundings.take_over()
        model: Model = pickle.loads(self.pickled)
        there = getattr(model, "identity", "")
        if self.identity and there != self.identity:
            raise PoolError(f"it is {there[-12:]} on {platform.node()} and {self.identity[-12:]} where it was called")
        model.setup(device)
        return model


@dataclass(frozen=True)
class CallOrder:
    """A call as a process sends it: references, for the dispatcher needs no pixels."""

    name: str
    key: str
    """Of its model (``SentModel``)."""
    model: list[Any]
    """One reference, to a SentModel."""
    tensors: list[Any]
    """One reference, to the tensors as they travel."""
    shapes: tuple[tuple[str, tuple[int, ...]], ...]
    """Types and shapes of the tensors: calls that are equal in them and their model run as one batch."""
    seconds: float
    """What is left to it, counted from its arrival."""


@dataclass(frozen=True)
class CallEnd:
    """How one call ended, without its result: in plain words and numbers, which every process can read."""

    failed: str = ""
    """"tool", "image" or "pool"; "" where there is a result."""
    message: str = ""
    numbers: Mapping[str, float] = field(default_factory=dict)
    """What the model told meanwhile."""

    @classmethod
    def of(cls, answer: Tensor | BaseException, numbers: Mapping[str, float]) -> CallEnd:
        """Of what ``answers`` gave."""
        if isinstance(answer, Tensor):
            return cls(numbers=numbers)
        kind = "tool" if isinstance(answer, ToolFailedError) else "image" if isinstance(answer, ImageError) else "pool"
        return cls(kind, str(answer), numbers)

    @property
    def error(self) -> ConservatorError | None:
        """What the caller is told; None where there is a result."""
        return _OUTCOMES[self.failed](self.message) if self.failed else None


@dataclass(frozen=True)
class CallReply:
    """How a call ended, and, where it succeeded, one reference to its result."""

    end: CallEnd
    result: Sequence[Any] = ()
    number: int = 0
    """By which the caller says that it has read it."""


@dataclass(frozen=True)
class BatchReport:
    """How the calls of a batch ended, and what the worker holds now."""

    ends: Sequence[CallEnd]
    held: Mapping[str, int]
    """Bytes of the models that are loaded, by key."""
    loads: int = 0
    evictions: int = 0
    seconds: float = 0.0
    broken: bool = False
    """Whether its device answers no more, so that the process must be replaced."""


@dataclass(frozen=True)
class WorkerPlace:
    """Where a worker runs."""

    node: str
    """Ray's name of the machine."""
    host: str
    pid: int
    versions: Mapping[str, str]
    """What results depend on."""


@dataclass(frozen=True)
class WorkerState:
    """One worker of a pool."""

    host: str
    pid: int
    busy: bool
    held: Mapping[str, int]
    """Bytes of the models that are loaded, by key."""


@dataclass(frozen=True)
class PoolState:
    """What a pool is and has done: its statistics."""

    settings: PoolSettings
    workers: Sequence[WorkerState]
    waiting: int
    running: int
    counts: Mapping[str, int]
    """By name: calls, results, tool_errors, pool_errors, late, cancelled, batches, retried, killed, lost, loads,
    evictions."""
    waited: float
    """Seconds that calls waited for a worker, all together."""
    worked: float
    """Seconds that workers worked, all together."""

"""What runs in a worker of a shared pool: the models of all who call, as many as memory holds.

A worker knows no names of its own: each call brings its model along, pickled, and the worker loads it where it does not
hold it yet.
"""

from __future__ import annotations

import gc
import os
import platform
import time
from collections import OrderedDict
from collections.abc import Sequence
from types import FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor

from conservator.claims import package_versions
from conservator.errors import PoolError
from conservator.extras import import_ray
from conservator.pool.calling import Model, answers, device_died, load_error
from conservator.pool.ray_cluster import first_line
from conservator.pool.wire import BatchReport, CallEnd, SentModel, Wire, WorkerPlace, from_wire, to_wire


class ModelWorker:
    """One process of a shared pool. It runs one batch at a time."""

    def __init__(self, device: str, threads: int, memory: int) -> None:
        """``memory`` are the bytes that loaded models may take, unless one alone takes more."""
        self._device, self._threads, self._memory = device, threads, memory
        self._held: OrderedDict[str, Model] = OrderedDict()
        self._bytes: dict[str, int] = {}
        """What models took that were loaded once, by key; of those that went, too."""
        self._loads = self._evictions = 0

    def ready(self) -> WorkerPlace:
        """Where it runs."""
        torch.set_num_threads(self._threads)
        node = import_ray().get_runtime_context().get_node_id()
        return WorkerPlace(node, platform.node(), os.getpid(), package_versions())

    def run(self, model: list[Any], calls: Sequence[list[Any]], seconds: Sequence[float]) -> tuple[Any, ...]:
        """A report, then for each call its result as it travels, or None.

        ``model`` and each of ``calls`` hold one reference, to a SentModel and to the tensors. ``seconds`` are what is
        left to each call; one whose time is over before it could begin is not run.
        """
        begun = time.monotonic()
        self._loads = self._evictions = 0
        found: list[Tensor | BaseException] = []
        ears = [dict[str, float]() for _ in calls]
        try:
            sent: SentModel = import_ray().get(model[0])
            tensors = self._fetched(calls)
            loaded = self._load(sent)
        except Exception as error:  # whoever called is gone, and its tensors with it, or the model cannot be loaded
            found = [error if isinstance(error, PoolError) else PoolError(first_line(error)) for _ in calls]
        else:
            late = [time.monotonic() - begun > limit for limit in seconds]
            batch = [given for given, is_late in zip(tensors, late, strict=True) if not is_late]
            hearing = [ear.update for ear, is_late in zip(ears, late, strict=True) if not is_late]
            done = iter(answers(sent.name, loaded, batch, hearing))
            found = [PoolError(f"{sent.name} was loaded too late") if is_late else next(done) for is_late in late]
        ends = tuple(CallEnd.of(answer, ear) for answer, ear in zip(found, ears, strict=True))
        broken = any(device_died(e.__cause__) for e in found if isinstance(e, PoolError) and e.__cause__)
        held = {key: self._bytes[key] for key in self._held}
        report = BatchReport(ends, held, self._loads, self._evictions, time.monotonic() - begun, broken)
        return (report, *(to_wire(answer) if isinstance(answer, Tensor) else None for answer in found))

    def _fetched(self, calls: Sequence[list[Any]]) -> list[tuple[Tensor, ...]]:
        wires: list[list[Wire]] = import_ray().get([call[0] for call in calls])
        return [tuple(map(from_wire, one)) for one in wires]

    def _load(self, sent: SentModel) -> Model:
        """The loaded model; those that were used least recently go where it needs their room."""
        if sent.key in self._held:
            self._held.move_to_end(sent.key)
            return self._held[sent.key]
        self._evict(self._memory - self._bytes.get(sent.key, 0))
        try:
            model = self._tried(sent)
        except BaseException as error:
            raise load_error(sent.name, error) from error
        self._loads += 1
        self._held[sent.key], self._bytes[sent.key] = model, held_bytes(model)
        self._evict(self._memory, keep=1)
        return model

    def _tried(self, sent: SentModel) -> Model:
        """Load it; once more with all memory free, where there was too little."""
        try:
            return sent.load(self._device)
        except (MemoryError, torch.OutOfMemoryError):
            if not self._held:
                raise
            self._evict(-1)
            return sent.load(self._device)

    def _evict(self, limit: int, keep: int = 0) -> None:
        """Let models go, the least recently used first, until the others take no more than ``limit`` bytes."""
        before = self._evictions
        while len(self._held) > keep and sum(self._bytes[key] for key in self._held) > limit:
            self._held.popitem(last=False)
            self._evictions += 1
        if self._evictions > before and self._device != "cpu":
            torch.cuda.empty_cache()


def held_bytes(thing: object) -> int:
    """Bytes of the tensors and arrays that an object holds, however deep; those of shared memory count once."""
    seen, storages, left = set[int](), dict[int, int](), [thing]
    while left:
        one = left.pop()
        if id(one) in seen or isinstance(one, type | ModuleType):
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            storages[one.untyped_storage().data_ptr()] = one.untyped_storage().nbytes()
        elif isinstance(one, np.ndarray):
            storages[one.ctypes.data] = one.nbytes
        elif isinstance(one, FunctionType):
            left += one.__closure__ or ()
        elif isinstance(one, MethodType):
            left.append(one.__self__)
        else:
            left += gc.get_referents(one)
    return sum(storages.values())

"""Where models run. A pool knows names and tensors; it does not know what a tool or a metric is."""

from __future__ import annotations

import copy
import threading
import weakref
from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Mapping
from concurrent.futures import Future
from dataclasses import dataclass, field
from types import TracebackType
from typing import Protocol, Self

import torch
from torch import Tensor

from conservator.errors import ConservatorError, name_not_found
from conservator.image import digest


def check_device(name: str) -> None:
    """Raise ConservatorError when torch has no such device, or cannot use it here."""
    try:
        torch.empty(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        raise ConservatorError(
            f"the device {name} cannot be used here; take cpu ({str(error).splitlines()[0]})"
        ) from None


class Model(Protocol):
    """What a pool can host: cheap to make and to pickle, loaded by ``setup`` in the worker, then called."""

    def setup(self, device: str) -> None:
        """Load weights onto a torch device."""

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Map tensors whose first axis is the batch to one tensor with the same first axis."""


class Pool(ABC):
    """A shared place to call models by name. Safe to call from many threads."""

    @abstractmethod
    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        """Call a model; the future holds its result or its error. Raises NameNotFoundError for an unknown name."""

    @abstractmethod
    def close(self) -> None:
        """Finish what was submitted, then stop. Calling it twice is fine."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


@dataclass
class _Call:
    name: str
    tensors: tuple[Tensor, ...]
    future: Future[Tensor] = field(default_factory=Future)

    @property
    def key(self) -> tuple[object, ...]:
        return self.name, tuple(tuple(t.shape) for t in self.tensors)


class LocalPool(Pool):
    """Runs models on threads of this process; one model serves one call (or one batch of waiting calls) at a time.

    Waiting calls of one name and shape run as one batch of at most ``max_batch``; with 1 every result is the same to
    the bit whatever else is running. At most ``queue_size`` calls wait; ``submit`` blocks beyond that.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        device: str = "cpu",
        workers: int = 2,
        max_batch: int = 8,
        queue_size: int = 64,
    ) -> None:
        self._models, self._device = models, device
        self._max_batch, self._queue_size = max_batch, queue_size
        self._loaded: dict[str, Model] = {}
        self._waiting: deque[_Call] = deque()
        self._busy: set[str] = set()
        self._closed = False
        self._changed = threading.Condition()
        self._threads = [threading.Thread(target=self._work, daemon=True, name=f"pool-{i}") for i in range(workers)]
        for thread in self._threads:
            thread.start()

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        if name not in self._models:
            raise name_not_found("model", name, self._models)
        call = _Call(name, tensors)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._waiting) < self._queue_size)
            if self._closed:
                raise RuntimeError(f"cannot call {name!r}: the pool is closed")
            self._waiting.append(call)
            self._changed.notify_all()
        return call.future

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _work(self) -> None:
        while calls := self._take():
            name = calls[0].name
            try:
                self._run(name, calls)
            finally:
                with self._changed:
                    self._busy.discard(name)
                    self._changed.notify_all()

    def _take(self) -> list[_Call]:
        """Wait for the next batch; an empty list means that the pool is closed and drained."""
        with self._changed:
            while True:
                first = next((call for call in self._waiting if call.name not in self._busy), None)
                if first is not None:
                    break
                if self._closed and not self._waiting:
                    return []
                self._changed.wait()
            batch = [call for call in self._waiting if call.key == first.key][: self._max_batch]
            for call in batch:
                self._waiting.remove(call)
            self._busy.add(first.name)
            self._changed.notify_all()
            return [call for call in batch if call.future.set_running_or_notify_cancel()] or self._take_after_cancel(
                first
            )

    def _take_after_cancel(self, call: _Call) -> list[_Call]:
        self._busy.discard(call.name)
        return self._take()

    def _run(self, name: str, calls: list[_Call]) -> None:
        try:
            model = self._load(name)
            if len(calls) == 1:
                calls[0].future.set_result(model(*calls[0].tensors))
                return
            together = model(*(torch.cat(column) for column in zip(*(c.tensors for c in calls), strict=True)))
            parts = torch.split(together, [c.tensors[0].shape[0] for c in calls])
            for call, part in zip(calls, parts, strict=True):
                call.future.set_result(part)
        except Exception as error:
            if len(calls) == 1:
                calls[0].future.set_exception(error)
                return
            for call in calls:  # one bad item must not fail its neighbours
                self._run(name, [call])

    def _load(self, name: str) -> Model:
        if name not in self._loaded:
            model = copy.copy(self._models[name])
            model.setup(self._device)
            self._loaded[name] = model
        return self._loaded[name]


class MemoPool(Pool):
    """Remembers results by name and pixels, for search and for groups of rollouts that share their first steps.

    Bounded by ``max_bytes`` of results, least recently used first out. A call in flight is shared; a failure is never
    remembered. Closing it closes the pool beneath.
    """

    def __init__(self, pool: Pool, max_bytes: int = 512 * 2**20) -> None:
        self._pool, self._max_bytes = pool, max_bytes
        self._memo: OrderedDict[tuple[str, ...], Future[Tensor]] = OrderedDict()
        self._sizes: dict[tuple[str, ...], int] = {}
        self._lock = threading.RLock()
        self.hits = 0
        """Calls answered without running a model."""

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        key = (name, *map(digest, tensors))
        with self._lock:
            if key in self._memo:
                self.hits += 1
                self._memo.move_to_end(key)
                return self._memo[key]
            call = self._memo[key] = self._pool.submit(name, *tensors)
        memo = weakref.ref(self)  # a call that knew the memo would keep it, and all its results, after its last use

        def settle(done: Future[Tensor]) -> None:
            if (remembering := memo()) is not None:
                remembering._settle(key, done)

        call.add_done_callback(settle)
        return call

    def _settle(self, key: tuple[str, ...], call: Future[Tensor]) -> None:
        with self._lock:
            if call.cancelled() or call.exception() is not None:
                self._memo.pop(key, None)
                return
            result = call.result()
            self._sizes[key] = result.numel() * result.element_size()
            while sum(self._sizes.values()) > self._max_bytes and self._sizes:
                oldest = next(k for k in self._memo if k in self._sizes)
                del self._memo[oldest], self._sizes[oldest]

    def close(self) -> None:
        self._pool.close()

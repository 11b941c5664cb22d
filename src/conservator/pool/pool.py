"""Where models run. A pool knows names and tensors; it does not know what a tool or a metric is."""

from __future__ import annotations

import copy
import threading
from abc import ABC, abstractmethod
from collections import Counter, defaultdict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from itertools import islice
from types import TracebackType
from typing import Self

import torch
from torch import Tensor

from conservator.errors import ConservatorError, PoolError, name_not_found
from conservator.forking import computes_here, renew_in_children
from conservator.pool.calling import Model, answers, load_error
from conservator.pool.telling import Call


def check_device(name: str) -> None:
    """Raise ConservatorError when torch has no such device, or cannot use it here."""
    try:
        torch.ones(1, device=name).item()
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        why = str(error).splitlines()[0][:100]
        raise ConservatorError(f"the device {name} cannot be used here; take cpu ({why})") from None


class Pool(ABC):
    """A shared place to call models by name. Safe to call from many threads.

    Each call has one of three outcomes: its result; the model's own failure, a ToolFailedError (or an ImageError for
    tensors that it does not take); or a PoolError, which says that the pool could not run the call at all.
    """

    @abstractmethod
    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        """Call a model; the future holds its result or its error. An ``Call`` also lets hear what the model tells.

        The result may be shared with other callers, and the tensors are read until the future is done: change neither
        in place. A done-callback may run on a thread of the pool, so it must not wait for the pool, which ``submit``
        may do. Raises NameNotFoundError for an unknown name, PoolError when the pool is closed.
        """

    @abstractmethod
    def close(self) -> None:
        """Finish what was submitted, then stop. Calling it twice is fine."""

    def identity(self, name: str) -> str:
        """What answers to a name at the moment: equal while it is the same model with the same weights.

        A pool over another one asks that one. Raises NameNotFoundError for an unknown name where the pool can tell.
        """
        return name

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()


@dataclass(eq=False)
class _Call:
    name: str
    identity: str
    model: Model
    tensors: tuple[Tensor, ...]
    future: Call = field(default_factory=Call)

    @property
    def key(self) -> tuple[object, ...]:
        """Calls of equal keys can run as one batch."""
        return self.name, self.identity, tuple((t.shape, t.dtype, t.device) for t in self.tensors)


class LocalPool(Pool):
    """Runs models on threads of this process; one model serves ``at_once`` calls (or batches of them) at a time.

    A model is loaded when it is first called, once whatever the number of threads; a load that fails is tried again at
    the next call. Waiting calls of one name and shape run as one batch of at most ``max_batch`` calls; with 1 every
    result is the same to the bit whatever else is running. At most ``queue_size`` calls wait; ``submit`` blocks beyond
    that. An entry of ``models`` may be replaced: later calls run the new model.
    """

    def __init__(
        self,
        models: Mapping[str, Model],
        device: str = "cpu",
        workers: int = 2,
        max_batch: int = 8,
        queue_size: int = 64,
        at_once: int = 1,
    ) -> None:
        """``at_once`` above 1 is for models that several threads may call, as they may a tool once it is set up."""
        self._models, self._device = models, device
        self._max_batch, self._queue_size, self._at_once = max_batch, queue_size, at_once
        self._workers = workers
        self._known: dict[str, tuple[Model, str]] = {}
        self._numbered = 0
        self._loaded: dict[str, tuple[str, Model]] = {}
        self._closed = False
        self.renew()
        renew_in_children(self)
        computes_here()

    def renew(self) -> None:
        """Begin with no calls and no threads, in a forked child; models that were loaded stay so."""
        self._waiting: deque[_Call] = deque()
        self._busy = Counter[str]()
        self._loading: defaultdict[str, threading.Lock] = defaultdict(threading.Lock)
        self._changed = threading.Condition()
        self._threads: list[threading.Thread] = []

    def identity(self, name: str) -> str:
        return self._identified(name)[1]

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        model, identity = self._identified(name)
        call = _Call(name, identity, model, tensors)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or len(self._waiting) < self._queue_size)
            if self._closed:
                raise PoolError(f"{name} cannot be called: the pool is closed")
            self._start()
            self._waiting.append(call)
            self._changed.notify_all()
        return call.future

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
        for thread in self._threads:
            thread.join()

    def _identified(self, name: str) -> tuple[Model, str]:
        """The model of a name and its identity: its own, or the number of the object."""
        try:
            model = self._models[name]
        except KeyError:
            raise name_not_found("model", name, self._models) from None
        with self._changed:
            known, identity = self._known.get(name, (None, ""))
            if known is not model:
                self._numbered += 1
                identity = f"{name} {getattr(model, 'identity', '') or f'object {self._numbered}'}"
                self._known[name] = model, identity
        return model, identity

    def _start(self) -> None:
        """Start the threads at the first call, for each process needs its own."""
        while len(self._threads) < self._workers:
            thread = threading.Thread(target=self._work, daemon=True, name=f"pool-{len(self._threads)}")
            self._threads.append(thread)
            thread.start()

    def _work(self) -> None:
        while calls := self._take():
            name = calls[0].name
            try:
                self._run(calls)
            finally:
                with self._changed:
                    self._busy[name] -= 1
                    self._changed.notify_all()
            del calls  # or their tensors would stay until the next call

    def _take(self) -> list[_Call]:
        """Wait for the next batch; an empty list means that the pool is closed and drained."""
        with self._changed:
            while True:
                first = next((call for call in self._waiting if self._busy[call.name] < self._at_once), None)
                if first is not None:
                    alike = (call for call in self._waiting if call is first or call.key == first.key)
                    batch = list(islice(alike, self._max_batch))
                    for call in batch:
                        self._waiting.remove(call)
                    self._changed.notify_all()
                    if running := [call for call in batch if call.future.set_running_or_notify_cancel()]:
                        self._busy[first.name] += 1
                        return running
                elif self._closed and not self._waiting:
                    return []
                else:
                    self._changed.wait()

    def _run(self, calls: Sequence[_Call]) -> None:
        """Call every call; whatever happens, none is left without an answer."""
        first = calls[0]
        try:
            model = self._load(first)
        except BaseException as error:
            for call in calls:
                call.future.set_exception(load_error(call.name, error))
            return
        found = answers(first.name, model, [call.tensors for call in calls], [call.future.tell for call in calls])
        for call, answer in zip(calls, found, strict=True):
            if isinstance(answer, Tensor):
                call.future.set_result(answer)
            else:
                call.future.set_exception(answer)

    def _load(self, call: _Call) -> Model:
        """The loaded model of a call; of one name one thread at a time loads, so none is loaded twice."""
        with self._changed:
            loading = self._loading[call.name]
        with loading:
            identity, model = self._loaded.get(call.name, ("", call.model))
            if identity != call.identity:
                self._loaded.pop(call.name, None)
                model = copy.copy(call.model)
                model.setup(self._device)
                self._loaded[call.name] = call.identity, model
            return model

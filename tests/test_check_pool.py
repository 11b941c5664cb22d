"""``check_pool``: the pools of the package keep the contract, and the simplest wrong pool of each kind is found."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from concurrent.futures import Future

import pytest
from torch import Tensor

from conservator.errors import NameNotFoundError, PoolError, ToolFailedError
from conservator.image import digest
from conservator.pool import LocalPool, MemoPool, Model, Pool, check_pool


@pytest.mark.parametrize(
    "make_pool",
    [
        LocalPool,
        lambda models: LocalPool(models, workers=4),
        lambda models: LocalPool(models, workers=2, queue_size=64, max_batch=1),
        lambda models: LocalPool(models, workers=1, queue_size=1),
        lambda models: MemoPool(LocalPool(models, workers=2, queue_size=64, max_batch=1)),
        lambda models: MemoPool(LocalPool(models), max_bytes=16),
        lambda models: MemoPool(MemoPool(LocalPool(models, workers=1, queue_size=1))),
    ],
    ids=["default", "four workers", "batches of one", "a short queue", "memo", "a small memo", "two memos"],
)
def test_the_pools_keep_the_contract(make_pool: Callable[[Mapping[str, Model]], Pool]) -> None:
    check_pool(make_pool)


class Wrong(Pool):
    """A right pool, for others to spoil."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._pool: Pool = LocalPool(models, max_batch=1, queue_size=64)

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        return self._pool.submit(name, *tensors)

    def close(self) -> None:
        self._pool.close()


def answered(call: Callable[[], Tensor], future: Future[Tensor] | None = None) -> Future[Tensor]:
    """A future, a new one without one, that is done."""
    future = Future() if future is None else future
    try:
        future.set_result(call())
    except Exception as error:
        future.set_exception(error)
    return future


class Swapping(Wrong):
    """Gives each caller what the one before asked for, where shapes allow."""

    _last: Tensor | None = None

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        swap = self._last is not None and self._last.shape == tensors[0].shape and name == "affine"
        mine = tensors
        if swap and self._last is not None:
            tensors = (self._last,)
        self._last = mine[0]
        return self._pool.submit(name, *tensors)


class Forgetful(Wrong):
    """Remembers by the pixels of the first tensor alone."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        super().__init__(models)
        self._memo: dict[tuple[str, str], Future[Tensor]] = {}

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        key = (name, digest(tensors[0].float().flatten()))
        if key not in self._memo:
            self._memo[key] = self._pool.submit(name, *tensors)
        return self._memo[key]


class FirstItemOnly(Wrong):
    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        return self._pool.submit(name, *(t[:1] for t in tensors))


class Raw(Wrong):
    """Hands on what a model raises."""

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        def call() -> Tensor:
            try:
                return self._pool.submit(name, *tensors).result()
            except ToolFailedError as error:
                raise error.__cause__ or error from None

        return answered(call)


class Blaming(Wrong):
    """Says of everything that the tool failed."""

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        def call() -> Tensor:
            try:
                return self._pool.submit(name, *tensors).result()
            except PoolError as error:
                raise ToolFailedError(str(error)) from error

        return answered(call)


class Aliasing(Wrong):
    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        return answered(lambda: tensors[0]) if name == "same" else self._pool.submit(name, *tensors)


class Late(Wrong):
    """Says only in the future that it knows no such name."""

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        try:
            return self._pool.submit(name, *tensors)
        except NameNotFoundError as error:
            future: Future[Tensor] = Future()
            future.set_exception(error)
            return future


class Hanging(Wrong):
    """The memo as it was: it holds its lock while it waits for a place in the queue."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        self._pool = LocalPool(models, workers=1, max_batch=1, queue_size=2)
        self._lock, self._memo = threading.RLock(), OrderedDict[tuple[str, ...], Future[Tensor]]()

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        key = (name, *map(digest, tensors))
        with self._lock:
            if key in self._memo:
                return self._memo[key]
            call = self._memo[key] = self._pool.submit(name, *tensors)
        call.add_done_callback(lambda done: self._settle(key, done))
        return call

    def _settle(self, key: tuple[str, ...], done: Future[Tensor]) -> None:
        with self._lock:
            if done.cancelled() or done.exception() is not None:
                self._memo.pop(key, None)


class OnDemand(Future[Tensor]):
    """Runs its call when somebody asks for the result: till then it can be cancelled, however quick the pool is."""

    def __init__(self, call: Callable[[], Tensor]) -> None:
        super().__init__()
        self._call, self._lock = call, threading.Lock()

    def exception(self, timeout: float | None = None) -> BaseException | None:
        with self._lock:
            if not self.done() and self.set_running_or_notify_cancel():
                answered(self._call, self)
        return super().exception(timeout)

    def result(self, timeout: float | None = None) -> Tensor:
        if not self.cancelled():
            self.exception()
        return super().result(timeout)


class Hasty(Wrong):
    """Closes while calls are still waiting."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        super().__init__(models)
        self.calls: list[OnDemand] = []

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        self._pool.identity(name)
        if self._pool._closed:  # type: ignore[attr-defined]
            raise PoolError("closed")
        self.calls.append(OnDemand(lambda: self._pool.submit(name, *tensors).result()))
        return self.calls[-1]


class Dropping(Hasty):
    """Cancels what is still waiting at closing."""

    def close(self) -> None:
        for call in self.calls:
            call.cancel()
        super().close()


class Sharing(Hasty):
    """Hands the same future to all who ask for the same, so that one cancels for all."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        super().__init__(models)
        self._shared: dict[tuple[str, ...], Future[Tensor]] = {}

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        key = (name, *map(digest, tensors))
        if key not in self._shared:
            self._shared[key] = super().submit(name, *tensors)
        return self._shared[key]


class ClosedOnce(Wrong):
    _closed = False

    def close(self) -> None:
        if self._closed:
            raise RuntimeError("closed already")
        self._closed = True
        self._pool.close()


class Open(Wrong):
    """Opens again after it was closed."""

    def __init__(self, models: Mapping[str, Model]) -> None:
        super().__init__(models)
        self._models = models

    def close(self) -> None:
        self._pool.close()
        self._pool = LocalPool(self._models, workers=1)


@pytest.mark.parametrize(
    ("make_pool", "law"),
    [
        (Swapping, "is not what a LocalPool gives"),
        (Forgetful, "is not what a LocalPool gives"),
        (FirstItemOnly, r"affine of \(3, 3, 8, 6\), called, is not"),
        (Raw, "gave ValueError: negative dimension, a LocalPool gives ToolFailedError: picky failed: ValueError"),
        (Blaming, "the model unloadable gave ToolFailedError"),
        (Aliasing, "changed their own tensor"),
        (Late, "submit took a name"),
        (Sharing, "nobody cancelled"),
        (Hasty, "before all calls were done"),
        (Dropping, "cancelled a call that was submitted before"),
        (ClosedOnce, "closing twice raised"),
        (Open, "a closed pool took a call"),
    ],
)
def test_check_pool_finds_the_simplest_wrong_pools(make_pool: Callable[[Mapping[str, Model]], Pool], law: str) -> None:
    with pytest.raises(AssertionError, match=law):
        check_pool(make_pool)


def test_check_pool_finds_the_deadlock_that_memo_pools_had() -> None:
    with pytest.raises(AssertionError, match="no answer within 2 seconds; the pool hangs"):
        check_pool(Hanging, patience=2)

"""A pool that remembers."""

from __future__ import annotations

import weakref
from collections import OrderedDict
from concurrent.futures import Future

from torch import Tensor

from conservator.errors import NameNotFoundError, PoolError
from conservator.forking import Lock, renew_in_children
from conservator.image import digest
from conservator.pool.pool import Pool
from conservator.pool.telling import Call, listen


class MemoPool(Pool):
    """Remembers results by model, weights and tensors, for search and for rollouts that share their first steps.

    A call in flight is shared, so nothing runs twice; a failure is never remembered. Results take ``max_bytes`` at
    most: the least recently used go first, and one that is larger by itself is not kept. They are shared by all who
    asked, so change none in place. A caller who cancels gives up their own future only. Closing the memo closes the
    pool beneath.
    """

    def __init__(self, pool: Pool, max_bytes: int = 512 * 2**20) -> None:
        self._pool, self._max_bytes = pool, max_bytes
        self._memo: OrderedDict[tuple[str, ...], Call] = OrderedDict()
        self._sizes: dict[tuple[str, ...], int] = {}
        self._bytes, self._closed = 0, False
        self._lock = Lock()  # never held while the pool beneath is called, or while others are told
        self.hits = 0
        """Calls answered without running a model."""
        renew_in_children(self)

    def renew(self) -> None:
        """Forget the calls in flight, in a forked child: they are the parent's, and nobody answers them here."""
        for key in [key for key, answer in self._memo.items() if not answer.done()]:
            self._forget(key)

    def identity(self, name: str) -> str:
        return self._pool.identity(name)

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        key = (self._pool.identity(name), name, *map(digest, tensors))
        with self._lock:
            if self._closed:
                raise PoolError(f"{name} cannot be called: the pool is closed")
            answer = self._memo.get(key)
            if answer is not None:
                self.hits += 1
                self._memo.move_to_end(key)
                mine = False
            else:
                answer, mine = Call(), True
                self._memo[key] = answer
        if mine:
            self._ask(key, answer, name, tensors)
        return _own_copy(answer)

    def close(self) -> None:
        with self._lock:
            self._closed = True
        self._pool.close()

    def _ask(self, key: tuple[str, ...], answer: Call, name: str, tensors: tuple[Tensor, ...]) -> None:
        """Call the pool beneath; everybody who waits for ``answer`` gets what it says, a refusal included."""
        try:
            call = self._pool.submit(name, *tensors)
        except BaseException as error:
            self._forget(key)
            answer.set_exception(error if isinstance(error, Exception) else PoolError(f"{name} was not called"))
            raise
        listen(call, answer.tell)
        memo = weakref.ref(self)  # a call that knew the memo would keep it, and all its results, after its last use

        def settle(done: Future[Tensor]) -> None:
            error = PoolError(f"{name}: the call was cancelled") if done.cancelled() else done.exception()
            remembering = memo()
            if error is not None:
                if remembering is not None:
                    remembering._forget(key)
                answer.set_exception(error)
                return
            result = done.result()
            if remembering is not None:
                remembering._remember(key, name, result.numel() * result.element_size())
            answer.set_result(result)

        call.add_done_callback(settle)

    def _forget(self, key: tuple[str, ...]) -> None:
        with self._lock:
            self._memo.pop(key, None)
            self._bytes -= self._sizes.pop(key, 0)

    def _remember(self, key: tuple[str, ...], name: str, size: int) -> None:
        """Keep a result within the limit; not one of a model that was replaced meanwhile, which may have given it."""
        try:
            same = self._pool.identity(name) == key[0]
        except NameNotFoundError:
            same = False
        if not same or size > self._max_bytes:
            self._forget(key)
            return
        with self._lock:
            self._sizes[key] = size
            self._bytes += size
            for oldest in [k for k in self._memo if k in self._sizes]:
                if self._bytes <= self._max_bytes:
                    break
                del self._memo[oldest]
                self._bytes -= self._sizes.pop(oldest)


def _own_copy(answer: Call) -> Call:
    """A future of the caller's own, with the same answer; cancelling it leaves the other callers alone."""
    own = Call()
    answer.listen(own.tell)

    def tell(done: Future[Tensor]) -> None:
        if not own.set_running_or_notify_cancel():
            return
        if (error := done.exception()) is not None:
            own.set_exception(error)
        else:
            own.set_result(done.result())

    answer.add_done_callback(tell)
    return own

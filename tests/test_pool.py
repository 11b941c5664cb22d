"""Pools: same pixels whatever is batched, errors to the caller, bounded memory, clean closing."""

from __future__ import annotations

import gc
import threading
import time
import weakref

import pytest
import torch
from torch import Tensor

from conservator.errors import NameNotFoundError
from conservator.pool import LocalPool, MemoPool


class Double:
    """Counts its batches, and fails for negative numbers."""

    def __init__(self, seconds: float = 0.0) -> None:
        self.seconds, self.batches, self.ready = seconds, list[int](), False

    def setup(self, device: str) -> None:
        self.ready = True

    def __call__(self, *tensors: Tensor) -> Tensor:
        assert self.ready
        self.batches.append(len(tensors[0]))
        time.sleep(self.seconds)
        if (tensors[0] < 0).any():
            raise ValueError("negative")
        return tensors[0] * 2


def test_waiting_calls_run_as_one_batch() -> None:
    model = Double(0.05)
    with LocalPool({"double": model}, workers=1, max_batch=8) as pool:
        calls = [pool.submit("double", torch.full((1, 3), float(i))) for i in range(9)]
        results = [call.result() for call in calls]
    assert [float(r[0, 0]) for r in results] == [2.0 * i for i in range(9)]
    assert max(model.batches) > 1
    assert len(model.batches) < 9


def test_one_bad_item_does_not_fail_its_batch() -> None:
    with LocalPool({"double": Double(0.03)}, workers=1) as pool:
        calls = [pool.submit("double", torch.full((1, 3), float(v))) for v in (1, 2, -1, 3)]
        assert [float(calls[i].result()[0, 0]) for i in (0, 1, 3)] == [2, 4, 6]
        with pytest.raises(ValueError, match="negative"):
            calls[2].result()


def test_different_shapes_are_not_batched() -> None:
    model = Double(0.02)
    with LocalPool({"double": model}, workers=1) as pool:
        calls = [pool.submit("double", torch.ones(1, n)) for n in (1, 2, 3)]
        assert [c.result().shape[1] for c in calls] == [1, 2, 3]
    assert model.batches == [1, 1, 1]


def test_the_queue_is_bounded_and_close_finishes_the_work() -> None:
    pool = LocalPool({"double": Double(0.05)}, workers=1, max_batch=1, queue_size=2)
    calls = []

    def submit() -> None:
        calls.extend(pool.submit("double", torch.ones(1, 1)) for _ in range(6))

    start = time.perf_counter()
    thread = threading.Thread(target=submit)
    thread.start()
    thread.join()
    assert time.perf_counter() - start > 0.1  # submitting had to wait for free places
    pool.close()
    pool.close()
    assert all(call.done() for call in calls)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit("double", torch.ones(1, 1))


def test_a_cancelled_call_does_not_stop_the_pool() -> None:
    with LocalPool({"double": Double(0.05)}, workers=1, max_batch=1) as pool:
        first, second, third = (pool.submit("double", torch.ones(1, 1)) for _ in range(3))
        assert second.cancel()
        assert float(first.result()) == 2
        assert float(third.result()) == 2


def test_unknown_names_are_refused_at_once() -> None:
    with LocalPool({"double": Double()}) as pool, pytest.raises(NameNotFoundError, match="did you mean double"):
        pool.submit("dubble", torch.ones(1))


def test_memo_remembers_results_but_not_failures() -> None:
    model = Double()
    with MemoPool(LocalPool({"double": model}, max_batch=1)) as pool:
        for _ in range(3):
            assert float(pool.submit("double", torch.ones(1, 1)).result()) == 2
        assert (pool.hits, len(model.batches)) == (2, 1)
        for _ in range(2):
            with pytest.raises(ValueError, match="negative"):
                pool.submit("double", -torch.ones(1, 1)).result()
        assert len(model.batches) == 3


def test_memo_forgets_the_least_recently_used() -> None:
    model = Double()
    with MemoPool(LocalPool({"double": model}, max_batch=1), max_bytes=2 * 400) as pool:

        def ask(value: float) -> None:
            pool.submit("double", torch.full((1, 100), float(value))).result()

        for value in (1, 2, 1, 3, 1, 2):
            ask(value)
            time.sleep(0.01)
    assert len(model.batches) == 4  # 1, 2, 3, and 2 again
    assert pool.hits == 2


def test_a_memo_frees_what_it_remembers_as_soon_as_nobody_uses_it() -> None:
    with LocalPool({"double": Double()}) as pool:
        memo = MemoPool(pool)
        memo.submit("double", torch.ones(1, 3)).result()
        forgotten = weakref.ref(memo)
        gc.disable()  # nothing may wait for the collector, which does not know how large a tensor is
        try:
            del memo
            assert forgotten() is None
        finally:
            gc.enable()

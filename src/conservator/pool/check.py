"""``check_pool``: what every pool must hold, shipped so that pools written elsewhere run the same checks."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import CancelledError, Future
from typing import TypeAlias

import torch
from torch import Tensor

from conservator.errors import ImageError, NameNotFoundError, PoolError, ToolFailedError
from conservator.pool.calling import Model
from conservator.pool.pool import LocalPool, Pool

PoolMaker: TypeAlias = Callable[[Mapping[str, Model]], Pool]
"""Makes an open pool that hosts these models; they can be pickled."""


class _Affine:
    """2 x + 1; exact, so however calls are batched the result is the same to the bit."""

    identity = "2x+1"

    def __init__(self) -> None:
        self._factor = 0

    def setup(self, device: str) -> None:
        self._factor = 2

    def __call__(self, *tensors: Tensor) -> Tensor:
        if not self._factor:
            raise RuntimeError("called before it was loaded")
        return tensors[0] * self._factor + 1


class _Plain:
    """Models without weights share this."""

    def setup(self, device: str) -> None:
        pass


class _Difference(_Plain):
    def __call__(self, *tensors: Tensor) -> Tensor:
        return tensors[0] - tensors[1]


class _Same(_Plain):
    def __call__(self, *tensors: Tensor) -> Tensor:
        return tensors[0]


class _Picky(_Plain):
    """Fails in the ways in which models fail, each where a certain value is in what it is given."""

    def __call__(self, *tensors: Tensor) -> Tensor:
        if (tensors[0] == 1).any():
            raise ValueError("negative dimension")
        if (tensors[0] == 2).any():
            raise ToolFailedError("no streaks could be found")
        if (tensors[0] == 3).any():
            raise ImageError("expected float32")
        return tensors[0] + 1


class _Exiting(_Plain):
    """Tries to end the process."""

    def __call__(self, *tensors: Tensor) -> Tensor:
        raise SystemExit(3)


class _Unloadable(_Plain):
    def setup(self, device: str) -> None:
        raise FileNotFoundError("net.safetensors")

    def __call__(self, *tensors: Tensor) -> Tensor:
        return tensors[0]


def _models() -> dict[str, Model]:
    return {
        "affine": _Affine(),
        "difference": _Difference(),
        "same": _Same(),
        "picky": _Picky(),
        "exiting": _Exiting(),
        "unloadable": _Unloadable(),
    }


def check_pool(make_pool: PoolMaker, patience: float = 300.0) -> None:
    """Raise AssertionError with a sentence when the pools of ``make_pool`` break the contract of Pool.

    Checked, each on a pool of its own: the same results and the same errors as LocalPool; batches equal to their items;
    results that are the caller's own; models that cannot be loaded, and code that ends the worker; unknown names; 200
    waiting calls from 8 threads; cancelled calls; closing with calls in flight, and twice. A law that takes more than
    ``patience`` seconds counts as a deadlock; its threads are then left behind.
    """
    laws = (
        _results_are_those_of_a_local_pool,
        _errors_are_those_of_a_local_pool,
        _results_are_the_callers_own,
        _what_the_pool_could_not_do_is_a_pool_error,
        _unknown_names_are_refused_at_once,
        _many_threads_wait_together,
        _cancelled_calls_disturb_nobody,
        _closing_finishes_what_was_submitted,
    )
    for law in laws:
        _within(patience, law, make_pool)


def _within(patience: float, law: Callable[[PoolMaker], None], make_pool: PoolMaker) -> None:
    """Run a law on a thread, for a pool that hangs must not hang the check."""
    end: Future[None] = Future()

    def run() -> None:
        try:
            law(make_pool)
        except BaseException as error:
            end.set_exception(error)
        else:
            end.set_result(None)

    threading.Thread(target=run, daemon=True).start()
    name = law.__name__.strip("_").replace("_", " ")
    try:
        error = end.exception(patience)
    except TimeoutError:
        raise AssertionError(f"{name}: no answer within {patience:g} seconds; the pool hangs") from None
    if isinstance(error, AssertionError):
        raise AssertionError(f"{name}: {error}") from error
    if error is not None:
        raise error


def _values(*shape: int, seed: int = 0) -> Tensor:
    """Whole numbers from 10 to 99 as float32, on which the models compute without rounding."""
    return torch.randint(10, 100, shape, generator=torch.Generator().manual_seed(seed)).float()


def _equal(a: Tensor, b: Tensor) -> bool:
    return a.dtype == b.dtype and torch.equal(a, b)


def _results_are_those_of_a_local_pool(make_pool: PoolMaker) -> None:
    a, b = _values(1, 3, 8, 6), _values(1, 3, 8, 6, seed=1)
    calls: list[tuple[str, tuple[Tensor, ...]]] = [
        ("affine", (a,)),
        ("affine", (b,)),
        ("affine", (a[..., ::2],)),
        ("affine", (a.long(),)),
        ("affine", (a.reshape(1, 3, 6, 8),)),
        ("affine", (torch.cat([a, b, a]),)),
        ("difference", (a, b)),
        ("difference", (b, a)),
        ("same", (a,)),
    ]
    with LocalPool(_models(), workers=1, max_batch=1) as local:
        expected = [local.submit(name, *tensors).result() for name, tensors in calls]
    with make_pool(_models()) as pool:
        for turn in ("called", "called again"):
            waiting = [pool.submit(name, *tensors) for name, tensors in calls]
            for (name, tensors), call, right in zip(calls, waiting, expected, strict=True):
                shapes = ", ".join(str(tuple(t.shape)) for t in tensors)
                assert _equal(call.result(), right), f"{name} of {shapes}, {turn}, is not what a LocalPool gives"
        batch, items = torch.cat([a, b]), [pool.submit("affine", x).result() for x in (a, b)]
        assert _equal(pool.submit("affine", batch).result(), torch.cat(items)), "a batch is not its items, one by one"


def _errors_are_those_of_a_local_pool(make_pool: PoolMaker) -> None:
    inputs = [torch.full((1, 2), float(value)) for value in (9, 1, 2, 3, 8)]
    with LocalPool(_models(), workers=1, max_batch=1) as local:
        expected = [local.submit("picky", x).exception() for x in inputs]
    with make_pool(_models()) as pool:
        for call, right in zip([pool.submit("picky", x) for x in inputs], expected, strict=True):
            error = call.exception()
            found, wanted = (f"{type(e).__name__}: {e}" if e else "a result" for e in (error, right))
            assert found == wanted, f"gave {found}, a LocalPool gives {wanted}"


def _results_are_the_callers_own(make_pool: PoolMaker) -> None:
    with make_pool(_models()) as pool:
        given = _values(1, 3)
        before = given.clone()
        result = pool.submit("same", given).result()
        assert _equal(given, before), "the pool changed what it was given"
        given.zero_()
        assert _equal(result, before), "a result changed when the caller changed their own tensor after the call"
        assert _equal(pool.submit("same", before).result(), before), "a result changed what later callers are given"


def _what_the_pool_could_not_do_is_a_pool_error(make_pool: PoolMaker) -> None:
    x = _values(1, 2)
    with make_pool(_models()) as pool:
        for name in ("unloadable", "exiting", "unloadable", "exiting"):
            error = pool.submit(name, x).exception()
            assert isinstance(error, PoolError), f"the model {name} gave {error!r}, not a PoolError"
            assert name in str(error), f"the error does not name the model {name}: {error}"
            assert _equal(pool.submit("affine", x).result(), 2 * x + 1), f"after {name}, another model went wrong"


def _unknown_names_are_refused_at_once(make_pool: PoolMaker) -> None:
    with make_pool(_models()) as pool:
        words = ""
        try:
            pool.submit("afine", _values(1, 2))
        except NameNotFoundError as error:
            words = str(error)
        assert words, "submit took a name that does not exist; expected NameNotFoundError"
        assert "affine" in words, f"the error does not offer the nearest name: {words}"


def _many_threads_wait_together(make_pool: PoolMaker) -> None:
    threads, each, different = 8, 25, 150  # 50 calls are for tensors that another thread asks for, too
    values = [torch.full((1, 2), 10.0 + i) for i in range(different)]
    wrong: list[str] = []

    def ask(pool: Pool, first: int) -> None:
        try:
            mine = [values[(first + i) % different] for i in range(each)]
            calls = [pool.submit("affine", x) for x in mine]
            if not all(_equal(call.result(), 2 * x + 1) for call, x in zip(calls, mine, strict=True)):
                wrong.append("a thread got a result that is another's")
        except BaseException as error:
            wrong.append(repr(error))

    with make_pool(_models()) as pool:
        asking = [threading.Thread(target=ask, args=(pool, i * each), daemon=True) for i in range(threads)]
        for thread in asking:
            thread.start()
        for thread in asking:
            thread.join()
        assert not wrong, f"with 200 waiting calls, {wrong[0]}"


def _cancelled_calls_disturb_nobody(make_pool: PoolMaker) -> None:
    values = [torch.full((1, 2), 10.0 + i // 2) for i in range(40)]  # two ask for the same each time
    with make_pool(_models()) as pool:
        calls = [pool.submit("affine", x) for x in values]
        cancelled = [i % 2 == 0 and call.cancel() for i, call in enumerate(calls)]
        _check_cancelled(calls, cancelled, values)
        assert _equal(pool.submit("affine", values[0]).result(), 2 * values[0] + 1), "a later call went wrong"


def _check_cancelled(calls: Sequence[Future[Tensor]], cancelled: Sequence[bool], values: Sequence[Tensor]) -> None:
    for call, gone, x in zip(calls, cancelled, values, strict=True):
        try:
            result = call.result()
        except CancelledError:
            assert gone, "a call that nobody cancelled, or that could not be cancelled any more, was cancelled"
        else:
            assert not gone, "a cancelled call gave a result"
            assert _equal(result, 2 * x + 1), "a call went wrong after another one was cancelled"


def _closing_finishes_what_was_submitted(make_pool: PoolMaker) -> None:
    values = [torch.full((1, 2), 10.0 + i) for i in range(30)]
    pool = make_pool(_models())
    calls = [pool.submit("affine", x) for x in values]
    pool.close()
    try:
        pool.close()
    except Exception as error:
        raise AssertionError(f"closing twice raised {error!r}") from error
    assert all(call.done() for call in calls), "close returned before all calls were done"
    for call, x in zip(calls, values, strict=True):
        assert not call.cancelled(), "close cancelled a call that was submitted before"
        assert call.exception() is None, f"close failed a call that was submitted before: {call.exception()!r}"
        assert _equal(call.result(), 2 * x + 1), "a call that was in flight at closing gave a wrong result"
    try:
        late = pool.submit("affine", values[0])
    except PoolError:
        return
    raise AssertionError(f"a closed pool took a call and answered {late}; expected PoolError")

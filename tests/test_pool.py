"""Pools: same results whatever is batched, three outcomes told apart, bounded memory, clean closing, no deadlock."""

from __future__ import annotations

import gc
import threading
import weakref
from concurrent.futures import CancelledError, Future

import pytest
import torch
from conftest import Gamma
from torch import Tensor

from conservator.degradations import Kind, degrade, parse_recipe
from conservator.errors import ConservatorError, ImageError, NameNotFoundError, PoolError, ToolFailedError
from conservator.image import Image, digest
from conservator.metrics import make_metric
from conservator.perception import Look, Percept, Perception
from conservator.perception.perception import Gain
from conservator.photo import Photo
from conservator.policies import FixedOrder
from conservator.pool import FunctionModel, LocalPool, MemoPool, Model, Pool, host
from conservator.request import Request
from conservator.restoration import Restored
from conservator.restorer import Restorer
from conservator.session import Apply, Decision, Session
from conservator.tools import Tool, Toolbox, ToolSpec, make_toolbox


class Double:
    """Notes the sizes of its batches and how often it was loaded; works once its gate is open; negatives fail."""

    def __init__(self) -> None:
        self.batches, self.loaded = list[int](), list[str]()
        self.started, self.gate = threading.Event(), threading.Event()
        self.gate.set()

    def setup(self, device: str) -> None:
        self.loaded.append(threading.current_thread().name)

    def __call__(self, *tensors: Tensor) -> Tensor:
        assert self.loaded
        self.batches.append(len(tensors[0]))
        self.started.set()
        self.gate.wait()
        if (tensors[0] < 0).any():
            raise ValueError("negative")
        return tensors[0] * 2

    def __copy__(self) -> Double:
        return self  # the pool loads a copy; here the notes of both must be the same


def busy(pool: Pool, model: Double) -> Future[Tensor]:
    """Occupies the model: calls that follow wait until its gate is opened."""
    model.gate.clear()
    call = pool.submit("double", torch.ones(1, 3))
    model.started.wait()
    return call


def test_waiting_calls_run_as_one_batch() -> None:
    model = Double()
    with LocalPool({"double": model}, workers=1, max_batch=4) as pool:
        busy(pool, model)
        calls = [pool.submit("double", torch.full((1, 3), float(i))) for i in range(6)]
        model.gate.set()
        assert [float(call.result()[0, 0]) for call in calls] == [0, 2, 4, 6, 8, 10]
        # a part that shared the memory of its batch would keep the whole batch alive
        assert calls[0].result().untyped_storage().nbytes() == 3 * 4
    assert model.batches == [1, 4, 2]


def test_one_bad_item_does_not_fail_its_batch() -> None:
    model = Double()
    with LocalPool({"double": model}, workers=1) as pool:
        busy(pool, model)
        calls = [pool.submit("double", torch.full((1, 3), float(v))) for v in (1, 2, -1, 3)]
        model.gate.set()
        assert [float(calls[i].result()[0, 0]) for i in (0, 1, 3)] == [2, 4, 6]
        with pytest.raises(ToolFailedError, match="double failed: ValueError: negative"):
            calls[2].result()


def test_different_shapes_and_types_are_not_batched() -> None:
    model = Double()
    with LocalPool({"double": model}, workers=1) as pool:
        busy(pool, model)
        inputs = [torch.ones(1, 1), torch.ones(1, 2), torch.ones(1, 2, dtype=torch.int64)]
        calls = [pool.submit("double", x) for x in inputs]
        model.gate.set()
        assert [(c.result().shape, c.result().dtype) for c in calls] == [(x.shape, x.dtype) for x in inputs]
    assert model.batches == [1, 1, 1, 1]


def test_the_queue_is_bounded_and_close_finishes_the_work() -> None:
    model = Double()
    pool = LocalPool({"double": model}, workers=1, max_batch=1, queue_size=2)
    calls = [busy(pool, model), *(pool.submit("double", torch.ones(1, 1)) for _ in range(2))]
    submitted = threading.Event()

    def submit() -> None:
        calls.append(pool.submit("double", torch.ones(1, 1)))
        submitted.set()

    thread = threading.Thread(target=submit)
    thread.start()
    assert not submitted.wait(0.05)  # the queue is full; a pool without a limit would have taken it long ago
    model.gate.set()
    thread.join()
    pool.close()
    pool.close()
    assert [float(call.result().sum()) for call in calls] == [6, 2, 2, 2]
    with pytest.raises(PoolError, match="closed"):
        pool.submit("double", torch.ones(1, 1))


def test_closing_wakes_those_who_wait_for_a_place() -> None:
    model = Double()
    pool = LocalPool({"double": model}, workers=1, max_batch=1, queue_size=1)
    busy(pool, model)
    pool.submit("double", torch.ones(1, 1))
    refused: list[BaseException] = []

    def submit() -> None:
        try:
            pool.submit("double", torch.ones(1, 1))
        except PoolError as error:
            refused.append(error)

    waiting = threading.Thread(target=submit)
    closing = threading.Thread(target=pool.close)
    waiting.start()
    closing.start()
    while not pool._closed:
        closing.join(0.01)
    model.gate.set()
    waiting.join()
    closing.join()
    # it came before the end, or it was told; in no case does it wait for ever
    assert len(refused) + len(model.batches) == 3


def test_hundreds_of_cancelled_calls_do_not_stop_the_pool() -> None:
    model = Double()
    with LocalPool({"double": model}, workers=1, max_batch=1, queue_size=2000) as pool:
        first = busy(pool, model)
        calls = [pool.submit("double", torch.ones(1, 1)) for _ in range(1500)]
        assert all(call.cancel() for call in calls)
        model.gate.set()
        assert float(first.result().sum()) == 6
        assert float(pool.submit("double", torch.ones(1, 1)).result()) == 2
    assert model.batches == [1, 1]


def test_unknown_names_are_refused_at_once() -> None:
    with LocalPool({"double": Double()}) as pool, pytest.raises(NameNotFoundError, match="did you mean double"):
        pool.submit("dubble", torch.ones(1))


def test_a_model_is_loaded_once_whatever_the_number_of_threads() -> None:
    model, lazy = Double(), Double()
    with LocalPool({"double": model, "lazy": lazy}, workers=4, max_batch=1) as pool:

        def ask() -> None:
            for call in [pool.submit("double", torch.ones(1, 3)) for _ in range(10)]:
                call.result()

        threads = [threading.Thread(target=ask) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert len(model.batches) == 80
    assert len(model.loaded) == 1
    assert model.loaded[0].startswith("pool-")  # in the worker, not by the caller
    assert lazy.loaded == []


# --- three outcomes


class Failing:
    """Raises what it was made with, when it is loaded or when it is called."""

    def __init__(self, error: BaseException, *, loading: bool = False) -> None:
        self._error, self._loading = error, loading

    def setup(self, device: str) -> None:
        if self._loading:
            raise self._error

    def __call__(self, *tensors: Tensor) -> Tensor:
        raise self._error


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (ValueError("bad shape"), "net failed: ValueError: bad shape"),
        (KeyError("layer"), "net failed: KeyError: 'layer'"),
        (AssertionError(), "net failed: AssertionError without a reason"),
        (MemoryError("of the model"), "net failed: MemoryError: of the model"),
        (ConservatorError("call setup first"), "net failed: ConservatorError: call setup first"),
    ],
)
def test_whatever_a_model_raises_is_its_failure(error: Exception, told: str) -> None:
    with LocalPool({"net": Failing(error)}) as pool:
        failure = pool.submit("net", torch.ones(1)).exception()
    assert type(failure) is ToolFailedError
    assert str(failure) == told
    assert failure.__cause__ is error


@pytest.mark.parametrize("error", [ToolFailedError("no streaks"), ImageError("expected float32"), PoolError("gone")])
def test_what_says_itself_who_is_to_blame_stays_as_it_is(error: Exception) -> None:
    with LocalPool({"net": Failing(error)}) as pool:
        assert pool.submit("net", torch.ones(1)).exception() is error


@pytest.mark.parametrize("max_batch", [1, 8])
@pytest.mark.parametrize("error", [SystemExit(2), KeyboardInterrupt()])
def test_code_that_ends_the_worker_is_the_pools_error(error: BaseException, max_batch: int) -> None:
    model = Double()
    with LocalPool({"net": Failing(error), "double": model}, workers=1, max_batch=max_batch) as pool:
        busy(pool, model)
        calls = [pool.submit("net", torch.ones(1)) for _ in range(3)]
        model.gate.set()
        for call in calls:
            with pytest.raises(PoolError, match="the worker died while net ran"):
                call.result()
        assert float(pool.submit("double", torch.ones(1)).result()) == 2


def test_a_model_that_cannot_be_loaded_says_so_each_time_and_may_recover() -> None:
    model = Failing(OSError("disk"), loading=True)
    with LocalPool({"net": model, "double": Double()}, workers=1) as pool:
        for _ in range(3):
            error = pool.submit("net", torch.ones(1)).exception()
            assert isinstance(error, PoolError)
            assert str(error) == "net cannot be loaded: OSError('disk')"
            assert isinstance(error.__cause__, OSError)
        assert float(pool.submit("double", torch.ones(1)).result()) == 2
        model._loading = False
        assert isinstance(pool.submit("net", torch.ones(1)).exception(), ToolFailedError)


class Careless(Tool):
    """A third-party tool with a bug: it fails on what is dark."""

    spec = ToolSpec("careless", Gamma.spec.removes, "Brightens.", "own", "MIT")

    def restore(self, image: Image) -> Image:
        if float(image.mean()) < 0.9:
            raise ValueError("cannot broadcast (3,) to (4,)")
        return image


class Weightless(Careless):
    """A tool whose weights are gone."""

    spec = ToolSpec("weightless", Gamma.spec.removes, "Brightens.", "own", "MIT")

    def setup(self, device: str) -> None:
        raise ConservatorError("/tools/net.pth cannot be read: No such file or directory")


def test_a_tools_bug_is_a_step_and_a_note_and_not_the_end(photo: Image) -> None:
    toolbox = Toolbox(Careless(), Gamma(), Weightless())
    sentence = "careless failed: ValueError: cannot broadcast (3,) to (4,)"
    with LocalPool(toolbox, max_batch=1) as pool:
        session = Session(photo, toolbox, pool, Brightness())
        assert session.step(Decision(Apply("careless"))).error == sentence
        assert session.step(Decision(Apply("gamma"))).error is None
        with pytest.raises(PoolError, match=r"weightless cannot be loaded: /tools/net\.pth"):
            session.step(Decision(Apply("weightless")))
        assert len(session.trajectory.steps) == 3  # a pool's error is no step


class Brightness(Perception):
    """The plainest perception: quality is the mean."""

    def grade(self, image: Image) -> Percept:
        return Percept(quality=float(image.mean()))

    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        return Gain.sure(after.percept.quality - before.percept.quality)


def restore(photo: Photo, policy: FixedOrder, toolbox: Toolbox, pool: Pool, strength: float = 1.0) -> Restored:
    request, eye = Request(strength=strength, risk=1), Brightness()
    return Restorer(request, toolbox=toolbox, perception=eye, policy=policy, pool=pool).restore(photo)


class OnSmall(Tool):
    """Works on the study, which is a batch of parts, and fails on the whole photo."""

    spec = ToolSpec("on_small", Gamma.spec.removes, "Brightens.", "own", "MIT", tile=None)

    def restore(self, image: Image) -> Image:
        if max(image.shape[-2:]) > 384:
            raise ZeroDivisionError("float division by zero")
        return image.sqrt()


def test_a_tools_bug_on_the_whole_photo_is_noted(astronaut: Image) -> None:
    toolbox = Toolbox(OnSmall())
    photo = Photo(torch.cat([astronaut, astronaut.flip(-1)], -1) * 0.3)
    with LocalPool(toolbox, max_batch=1) as pool:
        restored = restore(photo, FixedOrder("on_small"), toolbox, pool)
    assert [(t.kept, t.note) for t in restored.treatments] == [
        (False, "on_small failed: ZeroDivisionError: float division by zero")
    ]
    assert restored.untouched


# --- the memo


def test_memo_remembers_results_but_not_failures() -> None:
    model = Double()
    with MemoPool(LocalPool({"double": model}, max_batch=1)) as pool:
        for _ in range(3):
            assert float(pool.submit("double", torch.ones(1, 1)).result()) == 2
        assert (pool.hits, len(model.batches)) == (2, 1)
        for _ in range(2):
            with pytest.raises(ToolFailedError, match="negative"):
                pool.submit("double", -torch.ones(1, 1)).result()
        assert len(model.batches) == 3


def test_memo_tells_types_and_shapes_apart() -> None:
    bits = torch.tensor([[1.5, 2.5]])
    inputs = [bits, bits.view(torch.int32), bits.reshape(2, 1), bits.to(torch.bfloat16), bits.to(torch.float16)]
    model = Double()
    with MemoPool(LocalPool({"double": model}, max_batch=1)) as pool:
        for x in inputs:
            assert torch.equal(pool.submit("double", x).result(), x * 2)
    assert len(model.batches) == len(inputs)


def test_a_call_in_flight_is_shared_and_cancelled_by_each_for_themselves() -> None:
    model = Double()
    with MemoPool(LocalPool({"double": model}, workers=1, max_batch=1)) as pool:
        busy(pool, model)
        first, second, third = (pool.submit("double", torch.ones(1, 1)) for _ in range(3))
        assert first.cancel()
        model.gate.set()
        assert float(second.result()) == float(third.result()) == 2
        with pytest.raises(CancelledError):
            first.result()
    assert len(model.batches) == 2


def test_memo_forgets_the_least_recently_used() -> None:
    model = Double()
    with MemoPool(LocalPool({"double": model}, max_batch=1), max_bytes=2 * 400) as pool:

        def ask(value: float, length: int = 100) -> None:
            pool.submit("double", torch.full((1, length), float(value))).result()

        for value in (1, 2, 1, 3, 1, 2):
            ask(value)
        assert len(model.batches) == 4  # 1, 2, 3, and 2 again
        assert pool.hits == 2
        ask(9, length=1000)  # too large to keep; and what is kept stays
        ask(1)
        ask(2)
        assert pool.hits == 4


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


class Brighten(Tool):
    """Two of them have one name and no weights: only the objects differ."""

    spec = Gamma.spec

    def __init__(self, gamma: float) -> None:
        self._gamma = gamma

    def restore(self, image: Image) -> Image:
        return image**self._gamma


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_model_that_was_replaced_gives_no_stale_pixels(photo: Image, wrapped: bool) -> None:
    models: dict[str, Model] = {"gamma": Brighten(0.5)}
    local = LocalPool(models, max_batch=1)
    with MemoPool(local) if wrapped else local as pool:
        assert torch.allclose(pool.submit("gamma", photo).result(), photo**0.5)
        models["gamma"] = Brighten(0.7)
        assert torch.allclose(pool.submit("gamma", photo).result(), photo**0.7)


def test_a_result_that_comes_after_the_model_was_replaced_is_not_remembered() -> None:
    model, models = Double(), dict[str, Model]()
    models["double"] = model
    with MemoPool(LocalPool(models, workers=1, max_batch=1)) as pool:
        early = busy(pool, model)
        models["double"] = FunctionModel(lambda x: x * 3)
        model.gate.set()
        assert float(early.result().sum()) == 6  # it was asked for while that was the model
        assert float(pool.submit("double", torch.ones(1, 3)).result().sum()) == 9


def test_models_of_one_identity_are_one_model() -> None:
    class Named(Double):
        identity = "double, weights 1"

    models: dict[str, Model] = {"double": Named()}
    with MemoPool(LocalPool(models, max_batch=1)) as pool:
        pool.submit("double", torch.ones(1, 3)).result()
        models["double"] = Named()
        pool.submit("double", torch.ones(1, 3)).result()
        assert pool.hits == 1


class Witness(Pool):
    """Notes what the pool beneath answered to whom, at the time."""

    def __init__(self, pool: Pool) -> None:
        self._pool, self.seen = pool, list[tuple[str, Future[Tensor], Future[str]]]()

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        call, then = self._pool.submit(name, *tensors), Future[str]()
        call.add_done_callback(lambda done: then.set_result(digest(done.result())))
        self.seen.append((name, call, then))
        return call

    def close(self) -> None:
        self._pool.close()


def test_nobody_changes_the_results_that_the_memo_shares(photo: Image) -> None:
    toolbox = make_toolbox("classical").only("dct_denoise", "stretch_brighten", "deblock")
    noisy = degrade(photo, parse_recipe("noise:high", 0)) * 0.6
    witness = Witness(LocalPool(toolbox, max_batch=1))
    with MemoPool(witness) as pool:
        for _ in range(2):
            policy = FixedOrder("stretch_brighten", "dct_denoise", "deblock")
            restore(Photo(noisy), policy, toolbox, pool, strength=0.5)
        assert pool.hits > 0
        assert len(witness.seen) >= 3
        assert all(digest(call.result()) == then.result() for _, call, then in witness.seen)


def test_a_memo_serves_200_waiting_calls_while_the_queue_is_full() -> None:
    """The lock of the memo must be free while its caller waits for a place, or the workers cannot say that they are
    done."""
    model = Double()
    pool = MemoPool(LocalPool({"double": model}, workers=2, queue_size=64, max_batch=1))
    busy(pool, model)
    calls: list[Future[Tensor]] = []

    def ask(first: int) -> None:
        calls.extend([pool.submit("double", torch.full((1, 1), float(first + i))) for i in range(25)])

    threads = [threading.Thread(target=ask, args=(25 * i,), daemon=True) for i in range(8)]
    for thread in threads:
        thread.start()
    inner = pool._pool
    assert isinstance(inner, LocalPool)
    while len(inner._waiting) < 64:  # now callers wait for a place
        threads[0].join(0.01)
    model.gate.set()
    for thread in threads:
        thread.join(120)
        assert not thread.is_alive(), "the pool hangs"
    assert sorted(float(call.result()) for call in calls) == [2.0 * i for i in range(200)]
    pool.close()


# --- tools, metrics and perceptions are hosted alike


def test_one_pool_hosts_tools_and_metrics(photo: Image) -> None:
    psnr = make_metric("psnr")
    dark = photo * 0.5
    metrics: dict[str, Model] = {"psnr": FunctionModel(psnr.score)}
    with MemoPool(LocalPool(host(Toolbox(Gamma()), metric=metrics), max_batch=1)) as pool:
        bright = pool.submit("gamma", dark).result()
        scores = pool.submit("metric:psnr", torch.cat([bright, dark]), torch.cat([photo, photo])).result()
    assert torch.equal(bright, Gamma()(dark))
    assert scores.tolist() == [psnr.score(bright, photo), psnr.score(dark, photo)]  # type: ignore[call-arg]

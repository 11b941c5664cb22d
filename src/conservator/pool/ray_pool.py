"""A pool on a Ray cluster that many processes share: rollouts, rewards, whoever calls models.

    with start_pool("lab", PoolSettings(workers=4)):        # in one process: conservator pool start lab
        with RayPool(toolbox, "lab") as pool:               # in any, on any machine of the cluster
            call = pool.submit("denoise", image)

Who joins brings the models along, so a pool serves any toolbox, metrics and perceptions; models that are the same are
loaded once for all.
"""

from __future__ import annotations

import asyncio
import hashlib
import importlib
import os
import threading
from collections.abc import Mapping
from concurrent.futures import Future
from typing import Any

from torch import Tensor

from conservator.claims import package_versions
from conservator.errors import ConservatorError, PoolError, name_not_found
from conservator.extras import import_ray
from conservator.pool.calling import Model
from conservator.pool.pool import Pool
from conservator.pool.ray_cluster import Surroundings, first_line
from conservator.pool.shared import find_pool, pool_answer
from conservator.pool.telling import Call
from conservator.pool.wire import CallOrder, CallReply, PoolState, SentModel, from_wire, to_wire


class RayPool(Pool):
    """Calls models in the workers of a shared pool, which ``start_pool`` or ``conservator pool start`` started.

    The contract is Pool's, with the words of LocalPool: a model is loaded when it is first called, waiting calls of one
    model and shape run as one batch, whoever sent them. This process may have so many calls open as the pool says;
    ``submit`` blocks beyond that. A call that got no answer ``deadline`` seconds after it was sent fails with
    PoolError, wherever it is, and a worker that hangs in it is ended. A call whose worker dies is run again; one that
    kills two workers is its model's failure (ToolFailedError). What a model tells is heard at the end of its call.
    Closing finishes this process's calls, and leaves the pool to the others.
    """

    def __init__(self, models: Mapping[str, Model], pool: str, deadline: float = 600.0) -> None:
        """Join ``pool``, NAME or NAME@HOST:PORT, with models, which are sent as they are now.

        Raises PoolError where there is no such pool or it is of other versions, ConservatorError for a model that
        cannot be pickled, MissingExtraError without Ray.
        """
        self._ray = import_ray()
        self._dispatcher = find_pool(pool)
        unlike, self._places = pool_answer(self._dispatcher.join.remote(package_versions()), pool)
        if unlike:
            raise PoolError(
                f"the pool {pool} runs other versions ({unlike}); results would differ, so install the same"
            )
        self._models = {name: self._sent(name, model) for name, model in models.items()}
        self._deadline, self._pid, self._closed, self._open = deadline, os.getpid(), False, 0
        self._changed = threading.Condition()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True, name="ray-pool")
        self._thread.start()

    def _sent(self, name: str, model: Model) -> tuple[str, Any]:
        """The key of a model, and a reference to it."""
        try:
            pickled = importlib.import_module("ray.cloudpickle").dumps(model)
        except Exception as error:  # whatever its code raises
            raise ConservatorError(f"{name} cannot be sent to another process ({error}); make it picklable") from error
        identity = getattr(model, "identity", "")
        key = f"{name} {identity or hashlib.sha256(pickled).hexdigest()}"
        return key, self._ray.put(SentModel(name, key, identity, pickled, Surroundings()))

    def identity(self, name: str) -> str:
        return self._sent_model(name)[0]

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        key, model = self._sent_model(name)
        with self._changed:
            self._changed.wait_for(lambda: self._closed or self._open < self._places)
            if self._closed or os.getpid() != self._pid:
                why = "the pool is closed" if self._closed else "a forked process must join the pool by itself"
                raise PoolError(f"{name} cannot be called: {why}")
            self._open += 1
        call = Call()
        call.add_done_callback(self._leave)
        try:
            sent = self._ray.put([to_wire(tensor) for tensor in tensors])
            shapes = tuple((str(tensor.dtype), tuple(tensor.shape)) for tensor in tensors)
            order = CallOrder(name, key, [model], [sent], shapes, self._deadline)
            asyncio.run_coroutine_threadsafe(self._fetch(call, order), self._loop)
        except Exception as error:  # Ray raises whatever it likes
            call.set_exception(PoolError(f"{name} cannot be sent to the pool: {first_line(error)}"))
        return call

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()
            self._changed.wait_for(lambda: not self._open)
        if self._thread.is_alive():
            asyncio.run_coroutine_threadsafe(self._finish(), self._loop)
            self._thread.join()
            self._loop.close()

    async def _finish(self) -> None:
        """Let go what is left of cancelled calls, and end the loop."""
        left = asyncio.all_tasks() - {asyncio.current_task()}
        for task in left:
            task.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        self._loop.stop()

    def state(self) -> PoolState:
        """What the pool is and has done, for all who joined. Raises PoolError where it is gone."""
        state: PoolState = pool_answer(self._dispatcher.state.remote(), "that was joined")
        return state

    def _sent_model(self, name: str) -> tuple[str, Any]:
        try:
            return self._models[name]
        except KeyError:
            raise name_not_found("model", name, self._models) from None

    def _leave(self, call: Future[Tensor]) -> None:
        with self._changed:
            self._open -= 1
            self._changed.notify_all()

    async def _fetch(self, call: Call, order: CallOrder) -> None:
        """Send a call, and give its future what it comes to."""
        answering = self._dispatcher.call.remote(order)
        call.add_done_callback(lambda done: done.cancelled() and self._ray.cancel(answering, recursive=False))
        answer: Tensor | ConservatorError
        try:
            reply: CallReply = await answering
            answer = reply.end.error or from_wire(await reply.result[0])
            call.tell(reply.end.numbers)
            self._dispatcher.read.remote(reply.number)
        except Exception as error:  # the pool is gone, or a result with its machine
            answer = PoolError(f"{order.name} got no answer from the pool: {first_line(error)}")
        if not call.set_running_or_notify_cancel():
            return
        if isinstance(answer, Tensor):
            call.set_result(answer)
        else:
            call.set_exception(answer)

"""The heart of a shared pool: one actor that gives the waiting calls of all processes to its workers.

It never sees a pixel: calls and results pass through as references, which workers and callers fetch from each other.
All its methods run on one event loop, so nothing here needs a lock.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter, deque
from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from conservator.claims import package_versions
from conservator.extras import import_ray
from conservator.hosting import PoolSettings
from conservator.pool.ray_cluster import first_line, resources_of, was_killed
from conservator.pool.ray_worker import ModelWorker
from conservator.pool.wire import BatchReport, CallEnd, CallOrder, CallReply, PoolState, WorkerPlace, WorkerState

_MOST_KILLED = 2
"""Workers that one call may kill, alone with each, until it is the model's error: the same bound as for photos."""
_MOST_LOST = 10
"""Workers that one call may lose, killed by it or not. No set chose it: a cluster that loses so many is ill."""
_STRIKES = 3
"""Workers in a row that do not start, until those who wait are told. No set chose it."""
_READING = 30.0
"""Seconds that a pool which is stopped lets those who called read their last replies."""
_RESTED = 1.0
"""Seconds after which an idle worker is asked whether it lives, for the call it is given next would be blamed."""


@dataclass(eq=False)
class _Waiting:
    order: CallOrder
    until: float
    answer: asyncio.Future[CallReply]
    since: float = field(default_factory=time.monotonic)
    killed: int = 0
    lost: int = 0
    begun: bool = False
    """Whether a worker was ever given it."""
    alone: bool = False
    """Whether it runs in no batch with others, because a worker died in one that it was part of."""

    def reply(self, failed: str, message: str) -> None:
        if not self.answer.done():
            self.answer.set_result(CallReply(CallEnd(failed, message)))


@dataclass(eq=False)
class _Worker:
    actor: Any
    place: WorkerPlace
    held: Mapping[str, int] = field(default_factory=dict)
    busy: bool = False
    since: float = field(default_factory=time.monotonic)
    """When it was last known to live."""


class Dispatcher:
    """The actor of a pool; ``settings.workers`` says how many workers it is to have."""

    def __init__(self, settings: PoolSettings) -> None:
        self._ray, self._settings = import_ray(), settings
        self._waiting: deque[_Waiting] = deque()
        self._running = set[_Waiting]()
        self._workers: list[_Worker] = []
        self._starting = self._strikes = 0
        self._why = "the pool has no worker"
        self._counts = Counter[str]()
        self._waited = self._worked = 0.0
        self._tasks = set[asyncio.Task[None]]()
        self._replies, self._unread = 0, set[int]()
        self._closed, self._over = False, asyncio.Event()

    # --- what processes ask ---

    async def open(self) -> str:
        """Start the workers; "" once the first one is ready, else why there is none."""
        starting = [self._begin_worker() for _ in range(self._settings.workers or 1)]
        for one in asyncio.as_completed(starting):
            await one
            if self._workers:
                return ""
        return self._why

    async def join(self, versions: Mapping[str, str]) -> tuple[str, int]:
        """What keeps a process of these versions from joining, or ""; and how many calls it may have open."""
        here = package_versions()
        other = [f"{name} {here.get(name)} there and {version} here" for name, version in versions.items()]
        other = other if here != dict(versions) else []
        return ", ".join(other), self._settings.queue_size

    async def call(self, order: CallOrder) -> CallReply:
        """Run a call; it is answered by its deadline at the latest."""
        self._counts["calls"] += 1
        if self._closed:
            return CallReply(CallEnd("pool", f"{order.name} cannot be called: the pool is closed"))
        now = time.monotonic()
        call = _Waiting(order, now + order.seconds, asyncio.get_running_loop().create_future())
        self._waiting.append(call)
        self._schedule()
        try:
            async with asyncio.timeout(order.seconds):
                reply = await call.answer
        except TimeoutError:
            self._counts["late"] += 1
            what = "it was running" if call.begun else "it still waited"
            seconds = f"{order.name} gave no answer within {order.seconds:.0f} s"
            reply = CallReply(CallEnd("pool", f"{seconds}: {what}; {len(self._workers)} workers live"))
        except asyncio.CancelledError:
            self._counts["cancelled"] += 1
            raise
        finally:
            if call in self._waiting:
                self._waiting.remove(call)
        ends = {"": "results", "tool": "tool_errors", "image": "tool_errors", "pool": "pool_errors"}
        self._counts[ends[reply.end.failed]] += 1
        self._replies += 1
        self._unread.add(self._replies)
        return replace(reply, number=self._replies)

    async def read(self, number: int) -> None:
        """Note that a reply has arrived, with its result: this process owns it until then."""
        self._unread.discard(number)

    async def state(self) -> PoolState:
        """What it is and has done."""
        workers = [WorkerState(w.place.host, w.place.pid, w.busy, dict(w.held)) for w in self._workers]
        counts = dict(self._counts)
        return PoolState(
            self._settings, workers, len(self._waiting), len(self._running), counts, self._waited, self._worked
        )

    async def close(self) -> None:
        """Take no more calls, finish those that were sent, and end the workers."""
        self._closed = True
        while open_calls := [call.answer for call in (*self._waiting, *self._running) if not call.answer.done()]:
            await asyncio.wait(open_calls)
        until = time.monotonic() + _READING
        while self._unread and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for worker in list(self._workers):
            self._end(worker)
        self._over.set()

    async def over(self) -> None:
        """Return once it is closed."""
        await self._over.wait()

    # --- workers ---

    def _begin_worker(self) -> asyncio.Task[None]:
        """Begin one more worker."""
        self._starting += 1
        return self._soon(self._start())

    async def _start(self) -> None:
        """Wait for a worker; where it does not start, those who wait are told after the third in a row."""
        settings = self._settings
        gpus = settings.gpu_share if settings.device == "cuda" else 0
        # Ray starts none again: what becomes of its calls is decided here
        options = {"num_cpus": settings.threads, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
        actor = (
            self._ray.remote(ModelWorker)
            .options(**options, scheduling_strategy="SPREAD")
            .remote(settings.device, settings.threads, int(settings.memory * 2**30))
        )
        try:
            place: WorkerPlace = await actor.ready.remote()
            if place.versions != package_versions():
                raise RuntimeError(f"on {place.host} there are other versions than where the pool is: {place.versions}")
        except Exception as error:  # Ray raises whatever it likes
            self._failed_to_start(actor, error)
        else:
            self._strikes = 0
            self._workers.append(_Worker(actor, place))
        finally:
            self._starting -= 1
        if self._closed:
            self._ray.kill(actor)
        self._schedule()

    def _failed_to_start(self, actor: Any, error: Exception) -> None:
        self._ray.kill(actor)
        self._strikes += 1
        self._why = f"no worker starts on the cluster: {first_line(error)}"
        if self._strikes >= _STRIKES and not self._workers:
            self._strikes = 0
            for call in self._waiting:
                call.reply("pool", f"{call.order.name} cannot be called: {self._why}")

    def _end(self, worker: _Worker) -> None:
        """End a worker, and have no more of it."""
        if worker in self._workers:
            self._workers.remove(worker)
        self._ray.kill(worker.actor)

    # --- calls ---

    def _schedule(self) -> None:
        """Give waiting calls to idle workers, the oldest first; start workers that lack.

        Each goes to a worker that holds its model, else to the one with most memory left.
        """
        for call in [call for call in self._waiting if call.answer.done()]:
            self._waiting.remove(call)
        while self._waiting and (idle := [worker for worker in self._workers if not worker.busy]):
            first = self._waiting[0]
            worker = min(idle, key=lambda one: (first.order.key not in one.held, sum(one.held.values())))
            batch = self._batch(first)
            for call in batch:
                self._waiting.remove(call)
                self._running.add(call)
                call.begun = True
                self._waited += time.monotonic() - call.since
            worker.busy = True
            self._soon(self._run(worker, batch))
        lacking = (self._settings.workers or 1) - len(self._workers) - self._starting
        for _ in range(min(lacking, len(self._waiting))):
            self._begin_worker()

    def _batch(self, first: _Waiting) -> list[_Waiting]:
        if first.alone:
            return [first]
        same = first.order.key, first.order.shapes
        alike = [call for call in self._waiting if (call.order.key, call.order.shapes) == same and not call.alone]
        return alike[: self._settings.max_batch]

    async def _run(self, worker: _Worker, batch: list[_Waiting]) -> None:
        """Have a worker run a batch, and answer its calls, or have them wait again where the worker is lost."""
        begun = time.monotonic()
        try:
            if begun - worker.since > _RESTED and not await self._lives(worker):
                self._counts["lost"] += 1
                self._again(batch)
            elif await self._answered(worker, batch):
                worker.since = time.monotonic()
        except Exception as error:  # whatever it is, none is left without an answer
            for call in batch:
                call.reply("pool", f"{call.order.name}: the pool failed: {error!r}")
            self._end(worker)
        finally:
            worker.busy = False
            self._running -= set(batch)
            self._worked += time.monotonic() - begun
            self._schedule()

    async def _lives(self, worker: _Worker) -> bool:
        """Whether an idle worker answers; it is ended where it does not."""
        try:
            await _within(worker.actor.ready.remote(), 60.0)
        except (self._ray.exceptions.RayError, TimeoutError):
            self._end(worker)
            return False
        return True

    async def _answered(self, worker: _Worker, batch: list[_Waiting]) -> bool:
        """Run a batch; False where the worker is lost, and its calls wait again or are told."""
        now, errors, first = time.monotonic(), self._ray.exceptions, batch[0].order
        seconds = [call.until - now for call in batch]
        run = worker.actor.run.options(num_returns=len(batch) + 1)
        sent = run.remote(first.model, [call.order.tensors for call in batch], seconds)
        self._counts["batches"] += 1
        try:
            report: BatchReport = await _within(sent[0], max(seconds))
        except TimeoutError:  # nobody waits for it any more, and it may hang for ever
            self._counts["lost"] += 1
            self._end(worker)
            return False
        except errors.RayTaskError as error:
            for call in batch:
                call.reply("pool", f"{first.name}: the pool could not run it: {first_line(error)}")
            return True
        except errors.RayError:
            await self._after_loss(worker, batch)
            return False
        for call, end, result in zip(batch, report.ends, sent[1:], strict=True):
            if not call.answer.done():
                call.answer.set_result(CallReply(end, () if end.failed else (result,)))
        worker.held = report.held
        self._counts.update(loads=report.loads, evictions=report.evictions)
        if report.broken:
            self._end(worker)
        return True

    async def _after_loss(self, worker: _Worker, batch: list[_Waiting]) -> None:
        """What becomes of calls in whose midst a worker died; one that killed two by itself is the model's error."""
        if worker in self._workers:
            self._workers.remove(worker)
        self._schedule()
        killed = await asyncio.to_thread(was_killed, self._ray, worker.actor, worker.place.node)
        self._ray.kill(worker.actor)
        self._counts["killed" if killed else "lost"] += 1
        for call in batch:
            call.lost += 1
            call.alone = call.alone or killed
            call.killed += int(killed and len(batch) == 1)
            name = call.order.name
            if call.killed >= _MOST_KILLED:
                call.reply("tool", f"{name} killed its worker twice: memory ran out, perhaps, or its code crashed")
            elif call.lost >= _MOST_LOST:
                call.reply("pool", f"{name} lost its worker {call.lost} times; {resources_of(self._ray)}")
        self._again(batch)

    def _again(self, batch: Sequence[_Waiting]) -> None:
        """Have calls wait again, before all others."""
        left = [call for call in batch if not call.answer.done()]
        self._running -= set(left)
        self._counts["retried"] += len(left)
        self._waiting.extendleft(reversed(left))

    def _soon(self, work: Any) -> asyncio.Task[None]:
        """Run a coroutine beside, and keep it alive."""
        task: asyncio.Task[None] = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


async def _within(ref: Awaitable[Any], seconds: float) -> Any:
    """What a reference holds; raises TimeoutError where that takes longer. Its call is left to itself."""

    async def fetch() -> Any:
        return await ref

    task = asyncio.ensure_future(fetch())
    done, _ = await asyncio.wait({task}, timeout=max(0.0, seconds))
    if not done:
        task.add_done_callback(lambda late: late.cancelled() or late.exception())
        raise TimeoutError
    return task.result()

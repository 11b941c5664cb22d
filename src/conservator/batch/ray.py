"""Where the photos of a batch are restored on a cluster: Ray's, of one machine or of many.

Each worker is a process with a restorer of its own, and works on one photo at a time: nothing queues up in the cluster,
and when a process dies, it is known in which photo. All that makes a batch stays with who began it: the journal, the
locks, what may be replaced, and the moment at which a result takes its place. So a worker or a machine that is lost
leaves nothing half done, and its photo is restored again by another one.
"""

from __future__ import annotations

import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from conservator.batch.files import FileRestorer
from conservator.batch.journal import Outcome
from conservator.batch.ray_calls import Remote, WorkerLostError, start_worker
from conservator.batch.standing import Job, outcome
from conservator.batch.tasks import Task
from conservator.errors import ConservatorError, PoolError
from conservator.extras import import_ray
from conservator.files import replacing
from conservator.pool.ray_cluster import begin_cluster, first_line, join_cluster, resources_of, room_for
from conservator.restorer import Progress

_KILLED = (
    "its worker was killed twice in the midst of it: memory ran out, perhaps (give fewer --jobs), or a tool crashed"
)
_MOST_LOST = 10
"""Workers that one photo may lose, killed by it or not. No set chose it: a cluster that loses so many is ill."""
_STRIKES = 3
"""Workers in a row that do not start. No set chose it."""
_STORE = {False: 100 * 2**20, True: 512 * 2**20}
"""Bytes for what Ray keeps in memory, without and with shipped files; its least is 75 MiB, and what is more, it spills.
With shared files only orders and outcomes go there."""


@dataclass(frozen=True)
class Cluster:
    """Restores photos on the machines of a Ray cluster; needs the extra [ray].

    Workers see photos and results by the same paths as this process, unless ``ship`` sends them as bytes. Their
    machines need the same versions of Conservator and of what it builds on, and the same tools, which is checked: then
    results are the same to the byte as with ``Threads``. What the cluster fails in raises PoolError and is no photo's
    failure; what was restored until then stands, and a resumed batch goes on.
    """

    address: str = ""
    """Of the cluster, as host:port, one of whose machines this must be. Without it: the cluster that ``ray start``
    began on this machine, else one that is started here for as long as the batch takes."""
    ship: bool = False
    """Whether photos and results travel as bytes, because there is no disk that all machines share."""
    jobs: int | None = None
    """Workers (default: as many as the cluster has cores, or room on its GPUs)."""
    threads: int = 1
    """Threads that compute in each worker, and cores that it takes."""
    gpus: float = 1.0
    """The share of a GPU that a worker takes where the request's device is cuda."""
    patience: float = 300.0
    """Seconds to wait for a worker while there is none at all."""

    def restore(
        self,
        files: FileRestorer,
        jobs: Sequence[Job],
        started: Callable[[Task], Progress],
        ended: Callable[[Task, Outcome], None],
        stopped: Callable[[], bool],
    ) -> None:
        """Restore each photo; when that is stopped, those that were begun are finished, and no other is begun.

        Raises MissingExtraError without Ray, ConservatorError for a device or a share that cannot be had, PoolError
        where there is no cluster, where its machines are not alike, or where it is lost.
        """
        device = files.restorer.request.device
        if device not in ("cpu", "cuda"):
            raise ConservatorError(f"the device is {device}; workers of a cluster compute on cpu or cuda, as Ray deals")
        if not 0 < self.gpus <= 1:
            raise ConservatorError(f"a worker's share of a GPU is {self.gpus}, expected more than 0 and 1 at most")
        if jobs:
            ray = import_ray()
            with self._connected(ray):
                _Batch(ray, self, files, jobs, started, ended, stopped).run()

    @contextmanager
    def _connected(self, ray: Any) -> Iterator[None]:
        """Join a cluster that there is, or start one; it ends with the batch only if it began with it."""
        if ray.is_initialized():
            yield
            return
        try:
            self._connect(ray)
        except Exception as error:  # Ray raises whatever it likes
            ray.shutdown()
            where = f"the cluster at {self.address} cannot be joined" if self.address else "no cluster can be started"
            raise PoolError(f"{where} ({first_line(error)})") from error
        try:
            yield
        finally:
            ray.shutdown()

    def _connect(self, ray: Any) -> None:
        if self.address:
            join_cluster(ray, self.address)
            return
        begin_cluster(ray, None if self.jobs is None else self.jobs * self.threads, _STORE[self.ship])


@dataclass
class _Flight:
    """A photo on its way through the cluster."""

    job: Job
    progress: Progress | None = None
    """Whom to tell how far it is; None until it is begun."""
    killed: int = 0
    """Workers that died in it, on machines that live."""
    lost: int = 0
    """Workers that it lost, for whatever reason."""


class _Batch:
    """The photos of one batch, and the threads here of which each leads one worker there, for as long as that lives."""

    def __init__(
        self,
        ray: Any,
        cluster: Cluster,
        files: FileRestorer,
        jobs: Sequence[Job],
        started: Callable[[Task], Progress],
        ended: Callable[[Task, Outcome], None],
        stopped: Callable[[], bool],
    ) -> None:
        self._ray, self._cluster, self._files = ray, cluster, files
        self._started, self._ended, self._stopped = started, ended, stopped
        self._waiting = deque(_Flight(job) for job in jobs)
        self._lock = threading.Lock()
        self._in_work = 0
        self._broken = False
        self._strikes = 0
        self._sign = time.monotonic()
        """When a worker was last seen to live."""
        self._sent = replace(files, restorer=files.restorer.with_workers(cluster.threads))

    def run(self) -> None:
        """Restore all photos, with as many workers as the cluster has room for at the moment."""
        if not self._room():
            raise PoolError(f"the cluster has no room for a worker: {resources_of(self._ray)}")
        threads = ThreadPoolExecutor(len(self._waiting))
        leading: set[Future[None]] = set()
        try:
            while leading or self._wanted():
                while len(leading) < min(self._room(), self._wanted() + self._in_work):
                    leading.add(threads.submit(self._lead))
                ended, leading = wait(leading, timeout=1, return_when=FIRST_COMPLETED)
                for one in ended:
                    one.result()
                if not leading:
                    self._check_patience()
        finally:
            self._broken = True
            threads.shutdown()

    def _room(self) -> int:
        """How many workers the machines that live have room for, whatever else they do."""
        cluster, cuda = self._cluster, self._files.restorer.request.device == "cuda"
        room = room_for(self._ray, cluster.threads, cluster.gpus if cuda else 0)
        return room if cluster.jobs is None else min(room, cluster.jobs)

    def _wanted(self) -> int:
        """How many photos wait: when the batch is stopped, only those that were begun."""
        with self._lock:
            waiting = list(self._waiting)
        return len(waiting) if not self._stopped() else sum(flight.progress is not None for flight in waiting)

    def _next(self) -> _Flight | None:
        """The next photo to work on; None where none is left."""
        with self._lock:
            if self._broken or not self._waiting:
                return None
            if self._stopped() and self._waiting[0].progress is None:  # those that were begun come first
                return None
            self._in_work += 1
            return self._waiting.popleft()

    def _lead(self) -> None:
        """Start a worker, and give it photos until none is left or it is lost."""
        with self._worker() as remote:
            fit = remote is not None
            while remote is not None and fit and (flight := self._next()) is not None:
                try:
                    fit = self._restore(remote, flight)
                finally:
                    with self._lock:
                        self._in_work -= 1
                        self._sign = time.monotonic()

    @contextmanager
    def _worker(self) -> Iterator[Remote | None]:
        """A worker that is ready; None where it is no longer needed, or did not start."""
        cluster = self._cluster
        gpus = cluster.gpus if self._files.restorer.request.device == "cuda" else 0
        remote = start_worker(self._ray, self._sent, cluster.threads, gpus)
        try:
            while not remote.answers(0.5):
                if self._broken or not self._wanted():
                    yield None
                    return
                self._check_patience()
            try:
                remote.check(self._files)
            except WorkerLostError as lost:
                self._strikes += 1
                if self._strikes >= _STRIKES:
                    raise PoolError(f"workers do not start on the cluster: {lost}") from lost
                yield None
                return
            self._strikes, self._sign = 0, time.monotonic()
            yield remote
        finally:
            remote.end()

    def _check_patience(self) -> None:
        if self._in_work:
            self._sign = time.monotonic()
        elif time.monotonic() - self._sign > self._cluster.patience:
            raise PoolError(
                f"no worker could be had within {self._cluster.patience:.0f} s: {resources_of(self._ray)}; "
                "what was restored stands, and the same command with --resume goes on"
            )

    def _restore(self, remote: Remote, flight: _Flight) -> bool:
        """Have a photo restored; False where the worker is lost: the photo is tried again, unless it is to blame."""
        task = flight.job.task
        if flight.progress is None:
            flight.progress = self._started(task)
        flight.progress(f"on {remote.host}")
        try:
            ended = self._files.carry_out(flight.job, lambda folder: self._made(remote, task, folder))
        except WorkerLostError as lost:
            flight.lost += 1
            flight.killed += lost.killed
            if flight.killed < 2:
                if flight.lost >= _MOST_LOST:
                    raise PoolError(f"{task.source} lost its worker {flight.lost} times: {lost}") from lost
                flight.progress("waiting for another worker")
                with self._lock:
                    self._waiting.appendleft(flight)
                return False
            self._ended(task, outcome(task, "failed", _KILLED))
            return False
        self._ended(task, ended)
        return True

    def _made(self, remote: Remote, task: Task, folder: Path) -> Outcome:
        """Have a worker leave the result of a photo in a folder here; raises WorkerLostError where the worker is."""
        in_place = task.in_place
        if not os.access(task.source, os.R_OK) or not task.source.is_file():  # said here, as it is without a cluster
            return self._files.make(task, task.source, folder, in_place, lambda stage: None)
        data = task.source.read_bytes() if self._cluster.ship else None
        made = remote.restore(task, in_place, folder, data)
        for name, content in made.files.items():
            with replacing(folder / Path(name).name) as file:
                file.write(content)
        if made.outcome is None:
            raise PoolError(
                f"{remote.host} does not see {made.unseen}; let all machines share that disk under the same path, or "
                "give --ship"
            )
        return made.outcome

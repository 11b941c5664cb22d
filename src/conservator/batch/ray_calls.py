"""How a worker on a Ray cluster is started and called, and what it means when it does not answer."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conservator.batch.files import FileRestorer
from conservator.batch.ray_worker import Made, PhotoOrder, RayWorker, Site, weights_of
from conservator.batch.tasks import Task
from conservator.errors import PoolError
from conservator.pool.ray_cluster import Surroundings, first_line, was_killed
from conservator.record import versions


class WorkerLostError(PoolError):
    """A worker that gives no answer any more. ``killed``: its process died, while its machine lives."""

    def __init__(self, message: str, killed: bool = False) -> None:
        super().__init__(message)
        self.killed = killed


def start_worker(ray: Any, files: FileRestorer, threads: int, gpus: float) -> Remote:
    """Ask the cluster for a worker; it waits for room there, and answers once it is ready."""
    made = importlib.import_module("ray.cloudpickle").dumps(files)
    # Ray starts none again: whoever called it decides what becomes of the photo
    options = {"num_cpus": threads, "num_gpus": gpus, "max_restarts": 0, "max_task_retries": 0}
    actor = ray.remote(RayWorker).options(**options).remote(made, threads, Surroundings())
    return Remote(ray, actor, actor.ready.remote())


@dataclass
class Remote:
    """A worker, as seen from here."""

    ray: Any
    actor: Any
    _ready: Any
    site: Site | None = None

    @property
    def host(self) -> str:
        """The name of its machine."""
        return self.site.host if self.site is not None else "the cluster"

    def answers(self, seconds: float) -> bool:
        """Whether it is ready, or failed, within so many seconds."""
        return bool(self.ray.wait([self._ready], timeout=seconds)[0])

    def check(self, files: FileRestorer) -> None:
        """See that it would make the same results as this process.

        Raises PoolError where it would not, WorkerLostError where it did not start.
        """
        site: Site = self._get(self._ready)
        for what, here, there in (
            ("versions", versions(), site.versions),
            ("tools or weights", weights_of(files.restorer.toolbox), site.tools),
        ):
            if told := _differing(here, there):
                raise PoolError(
                    f"the {what} on {site.host} are others than here: {told}; results would differ, so install the same"
                )
        self.site = site

    def restore(self, task: Task, in_place: bool, folder: Path, data: bytes | None) -> Made:
        """Have one photo restored; raises WorkerLostError."""
        order = PhotoOrder(task, in_place, task.source.absolute(), folder.absolute(), data)
        made: Made = self._get(self.actor.restore.remote(order))
        return made

    def end(self) -> None:
        """End its process."""
        self.ray.kill(self.actor)

    def _get(self, call: Any) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(call)
        except errors.RayTaskError as error:  # what the worker's machine lacks; a photo's failure is an outcome
            raise WorkerLostError(f"{self.host}: {error.cause!r}") from error
        except errors.RayActorError as error:
            raise WorkerLostError(f"{self.host}: {first_line(error)}", self._was_killed()) from error
        except errors.RayError as error:
            raise WorkerLostError(f"{self.host}: {type(error).__name__}: {first_line(error)}") from error

    def _was_killed(self) -> bool:
        """Whether its process is dead, and its machine is not."""
        return self.site is not None and was_killed(self.ray, self.actor, self.site.node)


def _differing(here: Mapping[str, str], there: Mapping[str, str]) -> str:
    """What differs, in words; "" where nothing does."""
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    shown = [
        f"{name} {there.get(name, 'none')[:12]} there and {here.get(name, 'none')[:12]} here" for name in names[:3]
    ]
    return ", ".join(shown)

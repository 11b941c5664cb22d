"""Pools that many processes share: how one is started on a Ray cluster, found by its name, asked and stopped."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from conservator.errors import ConservatorError, PoolError
from conservator.extras import import_ray
from conservator.hosting import PoolSettings
from conservator.pool.dispatcher import Dispatcher
from conservator.pool.ray_cluster import begin_cluster, first_line, join_cluster, resources_of, room_for
from conservator.pool.wire import PoolState

_NAMESPACE = "conservator"
"""Of Ray's named actors."""
_STORE = 512 * 2**20
"""Bytes for what Ray keeps in memory where it is begun here: tensors on their way. What is more, it spills."""
_PATIENCE = 300.0
"""Seconds in which the first worker starts; it imports torch, which takes long on a busy machine."""
_ANSWERS = 60.0
"""Seconds in which a pool that lives answers what needs no model."""


@contextmanager
def start_pool(name: str, settings: PoolSettings, address: str = "") -> Iterator[Any]:
    """Start a pool that lives as long as the context, on the cluster at host:port, else on the one that is found here.

    Where none runs on this machine, one is begun, which ends with this process. Yields the actor of the pool. Raises
    PoolError where that cannot be, where there is a pool of this name, and where no worker starts; ConservatorError for
    a device that is not cpu or cuda.
    """
    if settings.device not in ("cpu", "cuda"):
        raise ConservatorError(f"the device is {settings.device}; a pool on a cluster computes on cpu or cuda")
    ray = import_ray()
    _connect(ray, address, settings)
    room = room_for(ray, settings.threads, settings.gpu_share if settings.device == "cuda" else 0)
    settings = replace(settings, workers=settings.workers or room)
    if not 0 < (settings.workers or 0) <= room:
        raise PoolError(f"the cluster has room for {room} workers, not for {settings.workers}: {resources_of(ray)}")
    options = {"name": _actor(name), "namespace": _NAMESPACE, "num_cpus": 0, "max_concurrency": 10_000}
    try:
        pool = ray.remote(Dispatcher).options(**options, scheduling_strategy=_here(ray)).remote(settings)
    except ValueError as error:  # how Ray says that the name is taken
        raise PoolError(f"there is a pool {name} already; stop it, or give this one another name") from error
    try:
        if why := pool_answer(pool.open.remote(), name, _PATIENCE):
            raise PoolError(f"the pool {name} cannot be started: {why}")
        yield pool
    finally:
        ray.kill(pool)  # its workers are its own, and go with it


def find_pool(pool: str) -> Any:
    """The actor of the pool NAME, or NAME@HOST:PORT. Raises PoolError where there is none."""
    ray, (name, _, address) = import_ray(), pool.partition("@")
    _connect(ray, address)
    try:
        return ray.get_actor(_actor(name), namespace=_NAMESPACE)
    except ValueError as error:
        raise PoolError(
            f"there is no pool {name} on this cluster; start it with: conservator pool start {name}"
        ) from error


def stop_pool(pool: str, seconds: float) -> bool:
    """Let a pool finish its calls, and end it; whether they were finished within so many seconds."""
    ray, actor = import_ray(), find_pool(pool)
    try:
        ray.get(actor.close.remote(), timeout=seconds)
        return True
    except ray.exceptions.GetTimeoutError:
        return False
    except ray.exceptions.RayError as error:
        raise PoolError(f"the pool {pool} does not answer: {first_line(error)}") from error
    finally:
        ray.kill(actor)


def state_of(pool: str) -> PoolState:
    """What a pool is and has done. Raises PoolError where there is none."""
    state: PoolState = pool_answer(find_pool(pool).state.remote(), pool)
    return state


def wait_until_over(pool: Any) -> None:
    """Return once the pool of an actor is stopped, by whomever."""
    ray = import_ray()
    try:
        ray.get(pool.over.remote())
    except ray.exceptions.RayActorError:
        return


def _connect(ray: Any, address: str, settings: PoolSettings | None = None) -> None:
    """Join the cluster at an address, or the one that runs here; with settings begin one where none does."""
    if ray.is_initialized():
        return
    try:
        try:
            join_cluster(ray, address or "auto")
        except ConnectionError:
            if address or settings is None:
                raise
            begin_cluster(ray, settings.workers and settings.workers * settings.threads, _STORE)
    except Exception as error:  # Ray raises whatever it likes
        ray.shutdown()
        where = f"the cluster at {address} cannot be joined" if address else "no cluster runs on this machine"
        raise PoolError(f"{where} ({first_line(error)}); conservator pool start NAME begins one") from error


def pool_answer(ref: Any, pool: str, seconds: float = _ANSWERS) -> Any:
    """What a pool answers. Raises PoolError where it does not."""
    ray = import_ray()
    try:
        return ray.get(ref, timeout=seconds)
    except ray.exceptions.RayError as error:
        raise PoolError(f"the pool {pool} does not answer: {first_line(error)}") from error


def _actor(name: str) -> str:
    """What Ray calls the actor of a pool."""
    return f"pool {name}"


def _here(ray: Any) -> Any:
    """That an actor runs on this machine: so a pool is lost with whoever began it, and with no other machine."""
    strategies = importlib.import_module("ray.util.scheduling_strategies")
    return strategies.NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False)

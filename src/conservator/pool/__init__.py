"""Pools: shared places to call models by name, in this process or elsewhere."""

from conservator.pool.calling import Model, call_error, load_error
from conservator.pool.check import check_pool
from conservator.pool.memo import MemoPool
from conservator.pool.models import FunctionModel, host
from conservator.pool.pool import LocalPool, Pool, check_device
from conservator.pool.ray_pool import RayPool
from conservator.pool.renamed import RenamedPool
from conservator.pool.shared import start_pool
from conservator.pool.telling import Call, listen, numbers_of, tell

__all__ = [
    "Call",
    "FunctionModel",
    "LocalPool",
    "MemoPool",
    "Model",
    "Pool",
    "RayPool",
    "RenamedPool",
    "call_error",
    "check_device",
    "check_pool",
    "host",
    "listen",
    "load_error",
    "numbers_of",
    "start_pool",
    "tell",
]

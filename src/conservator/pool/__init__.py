"""Pools: shared places to call models by name, in this process or elsewhere."""

from conservator.pool.check import check_pool
from conservator.pool.memo import MemoPool
from conservator.pool.models import FunctionModel, host
from conservator.pool.pool import LocalPool, Model, Pool, call_error, check_device, load_error
from conservator.pool.renamed import RenamedPool
from conservator.pool.telling import Call, listen, numbers_of, tell

__all__ = [
    "Call",
    "FunctionModel",
    "LocalPool",
    "MemoPool",
    "Model",
    "Pool",
    "RenamedPool",
    "call_error",
    "check_device",
    "check_pool",
    "host",
    "listen",
    "load_error",
    "numbers_of",
    "tell",
]

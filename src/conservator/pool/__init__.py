"""Pools: shared places to call models by name, in this process or elsewhere."""

from conservator.pool.pool import LocalPool, MemoPool, Model, Pool

__all__ = ["LocalPool", "MemoPool", "Model", "Pool"]

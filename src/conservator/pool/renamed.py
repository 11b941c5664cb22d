"""A pool in which some names mean other models."""

from __future__ import annotations

from collections.abc import Mapping
from concurrent.futures import Future

from torch import Tensor

from conservator.pool.pool import Pool


class RenamedPool(Pool):
    """Calls another pool; what is asked by a name in ``names`` is answered by the model that it says."""

    def __init__(self, pool: Pool, names: Mapping[str, str]) -> None:
        self._pool, self._names = pool, dict(names)

    def identity(self, name: str) -> str:
        return self._pool.identity(self._names.get(name, name))

    def submit(self, name: str, *tensors: Tensor) -> Future[Tensor]:
        return self._pool.submit(self._names.get(name, name), *tensors)

    def close(self) -> None:
        self._pool.close()

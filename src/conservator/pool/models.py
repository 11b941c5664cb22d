"""What a pool can host besides tools: plain functions, as metrics are; and several mappings in one pool."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from conservator.pool.calling import Model


class FunctionModel:
    """A function of one item, say a metric of one image, as a model: items one by one, no weights to load.

    ``function`` gets tensors (1, ...) and returns a number or a tensor; the results of B items are stacked to (B, ...),
    numbers to (B,) in float64. ``identity`` changes where the function, or what it has learnt, changes.
    """

    def __init__(self, function: Callable[..., float | Tensor], identity: str = "") -> None:
        self._function, self.identity = function, identity

    def setup(self, device: str) -> None:
        """Nothing to load."""

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Apply the function to each item."""
        results = (self._function(*parts) for parts in zip(*(t.split(1) for t in tensors), strict=True))
        return torch.stack([r if isinstance(r, Tensor) else torch.tensor(r, dtype=torch.float64) for r in results])


def host(models: Mapping[str, Model], **others: Mapping[str, Model]) -> dict[str, Model]:
    """One mapping for one pool: ``models`` (a toolbox) under their names, the others under ``group:name``.

    >>> sorted(host({"gamma": FunctionModel(abs)}, metric={"psnr": FunctionModel(max)}))
    ['gamma', 'metric:psnr']
    """
    prefixed = {f"{group}:{name}": model for group, few in others.items() for name, model in few.items()}
    return {**models, **prefixed}

"""What a pool hosts, how it is called once it is loaded, and what a caller is told when that fails."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol

import torch
from torch import Tensor

from conservator.errors import ConservatorError, ImageError, MissingExtraError, PoolError, ToolFailedError
from conservator.pool.telling import Numbers, heard_by


class Model(Protocol):
    """What a pool can host: cheap to make and to pickle, loaded by ``setup`` in the worker, then called.

    It may have an attribute ``identity`` (str), by which a pool knows it again: two models of one identity, its weights
    included, give the same results. Without one, or where it is "", the object itself is its identity.
    """

    def setup(self, device: str) -> None:
        """Load weights onto a torch device."""

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Map tensors whose first axis is the batch to one tensor with the same first axis.

        It must not keep what it gets. ToolFailedError says that it cannot treat these tensors, ImageError that they
        are not what it takes; any other exception counts as the model's failure, too.
        """


def answers(
    name: str, model: Model, batch: Sequence[tuple[Tensor, ...]], ears: Sequence[Callable[[Numbers], None]]
) -> list[Tensor | BaseException]:
    """The results of a loaded model for calls of equal shapes, or what each caller is told (``call_error``).

    Several run as one batch; where that fails, one by one, for one bad item must not fail its neighbours. Called alone,
    the model is heard by the ear of its call.
    """
    if len(batch) > 1 and (parts := _together(model, batch)) is not None:
        return list(parts)
    return [_alone(name, model, tensors, hear) for tensors, hear in zip(batch, ears, strict=True)]


def _together(model: Model, batch: Sequence[tuple[Tensor, ...]]) -> list[Tensor] | None:
    """The results of one run of the model for all; None where it fails."""
    try:
        together = model(*(torch.cat(column) for column in zip(*batch, strict=True)))
        # copied, for a part of a batch would keep the whole batch in memory
        return [part.clone() for part in torch.split(together, [tensors[0].shape[0] for tensors in batch])]
    except BaseException:  # whatever it was, each call alone says it of its own tensors
        return None


def _alone(
    name: str, model: Model, tensors: tuple[Tensor, ...], hear: Callable[[Numbers], None]
) -> Tensor | BaseException:
    try:
        with heard_by(hear):
            return _owned(model(*tensors), tensors)
    except BaseException as error:
        return call_error(name, error)


def _owned(result: Tensor, tensors: Sequence[Tensor]) -> Tensor:
    """The result, copied where it lies in the memory of what was given, which its owner may change."""
    storage = result.untyped_storage().data_ptr()
    return result.clone() if any(storage == t.untyped_storage().data_ptr() for t in tensors) else result


def call_error(name: str, error: BaseException) -> BaseException:
    """What a caller is told when a loaded model raised ``error``: one of the outcomes of Pool, caused by it.

    Code that wants to end the process, and a device that no longer answers, have ended the worker, not the call.
    """
    if isinstance(error, ToolFailedError | ImageError | PoolError) and str(error):
        return error
    reason = f"{type(error).__name__}: {error}" if str(error) else f"{type(error).__name__} without a reason"
    if isinstance(error, MissingExtraError):
        told: ConservatorError = PoolError(f"{name} cannot run here: {error}")
    elif isinstance(error, PoolError):
        told = PoolError(f"{name}: the pool could not run it and gave no reason")
    elif not isinstance(error, Exception) or device_died(error):
        told = PoolError(f"the worker died while {name} ran ({reason})")
    else:
        told = ToolFailedError(f"{name} failed: {reason}")
    told.__cause__ = error
    return told


def load_error(name: str, error: BaseException) -> PoolError:
    """What a caller is told when the ``setup`` of a model raised ``error``."""
    sentence = isinstance(error, ConservatorError)
    told = PoolError(f"{name} cannot be loaded: {error}" if sentence else f"{name} cannot be loaded: {error!r}")
    told.__cause__ = error
    return told


def device_died(error: BaseException) -> bool:
    """Whether an accelerator failed for good, which torch cannot mend within the process; not for lack of memory."""
    gone = getattr(torch, "AcceleratorError", ())  # since torch 2.8
    return isinstance(error, gone) and not isinstance(error, torch.OutOfMemoryError)

"""What runs in a process of a Ray cluster: a restorer of its own, which restores one photo after another."""

from __future__ import annotations

import pickle
import platform
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import torch

from conservator.extras import import_ray
from conservator.pool.ray_cluster import Surroundings
from conservator.record import versions
from conservator.tools.tool import Toolbox

if TYPE_CHECKING:
    from conservator.batch.files import FileRestorer
    from conservator.batch.journal import Outcome
    from conservator.batch.tasks import Task


@dataclass(frozen=True)
class PhotoOrder:
    """A photo that a worker is to restore."""

    task: Task
    in_place: bool
    """Whether the result is to take the place of the photo."""
    source: Path
    """Where the photo lies, absolute; the worker looks there unless it is given ``data``."""
    folder: Path
    """Where the result is to be left, absolute; likewise."""
    data: bytes | None = None
    """The photo's file, where it is shipped."""


@dataclass(frozen=True)
class Made:
    """What a worker made of an order."""

    outcome: Outcome | None
    """None where the worker does not see the files."""
    files: Mapping[str, bytes] = field(default_factory=dict)
    """What it left in the folder, by name, where that is shipped back."""
    unseen: str = ""
    """A path that this machine does not see, though who sent the order does."""


@dataclass(frozen=True)
class Site:
    """Where a worker runs, and what its results depend on."""

    node: str
    """Ray's name of the machine."""
    host: str
    versions: Mapping[str, str]
    tools: Mapping[str, str]
    """The hash of each tool's weights, by its name."""


class RayWorker:
    """One process of the cluster. It writes only where its orders say; journal and places are with who began the batch.

    ``files`` is a pickled FileRestorer, ``threads`` the number of threads that compute.
    """

    def __init__(self, files: bytes, threads: int, surroundings: Surroundings) -> None:
        self._pickled, self._threads, self._surroundings = files, threads, surroundings

    def ready(self) -> Site:
        """Make the restorer, and tell where this is. Raises what the making raises."""
        self._surroundings.take_over()
        torch.set_num_threads(self._threads)
        self._files: FileRestorer = pickle.loads(self._pickled)
        node = import_ray().get_runtime_context().get_node_id()
        return Site(node, platform.node(), versions(), weights_of(self._files.restorer.toolbox))

    def restore(self, order: PhotoOrder) -> Made:
        """Restore one photo; what goes wrong with it becomes a failed outcome, what this machine lacks raises."""
        if order.data is not None:
            return self._restore_shipped(order, order.data)
        unseen = next((path for path in (order.folder, order.source) if not path.exists()), None)
        if unseen is not None:
            return Made(None, unseen=str(unseen))
        return Made(self._files.make(order.task, order.source, order.folder, order.in_place, _silent))

    def _restore_shipped(self, order: PhotoOrder, data: bytes) -> Made:
        with TemporaryDirectory(prefix="conservator-") as name:
            source, folder = Path(name, f"photo{order.task.source.suffix}"), Path(name, "made")
            folder.mkdir()
            source.write_bytes(data)
            outcome = self._files.make(order.task, source, folder, order.in_place, _silent)
            return Made(outcome, {path.name: path.read_bytes() for path in folder.iterdir()})


def weights_of(toolbox: Toolbox) -> dict[str, str]:
    """The hash of each tool's weights, by its name; "" for a tool that is code alone."""
    return {name: tool.weights_sha256 for name, tool in toolbox.items()}


def _silent(stage: str) -> None:
    pass

"""What all that runs on a Ray cluster shares: joining or beginning one, and telling whether a process was killed."""

from __future__ import annotations

import logging
import os
import shutil
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

_QUIET = {"log_to_driver": False, "logging_level": logging.CRITICAL}
_SURE = 120.0
"""Seconds at most in which Ray learns that a process which cannot be reached is dead, where it is. It takes about 15 to
declare a machine dead (five checks, 3 s apart), and longer where machines are busy."""


@dataclass(frozen=True)
class Surroundings:
    """What workers take over of the process that began them, as far as their machines have it."""

    folder: str = field(default_factory=os.getcwd)
    """Modules of ``module:Class`` are looked for there."""
    paths: tuple[str, ...] = field(default_factory=lambda: tuple(sys.path))
    home: str | None = field(default_factory=lambda: os.environ.get("CONSERVATOR_HOME"))
    """Where the user's own tools are."""

    def take_over(self) -> None:
        """Make them this process's own. Modules that are found here anyway come first."""
        if Path(self.folder).is_dir():
            os.chdir(self.folder)
        sys.path.extend(path for path in self.paths if path not in sys.path and Path(path).exists())
        if self.home is not None:
            os.environ["CONSERVATOR_HOME"] = self.home


def join_cluster(ray: Any, address: str) -> None:
    """Join the cluster at host:port, one of whose machines this must be. Raises what Ray raises."""
    ray.init(address=address, **_QUIET)


def begin_cluster(ray: Any, cores: int | None, store: int) -> None:
    """Begin a cluster of this machine alone, which ends with this process; joins the one of ``ray start``, if any.

    ``cores`` are those that it deals out (default: all), ``store`` the bytes that it keeps of objects in memory. Raises
    what Ray raises.
    """
    shared = Path("/dev/shm")
    # containers are often given 64 MB there; a file elsewhere will do, and Ray would warn at length
    small = shared.is_dir() and shutil.disk_usage(shared).free < store
    place = {"_plasma_directory": tempfile.gettempdir()} if small else {}
    try:
        ray.init(num_cpus=cores, include_dashboard=False, object_store_memory=store, **place, **_QUIET)
    except ValueError:  # how Ray says that there is one already, whose sizes are its own
        ray.init(**_QUIET)


def resources_of(ray: Any) -> str:
    """What the cluster has, in words."""
    total = ray.cluster_resources()
    return f"its machines have {total.get('CPU', 0):g} cores and {total.get('GPU', 0):g} GPUs"


def room_for(ray: Any, threads: int, gpus: float) -> int:
    """How many workers of so many cores and such a share of a GPU the machines have room for, whatever else they do."""
    total = ray.cluster_resources()
    room = int(total.get("CPU", 0) / threads)
    return min(room, int(total.get("GPU", 0) / gpus + 1e-9)) if gpus else room


def was_killed(ray: Any, actor: Any, node: str) -> bool:
    """Whether the process of an actor that gave no answer is dead, while its machine lives.

    The actor has a method ``ready``; ``node`` is Ray's name of its machine. May take two minutes.
    """
    errors, until = ray.exceptions, time.monotonic() + _SURE
    while True:
        try:
            ray.get(actor.ready.remote(), timeout=max(0.1, until - time.monotonic()))
            return False
        except errors.ActorDiedError:  # of a lost machine Ray says so only once it knows that the machine is lost
            return any(one["NodeID"] == node and one["Alive"] for one in ray.nodes())
        except errors.ActorUnavailableError:  # it cannot be reached, and may still live
            if time.monotonic() > until:
                return False
            time.sleep(0.2)
        except errors.RayError:
            return False


def first_line(error: BaseException) -> str:
    """The first line of what an error says, else its name: Ray's errors go on for pages."""
    lines = str(error).strip().splitlines()
    return lines[0] if lines else type(error).__name__

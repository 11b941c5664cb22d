"""Conservator restores damaged photographs by itself: examine, plan, treat reversibly, document.

>>> import conservator
>>> restored = conservator.restore_file("old.jpg")           # doctest: +SKIP
>>> restored.save("restored.png")   # doctest: +SKIP

Names are imported when first used, so importing the package is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_HOMES = {
    "conservator.api": ("examine_file", "restore_file"),
    "conservator.degradations": ("check_degradation", "degrade"),
    "conservator.kinds": ("Kind", "Severity"),
    "conservator.metrics": ("check_metric", "make_metric"),
    "conservator.perception": (
        "NetworkPerception",
        "Percept",
        "Perception",
        "StatisticalPerception",
        "check_perception",
        "load_perception",
        "study",
    ),
    "conservator.photo": ("Photo", "load_photo", "save_photo"),
    "conservator.policies": ("check_policy", "make_policy"),
    "conservator.pool": ("LocalPool", "MemoPool", "check_pool"),
    "conservator.request": ("ChatOptions", "Request"),
    "conservator.restoration": ("Plan", "Restored"),
    "conservator.restorer": ("Restorer",),
    "conservator.session": (
        "Apply",
        "Decision",
        "Observation",
        "Rollback",
        "Scope",
        "Session",
        "Stop",
        "Trajectory",
        "run",
    ),
    "conservator.tools": ("Tool", "ToolSpec", "Toolbox", "check_tool", "make_toolbox"),
}
_HOME_OF = {name: home for home, names in _HOMES.items() for name in names}

__all__ = ["__version__", *sorted(_HOME_OF)]

if TYPE_CHECKING:
    from conservator.api import examine_file, restore_file
    from conservator.degradations import check_degradation, degrade
    from conservator.kinds import Kind, Severity
    from conservator.metrics import check_metric, make_metric
    from conservator.perception import (
        NetworkPerception,
        Percept,
        Perception,
        StatisticalPerception,
        check_perception,
        load_perception,
        study,
    )
    from conservator.photo import Photo, load_photo, save_photo
    from conservator.policies import check_policy, make_policy
    from conservator.pool import LocalPool, MemoPool, check_pool
    from conservator.request import ChatOptions, Request
    from conservator.restoration import Plan, Restored
    from conservator.restorer import Restorer
    from conservator.session import Apply, Decision, Observation, Rollback, Scope, Session, Stop, Trajectory, run
    from conservator.tools import Tool, Toolbox, ToolSpec, check_tool, make_toolbox


def __getattr__(name: str) -> Any:
    if name in _HOME_OF:
        return getattr(importlib.import_module(_HOME_OF[name]), name)
    raise AttributeError(f"module 'conservator' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)

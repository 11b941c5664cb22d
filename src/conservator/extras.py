"""Optional packages that several floors need: imported where they are used, named when they are missing."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from functools import cache
from types import ModuleType

from conservator.errors import MissingExtraError

_PLANNING = ("transformers", "tokenizers")
"""The packages of the extra [mllm]; the others are of [sft]."""


def import_mllm(name: str) -> ModuleType:
    """A module of what vision-language models need: transformers, tokenizers, trl, peft, datasets or a part of one.

    Raises MissingExtraError, which says how to install it, where it is absent or too old.
    """
    try:
        _shelter_from_torchvision()
        return importlib.import_module(name)
    except ImportError as error:
        extra = "mllm" if name.split(".")[0] in _PLANNING else "sft"
        raise MissingExtraError(
            f"vision-language models need packages that are missing here ({error}); "
            f"get them with: pip install 'conservator[{extra}]'"
        ) from error


def import_ray() -> ModuleType:
    """Ray, which a cluster is made of; raises MissingExtraError, which says how to install it, where it is absent.

    Nothing of Ray is sent anywhere from here: its statistics of usage are switched off.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # or it warns of what it will do one day
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # or it prints how each process died over our own display
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise MissingExtraError(
            f"work on a cluster needs Ray, which is missing here ({error}); get it with: pip install 'conservator[ray]'"
        ) from error


@cache
def _shelter_from_torchvision() -> None:
    """Let transformers work where torchvision is installed and broken; it is not needed, but imported if it is there.

    Built for another torch, torchvision fails on import (its operators are missing), and every vision-language model
    of transformers with it. The question whether it is available is answered once, by no, while it is hidden.
    """
    try:
        importlib.import_module("torchvision")
    except ModuleNotFoundError:
        return
    except (RuntimeError, OSError, ImportError):
        hidden = {name: sys.modules.pop(name) for name in list(sys.modules) if name.split(".")[0] == "torchvision"}
        sys.modules["torchvision"] = None  # type: ignore[assignment]
        with contextlib.suppress(AttributeError):
            importlib.import_module("transformers.utils").is_torchvision_available()
        del sys.modules["torchvision"]
        sys.modules.update(hidden)

"""Weights that ship with the package: safetensors files and one manifest that says where each comes from."""

from __future__ import annotations

import hashlib
import tomllib
from functools import cache
from importlib.resources import files
from typing import Any

from torch import Tensor

from conservator.errors import ConservatorError, name_not_found


@cache
def manifest() -> dict[str, dict[str, Any]]:
    """Every file by name: ``sha256``, ``bytes``, ``license``, ``data``, ``recipe``, ``command`` and ``scores``."""
    entries: dict[str, dict[str, Any]] = tomllib.loads((files(__name__) / "manifest.toml").read_text("utf-8"))
    return entries


def load_weights(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Load the tensors and the metadata of one file of the manifest.

    Raises NameNotFoundError for an unknown name, ConservatorError when the file is not the one that the manifest lists.
    """
    import json

    from safetensors.torch import load

    if name not in manifest():
        raise name_not_found("weights file", name, manifest())
    data = (files(__name__) / f"{name}.safetensors").read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != manifest()[name]["sha256"]:
        raise ConservatorError(f"weights {name}: sha256 is {found}, not what the manifest lists; reinstall conservator")
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    return load(data), header.get("__metadata__", {})

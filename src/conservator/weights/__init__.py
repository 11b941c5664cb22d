"""Weights that ship with the package: safetensors files and one manifest that says where each comes from."""

from __future__ import annotations

import hashlib
import json
import tomllib
from collections.abc import Mapping
from importlib.resources import files
from pathlib import Path
from typing import Any

from torch import Tensor

from conservator.errors import ConservatorError, name_not_found
from conservator.files import replacing, write_text

WEIGHTS = Path(str(files(__name__)))
"""The folder of this installation's weights."""


def manifest() -> dict[str, dict[str, Any]]:
    """Every file by name: ``sha256``, ``bytes``, ``license``, ``data``, ``recipe``, ``command`` and ``scores``."""
    entries: dict[str, dict[str, Any]] = tomllib.loads((WEIGHTS / "manifest.toml").read_text("utf-8"))
    return entries


def load_weights(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Load the tensors and the metadata of one file of the manifest.

    Raises NameNotFoundError for an unknown name, ConservatorError when the file is not the one that the manifest lists.
    """
    from safetensors.torch import load

    if name not in manifest():
        raise name_not_found("weights file", name, manifest())
    data = (WEIGHTS / f"{name}.safetensors").read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != manifest()[name]["sha256"]:
        raise ConservatorError(f"weights {name}: sha256 is {found}, not what the manifest lists; reinstall conservator")
    size = int.from_bytes(data[:8], "little")
    header = json.loads(data[8 : 8 + size])
    return load(data), header.get("__metadata__", {})


def store_weights(
    folder: Path,
    name: str,
    tensors: Mapping[str, Tensor],
    entry: Mapping[str, str | int | float],
    scores: Mapping[str, float],
    metadata: Mapping[str, str] | None = None,
) -> Path:
    """Write ``NAME.safetensors`` into ``folder`` and list it in the folder's manifest.toml; return its path.

    ``entry`` says licence, data, recipe and command; bytes and sha256 are added. Each file appears whole or not at all.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    data = save({key: value.contiguous() for key, value in tensors.items()}, dict(metadata) if metadata else None)
    path = folder / f"{name}.safetensors"
    with replacing(path) as file:
        file.write(data)
    listed = folder / "manifest.toml"
    entries = tomllib.loads(listed.read_text("utf-8")) if listed.exists() else {}
    facts = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **entry}
    entries[name] = {**facts, "scores": {key: round(float(value), 4) for key, value in scores.items()}}
    write_text(listed, "\n".join(_toml(name, values) for name, values in sorted(entries.items())))
    return path


def _toml(name: str, values: Mapping[str, Any]) -> str:
    """One entry of the manifest: strings and numbers, and a table of scores. JSON writes both as TOML does."""
    scores = values.get("scores", {})
    facts = [f"{key} = {json.dumps(value)}" for key, value in values.items() if key != "scores"]
    table = [
        f"{json.dumps(key)} = {value!r}" for key, value in scores.items()
    ]  # TOML writes nan and inf as Python does
    return "\n".join([f"[{name}]", *facts, f"\n[{name}.scores]", *table, ""])

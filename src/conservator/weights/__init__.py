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
from conservator.weights.chain import warn_if_stale

WEIGHTS = Path(str(files(__name__)))
"""The folder of this installation's weights."""


def manifest() -> dict[str, dict[str, Any]]:
    """Every file by name: sha256, bytes, license, data, recipe, command, made_with and scores.

    ``made_with`` is only of what was made with other weights (weights/chain.py).
    """
    entries: dict[str, dict[str, Any]] = tomllib.loads((WEIGHTS / "manifest.toml").read_text("utf-8"))
    return entries


def load_weights(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Load the tensors and the metadata of one file of the manifest.

    Raises NameNotFoundError for an unknown name, ConservatorError when the file is not the one that the manifest lists.
    Warns (StaleWeightsWarning) where it was made with other weights than those that are here.
    """
    entries = manifest()
    if name not in entries:
        raise name_not_found("weights file", name, entries)
    data = (WEIGHTS / f"{name}.safetensors").read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != entries[name]["sha256"]:
        raise ConservatorError(f"weights {name}: sha256 is {found}, not what the manifest lists; reinstall conservator")
    warn_if_stale(name, entries)
    return parse_weights(data, f"weights {name}")


def parse_weights(data: bytes, where: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of a safetensors file; ``where`` names it.

    Raises ConservatorError when it is not a file of that kind.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        tensors = load(data)
    except SafetensorError as error:
        raise ConservatorError(f"{where} is not a safetensors file ({error}); give another one") from error
    size = int.from_bytes(data[:8], "little")
    return tensors, json.loads(data[8 : 8 + size]).get("__metadata__", {})


def store_weights(
    folder: Path,
    name: str,
    tensors: Mapping[str, Tensor],
    entry: Mapping[str, str | int | float | list[str]],
    scores: Mapping[str, float],
    metadata: Mapping[str, str] | None = None,
    made_with: Mapping[str, str] | None = None,
) -> Path:
    """Write ``NAME.safetensors`` into ``folder`` and list it in the folder's manifest.toml; return its path.

    ``entry`` says licence, data, recipe and command; bytes and sha256 are added. ``made_with`` are the hashes of what
    it was made with, by name. Each file appears whole or not at all.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    data = save({key: value.contiguous() for key, value in tensors.items()}, dict(metadata) if metadata else None)
    path = folder / f"{name}.safetensors"
    with replacing(path) as file:
        file.write(data)
    listed = folder / "manifest.toml"
    entries = tomllib.loads(listed.read_text("utf-8")) if listed.exists() else {}
    facts: dict[str, Any] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **entry}
    if made_with:
        facts["made_with"] = dict(made_with)
    entries[name] = {**facts, "scores": {key: round(float(value), 4) for key, value in scores.items()}}
    write_text(listed, "\n".join(_toml(name, values) for name, values in sorted(entries.items())))
    return path


def _toml(name: str, values: Mapping[str, Any]) -> str:
    """One entry of the manifest: strings, numbers and lists, then tables. JSON writes strings as TOML does."""
    facts = [f"{key} = {json.dumps(value)}" for key, value in values.items() if not isinstance(value, dict)]
    lines = [f"[{name}]", *facts]
    for table in ("made_with", "scores"):
        if table in values:
            lines.append(f"\n[{name}.{table}]")
            lines += [f"{json.dumps(key)} = {_value(value)}" for key, value in values[table].items()]
    return "\n".join([*lines, ""])


def _value(value: object) -> str:
    return json.dumps(value) if isinstance(value, str) else repr(value)  # TOML writes nan and inf as Python does

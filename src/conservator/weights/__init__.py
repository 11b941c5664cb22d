"""Weights that ship with the package: safetensors files and one manifest that says where each comes from."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from functools import lru_cache
from importlib.resources import files
from pathlib import Path
from types import MappingProxyType
from typing import Any

from torch import Tensor

from conservator.errors import ConservatorError, name_not_found
from conservator.files import locked, replacing, sha256, write_text
from conservator.weights.chain import Entries, Flaw, warn_if_stale

WEIGHTS = Path(os.environ.get("CONSERVATOR_WEIGHTS") or str(files(__name__)))
"""The folder of this installation's weights, or another folder of the kind that the environment names instead."""
_LOCK = ".lock"
"""The file that is held while weights and their entry are written."""


def manifest() -> Entries:
    """Every file by name: sha256, bytes, license, data, recipe, command, made_with and scores; it cannot be changed.

    ``made_with`` is only of what was made with other weights (weights/chain.py).
    """
    path = WEIGHTS / "manifest.toml"
    try:
        facts = path.stat()
    except FileNotFoundError as error:
        raise ConservatorError(
            f"{WEIGHTS} holds no manifest.toml; reinstall conservator, or name another folder of weights "
            "in CONSERVATOR_WEIGHTS"
        ) from error
    return _read_manifest(path, facts.st_mtime_ns, facts.st_size, facts.st_ino)


@lru_cache(maxsize=8)
def _read_manifest(path: Path, *stamp: int) -> Entries:
    """The manifest as it was at this ``stamp``: a first photo asks for it twenty times."""
    entries: Entries = _read_only(tomllib.loads(path.read_text("utf-8")))
    return entries


def _read_only(value: Any) -> Any:
    if isinstance(value, dict):
        return MappingProxyType({key: _read_only(item) for key, item in value.items()})
    return tuple(value) if isinstance(value, list) else value


def flaws() -> dict[str, Flaw]:
    """Of the files of the manifest, those that are missing, or damaged: not the ones that it lists."""
    found: dict[str, Flaw] = {}
    for name, entry in manifest().items():
        path = WEIGHTS / f"{name}.safetensors"
        if not path.is_file():
            found[name] = "missing"
        elif sha256(path) != entry["sha256"]:
            found[name] = "damaged"
    return found


def load_weights(name: str) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Load the tensors and the metadata of one file of the manifest.

    Raises NameNotFoundError for an unknown name, ConservatorError when the file is not the one that the manifest lists.
    Warns (StaleWeightsWarning) where it was made with other weights than those that are here.
    """
    entries = manifest()
    if name not in entries:
        raise name_not_found("weights file", name, entries)
    path = WEIGHTS / f"{name}.safetensors"
    if not path.is_file():
        raise ConservatorError(
            f"weights {name}: the file is missing; rebuild it (make weights), or reinstall conservator"
        )
    data = path.read_bytes()
    found = hashlib.sha256(data).hexdigest()
    if found != entries[name]["sha256"]:
        raise ConservatorError(
            f"weights {name}: sha256 is {found}, not what the manifest lists; "
            "rebuild it (make weights), or reinstall conservator"
        )
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
    it was made with, by name. Each file appears whole or not at all, and who stores at the same time waits. A process
    that is killed between the two leaves weights that the manifest does not list, which ``flaws`` tells.
    """
    from safetensors.torch import save

    folder.mkdir(parents=True, exist_ok=True)
    data = save({key: value.contiguous() for key, value in tensors.items()}, dict(metadata) if metadata else None)
    path = folder / f"{name}.safetensors"
    facts: dict[str, Any] = {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data), **entry}
    if made_with:
        facts["made_with"] = dict(made_with)
    facts["scores"] = {key: round(float(value), 4) for key, value in scores.items()}
    with locked(folder / _LOCK):
        listed = folder / "manifest.toml"
        entries = tomllib.loads(listed.read_text("utf-8")) if listed.exists() else {}
        entries[name] = facts
        with replacing(path) as file:
            file.write(data)
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

"""The command that made something, as it is written beside what it made."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from pathlib import Path


def command_line(*words: str, **options: object) -> str:
    """``conservator WORDS --option value``, as a shell reads it.

    None and False are left out, True is a flag, of a sequence each value has an option of its own, of a mapping each
    value has the option that its key names. Underscores become hyphens; paths are shown as ``shown_path`` does.

    >>> command_line("train", "perception", photos=Path("/data/me/photos/free"), seed=0, bfloat16=True, start=None)
    'conservator train perception --photos photos/free --seed 0 --bfloat16'
    """
    parts = ["conservator", *words]
    for name, value in _flat(options):
        for one in value if isinstance(value, (tuple, list)) else [value]:
            parts += _option(name.replace("_", "-"), one)
    return " ".join(shlex.quote(part) for part in parts)


def shown_path(path: Path) -> str:
    """A path as a command shows it: as it was given, or, where that would tell whose computer it was, its last two
    parts."""
    return path.as_posix() if not path.is_absolute() else "/".join(path.parts[1:][-2:])


def _flat(options: Mapping[str, object]) -> list[tuple[str, object]]:
    found: list[tuple[str, object]] = []
    for name, value in options.items():
        found += value.items() if isinstance(value, Mapping) else [(name, value)]
    return found


def _option(name: str, value: object) -> list[str]:
    if value is None or value is False:
        return []
    if value is True:
        return [f"--{name}"]
    if isinstance(value, float):
        return [f"--{name}", f"{value:.12g}"]
    return [f"--{name}", shown_path(value) if isinstance(value, Path) else str(value)]

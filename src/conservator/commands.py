"""The command that made something, as it is written beside what it made."""

from __future__ import annotations

import os
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


def shell_word(path: str | os.PathLike[str]) -> str:
    """A path as one word of a command for bash or zsh, whatever its name holds.

    A name with control characters, with letters that turn the direction of writing, or with bytes that are no UTF-8 is
    written byte for byte, so that nothing in it reaches a terminal.

    >>> print(shell_word("it's"), shell_word("two\nlines"))
    'it'"'"'s' $'two\012lines'
    """
    text = os.fspath(path)
    if text.isprintable():
        return shlex.quote(text)
    plain = b"%+,-./0123456789:=@ABCDEFGHIJKLMNOPQRSTUVWXYZ_abcdefghijklmnopqrstuvwxyz"
    return "$'" + "".join(chr(b) if b in plain else f"\\{b:03o}" for b in os.fsencode(text)) + "'"


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

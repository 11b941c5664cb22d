"""Every toolbox by name: those that ship (shipped.py), what was imported, and the user's own."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from conservator.errors import ConservatorError, name_not_found
from conservator.tools.shipped import SHIPPED
from conservator.tools.tool import Tool, Toolbox


def _rl_restore_published() -> Iterable[Tool]:
    from conservator.tools.user import imported_rl_restore_tools

    return imported_rl_restore_tools()


def _user() -> Iterable[Tool]:
    from conservator.tools.user import entry_point_tools, user_tools

    return (*user_tools(), *entry_point_tools())


TOOLBOXES: Mapping[str, Callable[[], Iterable[Tool]]] = {
    **SHIPPED,
    "rl-restore:published": _rl_restore_published,
    "user": _user,
}
"""``conservator``: the networks that ship, and textbook methods for the rest. ``experts``: the networks alone.
``classical``: textbook methods alone. ``rl-restore``: twelve networks of the paper's architecture, trained here;
``rl-restore:compact``: twelve of ours; ``rl-restore:published``: the authors' own, once imported; ``rl-restore:FILE``:
what you trained. ``user``: what you added or trained, and what installed packages offer through the entry point
``conservator.tools``."""


def make_toolbox(names: str) -> Toolbox:
    """Build a toolbox from names joined by "+", say "classical+user"; order is kept.

    A tool that stands in two of them, as some classical ones do, is there once. Raises NameNotFoundError for an unknown
    toolbox, ConservatorError where two different tools have one name.
    """
    tools: dict[str, tuple[str, Tool]] = {}
    for name in names.split("+"):
        for tool in TOOLBOXES[name]() if name in TOOLBOXES else _from_file(name):
            other, same = tools.setdefault(tool.spec.name, (name, tool))
            if same is not tool:
                what = f"the toolbox {name} has two tools" if other == name else f"{other} and {name} both have a tool"
                raise ConservatorError(f"{what} {tool.spec.name}; leave one out, or rename or remove your own")
    return Toolbox(*(tool for _, tool in tools.values()))


def _from_file(name: str) -> Iterable[Tool]:
    """The tools of "rl-restore:FILE"; raises NameNotFoundError when it is no such name."""
    what, _, path = name.partition(":")
    if what != "rl-restore" or not Path(path).is_file():
        raise name_not_found("toolbox", name, TOOLBOXES)
    from conservator.tools.rl_restore_own import trained_tools

    return trained_tools(Path(path))

"""The toolboxes that ship, by name. A new tool is one class in its file and one line where its toolbox lists it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from conservator.degradations.kinds import Kind
from conservator.errors import name_not_found
from conservator.tools.tool import Tool, Toolbox


def _classical() -> Iterable[Tool]:
    from conservator.tools.classical import CLASSICAL

    return CLASSICAL


_BESIDE = ("stretch_brighten", "shift_brighten", "gamma_brighten")
"""Classical tools that undo exactly what some exposures did, which an expert only comes near to."""


def _conservator() -> Iterable[Tool]:
    """The experts, the classical tools that are worth having beside them, and those for damage without an expert."""
    from conservator.tools.experts import EXPERTS

    treated = frozenset[Kind]().union(*(tool.spec.removes for tool in EXPERTS))
    rest = (t for t in _classical() if t.spec.name in _BESIDE or not t.spec.removes & treated)
    return (*EXPERTS, *rest)


def _experts() -> Iterable[Tool]:
    from conservator.tools.experts import EXPERTS

    return EXPERTS


def _rl_restore() -> Iterable[Tool]:
    from conservator.tools.user import imported_rl_restore_tools

    return imported_rl_restore_tools()


def _user() -> Iterable[Tool]:
    from conservator.tools.user import entry_point_tools, user_tools

    return (*user_tools(), *entry_point_tools())


TOOLBOXES: Mapping[str, Callable[[], Iterable[Tool]]] = {
    "conservator": _conservator,
    "experts": _experts,
    "classical": _classical,
    "rl-restore": _rl_restore,
    "user": _user,
}
"""``conservator``: the networks that ship, and textbook methods for the rest. ``experts``: the networks alone.
``classical``: textbook methods alone. ``rl-restore``: the published twelve networks, once imported. ``user``: what you
added or trained, and what installed packages offer through the entry point ``conservator.tools``."""

DEFAULT_TOOLBOX = "conservator+user"


def make_toolbox(names: str) -> Toolbox:
    """Build a toolbox from names joined by "+", say "classical+user"; order is kept.

    Raises NameNotFoundError for an unknown toolbox.
    """
    tools: list[Tool] = []
    for name in names.split("+"):
        if name not in TOOLBOXES:
            raise name_not_found("toolbox", name, TOOLBOXES)
        tools.extend(TOOLBOXES[name]())
    return Toolbox(*tools)

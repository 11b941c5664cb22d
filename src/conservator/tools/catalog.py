"""The toolboxes that ship, by name. A new tool is one class in its file and one line where its toolbox lists it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

from conservator.degradations.kinds import Kind
from conservator.errors import ConservatorError, name_not_found
from conservator.tools.tool import Tool, Toolbox, is_specialist


def _classical() -> Iterable[Tool]:
    from conservator.tools.classical import CLASSICAL

    return CLASSICAL


_BESIDE = (
    *("wiener_deblur_defocus", "richardson_lucy_defocus", "wiener_deblur_gaussian"),
    *("stretch_brighten", "shift_brighten", "gamma_brighten"),
)
"""Classical tools that undo exactly what a lens or an exposure did, where nothing else happened to the photo."""


def _conservator() -> Iterable[Tool]:
    """The experts, the classical tools that are worth having beside them, and those for damage without an expert."""
    from conservator.tools.experts import EXPERTS

    treated = frozenset[Kind]().union(*(tool.spec.removes for tool in EXPERTS if is_specialist(tool.spec)))
    rest = (t for t in _classical() if t.spec.name in _BESIDE or not t.spec.removes & treated)
    return (*EXPERTS, *rest)


def _experts() -> Iterable[Tool]:
    from conservator.tools.experts import EXPERTS

    return EXPERTS


def _rl_restore() -> Iterable[Tool]:
    from conservator.tools.rl_restore_own import shipped_tools

    return shipped_tools("rl_restore")


def _rl_restore_compact() -> Iterable[Tool]:
    from conservator.tools.rl_restore_own import shipped_tools

    return shipped_tools("rl_restore_compact")


def _rl_restore_published() -> Iterable[Tool]:
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
    "rl-restore:compact": _rl_restore_compact,
    "rl-restore:published": _rl_restore_published,
    "user": _user,
}
"""``conservator``: the networks that ship, and textbook methods for the rest. ``experts``: the networks alone.
``classical``: textbook methods alone. ``rl-restore``: twelve networks of the paper's architecture, trained here;
``rl-restore:compact``: twelve of ours; ``rl-restore:published``: the authors' own, once imported; ``rl-restore:FILE``:
what you trained. ``user``: what you added or trained, and what installed packages offer through the entry point
``conservator.tools``."""

DEFAULT_TOOLBOX = "conservator+user"


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


def shipped_names() -> frozenset[str]:
    """The names of all tools that ship or can be imported: a user's own tool must have another."""
    from conservator.tools.rl_restore import rl_restore_specs

    names = frozenset(spec.name for spec in rl_restore_specs())
    return names.union(*(make_toolbox(name) for name in ("conservator", "classical", "rl-restore")))


def _from_file(name: str) -> Iterable[Tool]:
    """The tools of "rl-restore:FILE"; raises NameNotFoundError when it is no such name."""
    what, _, path = name.partition(":")
    if what != "rl-restore" or not Path(path).is_file():
        raise name_not_found("toolbox", name, TOOLBOXES)
    from conservator.tools.rl_restore_own import trained_tools

    return trained_tools(Path(path))

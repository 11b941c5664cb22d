"""The toolboxes that ship. A new tool is one class in its file and one line where its toolbox lists it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from conservator.kinds import Kind
from conservator.tools.tool import Tool, is_specialist
from conservator.weights import manifest


def _classical() -> Iterable[Tool]:
    from conservator.tools.classical import CLASSICAL

    return CLASSICAL


_BESIDE = (
    *("wiener_deblur_motion", "wiener_deblur_defocus", "richardson_lucy_defocus", "wiener_deblur_gaussian"),
    *("stretch_brighten", "shift_brighten", "gamma_brighten"),
)
"""Classical tools that undo exactly what a lens or an exposure did, where nothing else happened to the photo."""


def _conservator() -> Iterable[Tool]:
    """The experts, the classical tools that are worth having beside them, and those for damage without an expert."""
    from conservator.tools.lway import adapted_tools

    experts = tuple(_experts())
    treated = frozenset[Kind]().union(*(tool.spec.removes for tool in experts if is_specialist(tool.spec)))
    rest = (t for t in _classical() if t.spec.name in _BESIDE or not t.spec.removes & treated)
    return (*experts, *rest, *adapted_tools())


def _experts() -> Iterable[Tool]:
    from conservator.tools.deblur import EXPERT_DEBLUR
    from conservator.tools.experts import EXPERTS

    return (*EXPERTS, *([EXPERT_DEBLUR] if EXPERT_DEBLUR.spec.name in manifest() else []))


def _rl_restore() -> Iterable[Tool]:
    from conservator.tools.rl_restore_own import shipped_tools

    return shipped_tools("rl_restore")


def _rl_restore_compact() -> Iterable[Tool]:
    from conservator.tools.rl_restore_own import shipped_tools

    return shipped_tools("rl_restore_compact")


SHIPPED: Mapping[str, Callable[[], Iterable[Tool]]] = {
    "conservator": _conservator,
    "experts": _experts,
    "classical": _classical,
    "rl-restore": _rl_restore,
    "rl-restore:compact": _rl_restore_compact,
}
"""By name; ``catalog.py`` says what is in them."""


def shipped_names() -> frozenset[str]:
    """The names of all tools that ship or can be imported: a user's own tool must have another."""
    from conservator.tools.rl_restore import rl_restore_specs

    toolboxes = ("conservator", "classical", "rl-restore")
    names = frozenset(spec.name for spec in rl_restore_specs())
    return names.union(tool.spec.name for toolbox in toolboxes for tool in SHIPPED[toolbox]())

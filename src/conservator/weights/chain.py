"""What the weights that ship were made with, and which of them are stale: experts, then perception, then planners.

Each entry of the manifest has a table ``made_with``: the name of what it was made with, and its sha256 (hex). Names are
those of other entries; ``FILE.safetensors`` was a file that does not ship, ``toolbox NAME`` is a toolbox as a whole.
A hash may be "unknown", or begin with "perhaps": it was this one or an earlier one, which nobody recorded then.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, Literal, TypeAlias

from conservator.errors import ConservatorError

UNKNOWN = "unknown"
PERHAPS = "perhaps "
Flaw: TypeAlias = Literal["missing", "damaged"]
"""Of a file: it is not there, or another one than the manifest lists."""
LinkState: TypeAlias = Literal["current", "unknown", "stale", "missing", "damaged"]
Entries: TypeAlias = Mapping[str, Mapping[str, Any]]
"""A manifest."""


class StaleWeightsWarning(ConservatorError, UserWarning):  # noqa: N818 - it is a warning first
    """Weights were made with others than those that are here; a benchmark takes this warning for an error."""


@dataclass(frozen=True)
class Link:
    """One entry of the manifest, and whether it still fits to the others."""

    name: str
    made_with: Mapping[str, str]
    stale: tuple[str, ...]
    """Of what it was made with, that which is another now or stale itself; in words."""
    unknown: tuple[str, ...]
    """Of what it was made with, the names of that which cannot be compared."""
    command: str
    """What made it."""
    flaw: Flaw | None = None
    """What is wrong with its file, where that was looked at."""

    @property
    def state(self) -> LinkState:
        """``stale``: made with others for certain. ``unknown``: perhaps. ``current``: made with what is here.

        ``missing`` and ``damaged`` are of its file.
        """
        return self.flaw or ("stale" if self.stale else "unknown" if self.unknown else "current")


def links(
    entries: Entries, facts: Mapping[str, str] | None = None, flaws: Mapping[str, Flaw] | None = None
) -> list[Link]:
    """All entries in the order in which they are made: each after those that it was made with.

    ``facts`` are hashes of what is in no manifest: "toolbox conservator", "base.safetensors". What is in neither is not
    compared. ``flaws`` are those of files (conservator.weights.flaws).
    """
    found: dict[str, Link] = {}

    def visit(name: str, path: tuple[str, ...]) -> None:
        if name in found:
            return
        if name in path:
            raise ConservatorError(f"the manifest of weights goes in a circle: {' -> '.join((*path, name))}")
        for other in _made_with(entries[name]):
            if other in entries:
                visit(other, (*path, name))
        link = _link(name, entries, found, facts or {})
        found[name] = replace(link, flaw=(flaws or {}).get(name))

    for name in entries:
        visit(name, ())
    return list(found.values())


def _made_with(entry: Mapping[str, Any]) -> Mapping[str, str]:
    made_with: Mapping[str, str] = entry.get("made_with", {})
    return made_with


def _link(name: str, entries: Entries, before: Mapping[str, Link], facts: Mapping[str, str]) -> Link:
    stale, unknown = [], []
    made_with = _made_with(entries[name])
    for other, recorded in made_with.items():
        was, now = recorded.removeprefix(PERHAPS), facts.get(other)
        if other in entries:
            now = str(entries[other]["sha256"])
        elif now is None and not other.endswith(".safetensors") and not other.startswith("toolbox "):
            stale.append(f"{other} {was[:8]}, which is not here")
            continue
        if other in before and before[other].stale:
            stale.append(f"{other}, which is stale itself")
        elif was != UNKNOWN and now is not None and was != now:
            stale.append(f"{other} {was[:8]}, which is {now[:8]} now")
        elif was == UNKNOWN or recorded.startswith(PERHAPS):
            unknown.append(other)
    return Link(name, made_with, tuple(stale), tuple(unknown), str(entries[name].get("command", "")))


def warn_if_stale(name: str, entries: Entries) -> None:
    """Warn, in one sentence, of weights that were made with others than those that are here."""
    if not _made_with(entries[name]):
        return
    link = next(link for link in links(entries) if link.name == name)
    if link.stale:
        warnings.warn(StaleWeightsWarning(stale_sentence(link)), stacklevel=1)  # here: one line tells it once


def stale_sentence(link: Link) -> str:
    """What is wrong with a stale link, in one sentence."""
    others = f", and {len(link.stale) - 1} more" if len(link.stale) > 1 else ""
    return (
        f"the weights {link.name} are stale: they were made with {link.stale[0]}{others}; "
        "rebuild them (make weights), or reinstall conservator"
    )


@contextmanager
def stale_is_an_error() -> Iterator[None]:
    """While it lasts, loading stale weights raises StaleWeightsWarning, a ConservatorError, in all threads."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", StaleWeightsWarning)
        yield

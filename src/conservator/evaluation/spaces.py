"""Which toolchains there are: spaces of names, each a tree, counted exactly."""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

from conservator.degradations import Kind
from conservator.errors import ConservatorError
from conservator.tools.tool import ToolSpec

Toolchain: TypeAlias = tuple[str, ...]


class Space(Protocol):
    """Which toolchains there are: a tree of names."""

    def following(self, toolchain: Toolchain) -> tuple[str, ...]:
        """The tools that may come next."""

    def rest(self, toolchain: Toolchain) -> Hashable:
        """Equal for two toolchains after which the same continuations may come."""

    def count(self) -> int:
        """How many toolchains there are, the empty one too."""


@dataclass(frozen=True)
class EachKindOnce:
    """Every order of the kinds and every choice of tool per kind, each kind treated at most once."""

    treats: Mapping[str, frozenset[Kind]]
    """Of each tool, the kinds that are present and that it removes."""
    last: frozenset[str] = frozenset()
    """Tools after which nothing comes: those that enlarge, for what follows would cost 4 or 16 times as much."""

    @classmethod
    def of(cls, specs: Sequence[ToolSpec], present: frozenset[Kind]) -> EachKindOnce:
        """The toolchains over the tools of a toolbox that remove something that is there."""
        fitting = [spec for spec in specs if spec.removes & present]
        enlarging = frozenset(spec.name for spec in fitting if spec.scale > 1)
        return cls({spec.name: spec.removes & present for spec in fitting}, enlarging)

    def following(self, toolchain: Toolchain) -> tuple[str, ...]:
        """The tools for kinds that none of the toolchain is for; none after one that enlarges."""
        if toolchain and toolchain[-1] in self.last:
            return ()
        treated = self._treated(toolchain)
        return tuple(name for name, kinds in self.treats.items() if not kinds & treated)

    def rest(self, toolchain: Toolchain) -> Hashable:
        """The kinds that were treated, and whether anything may come."""
        return self._treated(toolchain), bool(toolchain) and toolchain[-1] in self.last

    def count(self) -> int:
        """How many toolchains there are, the empty one too: by a formula where every tool is for one of the kinds.

        The sum over j of j! times the j-th elementary symmetric polynomial of the numbers of tools per kind, and that
        again for each tool that may come last. Raises ConservatorError where a tool is for several kinds, or where
        some tools of a kind enlarge and others do not: then there is no such formula.
        """
        if any(len(kinds) != 1 for kinds in self.treats.values()):
            raise ConservatorError("the formula counts tools for one kind each; some here are for several")
        inner = [kind for name, kinds in self.treats.items() if name not in self.last for kind in kinds]
        if {kind for name in self.last for kind in self.treats[name]} & set(inner):
            raise ConservatorError("the formula counts kinds whose tools all enlarge or all do not; here some do")
        choices = [1]  # coefficients of the product of (1 + n x) over the kinds
        for number in (inner.count(kind) for kind in dict.fromkeys(inner)):
            choices = [a + number * b for a, b in zip([*choices, 0], [0, *choices], strict=True)]
        return (1 + len(self.last)) * sum(math.factorial(j) * choice for j, choice in enumerate(choices))

    def _treated(self, toolchain: Toolchain) -> frozenset[Kind]:
        return frozenset[Kind]().union(*(self.treats[name] for name in toolchain))


@dataclass(frozen=True)
class AnyUpTo:
    """Every sequence of these tools up to a length, the wrong ones and repeats included."""

    names: tuple[str, ...]
    length: int

    def following(self, toolchain: Toolchain) -> tuple[str, ...]:
        """All tools, until the length is reached."""
        return self.names if len(toolchain) < self.length else ()

    def rest(self, toolchain: Toolchain) -> Hashable:
        """How many may still come."""
        return self.length - len(toolchain)

    def count(self) -> int:
        """How many sequences there are, the empty one too."""
        return sum(len(self.names) ** j for j in range(self.length + 1))


def toolchains_of(space: Space, start: Toolchain = ()) -> list[Toolchain]:
    """Every toolchain of a space that begins with ``start``, itself first; a branch follows its stem."""
    found = [start]
    for name in space.following(start):
        found += toolchains_of(space, (*start, name))
    return found

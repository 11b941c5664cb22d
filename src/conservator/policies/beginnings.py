"""What a model computed of the prompts that it read: the next one often begins like one of them, and costs less then.

The conversation of a model that calls tools only grows, and all conversations about a toolbox begin with its functions.
Prompts are read part by part, and the parts end where messages do, whether they are known or not. So what a model says
does not depend on what it read before, to the bit.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias

import torch
from torch import Tensor

if TYPE_CHECKING:
    from conservator.policies.reading import Prompt

Layers: TypeAlias = tuple[tuple[Tensor, Tensor], ...]
"""The keys and values (1, heads, L, D) of each layer."""
_MEMORY = 64 * 2**20
"""Bytes that are kept, but for those of the last prompt: about forty conversations of a nano model. Ours, not tuned."""
_SHORTEST = 64
"""Tokens of a part at least: to read a few tokens takes nearly as long as to read so many."""


@dataclass(frozen=True, eq=False)
class _Known:
    """A prompt that was read, up to the end of its last whole part."""

    ids: Tensor
    """(L,) tokens."""
    pictures: tuple[tuple[Tensor, Tensor], ...]
    """Grid and patches of each picture among them."""
    layers: Layers

    @property
    def size(self) -> int:
        """Bytes."""
        seen = sum(patches.nbytes for _, patches in self.pictures)
        return seen + sum(part.nbytes for layer in self.layers for part in layer)


class Beginnings:
    """Remembers what prompts begin with that a network read last. ``forget`` when its weights change."""

    def __init__(self, image: int, end: int, merge: int) -> None:
        """``image`` is the token of pictures, each for ``merge`` x ``merge`` patches, ``end`` that after a message."""
        self._image, self._end, self._merge = image, end, merge
        self._kept = deque[_Known]()

    def forget(self) -> None:
        """Forget everything."""
        self._kept.clear()

    def parts(self, ids: Tensor) -> list[int]:
        """Where the parts of a prompt (L,) end; the last part ends with the prompt.

        Of prompts that begin alike the parts do, too.
        """
        ends = list[int]()
        for place in (ids[:-1] == self._end).nonzero().flatten().tolist():
            if place + 1 - (ends[-1] if ends else 0) >= _SHORTEST:
                ends.append(place + 1)
        return [*ends, len(ids)]

    def find(self, prompt: Prompt) -> tuple[int, int, Layers]:
        """How many tokens of a prompt are known, in whole parts, how many pictures among them, and what they gave."""
        pictures, ends = self._pictures(prompt), self.parts(prompt.ids)[:-1]
        known, found = 0, None
        for kept in self._kept:
            common = self._common(prompt.ids, pictures, kept)
            if (whole := max((end for end in ends if end <= common), default=0)) > known:
                known, found = whole, kept
        layers = () if found is None else tuple((k[..., :known, :], v[..., :known, :]) for k, v in found.layers)
        return known, self._shown(prompt.ids, pictures, known), layers

    def shown(self, prompt: Prompt, length: int) -> int:
        """How many whole pictures are among the first tokens of a prompt."""
        return self._shown(prompt.ids, self._pictures(prompt), length)

    def keep(self, prompt: Prompt, cache: Any) -> None:
        """Remember a prompt up to its last part, with the cache of its keys and values."""
        ends = self.parts(prompt.ids)
        if len(ends) == 1:
            return
        pictures, length = self._pictures(prompt), ends[-2]
        says_more = [kept for kept in self._kept if self._common(prompt.ids[:length], pictures, kept) < len(kept.ids)]
        self._kept = deque(says_more)  # of the others the new one says all that they do
        layers = tuple((layer.keys[..., :length, :], layer.values[..., :length, :]) for layer in cache.layers)
        shown = self._shown(prompt.ids, pictures, length)
        self._kept.append(_Known(prompt.ids[:length], pictures[:shown], layers))
        while len(self._kept) > 1 and sum(kept.size for kept in self._kept) > _MEMORY:
            self._kept.popleft()

    def _pictures(self, prompt: Prompt) -> tuple[tuple[Tensor, Tensor], ...]:
        if not len(prompt.grids):
            return ()
        patches = prompt.patches.split([int(grid.prod()) for grid in prompt.grids])
        return tuple(zip(prompt.grids, patches, strict=True))

    def _tokens(self, patches: Tensor) -> int:
        return len(patches) // self._merge**2

    def _shown(self, ids: Tensor, pictures: Sequence[tuple[Tensor, Tensor]], length: int) -> int:
        """How many whole pictures are among the first tokens."""
        left, shown = int((ids[:length] == self._image).sum()), 0
        while shown < len(pictures) and left >= self._tokens(pictures[shown][1]) > 0:
            left, shown = left - self._tokens(pictures[shown][1]), shown + 1
        return shown

    def _common(self, ids: Tensor, pictures: Sequence[tuple[Tensor, Tensor]], kept: _Known) -> int:
        """How many tokens two prompts begin with alike, pictures included."""
        length = min(len(ids), len(kept.ids))
        differs = (ids[:length] != kept.ids[:length]).nonzero()
        length = int(differs[0]) if len(differs) else length
        places, used = (ids[:length] == self._image).nonzero().flatten(), 0
        for (grid, patches), (other_grid, other) in zip(pictures, kept.pictures, strict=False):
            if not torch.equal(grid, other_grid) or not torch.equal(patches, other):
                break
            used += self._tokens(patches)
        return int(places[used]) if used < len(places) else length

"""What a model computed of the prompts that it read: the next one often begins like one of them, and costs less then.

The conversation of a model that calls tools only grows, and all conversations about a toolbox begin with its functions.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

if TYPE_CHECKING:
    from conservator.policies.vision_language import Prompt

_MEMORY = 64 * 2**20
"""Bytes of keys and values that are kept, but for those of the last prompt, which always are."""


@dataclass(frozen=True)
class Beginning:
    """The first tokens of a prompt, with the keys and values (1, heads, L, D) of each layer."""

    ids: Tensor
    """(L,) tokens."""
    pictures: tuple[Tensor, ...]
    """The patches of each picture among them."""
    layers: tuple[tuple[Tensor, Tensor], ...]

    @property
    def size(self) -> int:
        """Bytes of the keys and values."""
        return sum(part.nbytes for layer in self.layers for part in layer)


class Beginnings:
    """Remembers the prompts that a network read last, as long as its weights do not change."""

    def __init__(self, network: Any, image: int, merge: int) -> None:
        """``image`` is the token of pictures, of which each stands for ``merge`` x ``merge`` patches."""
        self._network, self._image, self._merge = network, image, merge
        self._kept, self._version = deque[Beginning](), -1

    def find(self, prompt: Prompt) -> tuple[int, int, tuple[tuple[Tensor, Tensor], ...]]:
        """How many tokens of a prompt are known, how many pictures are among them, and their keys and values.

        The last token is never among them: what comes after it is asked for.
        """
        self._forget_other_weights()
        pictures = self._pictures(prompt)
        known, shown, found = 0, 0, None
        for kept in self._kept:
            count, common = self._common(prompt.ids, pictures, kept)
            if count > known:
                known, shown, found = count, common, kept
        layers = () if found is None else tuple((k[..., :known, :], v[..., :known, :]) for k, v in found.layers)
        return known, shown, layers

    def keep(self, prompt: Prompt, cache: Any) -> None:
        """Remember a prompt with the cache of its keys and values."""
        self._forget_other_weights()
        layers = tuple((layer.keys, layer.values) for layer in cache.layers)
        self._kept.append(Beginning(prompt.ids, self._pictures(prompt), layers))
        while len(self._kept) > 1 and sum(kept.size for kept in self._kept) > _MEMORY:
            self._kept.popleft()

    def _forget_other_weights(self) -> None:
        version = sum(parameter._version for parameter in self._network.parameters())
        if version != self._version:
            self._kept.clear()
            self._version = version

    def _pictures(self, prompt: Prompt) -> tuple[Tensor, ...]:
        return prompt.patches.split([int(grid.prod()) for grid in prompt.grids]) if len(prompt.grids) else ()

    def _common(self, ids: Tensor, pictures: Sequence[Tensor], kept: Beginning) -> tuple[int, int]:
        """How many tokens and whole pictures two prompts begin with alike."""
        length = min(len(ids) - 1, len(kept.ids))
        differs = (ids[:length] != kept.ids[:length]).nonzero()
        length = int(differs[0]) if len(differs) else length
        places = (ids == self._image).nonzero().flatten()
        shown, used = 0, 0
        for picture, other in zip(pictures, kept.pictures, strict=False):
            tokens = len(picture) // self._merge**2
            if int(places[used + tokens - 1]) >= length or not torch.equal(picture, other):
                break
            shown, used = shown + 1, used + tokens
        inside = places[used:]
        return (min(length, int(inside[0])) if len(inside) else length), shown

"""Replay of whole episodes, for an agent with a memory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conservator.files import replacing


@dataclass
class PlayedEpisode:
    """An episode while it is played: T images (3, H, W), the tool before each, actions and rewards."""

    images: list[NDArray[np.float32]]
    previous: list[int]
    actions: list[int]
    rewards: list[float]
    returns: list[NDArray[np.float32]]
    """What every action (tools + 1,) would have been worth, where that was foreseen; else empty."""

    @classmethod
    def begun(cls, observed: Mapping[str, NDArray[Any]], i: int) -> PlayedEpisode:
        """The episode that session ``i`` has begun, as a vector environment's observation shows it."""
        return cls([observed["image"][i]], [int(observed["previous"][i])], [], [], [])

    def acted(self, action: int, reward: float) -> None:
        """Note what was done, and what it was paid."""
        self.actions.append(action)
        self.rewards.append(reward)

    def arrived(self, observed: Mapping[str, NDArray[Any]], i: int) -> None:
        """Note where that led session ``i``."""
        self.images.append(observed["image"][i])
        self.previous.append(int(observed["previous"][i]))


@dataclass(frozen=True)
class EpisodeBatch:
    """Episodes, padded to the longest there can be: (B, T) but for the images."""

    indices: NDArray[np.int64]
    images: Tensor
    """(B, T, 3, H, W) in [0, 1]."""
    previous: Tensor
    actions: Tensor
    rewards: Tensor
    returns: Tensor
    """(B, T, tools + 1)."""
    played: Tensor
    """1 for steps that were played, 0 for padding."""
    weights: Tensor
    """(B,): what an episode counts, 1 without priorities."""


class Replay:
    """A ring of episodes; images are kept in 8 bits, whose rounding is far below any damage.

    With ``priority`` above 0 an episode is drawn in proportion to its last error to that power, and counts less the
    likelier it is drawn (Schaul et al., "Prioritized experience replay", ICLR 2016, with beta = 0.5).
    """

    def __init__(self, episodes: int, longest: int, side: int, actions: int, priority: float = 0.0) -> None:
        self._images = np.zeros((episodes, longest, 3, side, side), np.uint8)
        self._previous, self._actions = (np.zeros((episodes, longest), np.int64) for _ in range(2))
        self._rewards = np.zeros((episodes, longest), np.float32)
        self._returns = np.zeros((episodes, longest, actions), np.float32)
        self._lengths = np.zeros(episodes, np.int64)
        self._errors = np.ones(episodes, np.float64)
        self._added, self._priority = 0, priority

    def __len__(self) -> int:
        return min(self._added, len(self._lengths))

    def add(self, played: PlayedEpisode) -> None:
        """Keep an episode; the oldest makes room."""
        at, steps = self._added % len(self._lengths), len(played.actions)
        self._images[at, :steps] = np.rint(np.stack(played.images[:steps]) * 255)
        self._previous[at, :steps], self._actions[at, :steps] = played.previous[:steps], played.actions
        self._rewards[at, :steps], self._lengths[at] = played.rewards, steps
        if played.returns:
            self._returns[at, :steps] = played.returns
        self._errors[at] = self._errors[: len(self)].max(initial=1.0)  # it will be drawn once at least
        self._added += 1

    def sample(self, count: int, rng: np.random.Generator, turned: bool = False) -> EpisodeBatch:
        """``count`` episodes, drawn with replacement; with ``turned`` each is turned and mirrored by chance."""
        weights = np.ones(count)
        if self._priority > 0:
            shares = self._errors[: len(self)] ** self._priority
            shares /= shares.sum()
            indices = rng.choice(len(self), count, p=shares)
            weights = (shares[indices] * len(self)) ** -0.5
            weights /= weights.max()
        else:
            indices = rng.integers(len(self), size=count)
        images = self._images[indices]
        if turned:
            for episode, turns in zip(images, rng.integers(8, size=count), strict=True):
                mirrored = episode[..., ::-1] if turns >= 4 else episode
                episode[:] = np.rot90(mirrored, turns % 4, (-2, -1)).copy()
        longest = self._actions.shape[1]
        played = np.arange(longest) < self._lengths[indices, None]
        return EpisodeBatch(
            indices,
            torch.from_numpy(images).float().div_(255),
            torch.from_numpy(self._previous[indices] * played),
            torch.from_numpy(self._actions[indices] * played),
            torch.from_numpy(self._rewards[indices] * played),
            torch.from_numpy(self._returns[indices]),
            torch.from_numpy(played.astype(np.float32)),
            torch.from_numpy(weights.astype(np.float32)),
        )

    def settle(self, indices: Sequence[int] | NDArray[np.int64], errors: Tensor) -> None:
        """Note the largest error (B,) of each of these episodes."""
        self._errors[indices] = errors.detach().cpu().numpy().astype(np.float64) + 1e-3

    def save(self, path: Path) -> None:
        """Write it, whole or not at all."""
        kept = {name: getattr(self, name)[: len(self)] for name in _ARRAYS}
        with replacing(path) as file:
            np.savez(file, added=np.int64(self._added), **kept)

    def load(self, path: Path) -> None:
        """Go on with what ``save`` wrote."""
        with np.load(path, allow_pickle=False) as kept:
            self._added = int(kept["added"])
            for name in _ARRAYS:
                getattr(self, name)[: len(self)] = kept[name]


_ARRAYS = ("_images", "_previous", "_actions", "_rewards", "_returns", "_lengths", "_errors")

"""The states that toolchains of the starts lead to, each made once, and remembered in a folder for all trainings.

Perception takes a third of a second for a picture, and a tool about as long, on one core. What a policy learns from a
state is a few kilobytes: the vector that its network is told, what was possible there, and the components of the reward
of the step that led to it. So every state that was ever visited is kept, and a training that comes to it again, or the
next training, plays on for nothing. Rewards differ in the weights of the components only.

Where time is short, ``explore`` makes a number of states by chance, and a tree that is ``close``d offers the known ones
alone: from then on any number of episodes costs seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from conservator.errors import ToolFailedError
from conservator.files import replacing
from conservator.image import Image
from conservator.perception.perception import Perception
from conservator.policies.actor_critic import ActorCritic
from conservator.session import Apply, Decision
from conservator.training.rl.episode import Episode, EpisodeRules, Source
from conservator.training.rl.starts import StartingPair, Starts

TreePlace: TypeAlias = tuple[int, tuple[str, ...]]
"""The number of a start, and the tools that were called from it, those that failed included."""

_IDLE = 20
"""Ways of chance from each start that led to nothing new, after which all is taken for known."""


@dataclass(frozen=True)
class Node:
    """A state."""

    state: Tensor
    """(S,): what the network is told."""
    possible: Tensor
    """(tools + 1,) bool: what may be done; nothing where the episode is over."""
    components: Mapping[str, float]
    """Of the reward of the step that led here; of a start those of a step that changes nothing, all 0."""

    @property
    def over(self) -> bool:
        """Whether there is nothing more to decide."""
        return not bool(self.possible.any())


class StartTree:
    """The states that were visited from some starts, numbered as in ``starts``: first those to learn from."""

    def __init__(
        self,
        rules: EpisodeRules,
        actor_critic: ActorCritic,
        perception: Perception,
        starts: Starts,
        folder: Path,
    ) -> None:
        """``actor_critic`` says how a state is told, ``perception`` is what that of the rules asks.

        ``folder`` must be of these rules and starts alone; what it holds is not made again.
        """
        self._rules, self._actor_critic, self._perception, self._folder = rules, actor_critic, perception, folder
        self._pairs: tuple[StartingPair, ...] = (*starts.training, *starts.held_out)
        self.training = range(len(starts.training))
        """The numbers of the starts to learn from."""
        self.held_out = range(len(starts.training), len(self._pairs))
        """Those of the starts held out."""
        self._nodes, self._fresh, self._closed = dict[TreePlace, Node](), list[TreePlace](), False
        for path in sorted(folder.glob("nodes-*.pt")):
            self._nodes |= {_place(row): Node(*row[2:]) for row in torch.load(path, weights_only=True)}

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def told(self) -> list[str]:
        """The names of the components that steps were paid in."""
        return sorted({name for node in self._nodes.values() for name in node.components})

    def visit(self, places: Sequence[TreePlace]) -> list[Node]:
        """The states of these places; those that are new are made, all their tools called before one is waited for."""
        missing = [place for place in dict.fromkeys(places) if place not in self._nodes]
        episodes = [self._episode(start, history[:-1]) for start, history in missing]
        calls = [self._call(*both) for both in zip(episodes, missing, strict=True)]
        for place, episode, call in zip(missing, episodes, calls, strict=True):
            self._nodes[place] = self._made(episode, place, call)
            self._fresh.append(place)
        return [self._offered(place) for place in places]

    def pair(self, start: int) -> StartingPair:
        """A start as it is drawn: the damaged study, and the undamaged one or None."""
        return self._pairs[start]

    def picture(self, place: TreePlace) -> Image:
        """The study at a place, which nothing looks at; a tool that fails changes nothing."""
        start, history = place
        image = self._pairs[start][0]
        for tool in history:
            with contextlib.suppress(ToolFailedError):
                image = self._rules.pool.submit(tool, image).result()
        return image

    def explore(self, count: int, seed: int) -> None:
        """Make states of the starts to learn from, and save them, until ``count`` are known or all are.

        First those that one tool leads to, then those on the ways of chance, start by start.
        """
        for start in self.training:
            if len(self) >= count:
                return
            self.visit([(start, (tool,)) for tool in self._open((start, ()))])
            self.save()
        idle = walk = 0
        while len(self) < count and idle < _IDLE * len(self.training):
            rng, known = np.random.default_rng([seed, walk, 53]), len(self)
            start, history = self.training[walk % len(self.training)], tuple[str, ...]()
            while tools := self._open((start, history)):
                history = (*history, tools[int(rng.integers(len(tools)))])
            self.save()
            walk, idle = walk + 1, 0 if len(self) > known else idle + 1

    def close(self) -> int:
        """From now on offer, of the starts to learn from, only what leads to a known state; how many these are."""
        self._closed = True
        return len(self.known)

    @property
    def known(self) -> list[TreePlace]:
        """The places of the starts to learn from that are known, in order."""
        return sorted(place for place in self._nodes if place[0] in self.training)

    def _open(self, place: TreePlace) -> list[str]:
        """The tools that are possible at a place, which is made if need be."""
        (node,) = self.visit([place])
        tools = self._actor_critic.tools
        return [tool for tool, possible in zip(tools, node.possible.tolist(), strict=False) if possible]

    def _offered(self, place: TreePlace) -> Node:
        """The state of a place, with what may be done there."""
        node, (start, history) = self._nodes[place], place
        if not self._closed or start not in self.training or node.over:
            return node
        known = [(start, (*history, tool)) in self._nodes for tool in self._actor_critic.tools]
        return replace(node, possible=node.possible & torch.tensor([*known, True]))

    def save(self) -> None:
        """Write what is new into the folder."""
        if not self._fresh:
            return
        rows: list[tuple[Any, ...]] = []
        for place in self._fresh:
            node = self._nodes[place]
            rows.append((place[0], list(place[1]), node.state, node.possible, dict(node.components)))
        name = hashlib.sha256(repr(self._fresh).encode()).hexdigest()[:16]  # two trainings may write side by side
        self._folder.mkdir(parents=True, exist_ok=True)
        with replacing(self._folder / f"nodes-{name}.pt") as file:
            torch.save(rows, file)
        self._fresh.clear()

    def _episode(self, start: int, history: tuple[str, ...]) -> Episode:
        """An episode at a place; the pool and the perception of the rules remember what was made on the way."""
        episode = Episode(replace(self._rules, source=_always(self._pairs[start])), np.random.default_rng(0))
        for tool in history:
            episode.session.step(Decision(Apply(tool)))
        return episode

    def _call(self, episode: Episode, place: TreePlace) -> Future[Image] | None:
        tool, session = place[1][-1:], episode.session
        return session.pool.submit(tool[0], session.trajectory.last.image) if tool else None

    def _made(self, episode: Episode, place: TreePlace, call: Future[Image] | None) -> Node:
        if call is None:
            first = episode.session.trajectory.last
            components = self._rules.reward(first, first, episode.clean)
        else:
            episode.session.step(Decision(Apply(place[1][-1])), call)
            components = episode.outcome().components
        observation = episode.session.observe()
        possible = self._actor_critic.possible(observation)
        if episode.session.over:
            possible = torch.zeros_like(possible)
        return Node(self._actor_critic.state(observation, self._perception), possible, components)


def _place(row: Sequence[Any]) -> TreePlace:
    return int(row[0]), tuple(row[1])


def _always(pair: StartingPair) -> Source:
    return lambda rng: pair

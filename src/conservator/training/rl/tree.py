"""The states that toolchains of the starts lead to, each made once, and remembered in a folder for all trainings.

Perception takes a third of a second for a picture, and a tool about as long, on one core. What a policy learns from a
state is a few kilobytes: the vector that its network is told, what was possible there, and the components of the reward
of the step that led to it. So every state that was ever visited is kept, and a training that comes to it again, or the
next training, plays on for nothing. Rewards differ in the weights of the components only, but for a model's rating:
the pictures are kept as well, in 8 bits, so that any model can rate them later, and no tool is called for that again.

Where time is short, ``explore`` makes a number of states by chance, and a tree that is ``close``d offers the known ones
alone: from then on any number of episodes costs seconds.
"""

from __future__ import annotations

import contextlib
import hashlib
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from conservator.errors import ToolFailedError
from conservator.files import replacing
from conservator.image import Image
from conservator.kinds import Kind
from conservator.perception.perception import Perception
from conservator.policies.actor_critic import ActorCritic
from conservator.session import Apply, Decision
from conservator.training.rl.episode import Episode, EpisodeRules, Source
from conservator.training.rl.feedback import FEEDBACK, QualityRater
from conservator.training.rl.rewards import Reward
from conservator.training.rl.starts import StartingPair, Starts

TreePlace: TypeAlias = tuple[int, tuple[str, ...]]
"""The number of a start, and the tools that were called from it, those that failed included."""

_IDLE = 20
"""Ways from each start that led to nothing new, after which all is taken for known."""
_LIKED = "quality"
"""The component by which a way goes on: perception's, so that exploring needs no reference."""
_BEST = 0.7
"""How often it goes on with the best; else any, so that the way of a poor choice is known, too. As perception's samples
are drawn (training/perception/samples.py)."""


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


class Ratings:
    """What a model says of the pictures of states, each asked once and remembered in a file."""

    def __init__(self, rater: QualityRater, file: Path) -> None:
        """``file`` must be of this model and of the states of one folder alone."""
        self._rater, self._file = rater, file
        self._known = self._read()
        """Of what the rater shows, by its name."""
        self._fresh = False

    def rating(self, place: TreePlace, picture: Callable[[], Image]) -> float:
        """The rating of a place, 1 to 5; ``picture`` gives its study where it is asked."""
        known = self._known.setdefault(place, {})
        if not known.keys() >= set(self._rater.groups):
            known |= self._rater.rate_apart(picture())
            self._fresh = True
        return sum(known[group] for group in self._rater.groups) / len(self._rater.groups)

    def save(self) -> None:
        """Write what is new into the file, beside what another training wrote meanwhile."""
        if not self._fresh:
            return
        for place, known in self._read().items():
            self._known[place] = known | self._known.get(place, {})
        with replacing(self._file) as file:
            torch.save([(place[0], list(place[1]), known) for place, known in self._known.items()], file)
        self._fresh = False

    def _read(self) -> dict[TreePlace, dict[str, float]]:
        rows = torch.load(self._file, weights_only=True) if self._file.exists() else []
        return {_place(row): row[2] for row in rows}


class StartTree:
    """The states that were visited from some starts, numbered as in ``starts``: first those to learn from."""

    def __init__(
        self,
        rules: EpisodeRules,
        actor_critic: ActorCritic,
        perception: Perception,
        starts: Starts,
        folder: Path,
        ratings: Ratings | None = None,
        measured: Reward | None = None,
    ) -> None:
        """``actor_critic`` says how a state is told, ``perception`` is what that of the rules asks.

        ``folder`` must be of these rules and starts alone; what it holds is not made again. With ``ratings`` each step
        is told in ``feedback``, too: by how much the rating of its picture in 8 bits rose. ``measured`` is what is told
        beside the reward of the starts held out, for it costs more than it is worth where nothing is paid for it.
        """
        self._rules, self._actor_critic, self._perception, self._folder = rules, actor_critic, perception, folder
        self._ratings, self._measured = ratings, measured
        self._pairs: tuple[StartingPair, ...] = (*starts.training, *starts.held_out)
        self.training = range(len(starts.training))
        """The numbers of the starts to learn from."""
        self.held_out = range(len(starts.training), len(self._pairs))
        """Those of the starts held out."""
        self._nodes, self._fresh, self._closed = dict[TreePlace, Node](), list[TreePlace](), False
        self._kept: dict[TreePlace, Tensor | tuple[Path, int]] = {}
        """The pictures, in 8 bits, or where they lie."""
        for path in sorted(folder.glob("nodes-*.pt")):
            rows = torch.load(path, weights_only=True)
            self._nodes |= {_place(row): Node(*row[2:]) for row in rows}
            pictures = path.with_name(path.name.replace("nodes", "pictures"))
            self._kept |= {_place(row): (pictures, number) for number, row in enumerate(rows)}

    def __len__(self) -> int:
        return len(self._nodes)

    @property
    def treats(self) -> list[frozenset[Kind]]:
        """What each tool of the policy is for."""
        return [self._rules.toolbox[tool].spec.removes for tool in self._actor_critic.tools]

    @property
    def told(self) -> list[str]:
        """The names of the components that steps were paid in."""
        rated = {FEEDBACK} if self._ratings is not None else set[str]()
        return sorted(rated.union(*(node.components for node in self._nodes.values())))

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

        First those that one tool leads to. Then, start by start, a way on which all that is possible is tried at every
        state: mostly it goes on with what perception likes best, else by chance. So the states on it are ``whole``.
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
                tried = self.visit([(start, (*history, tool)) for tool in tools])
                gains = [node.components.get(_LIKED, 0.0) for node in tried]
                best = rng.random() < _BEST
                history = (*history, tools[int(np.argmax(gains)) if best else int(rng.integers(len(tools)))])
            self.save()
            walk, idle = walk + 1, 0 if len(self) > known else idle + 1

    def whole(self, place: TreePlace) -> bool:
        """Whether all that is possible at a known place leads to known states."""
        start, history = place
        tools = zip(self._actor_critic.tools, self._nodes[place].possible.tolist(), strict=False)
        return all((start, (*history, tool)) in self._nodes for tool, possible in tools if possible)

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
        if self._ratings is not None:
            node = replace(node, components={**node.components, FEEDBACK: self._feedback(self._ratings, place)})
        if not self._closed or start not in self.training or node.over:
            return node
        known = [(start, (*history, tool)) in self._nodes for tool in self._actor_critic.tools]
        return replace(node, possible=node.possible & torch.tensor([*known, True]))

    def _feedback(self, ratings: Ratings, place: TreePlace) -> float:
        """By how much the step that led to a place raised the rating; 0 at a start."""
        start, history = place
        ways = [place, (start, history[:-1])] if history else []
        now_and_before = [ratings.rating(one, partial(self._in_8_bits, one)) for one in ways]
        return now_and_before[0] - now_and_before[1] if ways else 0.0

    def _in_8_bits(self, place: TreePlace) -> Image:
        """The study at a place as it is kept."""
        kept = self._kept[place]
        if isinstance(kept, tuple):
            path, number = kept
            kept = torch.load(path, weights_only=True, mmap=True)[number]
        return kept.float() / 255

    def save(self) -> None:
        """Write what is new into the folder, and what was rated."""
        if self._ratings is not None:
            self._ratings.save()
        if not self._fresh:
            return
        rows: list[tuple[Any, ...]] = []
        for place in self._fresh:
            node = self._nodes[place]
            rows.append((place[0], list(place[1]), node.state, node.possible, dict(node.components)))
        name = hashlib.sha256(repr(self._fresh).encode()).hexdigest()[:16]  # two trainings may write side by side
        self._folder.mkdir(parents=True, exist_ok=True)
        pictures = self._folder / f"pictures-{name}.pt"
        for path, content in ((pictures, [self._kept[place] for place in self._fresh]), (self._nodes_file(name), rows)):
            with replacing(path) as file:
                torch.save(content, file)
        self._kept |= {place: (pictures, number) for number, place in enumerate(self._fresh)}
        self._fresh.clear()

    def _nodes_file(self, name: str) -> Path:
        return self._folder / f"nodes-{name}.pt"

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
        before = episode.session.trajectory.last
        if call is not None:
            episode.session.step(Decision(Apply(place[1][-1])), call)
        step = before, episode.session.trajectory.last, episode.clean
        components = dict(self._rules.reward(*step))
        if self._measured is not None and place[0] in self.held_out:
            components |= self._measured(*step)
        observation = episode.session.observe()
        self._kept[place] = (observation.image * 255).round().to(torch.uint8)
        possible = self._actor_critic.possible(observation)
        if episode.session.over:
            possible = torch.zeros_like(possible)
        return Node(self._actor_critic.state(observation, self._perception), possible, components)


def _place(row: Sequence[Any]) -> TreePlace:
    return int(row[0]), tuple(row[1])


def _always(pair: StartingPair) -> Source:
    return lambda rng: pair

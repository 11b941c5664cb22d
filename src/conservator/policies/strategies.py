"""Strategies to compare a policy with: the simple ones of RestoreAgent's table (Chen et al., NeurIPS 2024).

RestoreAgent asks what a decision is worth beside chance and beside one fixed recipe: random order and tools, random
order with the predicted tools, the predicted order with random tools, a pre-defined order. What they share: they know
which damages are present, here from the first look of perception, and look no more. Its tables and constants were not
published; what is fixed here is ours.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence

import numpy as np

from conservator.image import Image, digest
from conservator.kinds import Kind
from conservator.perception.perception import Percept
from conservator.policies.fixed import EXPERT_ORDER, FixedOrder
from conservator.session.session import Observation
from conservator.session.trajectory import Decision
from conservator.tools.tool import ToolSpec, is_specialist


class PlannedPolicy(ABC):
    """Decides on the whole toolchain at the first look and carries it out, whatever comes of it."""

    name: str

    def act(self, observation: Observation) -> Decision:
        """Apply the next tool of the plan, which follows from the first step alone, then stop."""
        first = observation.trajectory.steps[0]
        plan = self.plan(first.image, first.percept, observation.tools)
        return FixedOrder(*plan).act(observation)

    @abstractmethod
    def plan(self, image: Image, percept: Percept, tools: Sequence[ToolSpec]) -> tuple[str, ...]:
        """The toolchain for a picture and what perception sees in it."""

    def _choices(self, percept: Percept, tools: Sequence[ToolSpec]) -> dict[Kind, list[str]]:
        """The specialists for each damage that is seen and has one, in the toolbox's order."""
        found = {
            kind: [spec.name for spec in tools if kind in spec.removes and is_specialist(spec)]
            for kind in EXPERT_ORDER
            if kind in percept.present
        }
        return {kind: names for kind, names in found.items() if names}


class RandomBoth(PlannedPolicy):
    """Random order and tools: for every damage that is seen one of its tools, in any order, all equally likely."""

    name = "random_both"

    def __init__(self, seed: int = 0) -> None:
        """The same photo and seed give the same toolchain."""
        self._seed = seed

    def plan(self, image: Image, percept: Percept, tools: Sequence[ToolSpec]) -> tuple[str, ...]:
        """Draw a tool per damage, then the order."""
        rng = photo_rng(image, self._seed)
        chosen = [names[rng.integers(len(names))] for names in self._choices(percept, tools).values()]
        return random_order(chosen, rng)


class Predefined(PlannedPolicy):
    """Pre-defined order and tools: the expert's order of damages, always the toolbox's first tool for each."""

    name = "predefined"

    def plan(self, image: Image, percept: Percept, tools: Sequence[ToolSpec]) -> tuple[str, ...]:
        """The first tool for each damage that is seen."""
        return tuple(names[0] for names in self._choices(percept, tools).values())


def photo_rng(image: Image, seed: int) -> np.random.Generator:
    """Chance that belongs to a picture: the same pixels and seed draw the same."""
    return np.random.default_rng([seed, int(digest(image)[:8], 16)])


def random_order(toolchain: Sequence[str], rng: np.random.Generator) -> tuple[str, ...]:
    """Random order with a policy's tools: its toolchain, shuffled."""
    return tuple(toolchain[i] for i in rng.permutation(len(toolchain)))


def random_tools(toolchain: Sequence[str], tools: Sequence[ToolSpec], rng: np.random.Generator) -> tuple[str, ...]:
    """A policy's order with random tools: each tool becomes any specialist (itself, too) for the same damage."""
    return tuple(_substitute(name, tools, rng) for name in toolchain)


def _substitute(name: str, tools: Sequence[ToolSpec], rng: np.random.Generator) -> str:
    own = next(spec for spec in tools if spec.name == name)
    if not is_specialist(own):
        return name
    alike = [spec.name for spec in tools if is_specialist(spec) and spec.removes & own.removes]
    return alike[rng.integers(len(alike))]

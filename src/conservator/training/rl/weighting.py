"""From the components of a reward to the one number that a learner is paid."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any

from conservator.errors import ConservatorError, name_not_found

Components = Mapping[str, float]
"""What a ``Reward`` gives for one step."""


class Weighting(ABC):
    """Makes one number of the components of each step; it may learn from what was paid before.

    A learner calls it with steps that belong together (one of each parallel session, or those of the rollouts of one
    photo, which some weightings compare), and ``update`` once with each step that was really made.
    """

    @abstractmethod
    def __call__(self, group: Sequence[Components]) -> list[float]:
        """One number for each of these steps; it learns nothing from them."""

    def update(self, group: Sequence[Components]) -> None:  # noqa: B027 - most weightings learn nothing
        """Learn from steps that were made."""

    def state_dict(self) -> dict[str, Any]:
        """What it has learned, in plain numbers and containers: a checkpoint keeps it."""
        return {}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:  # noqa: B027 - likewise
        """Go on with what ``state_dict`` gave."""


class FixedWeights(Weighting):
    """The weighted sum; without weights every component counts as one."""

    def __init__(self, weights: Mapping[str, float] | None = None) -> None:
        self._weights = weights

    def __repr__(self) -> str:
        return f"FixedWeights({dict(self._weights) if self._weights is not None else ''})"

    def __call__(self, group: Sequence[Components]) -> list[float]:
        """Raises NameNotFoundError for a component that has no weight: 0 is one, too."""
        return [sum(self.weight(name) * value for name, value in components.items()) for components in group]

    def weight(self, name: str) -> float:
        """What a component counts; NameNotFoundError where that was not said."""
        if self._weights is None:
            return 1.0
        if name not in self._weights:
            raise name_not_found("weight for the component", name, self._weights)
        return self._weights[name]


class RunningScale(FixedWeights):
    """The weighted sum of components that are divided by their running size, so that dB and shares can be added.

    A component's size is the root of the mean square of what it was so far, old steps counting less by ``decay`` a
    step. No mean is taken off: a step that changes nothing stays worth nothing. Until a component was other than 0 it
    counts as it is.
    """

    def __init__(self, weights: Mapping[str, float] | None = None, decay: float = 0.999) -> None:
        if not 0 < decay <= 1:
            raise ConservatorError(f"decay is {decay}, expected more than 0 and at most 1")
        super().__init__(weights)
        self._decay = decay
        self._steps: dict[str, float] = {}
        """How many steps were seen, the old ones counted for less."""
        self._squares: dict[str, float] = {}
        """The sum of their squares, likewise."""

    def __repr__(self) -> str:
        return f"RunningScale({dict(self._weights) if self._weights is not None else None}, decay={self._decay})"

    def __call__(self, group: Sequence[Components]) -> list[float]:
        return super().__call__([{name: x / self.scale(name) for name, x in one.items()} for one in group])

    def scale(self, name: str) -> float:
        """The running size of a component, by which it is divided."""
        squares = self._squares.get(name, 0.0)
        return math.sqrt(squares / self._steps[name]) if squares > 0 else 1.0

    def update(self, group: Sequence[Components]) -> None:
        """Count these steps, in their order."""
        for components in group:
            for name, value in components.items():
                self._steps[name] = self._decay * self._steps.get(name, 0.0) + 1
                self._squares[name] = self._decay * self._squares.get(name, 0.0) + value**2

    def state_dict(self) -> dict[str, Any]:
        return {"steps": dict(self._steps), "squares": dict(self._squares)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps, self._squares = dict(state["steps"]), dict(state["squares"])

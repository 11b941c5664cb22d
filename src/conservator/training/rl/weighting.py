"""From the components of a reward to the one number that a learner is paid."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Literal, TypeAlias, get_args

from conservator.errors import ConservatorError, name_not_found

Components = Mapping[str, float]
"""What a ``Reward`` gives for one step."""


WeightingName: TypeAlias = Literal["static", "adaptive", "gdpo"]
"""How the metrics of a rollout are weighed (``make_weighting``)."""
WEIGHTINGS: tuple[str, ...] = get_args(WeightingName)


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

    A component's size is the root of the mean square of what it was where it was other than 0, older values counting
    less by ``decay`` each: what is rare weighs no more than what is common. No mean is taken off: a step that changes
    nothing stays worth nothing. Until a component was other than 0 it counts as it is.
    """

    def __init__(self, weights: Mapping[str, float] | None = None, decay: float = 0.999) -> None:
        if not 0 < decay <= 1:
            raise ConservatorError(f"decay is {decay}, expected more than 0 and at most 1")
        super().__init__(weights)
        self._decay = decay
        self._steps: dict[str, float] = {}
        """How many values other than 0 were seen of each component, the old ones counted for less."""
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
                if value:
                    self._steps[name] = self._decay * self._steps.get(name, 0.0) + 1
                    self._squares[name] = self._decay * self._squares.get(name, 0.0) + value**2

    def state_dict(self) -> dict[str, Any]:
        return {"steps": dict(self._steps), "squares": dict(self._squares)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._steps, self._squares = dict(state["steps"]), dict(state["squares"])


class StaticWeights(FixedWeights):
    """The weighted sum of components, the ``metrics`` among them divided by their running deviation.

    Mean and deviation are of all rollouts so far, old updates counting less by ``decay`` each. The mean is not taken
    off what is paid: that would pay for doing nothing, and among the rollouts of one photo, which are compared, it
    would make no difference. Until a metric varied it counts as it is.
    """

    def __init__(self, weights: Mapping[str, float], metrics: Collection[str], decay: float = 0.99) -> None:
        """``weights`` are of all components, the metrics too; ``metrics`` are those to normalise."""
        super().__init__(weights)
        self._metrics, self._decay = tuple(metrics), decay
        self._means, self._squares = (dict.fromkeys(metrics, 0.0) for _ in range(2))
        self._updates = 0

    def __call__(self, group: Sequence[Components]) -> list[float]:
        scales = {name: self.deviation(name) for name in self._metrics}
        return super().__call__([{name: x / scales.get(name, 1.0) for name, x in one.items()} for one in group])

    def mean(self, name: str) -> float:
        """The running mean of a metric."""
        return self._means[name] / self._seen(self._decay)

    def deviation(self, name: str) -> float:
        """The running deviation of a metric, by which it is divided."""
        variance = self._squares[name] / self._seen(self._decay) - self.mean(name) ** 2
        return math.sqrt(variance) if variance > 1e-12 else 1.0

    def update(self, group: Sequence[Components]) -> None:
        """Count the rollouts of one step of training."""
        if not group:
            return
        self._updates += 1
        for name in self._metrics:
            values = [one[name] for one in group]
            self._note(name, sum(values) / len(values))
            squares = sum(value**2 for value in values) / len(values)
            self._squares[name] += (1 - self._decay) * (squares - self._squares[name])

    def _note(self, name: str, mean: float) -> None:
        """The mean of a metric over one step."""
        self._means[name] += (1 - self._decay) * (mean - self._means[name])

    def _seen(self, decay: float) -> float:
        """What part of a running mean with this decay has been filled: the rest is the 0 that it began with."""
        return 1 - decay**self._updates if self._updates else 1.0

    def state_dict(self) -> dict[str, Any]:
        return {"means": dict(self._means), "squares": dict(self._squares), "updates": self._updates}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        self._means, self._squares = dict(state["means"]), dict(state["squares"])
        self._updates = state["updates"]


class AdaptiveWeights(StaticWeights):
    """Static weights times one that follows each metric's trend: what lags behind the others gains weight.

    The idea is TIR-Agent's (arXiv 2603.27742), which weighs heterogeneous metrics by their trends so that none is
    hacked; its formula was not published, and this one is ours. The trend g of a metric is the difference of a fast and
    a slow running mean (decays 0.9 and 0.99) in deviations; its weight is the softmax of -g over all metrics times
    their number, within 0.5 and 2, renewed every ten updates.
    """

    def __init__(
        self,
        weights: Mapping[str, float],
        metrics: Collection[str],
        every: int = 10,
        fast: float = 0.9,
        bounds: tuple[float, float] = (0.5, 2.0),
    ) -> None:
        super().__init__(weights, metrics)
        self._every, self._fast, self._bounds = every, fast, bounds
        self._recent = dict.fromkeys(self._metrics, 0.0)
        self._factors = dict.fromkeys(self._metrics, 1.0)

    def weight(self, name: str) -> float:
        """The weight of a component at the moment."""
        return super().weight(name) * self._factors.get(name, 1.0)

    def trend(self, name: str) -> float:
        """By how many deviations the recent mean of a metric lies above the older one."""
        return (self._recent[name] / self._seen(self._fast) - self.mean(name)) / self.deviation(name)

    def update(self, group: Sequence[Components]) -> None:
        """Count the rollouts of one step of training; renew the weights where it is time."""
        super().update(group)
        if not self._updates or self._updates % self._every:
            return
        shares = {name: math.exp(-self.trend(name)) for name in self._metrics}
        least, most = self._bounds
        for name, share in shares.items():
            self._factors[name] = min(most, max(least, len(shares) * share / sum(shares.values())))

    def _note(self, name: str, mean: float) -> None:
        super()._note(name, mean)
        self._recent[name] += (1 - self._fast) * (mean - self._recent[name])

    def state_dict(self) -> dict[str, Any]:
        return super().state_dict() | {"recent": dict(self._recent), "factors": dict(self._factors)}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        super().load_state_dict(state)
        self._recent, self._factors = dict(state["recent"]), dict(state["factors"])


class GroupNormalised(FixedWeights):
    """GDPO (arXiv 2601.05242): each metric is normalised within its group before the weighted sum, so none drowns.

    From each component the group's mean is taken off; what remains of a metric is divided by the group's deviation. So
    only differences within the group count.
    """

    def __init__(self, weights: Mapping[str, float], metrics: Collection[str]) -> None:
        super().__init__(weights)
        self._metrics = tuple(metrics)

    def __call__(self, group: Sequence[Components]) -> list[float]:
        columns = {name: self._within([one[name] for one in group], name) for name in (group[0] if group else ())}
        rows = [{name: column[i] for name, column in columns.items()} for i in range(len(group))]
        return super().__call__(rows)

    def _within(self, values: Sequence[float], name: str) -> list[float]:
        if name in self._metrics:
            return normalised(values)
        return [value - sum(values) / len(values) for value in values]


def normalised(values: Sequence[float]) -> list[float]:
    """Values without their mean, in units of their deviation; as in GRPO, 1e-4 is added to that."""
    mean = sum(values) / max(1, len(values))
    deviation = math.sqrt(sum((value - mean) ** 2 for value in values) / max(1, len(values)))
    return [(value - mean) / (deviation + 1e-4) for value in values]


def make_weighting(name: WeightingName, weights: Mapping[str, float], metrics: Collection[str]) -> Weighting:
    """The weighting of this name; NameNotFoundError where there is none."""
    kinds: dict[str, Callable[[Mapping[str, float], Collection[str]], Weighting]] = {
        "static": StaticWeights,
        "adaptive": AdaptiveWeights,
        "gdpo": GroupNormalised,
    }
    if name not in kinds:
        raise name_not_found("weighting", name, kinds)
    return kinds[name](weights, metrics)

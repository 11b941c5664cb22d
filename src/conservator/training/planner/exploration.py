"""Measured exploration, as TIR-Agent's Figures 3 and 4: how rollouts differ, which tools are called, and their worth.

conservator bench exploration --photos FOLDER --model FOLDER --model FOLDER
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conservator.claims import Identity, claim
from conservator.evaluation.grid import Grid
from conservator.evaluation.intervals import mean_cell
from conservator.evaluation.rows import content_of
from conservator.photo import find_photos
from conservator.policies.vision_language import model_hash
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.training.planner.exploring import DamagedCrops, rollout_pool
from conservator.training.planner.orders import torch_device
from conservator.training.planner.trial_orders import ExplorationOrder
from conservator.training.planner.trials import Trials, Tried

VARIED = ("trajectories", "orders", "tools")
"""What is counted of the rollouts of a crop: how many are distinct."""
_OF_THIS_MACHINE = ("output", "device", "pool", "photos", "model", "worth", "measured")
"""Fields of an order that do not change what is measured, or that count by their content."""


@dataclass(frozen=True)
class Explored:
    """What one model did."""

    drawn: Sequence[Tried]
    """Rollouts by its chances."""
    decided: Sequence[Tried] = ()
    """One rollout of each crop by the likeliest calls."""
    without: Mapping[str, Sequence[Tried]] | None = None
    """The same without a tool, by its name; None where that was not asked for."""

    def share_of_calls(self, tool: str) -> float:
        """The share of all calls that were of this tool."""
        return self.called[tool] / max(1, self.called.total())

    @property
    def called(self) -> Counter[str]:
        """How often each tool was called, in all drawn rollouts."""
        return Counter[str]() + sum((Counter(one.called) for one in self.drawn), Counter[str]())


def explore(order: ExplorationOrder, report: Callable[[str], None] = print) -> dict[str, Explored]:
    """Measure each model of an order, by its name; goes on where an earlier run stopped.

    Raises ConservatorError for a model that does not call tools, and for a folder of another order.
    """
    order = replace(order, device=torch_device(order.device))
    photos = find_photos(order.photos)
    with (
        Restorer(Request(toolbox=order.toolbox, objective=order.objective)) as restorer,
        rollout_pool(order.pool, restorer, order.metrics) as pools,
    ):
        content = content_of(photos, order.photos, restorer.toolbox, order.toolbox, order.output)
        settings = {f.name: getattr(order, f.name) for f in fields(order) if f.name not in _OF_THIS_MACHINE}
        settings["model"] = [model_hash(model) for model in order.model]
        weights = content.weights_of(Request.perception)
        claim(order.output, Identity.of(settings, photos=content.photos, tools=content.tools, weights=weights))
        trials = Trials(
            DamagedCrops(photos, order.seed, 53),
            order.crops,
            restorer,
            pools,
            order.metrics,
            order.output / "trials.jsonl",
            longest=order.longest,
            objective=order.objective,
            device=order.device,
            measured=order.measured,
        )
        found, names = {}, short_names(order.model)
        for model in order.model:
            report(f"{model}: {order.rollouts} rollouts of {order.crops} crops")
            done = Explored(trials.drawn(model, order.rollouts, order.temperature, order.seed))
            if order.worth:
                done = replace(done, decided=trials.decided(model), without=_worth(trials, model, done, report))
            found[names[model]] = done
    return found


def _worth(trials: Trials, model: str, done: Explored, report: Callable[[str], None]) -> dict[str, list[Tried]]:
    """What is decided without each tool that was ever called; one that never is cannot be missed."""
    without = {}
    for tool, _ in done.called.most_common():
        report(f"{model}: without {tool}")
        without[tool] = trials.decided(model, tool)
    return without


def short_names(models: Sequence[str]) -> dict[str, str]:
    """What tables call each model: the last parts of its path that tell it from the others."""
    for count in range(1, 8):
        names = {model: "/".join(Path(model).parts[-count:]) for model in models}
        if len(set(names.values())) == len(names) and "model" not in names.values():
            return names
    return {model: model for model in models}


def exploration_grids(found: Mapping[str, Explored], metrics: Sequence[str]) -> list[Grid]:
    """How rollouts differ and what they gain; which tools are called; what each is worth."""
    head = ("model", "crops", *(f"distinct {name}" for name in VARIED), *metrics, "harm", "calls")
    rows = [(name, *_rollout_cells(one.drawn, metrics)) for name, one in found.items()]
    grids = [Grid("Rollouts of one crop", head, tuple(rows))]
    tools = called_tools(found)
    calls = tuple((tool, *(f"{one.share_of_calls(tool):.1%}" for one in found.values())) for tool in tools)
    grids.append(Grid("Share of all calls", ("tool", *found), calls))
    for name, one in found.items():
        if one.without is not None:
            worth = [(tool, *_worth_cells(one, tool, metrics)) for tool in one.without]
            title = f"What is lost without a tool, {name} (its likeliest calls)"
            grids.append(Grid(title, ("tool", "crops", *metrics), tuple(worth)))
    return grids


def called_tools(found: Mapping[str, Explored]) -> list[str]:
    """All tools that were called, the most frequent first."""
    return [tool for tool, _ in sum((one.called for one in found.values()), Counter[str]()).most_common()]


def _rollout_cells(tried: Sequence[Tried], metrics: Sequence[str]) -> list[str]:
    origins = [one.photo for one in tried]
    cells = [mean_cell(values_of(tried, name), origins, ".2f") for name in VARIED]
    cells += [mean_cell(values_of(tried, name), origins, "+.3f") for name in (*metrics, "harm")]
    return [str(len(tried)), *cells, mean_cell(-values_of(tried, "cost"), origins, ".2f")]


def _worth_cells(one: Explored, tool: str, metrics: Sequence[str]) -> list[str]:
    pairs = paired(one.decided, (one.without or {})[tool])
    origins = [whole.photo for whole, _ in pairs]
    cells = [mean_cell(lost(pairs, name), origins, "+.3f") for name in metrics]
    return [str(len(pairs)), *cells]


def paired(tried: Sequence[Tried], others: Sequence[Tried]) -> list[tuple[Tried, Tried]]:
    """The crops that both measured."""
    known = {one.crop: one for one in others}
    return [(one, known[one.crop]) for one in tried if one.crop in known]


def lost(pairs: Sequence[tuple[Tried, Tried]], name: str) -> NDArray[np.float64]:
    """By how much the first of each pair is better."""
    return np.array([whole.values[name] - less.values[name] for whole, less in pairs])


def values_of(tried: Sequence[Tried], name: str) -> NDArray[np.float64]:
    """One value of every crop."""
    return np.array([one.values[name] for one in tried], np.float64)

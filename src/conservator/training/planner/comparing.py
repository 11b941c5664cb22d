"""Trainings of models that call tools, held against each other: by their rewards, and by what they never saw.

conservator bench rewards --photos FOLDER --model FOLDER --tested FOLDER
conservator bench left-out --photos FOLDER --data FOLDER --tested FOLDER
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import cast

import numpy as np
from numpy.typing import NDArray

from conservator.claims import Identity, claim, hashes_of
from conservator.errors import ConservatorError, name_not_found
from conservator.evaluation.grid import Grid
from conservator.evaluation.intervals import mean_cell, ratio_cell
from conservator.evaluation.rows import content_of
from conservator.photo import find_photos
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.training.data.crops import held_out
from conservator.training.planner.exploration import lost, paired, values_of
from conservator.training.planner.exploring import DamagedCrops, only_pair, parse_pair, rollout_pool
from conservator.training.planner.grpo import train_grpo
from conservator.training.planner.orders import GrpoOrder, SftOrder, torch_device
from conservator.training.planner.sft import train_sft
from conservator.training.planner.trial_orders import LeftOutTrial, RewardTrial
from conservator.training.planner.trials import Trials, Tried
from conservator.training.rl.weighting import WEIGHTINGS, WeightingName
from conservator.training.run import Curve, read_curve

BEFORE = "before"
"""The model that all trainings began with."""
CONTROL = "control"
"""The training that left nothing out."""


@dataclass(frozen=True)
class ComparedRewards:
    """What each reward made of one model."""

    tried: Mapping[str, Sequence[Tried]]
    """By the reward, and ``BEFORE``: the tested crops, decided by the likeliest calls."""
    curves: Mapping[str, Curve]
    """By the reward: what was measured in training."""


def compare_rewards(order: GrpoOrder, trial: RewardTrial, report: Callable[[str], None] = print) -> ComparedRewards:
    """Train the model of an order with each reward, alike otherwise, and try all on the same crops.

    Trainings lie in folders of their own in ``order.output``; the same command again goes on. Raises ConservatorError
    for a reward that there is not, and as ``train_grpo`` does.
    """
    _check_unseen(order.photos, trial.tested)
    names = trial.weightings
    if unknown := [name for name in names if name not in WEIGHTINGS]:
        raise name_not_found("weighting", unknown[0], WEIGHTINGS)
    models = {BEFORE: order.model}
    for name in cast("tuple[WeightingName, ...]", names):
        report(f"training with the reward {name}")
        models[name] = str(train_grpo(replace(order, weighting=name, output=order.output / name), report))
    with _trials(order, trial.tested) as trials:
        made = trials(DamagedCrops(find_photos(trial.tested), order.seed, 59), trial.tried, "rewards")
        tried = {name: made.decided(model) for name, model in models.items()}
    return ComparedRewards(tried, {name: read_curve(order.output / name) for name in names})


def reward_grids(found: ComparedRewards, metrics: Sequence[str], left_out: str) -> list[Grid]:
    """What each metric gained, the one that was not paid for marked; and the rewards beside the first one."""
    first, *others = [name for name in found.tried if name != BEFORE]
    head = ("reward", "crops", *_headings(metrics, left_out), "mean normalised gain", "harm", "calls")
    rows = []
    for name, tried in found.tried.items():
        origins = [one.photo for one in tried]
        cells = [mean_cell(values_of(tried, metric), origins, "+.3f") for metric in metrics]
        more = [mean_cell(normalised_gain(found, name, metrics), origins, "+.3f")]
        more += [mean_cell(values_of(tried, "harm"), origins, "+.3f")]
        rows.append((name, str(len(tried)), *cells, *more, mean_cell(-values_of(tried, "cost"), origins, ".2f")))
    beside = []
    for name in (*others, BEFORE):
        pairs = paired(found.tried[first], found.tried[name])
        origins = [one.photo for one, _ in pairs]
        cells = [mean_cell(lost(pairs, metric), origins, "+.3f") for metric in metrics]
        beside.append((f"{first} less {name}", str(len(pairs)), *cells))
    title = "Each reward beside the first, paired by crop"
    return [
        Grid("What the likeliest calls gain", head, tuple(rows)),
        Grid(title, ("difference", "crops", *_headings(metrics, left_out)), tuple(beside)),
    ]


def normalised_gain(found: ComparedRewards, name: str, metrics: Sequence[str]) -> NDArray[np.float64]:
    """Of every crop the mean gain over all metrics, each in deviations of its gain over all rewards and crops."""
    every = [one for tried in found.tried.values() for one in tried]
    scales = {metric: float(values_of(every, metric).std()) or 1.0 for metric in metrics}
    tried = found.tried[name]
    return np.mean([values_of(tried, metric) / scales[metric] for metric in metrics], axis=0)  # type: ignore[no-any-return]


def _headings(metrics: Sequence[str], left_out: str) -> list[str]:
    return [f"{metric} (not paid)" if metric == left_out else metric for metric in metrics]


def compare_left_out(
    order: GrpoOrder, trial: LeftOutTrial, report: Callable[[str], None] = print
) -> dict[str, tuple[list[Tried], list[Tried]]]:
    """Per pair of damages: what a training that never saw them together does on them, and what the control does.

    Each training is supervision, then reinforcement learning, of as many steps and with the same seed; they differ only
    in what is left out. Lies in ``order.output``; the same command again goes on. Raises ConservatorError for a pair
    that is none, and as ``train_sft`` and ``train_grpo`` do.
    """
    _check_unseen(order.photos, trial.tested)
    for pair in trial.pairs:
        if len(parse_pair(pair)) < 2:
            raise ConservatorError(f"{pair} is one kind of damage; give two or more, as in rain+noise")
    control, found = _trained(order, trial, (), report), {}
    with _trials(order, trial.tested) as trials:
        for pair in trial.pairs:
            model = _trained(order, trial, (pair,), report)
            photos = find_photos(trial.tested)
            made = trials(DamagedCrops(photos, order.seed, 61, draw=only_pair(pair)), trial.tried, pair)
            found[pair] = made.decided(model), made.decided(control)
    return found


def _trained(order: GrpoOrder, trial: LeftOutTrial, without: tuple[str, ...], report: Callable[[str], None]) -> str:
    """The folder of a model that was taught and trained by reward, without some pairs."""
    folder = order.output / ("+".join(without) or CONTROL)
    report(f"training {folder.name}")
    sft = SftOrder(
        trial.data,
        folder / "sft",
        model=order.model,
        dialect="tools",
        lora=order.lora,
        rank=order.rank,
        steps=trial.taught,
        without=without,
        seed=order.seed,
        device=order.device,
    )
    taught = train_sft(sft, report).folder
    return str(train_grpo(replace(order, model=str(taught), output=folder / "grpo", without=without), report))


def left_out_grid(found: Mapping[str, tuple[Sequence[Tried], Sequence[Tried]]], metric: str = "psnr") -> Grid:
    """What is gained on pairs that were left out of training, as a share of what the control gains."""
    rows, every = [], list[tuple[Tried, Tried]]()
    for pair, (without, control) in found.items():
        both = paired(without, control)
        every += both
        rows.append((pair, *_shared_cells(both, metric)))
    if len(found) > 1:
        rows.append(("all", *_shared_cells(every, metric)))
    head = ("left out", "crops", f"{metric} gained", "the control gained", "share of the control's gain")
    return Grid("Pairs of damage that training never saw together", head, tuple(rows))


def _shared_cells(both: Sequence[tuple[Tried, Tried]], metric: str) -> list[str]:
    origins = [one.photo for one, _ in both]
    gained, control = (values_of([pair[i] for pair in both], metric) for i in (0, 1))
    means = [mean_cell(values, origins, "+.3f") for values in (gained, control)]
    return [str(len(both)), *means, ratio_cell(gained, control, origins)]


def _check_unseen(trained: Path, tested: Path) -> None:
    """Raise ConservatorError where a photo that is tested on is one that trains."""
    photos = find_photos(trained)
    training = set(hashes_of(sorted({*photos} - {*held_out(photos)}), trained).values())
    seen = [name for name, sha in hashes_of(find_photos(tested), tested).items() if sha in training]
    if seen:
        raise ConservatorError(
            f"{len(seen)} photos of {tested} are among those that train, {seen[0]} for one; test on photos that do not"
        )


@contextmanager
def _trials(order: GrpoOrder, tested: Path) -> Iterator[Callable[[DamagedCrops, int, str], Trials]]:
    """Makes trials on crops of the photos that were not trained on, in the folder of an order, which they claim."""
    photos = find_photos(tested)
    with (
        Restorer(Request(toolbox=order.toolbox, objective=order.objective)) as restorer,
        rollout_pool(order.pool, restorer, order.metrics) as pools,
    ):
        content = content_of(photos, tested, restorer.toolbox, order.toolbox, order.output)
        settings = {name: getattr(order, name) for name in ("seed", "longest", "objective", "metrics")}
        weights = content.weights_of(Request.perception)
        claim(
            order.output / "tested", Identity.of(settings, photos=content.photos, tools=content.tools, weights=weights)
        )

        def made(crops: DamagedCrops, count: int, name: str) -> Trials:
            return Trials(
                crops,
                count,
                restorer,
                pools,
                order.metrics,
                order.output / "tested" / f"{name}.jsonl",
                longest=order.longest,
                objective=order.objective,
                device=torch_device(order.device),
                measured=order.measured,
            )

        yield made

"""``conservator bench``: models that call tools, by what they explore, by their rewards, by what they never saw."""

from __future__ import annotations

from dataclasses import fields
from typing import TYPE_CHECKING, Any

import typer

from conservator.apps.cli.bench import bench_app
from conservator.apps.cli.common import ThreadsOption
from conservator.apps.cli.options import with_options
from conservator.training.planner.orders import GrpoOrder
from conservator.training.planner.trial_orders import ExplorationOrder, LeftOutTrial, RewardTrial

if TYPE_CHECKING:
    from pathlib import Path

_OUTPUT = {"output": "--output -o"}


@bench_app.command("exploration")
@with_options(ExplorationOrder, "order", flags=_OUTPUT)
def bench_exploration_command(threads: ThreadsOption = 1, *, order: ExplorationOrder) -> None:
    """How much the rollouts of models differ, which tools they call, and what each tool is worth to them."""
    import torch

    from conservator.apps.measured_report import exploration_plots, write_measured
    from conservator.training.planner.exploration import exploration_grids, explore

    torch.set_num_threads(threads)
    found = explore(order, typer.echo)
    notes = [
        f"{order.rollouts} rollouts of each of {order.crops} damaged crops of {_shown(order.photos)}, drawn at "
        f"temperature {order.temperature:g}, at most {order.longest} decisions; means with 95 % intervals by photo.",
        "Orders are of the damages that were treated, tools are sets. What is lost without a tool is measured by the "
        "likeliest calls, and only of tools that were called.",
    ]
    grids, plots = exploration_grids(found, order.metrics), exploration_plots(found, order.metrics[0])
    command = _command("exploration", order)
    typer.echo("\n".join(write_measured(order.output, "Exploration", command, notes, grids, plots)))


@bench_app.command("rewards")
@with_options(GrpoOrder, "order", flags=_OUTPUT, leave_out=("weighting", "minutes"))
@with_options(RewardTrial, "trial")
def bench_rewards_command(threads: ThreadsOption = 1, *, order: GrpoOrder, trial: RewardTrial) -> None:
    """Train a model with each reward, alike otherwise, and compare every metric, the one that is not paid for too."""
    import torch

    from conservator.apps.measured_report import curve_plots, write_measured
    from conservator.training.planner.comparing import compare_rewards, reward_grids

    torch.set_num_threads(threads)
    found = compare_rewards(order, trial, typer.echo)
    notes = [
        f"{order.steps} steps with each reward, from the same model, with the same crops and seed.",
        f"Tested on {trial.tried} damaged crops of {_shown(trial.tested)} by the likeliest calls; 95 % intervals by "
        "photo. One seed of training: differences between trainings are not in the intervals.",
        "The mean normalised gain is over all metrics, each in deviations of its gain over all rewards and crops.",
    ]
    grids, plots = reward_grids(found, order.metrics, order.left_out), curve_plots(found.curves, order.metrics)
    command = _command("rewards", order, trial)
    typer.echo("\n".join(write_measured(order.output, "Rewards", command, notes, grids, plots)))


@bench_app.command("left-out")
@with_options(GrpoOrder, "order", flags=_OUTPUT, leave_out=("without", "minutes"))
@with_options(LeftOutTrial, "trial")
def bench_left_out_command(threads: ThreadsOption = 1, *, order: GrpoOrder, trial: LeftOutTrial) -> None:
    """Train without pairs of damage, and hold that on these pairs against an equally trained control.

    --model is what supervision begins with: nano, a folder or an id.
    """
    import torch

    from conservator.apps.measured_report import write_measured
    from conservator.training.planner.comparing import compare_left_out, left_out_grid

    torch.set_num_threads(threads)
    found = compare_left_out(order, trial, typer.echo)
    notes = [
        f"Each training is {trial.taught} steps of supervision and {order.steps} of reinforcement learning, and sees "
        "no crop with that pair; the control sees all.",
        f"Tested on {trial.tried} crops of {_shown(trial.tested)} that have the pair and nothing else, by the "
        "likeliest calls; 95 % intervals by photo.",
    ]
    grids = [left_out_grid(found, metric) for metric in order.metrics]
    command = _command("left-out", order, trial)
    typer.echo("\n".join(write_measured(order.output, "Damage never seen together", command, notes, grids, [])))


def _shown(path: Path) -> str:
    from conservator.commands import shown_path

    return shown_path(path)


def _command(name: str, *orders: Any) -> str:
    """The command of these orders, without what is as it would be anyway."""
    from conservator.commands import command_line

    given = {f.name: getattr(order, f.name) for order in orders for f in fields(order)}
    defaults = {f.name: f.default for order in orders for f in fields(order)}
    return command_line("bench", name, **{key: value for key, value in given.items() if value != defaults[key]})

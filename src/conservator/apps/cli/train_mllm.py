"""``conservator train``: vision-language planners of any size, and the nano model that ships."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from conservator.apps.cli.common import ThreadsOption
from conservator.apps.cli.options import with_options
from conservator.apps.cli.train import Into, train_app
from conservator.errors import ConservatorError
from conservator.training.planner.orders import NANO, DryRunOrder, GrpoOrder, PlannerDataOrder, SftOrder, VisionOrder

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conservator.training.planner.sft import TrainedPlanner

_OUTPUT = {"output": "--output -o"}
_OF_THIS_MACHINE = {"output", "minutes", "steps", "device", "workers", "every", "questions"}
"""Fields of an order that do not make another model, or, the steps, that are told as they were made."""


@train_app.command("sft")
@with_options(SftOrder, "order", flags=_OUTPUT)
def sft_command(into: Into = None, threads: ThreadsOption = 2, *, order: SftOrder) -> None:
    """Teach a vision-language model to plan; the same command again goes on after an interruption."""
    import torch

    torch.set_num_threads(threads)
    _teach(order, into)


def _teach(order: SftOrder, into: Path | None) -> None:
    from conservator.training.planner.sft import train_sft
    from conservator.weights import manifest

    if into is not None and order.model != NANO:
        raise ConservatorError(
            f"only a nano model can ship with the package (--into), not {order.model}; leave out --into"
        )
    if into is not None and order.dialect != "plan":
        raise ConservatorError("the model that ships answers by plans (--dialect plan); leave out --into")
    made_with = planner_needs()
    if order.start is not None:  # those weights ship no longer when these do
        made_with[f"{order.start}.safetensors"] = str(manifest()[order.start]["sha256"])
    trained = train_sft(order, typer.echo)
    policy = "tir" if order.dialect == "tools" else "mllm"
    typer.echo(
        f"{trained.steps} steps in {trained.minutes:.1f} minutes; use it with: --policy {policy}:{trained.folder}"
    )
    if into is not None:
        typer.echo(_ship(into, order, trained, made_with))


def train_nano(photos: Path, output: Path, into: Path) -> None:
    """Build the data of the planner that ships, train it, and put it into a folder of weights."""
    import torch

    from conservator.training.planner.questions import build_planner_data

    data = output / "planner"
    build_planner_data(PlannerDataOrder(photos, data, count=1560), typer.echo)
    torch.set_num_threads(2)
    _teach(SftOrder((data,), output / "sft", steps=4500, bfloat16=True, device="cpu"), into)


def planner_needs() -> dict[str, str]:
    """The hashes of what a planner's data tells of: perception, and the tools whose toolchains are right answers."""
    from conservator.evaluation.rows import toolbox_hash
    from conservator.tools import make_toolbox
    from conservator.training.run import hashes_of_weights

    tools = make_toolbox("conservator")
    return hashes_of_weights("perception", *tools) | {"toolbox conservator": toolbox_hash(tools)}


def _ship(into: Path, order: SftOrder, trained: TrainedPlanner, made_with: Mapping[str, str]) -> Path:
    """Put the nano model into a folder of weights, as one file with its entry in the manifest."""
    from conservator.commands import command_line
    from conservator.policies.vision_language import pack
    from conservator.training.run import ship_weights

    tensors, words = pack(trained.model)
    settings = {f.name: getattr(order, f.name) for f in fields(order) if f.name not in _OF_THIS_MACHINE}
    return ship_weights(
        into,
        "nano",
        tensors,
        data=f"the questions of {', '.join(folder.name for folder in order.data)}, made by conservator data build",
        recipe="docs/mllm.md",
        command=command_line("train", "sft", settings=settings, steps=trained.steps),
        scores=_scores(order, trained),
        made_with=made_with,
        metadata=words,
    )


def _scores(order: SftOrder, trained: TrainedPlanner) -> dict[str, float]:
    """What the manifest keeps of the examination: nothing where photos that are held out now have taught the start."""
    if order.start == NANO or order.vision == NANO:
        return {}
    return {name: value for name, value in trained.scores.items() if value == value}


@train_app.command("grpo")
@with_options(GrpoOrder, "order", flags=_OUTPUT)
def grpo_command(threads: ThreadsOption = 2, *, order: GrpoOrder) -> None:
    """Let a model that calls tools learn from what its calls bring; the same command again goes on."""
    import torch

    from conservator.training.planner.grpo import train_grpo

    torch.set_num_threads(threads)
    typer.echo(f"use it with: --policy tir:{train_grpo(order, typer.echo)}")


@train_app.command("dry-run")
@with_options(DryRunOrder, "order", flags=_OUTPUT)
def dry_run_command(*, order: DryRunOrder) -> None:
    """Run the recipe of a large planner, adapters and all, on a tiny checkpoint; and what a real run needs."""
    import torch

    from conservator.training.planner.dry_run import dry_run

    torch.set_num_threads(1)
    dry_run(order, typer.echo)


@train_app.command("nano-vision")
@with_options(VisionOrder, "order", flags=_OUTPUT)
def nano_vision_command(threads: ThreadsOption = 2, *, order: VisionOrder) -> None:
    """Teach the vision tower of the nano model to grade damage; the same command again goes on."""
    import torch

    from conservator.training.planner.vision import train_vision

    torch.set_num_threads(threads)
    path = train_vision(order, typer.echo)
    typer.echo(f"use it with: conservator train sft --model nano --vision {path}")

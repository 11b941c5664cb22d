"""``conservator train``: vision-language planners of any size, and the nano model that ships."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import typer

from conservator.apps.options import as_arguments, with_options
from conservator.apps.train_app import Into, Threads, train_app
from conservator.errors import ConservatorError
from conservator.training.orders import NANO, PlannerDataOrder, SftOrder, VisionOrder

if TYPE_CHECKING:
    from conservator.training.sft import TrainedPlanner

_OUTPUT = {"output": "--output -o"}


@train_app.command("sft")
@with_options(SftOrder, "order", flags=_OUTPUT)
def sft_command(into: Into = None, threads: Threads = 2, *, order: SftOrder) -> None:
    """Teach a vision-language model to plan; the same command again goes on after an interruption."""
    import torch

    torch.set_num_threads(threads)
    _teach(order, into)


def _teach(order: SftOrder, into: Path | None) -> None:
    from conservator.training.sft import train_sft

    if into is not None and order.model != NANO:
        raise ConservatorError(
            f"only a nano model can ship with the package (--into), not {order.model}; leave out --into"
        )
    trained = train_sft(order, typer.echo)
    typer.echo(f"{trained.steps} steps in {trained.minutes:.1f} minutes; use it with: --policy mllm:{trained.folder}")
    if into is not None:
        typer.echo(_ship(into, order, trained))


def train_nano(photos: Path, output: Path, into: Path) -> None:
    """Build the data of the planner that ships, train it, and put it into a folder of weights."""
    import torch

    from conservator.training.planner import build_planner_data

    data = output / "planner"
    build_planner_data(PlannerDataOrder(photos, data, count=1560), typer.echo)
    torch.set_num_threads(2)
    _teach(SftOrder((data,), output / "sft", steps=4500, bfloat16=True, device="cpu"), into)


def _ship(into: Path, order: SftOrder, trained: TrainedPlanner) -> Path:
    """Put the nano model into a folder of weights, as one file with its entry in the manifest."""
    from conservator.policies.vision_language import pack
    from conservator.weights import store_weights

    tensors, words = pack(trained.model)
    names = [folder.name for folder in order.data]
    entry: dict[str, str | int | float] = {
        "license": "Apache-2.0",
        "data": f"the questions of {', '.join(names)}, made by conservator data build (docs/mllm.md)",
        "recipe": "docs/mllm.md",
        "command": " ".join(["conservator train sft", *as_arguments(_repeatable(order, trained.steps))]),
    }
    scores = {name: value for name, value in trained.scores.items() if value == value}
    return store_weights(into, "nano", tensors, entry, scores, words)


def _repeatable(order: SftOrder, steps: int) -> SftOrder:
    """The order that makes the same model, without what is this machine's: folders, processes, time."""
    return replace(
        order,
        data=tuple(Path(folder.name) for folder in order.data),
        output=SftOrder.output,
        vision=Path(order.vision.name) if order.vision is not None else None,
        steps=steps,
        minutes=None,
        device=SftOrder.device,
        workers=SftOrder.workers,
    )


@train_app.command("nano-vision")
@with_options(VisionOrder, "order", flags=_OUTPUT)
def nano_vision_command(threads: Threads = 2, *, order: VisionOrder) -> None:
    """Teach the vision tower of the nano model to grade damage; the same command again goes on."""
    import torch

    from conservator.training.vision import train_vision

    torch.set_num_threads(threads)
    path = train_vision(order, typer.echo)
    typer.echo(f"use it with: conservator train sft --model nano --vision {path}")

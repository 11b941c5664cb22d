"""``conservator train``: vision-language planners of any size, and the nano model that ships."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conservator.apps.train import Into, PhotosOption, SeedOption, ThreadsOption, Workers, train_app
from conservator.errors import ConservatorError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from conservator.training.sft import Order, Trained

DeviceOption = Annotated[str, typer.Option(help="auto, cpu or cuda.")]
Width = Annotated[int | None, typer.Option(min=64, help="Of a nano model, a multiple of 64 (default: 192).")]
Layers = Annotated[int | None, typer.Option(min=1, help="Of a nano model (default: 6).")]
Bfloat16 = Annotated[bool, typer.Option("--bfloat16", help="Multiply in bfloat16 on a CPU, too, where it can.")]


@train_app.command("sft")
def train_sft_command(
    data: Annotated[list[Path], typer.Option(help="Folder that 'data build' made; again for more.", exists=True)],
    model: Annotated[str, typer.Option(help="nano, or a model in Hugging Face format: folder or id.")] = "nano",
    lora: Annotated[bool, typer.Option("--lora", help="Train adapters, not the whole model.")] = False,
    rank: Annotated[int, typer.Option(min=1, help="Of the adapters.")] = 16,
    steps: Annotated[int | None, typer.Option(min=1, help="Budget in steps (default: as many as epochs need).")] = None,
    epochs: Annotated[float, typer.Option(min=0.01, help="How often each question is asked.")] = 3.0,
    minutes: Annotated[float | None, typer.Option(min=0.01, help="Stop after these; the same command goes on.")] = None,
    batch: Annotated[int, typer.Option(min=1, help="Questions at once.")] = 16,
    gather: Annotated[int, typer.Option(min=1, help="Batches whose gradients make one step.")] = 1,
    rate: Annotated[float | None, typer.Option(help="Learning rate (default: as the model needs).")] = None,
    vision: Annotated[
        Path | None, typer.Option(help="For nano: vision.safetensors of train nano-vision.", exists=True)
    ] = None,
    words: Annotated[
        float | None,
        typer.Option(min=0, max=1, help="Share of the steps, the first ones, in words alone (default for nano: 2/3)."),
    ] = None,
    studies: Annotated[float, typer.Option(min=0, max=1, help="Share of questions shown as a study.")] = 0.5,
    without: Annotated[
        list[str] | None,
        typer.Option(help="Leave out of training: a situation, or photos with rain+noise; again for more."),
    ] = None,
    width: Width = None,
    layers: Layers = None,
    bfloat16: Bfloat16 = False,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints and examinations.")] = 250,
    questions: Annotated[int, typer.Option(min=1, help="Held-out questions of an examination.")] = 100,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of model, checkpoints and curve.")] = Path(
        "out/train/sft"
    ),
    into: Into = None,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    workers: Workers = 0,
    threads: ThreadsOption = 2,
) -> None:
    """Teach a vision-language model to plan; the same command again goes on after an interruption."""
    from conservator.training.sft import NANO, Order
    from conservator.training.sft import train_sft as train

    if into is not None and model != NANO:
        raise ConservatorError(f"only a nano model can ship with the package (--into), not {model}; leave out --into")
    order = Order(
        data=tuple(data),
        output=output,
        model=model,
        steps=steps,
        epochs=epochs,
        minutes=minutes,
        lora=lora,
        rank=rank,
        batch=batch,
        gather=gather,
        rate=rate,
        vision=vision,
        words=words,
        studies=studies,
        without=tuple(without or ()),
        seed=seed,
        device=_device(device, threads),
        workers=workers,
        bfloat16=bfloat16,
        every=every,
        questions=questions,
        size=tuple(_size(width, layers).items()),
    )
    made_with = planner_needs()
    trained = train(order, typer.echo)
    typer.echo(f"{trained.steps} steps in {trained.minutes:.1f} minutes; use it with: --policy mllm:{trained.folder}")
    if into is not None:
        typer.echo(_ship(into, order, trained, made_with))


def train_nano(photos: Path, output: Path, into: Path) -> None:
    """Build the data of the planner that ships, train it, and put it into a folder of weights."""
    from conservator.training.planner import Plan, build

    data = output / "planner"
    build(Plan(photos, data, count=1560), 2, typer.echo)
    train_sft_command([data], steps=4500, bfloat16=True, output=output / "sft", into=into, device="cpu", threads=2)


def planner_needs() -> dict[str, str]:
    """The hashes of what a planner's data tells of: perception, and the tools whose toolchains are right answers."""
    from conservator.evaluation.rows import toolbox_hash
    from conservator.tools import make_toolbox
    from conservator.training.run import hashes_of_weights

    tools = make_toolbox("conservator")
    return hashes_of_weights("eye", *tools) | {"toolbox conservator": toolbox_hash(tools)}


def _ship(into: Path, order: Order, trained: Trained, made_with: Mapping[str, str]) -> Path:
    """Put the nano model into a folder of weights, as one file with its entry in the manifest."""
    from conservator.commands import command_line
    from conservator.policies.vision_language import pack
    from conservator.training.run import ship_weights

    tensors, words = pack(trained.model)
    names = ("words", "rate", "vision", "without", "studies", "batch", "gather", "seed", "bfloat16")
    settings = {name: getattr(order, name) for name in names} | dict(order.size)
    command = command_line("train", "sft", model="nano", data=order.data, steps=trained.steps, settings=settings)
    return ship_weights(
        into,
        "nano",
        tensors,
        data=f"the questions of {', '.join(folder.name for folder in order.data)}, made by conservator data build",
        recipe="docs/mllm.md",
        command=command,
        scores={name: value for name, value in trained.scores.items() if value == value},
        made_with=made_with,
        metadata=words,
    )


@train_app.command("nano-vision")
def train_nano_vision(
    photos: PhotosOption,
    steps: Annotated[int, typer.Option(min=1, help="Budget in steps.")] = 20_000,
    batch: Annotated[int, typer.Option(min=1, help="Pictures at once.")] = 16,
    every: Annotated[int, typer.Option(min=1, help="Steps between checkpoints.")] = 500,
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder of checkpoint, curve and result.")] = Path(
        "out/train/nano-vision"
    ),
    width: Width = None,
    layers: Layers = None,
    bfloat16: Bfloat16 = False,
    seed: SeedOption = 0,
    device: DeviceOption = "auto",
    workers: Workers = 1,
    threads: ThreadsOption = 2,
) -> None:
    """Teach the vision tower of the nano model to grade damage; the same command again goes on."""
    from conservator.training.crops import Photos
    from conservator.training.vision import Settings, train_vision

    chosen = _device(device, threads)
    settings = Settings(steps=steps, batch=batch, seed=seed, workers=workers, every=every, bfloat16=bfloat16)
    path = train_vision(Photos(photos), output, settings, chosen, typer.echo, **_size(width, layers))
    typer.echo(f"use it with: conservator train sft --model nano --vision {path}")


def _size(width: int | None, layers: int | None) -> dict[str, int]:
    """What of a nano model's size is not the usual."""
    return {name: value for name, value in (("width", width), ("layers", layers)) if value is not None}


def _device(name: str, threads: int) -> str:
    import torch

    torch.set_num_threads(threads)
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name

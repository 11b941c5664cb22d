"""``conservator train``: the tools of RL-Restore's kind, their agent, and both together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from conservator.apps.train import Into, Output, PhotosOption, SeedOption, ThreadsOption, Workers, train_app
from conservator.commands import command_line

if TYPE_CHECKING:
    from torch import Tensor

    from conservator.training.crops import Photos

ToolboxOption = Annotated[str, typer.Option(help="Its tools: rl-restore, rl-restore:compact, or rl-restore:FILE.")]
Mixture = Annotated[str, typer.Option(help="Damage of the patches: all, mixed (none clean, none single), or paper.")]
_OUTPUT = Path("out/train")
_NAMES = {"paper": "rl_restore", "compact": "rl_restore_compact", "plain": "rl_restore_plain"}
"""What the weights of an architecture are called."""


@train_app.command("rl-restore-tools")
def train_rl_restore_tools(
    photos: PhotosOption,
    architecture: Annotated[
        Literal["paper", "compact", "plain"],
        typer.Option(help="The paper's networks, ours, or one of the toolbox's size for all damage."),
    ] = "paper",
    base: Annotated[int, typer.Option(min=0, help="Steps that tools of one size have in common.")] = 2000,
    steps: Annotated[int, typer.Option(min=1, help="Steps per tool, after these.")] = 1200,
    others: Annotated[float, typer.Option(min=0, max=4, help="How strong the added noise and JPEG are.")] = 4.0,
    output: Output = _OUTPUT,
    into: Into = None,
    workers: Workers = 1,
    seed: SeedOption = 0,
    device: Annotated[str, typer.Option(help="Torch device: cpu, cuda, mps.")] = "cpu",
) -> None:
    """Train twelve tools for four ranges of blur, noise and JPEG; the same command again goes on."""
    from conservator.training.rl_restore import Order, train_tools, write_tools

    name = _NAMES[architecture]
    order = Order(photos, output / name, architecture, base, steps, 1e-3, others, seed, workers, device)
    tensors, scores = train_tools(order, typer.echo)
    options = {"architecture": architecture, "base": base, "steps": steps, "others": others, "seed": seed}
    typer.echo(
        f"use it with: --toolbox rl-restore:{write_tools(output / f'{name}.safetensors', tensors, architecture)}"
    )
    command = command_line("train", "rl-restore-tools", settings=options, photos=photos)
    _ship(into, name, tensors, photos, command, scores, {"architecture": architecture}, {})


@train_app.command("dqn")
def train_dqn_command(
    photos: PhotosOption,
    toolbox: ToolboxOption = "rl-restore",
    preset: Annotated[Literal["fast", "published"], typer.Option(help="Ours, or the authors'.")] = "fast",
    without: Annotated[
        str,
        typer.Option(
            help="Switch off, joined by commas: contrast, pretrain, foresight, duelling, priority, turned, ..."
        ),
    ] = "",
    name: Annotated[Literal["dqn", "dqn_compact"], typer.Option(help="What --into calls it.")] = "dqn",
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of the environment (default: the preset's).")] = None,
    mixture: Mixture = "all",
    start: Annotated[Path | None, typer.Option(help="An agent's file to go on from.", exists=True)] = None,
    patches: Annotated[int, typer.Option(min=1, help="Held-out patches that it is measured on.")] = 256,
    output: Output = _OUTPUT / "dqn",
    into: Into = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write events for TensorBoard, too.")] = False,
) -> None:
    """Train the agent that picks the tools; the same command again goes on after an interruption."""
    from conservator.evaluation.patches import make_patches
    from conservator.files import replacing
    from conservator.policies import load_agent
    from conservator.training.data.recipes import mixture as damage
    from conservator.training.dqn import fast, published
    from conservator.training.dqn import train_dqn as train
    from conservator.training.run import hashes_of_weights

    settings = fast(steps or 20_000, seed) if preset == "fast" else published(steps or 2_000_000, seed)
    settings = settings.without(*(part for part in without.split(",") if part))
    made_with = hashes_of_weights(_weights_of(toolbox), *([start] if start else []))
    found = _photos(photos, threads)
    with _rules(toolbox, found, mixture, threads) as rules:
        held_out = make_patches(found.held_out, "held out", damage(mixture), patches, seed)
        agent = load_agent(start) if start else None
        identity = _identity(found, mixture, start=start, toolbox=toolbox)
        trained = train(
            rules,
            held_out,
            output,
            settings,
            start=agent,
            tensorboard=tensorboard,
            identity=identity,
            report=typer.echo,
        )
    tensors, metadata = trained.agent.tensors(), trained.agent.metadata()
    from safetensors.torch import save

    with replacing(output / "agent.safetensors") as file:
        file.write(save(tensors, metadata))
    typer.echo(f"use it with: --policy dqn:{output / 'agent.safetensors'} --toolbox {toolbox}")
    options = {"toolbox": toolbox, "preset": preset, "steps": settings.steps, "mixture": mixture, "seed": seed}
    command = command_line("train", "dqn", settings=options, start=start, without=without or None, photos=photos)
    scores = {"gain": trained.gain, "random_gain": trained.random_gain}
    _ship(into, name, tensors, photos, command, scores, metadata, made_with)


@train_app.command("joint")
def train_joint_command(
    photos: PhotosOption,
    agent: Annotated[Path, typer.Option(help="The agent's file, from train dqn.", exists=True)],
    tools: Annotated[Path, typer.Option(help="The tools' file, from train rl-restore-tools.", exists=True)],
    steps: Annotated[int, typer.Option(min=1, help="Batches of 64 toolchains.")] = 2000,
    loss: Annotated[Literal["psnr", "mse"], typer.Option(help="What is lowered: ours, or the paper's.")] = "psnr",
    mixture: Mixture = "all",
    output: Output = _OUTPUT / "joint",
    into: Into = None,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
) -> None:
    """Tune the tools through the toolchains that the agent picks (the paper's algorithm 1)."""
    from conservator.policies import load_agent
    from conservator.training.data.recipes import mixture as damage
    from conservator.training.joint import Settings, trainable_tools
    from conservator.training.joint import train_joint as train
    from conservator.training.patches import PatchSource
    from conservator.training.rl_restore import write_tools
    from conservator.training.run import hashes_of_weights

    made_with = hashes_of_weights(agent, tools)
    found = _photos(photos, threads)
    picker = load_agent(agent)
    modules, architecture = trainable_tools(tools, picker)
    source = PatchSource(found.training, damage(mixture))
    settings, identity = Settings(steps, loss=loss, seed=seed), _identity(found, mixture, agent=agent, tools=tools)
    tuned = train(picker, modules, source, output, settings, typer.echo, identity)
    path = write_tools(output / "tools.safetensors", tuned.tensors, architecture)
    typer.echo(f"use it with: --toolbox rl-restore:{path}")
    name = _NAMES[architecture]
    options = {"agent": agent, "tools": tools, "steps": steps, "loss": loss, "mixture": mixture, "seed": seed}
    command = command_line("train", "joint", settings=options, photos=photos)
    _ship(into, name, tuned.tensors, photos, command, {"gain": tuned.gain}, {"architecture": architecture}, made_with)


def _identity(photos: Photos, mixture: str, **given: Path | str | None) -> dict[str, str]:
    """What a training rests on beside its settings: pixels, damage, and the content of the files that it was given."""
    from conservator.files import sha256
    from conservator.training.data.recipes import SHARES

    found = {"photos": photos.digest, "mixture": str(SHARES[mixture])}
    for name, value in given.items():
        path = Path(str(value).removeprefix("rl-restore:"))
        found[name] = sha256(path)[:16] if path.is_file() else str(value)
    return found


def _photos(folder: Path, threads: int) -> Photos:
    import torch

    from conservator.training.patches import patch_photos

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    return patch_photos(folder)


def _rules(toolbox: str, photos: Photos, mixture: str, threads: int) -> Any:
    """A context of an environment's rules: the toolbox on a pool that is closed in the end."""
    from contextlib import contextmanager

    from conservator.pool import LocalPool
    from conservator.tools import make_toolbox
    from conservator.training.data.recipes import mixture as damage
    from conservator.training.env import Rules
    from conservator.training.patches import PatchSource

    @contextmanager
    def opened() -> Any:
        tools = make_toolbox(toolbox)
        with LocalPool(tools, workers=threads, max_batch=1, queue_size=4096) as pool:
            yield Rules(PatchSource(photos.training, damage(mixture)), tools, pool)

    return opened()


def _ship(
    into: Path | None,
    name: str,
    tensors: dict[str, Tensor],
    photos: Path,
    command: str,
    scores: dict[str, float],
    metadata: dict[str, str],
    made_with: dict[str, str],
) -> None:
    """Put weights into a folder with a manifest, where one is given."""
    if into is None:
        return
    from conservator.training.crops import training_data
    from conservator.training.run import ship_weights

    data, recipe = training_data(photos), "docs/rl-restore.md"
    path = ship_weights(
        into,
        name,
        tensors,
        data=data,
        recipe=recipe,
        command=command,
        scores=scores,
        made_with=made_with,
        metadata=metadata,
    )
    typer.echo(path)


def _weights_of(toolbox: str) -> str:
    """The weights of a toolbox of RL-Restore's kind: a name of the manifest, or a file."""
    name = toolbox.removeprefix("rl-restore:")
    return {"rl-restore": "rl_restore", "compact": "rl_restore_compact"}.get(name, name)

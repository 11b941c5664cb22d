"""``conservator train``: the tools of RL-Restore's kind, their agent, and both together."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from conservator.apps.cli.common import SeedOption, ThreadsOption
from conservator.apps.cli.train import Into, Output, PhotosOption, Workers, train_app
from conservator.commands import command_line

if TYPE_CHECKING:
    from torch import Tensor

    from conservator.policies.dqn import Agent
    from conservator.training.data.crops import Photos
    from conservator.training.rl.dqn_settings import DqnSettings

ToolboxOption = Annotated[
    str,
    typer.Option(help="Its tools: rl-restore, rl-restore:compact, rl-restore:FILE, or any toolboxes, joined by +."),
]
Mixture = Annotated[
    str,
    typer.Option(help="Damage of the patches: all, mixed (none clean, none single), paper; or any, of every kind."),
]
_OUTPUT = Path("out/train")


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
    from conservator.training.experts.rl_restore import TOOLBOX_NAMES, RestoreToolsOrder, train_tools, write_tools

    name = TOOLBOX_NAMES[architecture]
    order = RestoreToolsOrder(photos, output / name, architecture, base, steps, 1e-3, others, seed, workers, device)
    trained = train_tools(order, typer.echo)
    assert trained is not None, "nothing asks it to stop"
    tensors, scores = trained
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
    planned: Annotated[
        int | None,
        typer.Option(min=1, help="Steps that fast's schedules are for (default: --steps); to go on with a longer run."),
    ] = None,
    mixture: Mixture = "all",
    start: Annotated[Path | None, typer.Option(help="An agent's file to go on from.", exists=True)] = None,
    patches: Annotated[int, typer.Option(min=1, help="Held-out patches that it is measured on.")] = 256,
    output: Output = _OUTPUT / "dqn",
    into: Into = None,
    workers: Workers = 1,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
    tensorboard: Annotated[bool, typer.Option("--tensorboard", help="Write events for TensorBoard, too.")] = False,
) -> None:
    """Train the agent that picks the tools; the same command again goes on after an interruption."""
    from conservator.degradations.patches import make_patches
    from conservator.policies import load_agent
    from conservator.training.data.recipes import ANY_KIND
    from conservator.training.data.recipes import mixture as damage
    from conservator.training.rl.dqn import train_dqn
    from conservator.training.rl.pretrain import amounts, severity_levels
    from conservator.training.run import hashes_of_weights

    settings = _dqn_settings(preset, steps, planned, seed, without)
    made_with = hashes_of_weights(*_weights_of(toolbox), *([start] if start else []))
    found = _photos(photos, threads)
    with _rules(toolbox, found, mixture, threads) as rules:
        trained = train_dqn(
            rules,
            make_patches(found.held_out, "held out", damage(mixture), patches, seed),
            output,
            settings,
            start=load_agent(start) if start else None,
            tensorboard=tensorboard,
            identity=_identity(found, mixture, start=start, toolbox=toolbox),
            workers=workers,
            tell=severity_levels if mixture == ANY_KIND else amounts,
            report=typer.echo,
        )
    _write_agent(trained.agent, output / "agent.safetensors")
    typer.echo(f"use it with: --policy dqn:{output / 'agent.safetensors'} --toolbox {toolbox}")
    options = {"toolbox": toolbox, "preset": preset, "steps": settings.steps, "mixture": mixture, "seed": seed}
    more = {"planned": planned, "start": start, "without": without or None}
    command = command_line("train", "dqn", settings=options, **more, photos=photos)
    scores = {"gain": trained.gain, "random_gain": trained.random_gain}
    _ship(into, name, trained.agent.tensors(), photos, command, scores, trained.agent.metadata(), made_with)


def _dqn_settings(preset: str, steps: int | None, planned: int | None, seed: int, without: str) -> DqnSettings:
    from conservator.errors import ConservatorError
    from conservator.training.rl.dqn_settings import fast, published

    if preset == "published" and planned:
        raise ConservatorError("the published schedules are the same for any number of steps; leave out --planned")
    settings = fast(steps or 20_000, seed, planned) if preset == "fast" else published(steps or 2_000_000, seed)
    return settings.without(*(part for part in without.split(",") if part))


def _write_agent(agent: Agent, path: Path) -> None:
    from safetensors.torch import save

    from conservator.files import replacing

    with replacing(path) as file:
        file.write(save(agent.tensors(), agent.metadata()))


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
    workers: Workers = 1,
    seed: SeedOption = 0,
    threads: ThreadsOption = 2,
) -> None:
    """Tune the tools through the toolchains that the agent picks (the paper's algorithm 1)."""
    from conservator.policies import load_agent
    from conservator.training.data.patches import PatchSource
    from conservator.training.data.recipes import mixture as damage
    from conservator.training.experts.rl_restore import TOOLBOX_NAMES, write_tools
    from conservator.training.rl.joint import JointSettings, train_joint, trainable_tools
    from conservator.training.run import hashes_of_weights

    made_with = hashes_of_weights(agent, tools)
    found = _photos(photos, threads)
    picker = load_agent(agent)
    modules, architecture = trainable_tools(tools, picker)
    source, settings = PatchSource(found.training, damage(mixture)), JointSettings(steps, loss=loss, seed=seed)
    identity = _identity(found, mixture, agent=agent, tools=tools)
    tuned = train_joint(picker, modules, source, output, settings, typer.echo, identity, workers)
    path = write_tools(output / "tools.safetensors", tuned.tensors, architecture)
    typer.echo(f"use it with: --toolbox rl-restore:{path}")
    name = TOOLBOX_NAMES[architecture]
    options = {"agent": agent, "tools": tools, "steps": steps, "loss": loss, "mixture": mixture, "seed": seed}
    command = command_line("train", "joint", settings=options, photos=photos)
    _ship(into, name, tuned.tensors, photos, command, {"gain": tuned.gain}, {"architecture": architecture}, made_with)


def _identity(photos: Photos, mixture: str, **given: Path | str | None) -> dict[str, str]:
    """What a training rests on beside its settings: pixels, damage, and the content of the files that it was given."""
    from conservator.files import sha256
    from conservator.training.data.recipes import SHARES

    found = {"photos": photos.digest, "mixture": str(SHARES.get(mixture, mixture))}
    for name, value in given.items():
        path = Path(str(value).removeprefix("rl-restore:"))
        found[name] = sha256(path)[:16] if path.is_file() else str(value)
    return found


def _photos(folder: Path, threads: int) -> Photos:
    import torch

    from conservator.training.data.patches import patch_photos

    torch.set_num_threads(threads)
    torch.set_flush_denormal(True)
    return patch_photos(folder)


def _rules(toolbox: str, photos: Photos, mixture: str, threads: int) -> Any:
    """A context of the rules of episodes: the toolbox on a pool that is closed in the end.

    Left out are tools for everything, and those that enlarge.
    """
    from contextlib import contextmanager

    from conservator.policies.planning import plannable
    from conservator.pool import LocalPool
    from conservator.tools import make_toolbox
    from conservator.training.data.patches import PatchSource
    from conservator.training.data.recipes import mixture as damage
    from conservator.training.rl.episode import EpisodeRules

    @contextmanager
    def opened() -> Any:
        tools = make_toolbox(toolbox)
        tools = tools.only(*(spec.name for spec in plannable(tools.specs)))
        with LocalPool(tools, workers=threads, max_batch=1, queue_size=4096) as pool:
            yield EpisodeRules(PatchSource(photos.training, damage(mixture)), tools, pool)

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
    from conservator.training.data.crops import training_data
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


def _weights_of(toolbox: str) -> list[str]:
    """The weights of a toolbox: names of the manifest, or a file."""
    from conservator.tools import make_toolbox

    if not toolbox.startswith("rl-restore"):
        return list(make_toolbox(toolbox))
    name = toolbox.removeprefix("rl-restore:")
    return [{"rl-restore": "rl_restore", "compact": "rl_restore_compact"}.get(name, name)]

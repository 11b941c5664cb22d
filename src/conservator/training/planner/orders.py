"""What to train and on what, for vision-language planners: one dataclass for each command, whose options it is.

It imports nothing heavy, so that ``--help`` answers at once. ``metadata`` is what typer is told beside the name, the
default and the docstring (apps/cli/options.py).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol, TypeAlias

from conservator.kinds import Kind, Objective
from conservator.request import Request

DialectName: TypeAlias = Literal["plan", "tools"]
"""How a planner is asked and answers: a line with a plan, or one tool call a turn."""
NANO = "nano"
"""The name of the model that begins with nothing."""
CROP_SIDE = 224
"""Pixels of the damaged crops that planners learn from."""
_ONE_OR_MORE: dict[str, Any] = {"min": 1}
_EXISTS: dict[str, Any] = {"exists": True}
_SHARE: dict[str, Any] = {"min": 0, "max": 1}


@dataclass(frozen=True)
class PlannerDataOrder:
    """What data to build; a folder of data belongs to one order."""

    photos: Path = field(metadata=_EXISTS)
    """Folder of clean photos, searched recursively."""
    output: Path
    """Folder of the data; the same command again resumes."""
    count: int = field(default=2000, metadata=_ONE_OR_MORE)
    """Damaged crops; each gives up to five questions for each of the three objectives."""
    toolbox: str = "conservator"
    """Toolboxes, joined by +."""
    always: frozenset[Kind] = frozenset()
    """Kinds of damage that every crop has, joined by commas, say snow: to teach a planner one that it does not know."""
    wishes: int = field(default=2, metadata={"min": 0})
    """Wishes ("treat only noise") that each crop is asked about again with, drawn from those that change the answer."""
    withheld: float = field(default=0.5, metadata=_SHARE)
    """Share of the questions that do not tell what perception found, so that the picture must be looked at."""
    metrics: tuple[str, ...] = ("psnr", "ssim")
    """What toolchains are scored by; give it again for more. With st_lpips the objectives differ more."""
    trajectories: bool = False
    """Make whole trajectories, call by call, for models that call tools; else questions that are drawn."""
    swaps: float = field(default=0.3, metadata=_SHARE)
    """Of trajectories: the probability that two neighbouring calls change places."""
    substitutes: float = field(default=0.3, metadata=_SHARE)
    """Of trajectories: the probability that a tool is replaced by another one for the same damage."""
    tolerance: float = field(default=0.02, metadata=_SHARE)
    """Of trajectories: what such a change may lose, as a share of the range of all scores."""
    scores: Path | None = None
    """Folder that keeps the scores of toolchains: another build of the same crops with it runs none of them again."""
    measured: Path | None = None
    """File that keeps what perception measured of pictures, for builds and trainings that come to the same ones."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of everything random."""
    jobs: int = field(default=2, metadata=_ONE_OR_MORE)
    """Processes."""
    pool: str | None = None
    """Where tools run: NAME or NAME@HOST:PORT of a pool that 'pool start' started (default: in these processes)."""


@dataclass(frozen=True)
class SftOrder:
    """What planner to train, on what, and how long."""

    data: tuple[Path, ...] = field(metadata=_EXISTS)
    """Folder that 'data build' made. Give it again for more folders: each is asked as much as the others."""
    output: Path = Path("out/train/sft")
    """Folder of model, checkpoints, curve.csv and settings.json."""
    model: str = NANO
    """nano, which begins with nothing, or a model in Hugging Face format: a folder or an id."""
    start: Literal["nano"] | None = None
    """For nano: nano, to go on from the model that ships."""
    dialect: DialectName = "plan"
    """How it is taught to answer: by a line with a plan, for mllm, or by tool calls, for tir."""
    spread: bool = True
    """Learn all answers that are nearly as good as the best, by how good; else the one of the data."""
    lora: bool = False
    """Train adapters, not the whole model."""
    rank: int = field(default=16, metadata=_ONE_OR_MORE)
    """Rank of the adapters."""
    steps: int | None = field(default=None, metadata=_ONE_OR_MORE)
    """Budget in steps (default: as many as the epochs need)."""
    epochs: float = field(default=3.0, metadata={"min": 0.01})
    """How often each question is asked."""
    minutes: float | None = field(default=None, metadata={"min": 0.01})
    """Stop after so many minutes; the same command again goes on."""
    batch: int = field(default=16, metadata=_ONE_OR_MORE)
    """Questions at once."""
    gather: int = field(default=1, metadata=_ONE_OR_MORE)
    """Batches whose gradients make one step."""
    rate: float | None = None
    """Learning rate (default: as the model needs)."""
    vision: str | None = None
    """For nano: a vision tower that was trained before: vision.safetensors of train nano-vision, or, by the name
    nano, that of the model that ships."""
    encoder: str | None = None
    """For nano: the perception whose encoder its vision begins with beside its own patches: a name, or a file."""
    words: float | None = field(default=None, metadata=_SHARE)
    """Share of the steps, the first ones, in words alone, without pictures and toolbox (default for nano: 2/3, and none
    where it goes on from the model that ships)."""
    studies: float = field(default=0.5, metadata=_SHARE)
    """Share of the questions that are shown as a study."""
    without: tuple[str, ...] = ()
    """Leave out of training: a situation, or photos with certain kinds of damage together, "rain+noise"."""
    width: int | None = field(default=None, metadata={"min": 64})
    """Width of a nano model, a multiple of 64 (default: 192)."""
    layers: int | None = field(default=None, metadata=_ONE_OR_MORE)
    """Layers of a nano model (default: 6)."""
    bfloat16: bool = False
    """Multiply in bfloat16 on a CPU, too: twice as fast where the CPU can (AVX-512 BF16), slower where it cannot."""
    every: int = field(default=250, metadata=_ONE_OR_MORE)
    """Steps between checkpoints, and between examinations."""
    questions: int = field(default=100, metadata=_ONE_OR_MORE)
    """Held-out questions of an examination."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of everything random."""
    device: str = "auto"
    """auto, cpu or cuda."""
    workers: int = field(default=0, metadata={"min": 0})
    """Processes that prepare the questions."""


@dataclass(frozen=True)
class DryRunOrder:
    """What to run the recipe of a large planner on, to see that it works."""

    photos: Path = field(metadata=_EXISTS)
    """Folder of clean photos, searched recursively; the first ones are used."""
    output: Path = Path("out/train/dry-run")
    """Folder of data, checkpoint and adapters."""
    toolbox: str = "conservator"
    """Toolboxes, joined by +."""
    count: int = field(default=2, metadata=_ONE_OR_MORE)
    """Damaged crops to ask about."""
    steps: int = field(default=4, metadata=_ONE_OR_MORE)
    """Steps of training."""


@dataclass(frozen=True)
class GrpoOrder:
    """How to train a model that calls tools by reward, and how long."""

    photos: Path = field(metadata=_EXISTS)
    """Folder of clean photos, searched recursively; they are damaged on the fly."""
    model: str = field()
    """The model to begin with, which was taught to call tools: a folder or an id."""
    output: Path = Path("out/train/grpo")
    """Folder of model, checkpoint, curve.csv and settings.json."""
    toolbox: str = "conservator"
    """Toolboxes, joined by +."""
    objective: Objective = "balanced"
    """What the model is told that the result shall be."""
    lora: bool = False
    """Train adapters, not the whole model."""
    rank: int = field(default=16, metadata=_ONE_OR_MORE)
    """Rank of the adapters."""
    steps: int = field(default=50, metadata=_ONE_OR_MORE)
    """Budget in steps."""
    starts: int = field(default=64, metadata=_ONE_OR_MORE)
    """Damaged crops to begin from, the same ones again and again: what begins alike is computed once."""
    crops: int = field(default=4, metadata=_ONE_OR_MORE)
    """Of these, how many are drawn for a step."""
    rollouts: int = field(default=8, metadata={"min": 2})
    """Rollouts of each crop, which are compared with each other."""
    longest: int = field(default=Request.max_steps, metadata=_ONE_OR_MORE)
    """Decisions of a rollout at most."""
    temperature: float = field(default=1.0, metadata={"min": 0.01})
    """At which calls are drawn."""
    weighting: Literal["static", "adaptive", "gdpo"] = "adaptive"
    """How metrics are weighed: alike; what lags for more; or each normalised within the rollouts of a crop."""
    metrics: tuple[str, ...] = ("psnr", "ssim", "quality")
    """What is measured; give it again for more. quality is perception's estimate."""
    left_out: str = "ssim"
    """The metric that is not paid for, only reported."""
    without: tuple[str, ...] = ()
    """Leave crops with certain kinds of damage together, "rain+noise", out of training."""
    rate: float | None = None
    """Learning rate (default: 5e-4 for a nano model, 1e-5 for adapters, 1e-6 for a whole model)."""
    batch: int = field(default=8, metadata=_ONE_OR_MORE)
    """Turns at once in learning."""
    held_out: int = field(default=8, metadata={"min": 0})
    """Crops of held-out photos, the same each time, on which it is measured."""
    every: int = field(default=10, metadata=_ONE_OR_MORE)
    """Steps between checkpoints, and between measurements."""
    minutes: float | None = field(default=None, metadata={"min": 0.01})
    """Stop after so many minutes; the same command again goes on."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of everything random."""
    device: str = "auto"
    """auto, cpu or cuda."""
    pool: str | None = None
    """Where tools and metrics run: NAME or NAME@HOST:PORT of a pool that 'pool start' started (default: here)."""
    measured: Path | None = None
    """File that keeps what perception measured of pictures, for trainings that come to the same ones."""


@dataclass(frozen=True)
class VisionOrder:
    """What vision tower to train. The learning rate warms up, and falls to zero along a cosine."""

    photos: Path = field(metadata=_EXISTS)
    """Folder of clean photos, searched recursively."""
    output: Path = Path("out/train/nano-vision")
    """Folder of checkpoint, curve and vision.safetensors."""
    steps: int = field(default=20_000, metadata=_ONE_OR_MORE)
    """Budget in steps."""
    batch: int = field(default=16, metadata=_ONE_OR_MORE)
    """Pictures at once."""
    rate: float = 6e-4
    """Learning rate at its highest."""
    side: int = field(default=CROP_SIDE, metadata={"min": 32})
    """Pixels of a picture, each side."""
    width: int | None = field(default=None, metadata={"min": 64})
    """Width of the nano model, a multiple of 64 (default: 192)."""
    layers: int | None = field(default=None, metadata=_ONE_OR_MORE)
    """Layers of the nano model (default: 6)."""
    encoder: str | None = None
    """The perception whose encoder it begins with beside its own patches: a name, or a file of weights."""
    bfloat16: bool = False
    """Multiply in bfloat16 on a CPU, too: faster where the CPU can (AVX-512 BF16), slower where it cannot."""
    every: int = field(default=500, metadata=_ONE_OR_MORE)
    """Steps between checkpoints."""
    seed: int = field(default=0, metadata={"min": 0})
    """Seed of everything random."""
    device: str = "auto"
    """auto, cpu or cuda."""
    workers: int = field(default=1, metadata={"min": 0})
    """Processes that damage the photos."""


class Sized(Protocol):
    """An order of a nano model."""

    @property
    def width(self) -> int | None:
        """Width of the model, a multiple of 64; None: the usual one."""

    @property
    def layers(self) -> int | None:
        """Layers of the model; None: as many as usual."""


def size_of(order: Sized) -> dict[str, int]:
    """``width`` and ``layers`` of a nano model, where they are not the usual ones."""
    found = {"width": order.width, "layers": order.layers}
    return {name: value for name, value in found.items() if value is not None}


def torch_device(name: str) -> str:
    """A device's name for torch; "auto" is cuda where there is one, else cpu."""
    import torch

    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name

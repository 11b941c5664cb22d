"""From a name to a tool: train an expert that ships, or one for a damage of the user's own."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from conservator.degradations import Kind, parse_recipe
from conservator.errors import ConservatorError, name_not_found
from conservator.networks import make_network
from conservator.tools.experts import ExpertRecord
from conservator.tools.records import WeightsFile, sha256, write_tool
from conservator.training.courses import COURSES, Course
from conservator.training.crops import TRAINING_DATA, Damage, Lesson, Photos
from conservator.training.tools import NO_LIMIT, Budget, Trained, train_expert
from conservator.weights import load_weights, manifest, store_weights

_FINE_TUNING_RATE = 5e-4


@dataclass(frozen=True)
class Order:
    """What to train, on what, and where it goes."""

    name: str
    photos: Path
    output: Path
    """Folder of checkpoints, one subfolder per expert."""
    minutes: float | None = None
    steps: int | None = None
    seed: int = 0
    device: str = "cpu"
    workers: int = 1
    damage: str | None = None
    """For an expert of one's own: its damage in the short form of recipes, "noise:high,jpeg"."""
    removes: frozenset[Kind] = field(default_factory=frozenset)
    """For an expert of one's own: what a photo is rid of."""
    start: str | None = None
    """The expert to start from; None as the course says, "nothing" from random weights."""


def train(order: Order, report: Callable[[str], None] = print) -> Trained:
    """Train one expert and return it; resumes where an earlier run with the same folder stopped.

    Raises ConservatorError for a name that is no expert and has no damage, for a budget or a folder that will not do.
    """
    course = _course(order)
    start = order.start or course.start
    steps, minutes = order.steps, order.minutes
    if steps is None:
        steps = course.steps if minutes is None else NO_LIMIT
    side, batch = (48, 16) if course.scale > 1 else (128, 16) if course.whole else (128, 10)
    rate = _FINE_TUNING_RATE if start else 1e-3
    budget = Budget(minutes or math.inf, steps, rate, side, batch, order.seed, order.workers)
    torch.set_flush_denormal(True)
    network = make_network(course.network)
    if start and start != "nothing":
        network.load_state_dict(_tensors(start, order.output))
    photos = Photos(order.photos)
    report(f"{order.name}: {len(photos.training)} photos to learn from, {len(photos.held_out)} held out")
    folder = order.output / order.name
    return train_expert(
        network,
        course.damage,
        photos,
        folder,
        budget,
        device=order.device,
        whole=course.whole,
        scale=course.scale,
        report=report,
    )


def ship(trained: Trained, order: Order, folder: Path) -> Path:
    """Write the weights in half precision into ``folder``, with their entry in its manifest; return the file."""
    entry: dict[str, str | int | float] = {
        "license": "Apache-2.0",
        "data": TRAINING_DATA,
        "recipe": f"COURSES[{order.name!r}] in conservator.training.courses",
        "command": f"conservator train expert {order.name} --photos train/free --steps {trained.steps}",
        "seed": order.seed,
    }
    return store_weights(folder, order.name, _half(trained), entry, _scores(trained))


def install(trained: Trained, order: Order, folder: Path) -> Path:
    """Make an expert of the user's own a tool in ``folder``; return its record."""
    from safetensors.torch import save

    course = _course(order)
    removes = tuple(sorted(order.removes))
    data = save(_half(trained))
    weights = WeightsFile(name=f"{order.name}.safetensors", sha256=sha256(data))
    what = " and ".join(kind.label for kind in removes)
    record = ExpertRecord(
        name=order.name,
        removes=removes,
        network=course.network,
        description=f"Removes {what}: an expert trained on {order.damage} damage.",
        weights=weights,
    )
    return write_tool(folder, weights, data, record)


def _course(order: Order) -> Course:
    if order.damage is None:
        if order.name not in COURSES:
            error = name_not_found("expert", order.name, COURSES)
            raise ConservatorError(f"{error}; to train one of your own, give --damage and --removes")
        return COURSES[order.name]
    if order.name in COURSES:
        raise ConservatorError(f"{order.name} is an expert that ships; choose another name for your own")
    if not order.removes:
        raise ConservatorError(f"say what {order.name} removes, one kind at least: {', '.join(Kind)}")
    return Course(_from_text(order.damage), start="generalist")


def _from_text(text: str) -> Damage:
    parse_recipe(text, 0)  # a mistake is told before the training begins

    def damage(rng: np.random.Generator) -> Lesson:
        return Lesson(parse_recipe(text, int(rng.integers(2**31))))

    return damage


def _tensors(name: str, output: Path) -> dict[str, Tensor]:
    """Weights to start from: those trained beside this expert, else those that ship."""
    checkpoint = output / name / "checkpoint.pt"
    if checkpoint.exists():
        mean: dict[str, Tensor] = torch.load(checkpoint, map_location="cpu", weights_only=True)["mean"]
        return mean
    if name not in manifest():
        raise ConservatorError(f"there are no weights of {name} to start from; train it first, or give --start nothing")
    return {key: value.float() for key, value in load_weights(name)[0].items()}


def _half(trained: Trained) -> dict[str, Tensor]:
    return {key: value.cpu().half().contiguous() for key, value in trained.network.state_dict().items()}


def _scores(trained: Trained) -> dict[str, float]:
    return {"psnr_in": trained.psnr_in, "psnr_out": trained.psnr_out, "steps": trained.steps}

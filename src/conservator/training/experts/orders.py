"""From a name to a tool: train an expert that ships, or one for a damage of the user's own."""

from __future__ import annotations

import hashlib
import math
import re
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
from conservator.tools.records import WeightsFile, sha256_of, write_tool
from conservator.tools.shipped import shipped_names
from conservator.tools.user import added_as
from conservator.training.data.crops import Damage, Lesson, Photos, training_data
from conservator.training.experts.courses import CLEAN_SHARE, COURSES, Course
from conservator.training.experts.train import NO_LIMIT, Budget, Trained, never, train_expert
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
    changed: bool = False
    """Whether a checkpoint may go on although its course draws other damage now."""


def train(order: Order, report: Callable[[str], None] = print, stop: Callable[[], bool] = never) -> Trained:
    """Train one expert and return it; resumes where an earlier run with the same folder stopped, or ``stop`` did.

    Raises ConservatorError for a name that is no expert and has no damage, for a budget or a folder that will not do.
    """
    course = _course(order)
    start = order.start or course.start
    steps, minutes = order.steps, order.minutes
    if steps is None:
        steps = course.steps if minutes is None else NO_LIMIT
    fresh = start in (None, "nothing")
    rate = 1e-3 if fresh else _FINE_TUNING_RATE
    budget = Budget(minutes or math.inf, steps, rate, course.side, course.batch, order.seed, order.workers)
    torch.set_flush_denormal(True)
    torch.manual_seed(order.seed)
    network = make_network(course.network)
    if start is not None and not fresh:
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
        identity={
            "damage": order.damage or f"course {order.name}",
            "draws": _draws(course.damage),
            "network": course.network,
            "start": str(start),
        },
        may_change=frozenset({"draws"} if order.changed else ()),
        stop=stop,
        report=report,
    )


def _draws(damage: Damage) -> str:
    """What a course draws, as a short hash: of a hundred of its lessons."""
    lessons = [damage(np.random.default_rng(seed)) for seed in range(100)]
    return hashlib.sha256(repr(lessons).encode()).hexdigest()[:16]


def ship(trained: Trained, order: Order, folder: Path) -> Path:
    """Write the weights in half precision into ``folder``, with their entry in its manifest; return the file."""
    entry: dict[str, str | int | float] = {
        "license": "Apache-2.0",
        "data": training_data(order.photos),
        "recipe": f"COURSES[{order.name!r}] in conservator.training.experts.courses",
        "command": f"conservator train expert {order.name} --photos {'/'.join(order.photos.parts[-2:])} "
        f"--steps {trained.steps} --seed {order.seed}" + (f" --start {order.start}" if order.start else ""),
        "seed": order.seed,
    }
    return store_weights(folder, order.name, _half(trained), entry, _scores(trained))


def install(trained: Trained, order: Order, folder: Path) -> Path:
    """Make an expert of the user's own a tool in ``folder``; return its record."""
    from safetensors.torch import save

    course = _course(order)
    removes = tuple(sorted(order.removes))
    data = save(_half(trained))
    weights = WeightsFile(name=f"{order.name}.safetensors", sha256=sha256_of(data))
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
    """The course of an order; ConservatorError says what is wrong with it before any training begins."""
    if order.start not in (None, "nothing") and COURSES.get(order.start, _UNKNOWN).network != _network(order):
        fitting = [name for name, course in COURSES.items() if course.network == _network(order)]
        raise ConservatorError(f"{order.name} cannot start from {order.start}; choose from {', '.join(fitting)}")
    if order.damage is None:
        if order.name not in COURSES:
            error = name_not_found("expert", order.name, COURSES)
            raise ConservatorError(f"{error}; to train one of your own, give --damage and --removes")
        return COURSES[order.name]
    if order.name in COURSES:
        raise ConservatorError(f"{order.name} is an expert that ships; choose another name for your own")
    if order.name in shipped_names() or not re.fullmatch(r"[a-z][a-z0-9_]*", order.name):
        raise ConservatorError(
            f"an expert cannot be called {order.name!r}; use a new name of small letters, digits and _"
        )
    if added_as(order.name) not in (None, "expert"):
        raise ConservatorError(f"there is a tool {order.name} of yours already; choose another name")
    if not order.removes:
        raise ConservatorError(f"say what {order.name} removes, one kind at least: {', '.join(Kind)}")
    return Course(_from_text(order.damage), start="denoise_medium")


_UNKNOWN = Course(lambda rng: Lesson(()), network="none")


def _network(order: Order) -> str:
    return COURSES[order.name].network if order.name in COURSES else "unet"


def _from_text(text: str) -> Damage:
    if any(degradation.kind is Kind.LOW_RESOLUTION for degradation in parse_recipe(text, 0)):
        raise ConservatorError(
            "an expert of your own keeps the size of a photo; leave low resolution out of its damage"
        )

    def damage(rng: np.random.Generator) -> Lesson:
        return Lesson(() if rng.random() < CLEAN_SHARE else parse_recipe(text, int(rng.integers(2**31))))

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

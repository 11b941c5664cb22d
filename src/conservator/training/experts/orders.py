"""From a name to a tool: train an expert that ships, or one for a damage of the user's own."""

from __future__ import annotations

import hashlib
import math
import re
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from conservator.commands import command_line
from conservator.degradations import parse_recipe
from conservator.errors import ConservatorError, name_not_found
from conservator.kinds import Kind
from conservator.networks import make_network
from conservator.networks.unet import ResidualUNet, seeing_more
from conservator.tools.experts import ExpertRecord
from conservator.tools.records import WeightsFile, sha256_of, write_tool
from conservator.tools.shipped import shipped_names
from conservator.tools.user import added_as
from conservator.training.data.crops import Damage, Lesson, Photos, training_data
from conservator.training.experts.courses import CLEAN_SHARE, COURSES, Course
from conservator.training.experts.order import Order
from conservator.training.experts.train import NO_LIMIT, Budget, Trained, never, train_expert
from conservator.training.run import Belongs, checkpoint_identity, read_curve, ship_weights
from conservator.weights import load_weights, manifest
from conservator.weights.chain import PERHAPS

_FINE_TUNING_RATE = 5e-4


_START = "weights start"
"""In the identity of a checkpoint: the hash of the weights that it started from."""
_NOTHING = "nothing"


@dataclass(frozen=True)
class Start:
    """Weights that a training starts from."""

    name: str
    """As the chain calls them (weights/chain.py)."""
    sha256: str
    """Of the file that ships, or would."""
    tensors: Mapping[str, Tensor]


def train(
    order: Order,
    report: Callable[[str], None] = print,
    stop: Callable[[], bool] = never,
    photos: Photos | None = None,
) -> Trained:
    """Train one expert and return it; resumes where an earlier run with the same folder stopped, or ``stop`` did.

    ``photos`` are those of the order, where they are loaded already. Raises ConservatorError for a name that is no
    expert and has no damage, for a budget or a folder that will not do.
    """
    course = _course(order)
    start = _start(order, course)
    torch.set_flush_denormal(True)
    torch.manual_seed(order.seed)
    network = make_network(course.network)
    if start is not None:
        network.load_state_dict(_fitting(start.tensors, network))
    photos = photos or Photos(order.photos)
    report(f"{order.name}: {len(photos.training)} photos to learn from, {len(photos.held_out)} held out")
    return train_expert(
        network,
        course.damage,
        photos,
        order.output / order.name,
        _budget(order, course, 1e-3 if start is None else _FINE_TUNING_RATE),
        device=_device(order.device),
        whole=course.whole,
        scale=course.scale,
        belongs=_belongs(order, course, photos.digest, start),
        stop=stop,
        report=report,
    )


def _fitting(tensors: Mapping[str, Tensor], network: nn.Module) -> Mapping[str, Tensor]:
    """The tensors to start from, for a U-Net that sees more than the one they are of."""
    return seeing_more(tensors, network.images) if isinstance(network, ResidualUNet) else tensors


def _budget(order: Order, course: Course, rate: float) -> Budget:
    steps, minutes = order.steps, order.minutes
    if steps is None:
        steps = course.steps if minutes is None else NO_LIMIT
    return Budget(minutes or math.inf, steps, rate, course.side, course.batch, order.seed, order.workers)


def _device(name: str) -> str:
    return ("cuda" if torch.cuda.is_available() else "cpu") if name == "auto" else name


def _belongs(order: Order, course: Course, photos: str, start: Start | None) -> Belongs:
    """Whose a checkpoint must be. Older ones tell what they started from by its name alone."""
    identity = {
        "photos": photos,
        "damage": order.damage or f"course {order.name}",
        "draws": _draws(course.damage),
        "network": course.network,
        _START: _NOTHING if start is None else start.sha256,
    }
    formerly = {_START: {"start": str(order.start or course.start)}}
    return Belongs(identity, frozenset({"draws"} if order.changed else ()), formerly)


def is_of(order: Order, photos: str) -> bool:
    """Whether the checkpoint in an order's folder is its own: of photos of this digest, of its damage and its start."""
    was = checkpoint_identity(order.output / order.name)
    if was is None:
        return False
    course = _course(order)
    now = _belongs(order, course, photos, _start(order, course)).compared(was)
    return all(was.get(name) == value for name, value in now.items())


def started_from_others(order: Order) -> str | None:
    """The hash that the checkpoint in an order's folder says it started from, where that is not what it would now."""
    was = (checkpoint_identity(order.output / order.name) or {}).get(_START)
    start = _start(order, _course(order))
    return None if was in (None, _NOTHING if start is None else start.sha256) else was


def _draws(damage: Damage) -> str:
    """What a course draws, as a short hash: of a hundred of its lessons."""
    lessons = [damage(np.random.default_rng(seed)) for seed in range(100)]
    return hashlib.sha256(repr(lessons).encode()).hexdigest()[:16]


def ship(trained: Trained, order: Order, folder: Path) -> Path:
    """Write the weights in half precision into ``folder``, with their entry in its manifest; return the file."""
    given = {"photos": order.photos, "steps": trained.steps, "seed": order.seed, "start": order.start}
    return ship_weights(
        folder,
        order.name,
        in_half(trained.network.state_dict()),
        data=training_data(order.photos),
        recipe=f"COURSES[{order.name!r}] in conservator.training.experts.courses",
        command=command_line("train", "expert", order.name, settings=given),
        scores=training_scores(trained),
        made_with=_made_with(trained, order),
        seed=order.seed,
        network=_course(order).network,
    )


def _made_with(trained: Trained, order: Order) -> dict[str, str]:
    """The hash of what the training started from: perhaps that, where its older checkpoint did not say it.

    What an expert was made with before it went on from itself, it is still made with.
    """
    name, found = order.start or _course(order).start, trained.identity.get(_START, _NOTHING)
    if name is None or found == _NOTHING:
        return {}
    sure = not any(_START in change for change in trained.changes)
    before = manifest()[name].get("made_with", {}) if name == order.name else {}
    return {**before, _chain_name(name, order): found if sure else PERHAPS + found}


def install(trained: Trained, order: Order, folder: Path) -> Path:
    """Make an expert of the user's own a tool in ``folder``; return its record."""
    what = " and ".join(kind.label for kind in sorted(order.removes))
    description = f"Removes {what}: an expert trained on {order.damage} damage."
    return write_expert(trained.network, order.name, order.removes, _course(order).network, description, folder)


def write_expert(
    trained: nn.Module, name: str, removes: Collection[Kind], network: str, description: str, folder: Path
) -> Path:
    """Write a network of the user's own and its record into ``folder``; return the record."""
    from safetensors.torch import save

    data = save(in_half(trained.state_dict()))
    weights = WeightsFile(name=f"{name}.safetensors", sha256=sha256_of(data))
    record = ExpertRecord(
        name=name, removes=tuple(sorted(removes)), network=network, description=description, weights=weights
    )
    return write_tool(folder, weights, data, record)


def _course(order: Order) -> Course:
    """The course of an order; ConservatorError says what is wrong with it before any training begins."""
    network = _network(order)
    fitting = [name for name, course in COURSES.items() if course.network in (network, _WIDER.get(network))]
    if order.start not in (None, _NOTHING, *fitting):
        raise ConservatorError(f"{order.name} cannot start from {order.start}; choose from {', '.join(fitting)}")
    if order.damage is None:
        if order.name not in COURSES:
            error = name_not_found("expert", order.name, COURSES)
            raise ConservatorError(f"{error}; to train one of your own, give --damage and --removes")
        return COURSES[order.name]
    if order.name in COURSES:
        raise ConservatorError(f"{order.name} is an expert that ships; choose another name for your own")
    check_name(order.name)
    if not order.removes:
        raise ConservatorError(f"say what {order.name} removes, one kind at least: {', '.join(Kind)}")
    return Course(_from_text(order.damage), start="denoise_medium")


def check_name(name: str) -> None:
    """Raise ConservatorError where an expert of the user's own cannot have a name."""
    if name in shipped_names() or not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConservatorError(f"an expert cannot be called {name!r}; use a new name of small letters, digits and _")
    if name.endswith("_adapted"):
        raise ConservatorError(f"an expert cannot be called {name!r}; names in _adapted are those of adapted twins")
    if added_as(name) not in (None, "expert"):
        raise ConservatorError(f"there is a tool {name} of yours already; choose another name")


_WIDER = {"unet_deblur": "unet"}
"""A network that sees more than another, from whose weights it can start."""


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


def _start(order: Order, course: Course) -> Start | None:
    """Weights to start from: those trained beside this expert, else those that ship. Of itself: those that ship."""
    name = order.start or course.start
    if name in (None, _NOTHING):
        return None
    ships = name in manifest()
    checkpoint = order.output / name / "checkpoint.pt"
    if name != order.name and checkpoint.exists() and (order.beside or not ships):
        mean: dict[str, Tensor] = torch.load(checkpoint, map_location="cpu", weights_only=True)["mean"]
        return Start(_chain_name(name, order), _hash(checkpoint, checkpoint.stat().st_mtime_ns), mean)
    if not ships:
        raise ConservatorError(f"there are no weights of {name} to start from; train it first, or give --start nothing")
    tensors = {key: value.float() for key, value in load_weights(name)[0].items()}
    sha256 = str(manifest()[name]["sha256"])
    if name == order.name:  # what it started from may ship no longer, and its checkpoint says what that was
        sha256 = (checkpoint_identity(order.output / name) or {}).get(_START, sha256)
    return Start(_chain_name(name, order), sha256, tensors)


def _chain_name(name: str, order: Order | None = None) -> str:
    """What the manifest calls weights. Those that an expert was before ``order`` trained it on ship no longer."""
    former = order is not None and order.name == name
    return name if name in manifest() and not former else f"{name}.safetensors"


def hashes_beside(output: Path, names: Iterable[str]) -> dict[str, str]:
    """Of experts that do not ship, trained in ``output`` to the end of their courses: their hashes, by their names in
    the chain."""
    found = {}
    for name in names:
        checkpoint, curve = output / name / "checkpoint.pt", read_curve(output / name)
        if checkpoint.exists() and curve and curve[-1]["step"] >= COURSES[name].steps:
            found[_chain_name(name)] = _hash(checkpoint, checkpoint.stat().st_mtime_ns)
    return found


@lru_cache(maxsize=64)
def _hash(checkpoint: Path, *stamp: int) -> str:
    """The sha256 (hex) of the file that this checkpoint's weights would ship as."""
    from safetensors.torch import save

    mean = torch.load(checkpoint, map_location="cpu", weights_only=True)["mean"]
    return sha256_of(save(in_half(mean)))


def in_half(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Weights in half precision, as they ship."""
    return {key: value.cpu().half().contiguous() for key, value in tensors.items()}


def training_scores(trained: Trained) -> dict[str, float]:
    """What the manifest says of how well something was trained."""
    return {"psnr_in": trained.psnr_in, "psnr_out": trained.psnr_out, "steps": trained.steps}

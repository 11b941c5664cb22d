"""What every training leaves behind: a folder that is its own, a checkpoint to go on from, a curve, and what ships."""

from __future__ import annotations

import csv
import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from conservator.claims import Identity, check_same
from conservator.errors import ConservatorError, MissingExtraError
from conservator.files import replacing, sha256
from conservator.weights import manifest, store_weights

Curve = list[dict[str, float]]
"""Rows of ``step``, ``minutes`` and what was measured then."""
_FILE = "checkpoint.pt"
NOT_SAID = "not said"
"""Of a fact that an older checkpoint lacks."""


@dataclass(frozen=True)
class Belongs:
    """Whose a checkpoint must be, for a run to go on from it."""

    identity: Mapping[str, str] = field(default_factory=dict)
    """What is trained, on what and how."""
    may_change: frozenset[str] = frozenset()
    """Parts of it that are not compared; a checkpoint then says at which step they changed."""
    formerly: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """Facts that older checkpoints lack, and what they say instead. Such a checkpoint is taken once, by that; from then
    on it holds the fact."""

    def compared(self, was: Mapping[str, str]) -> dict[str, str]:
        """What a checkpoint of this identity must say."""
        now = {name: value for name, value in self.identity.items() if name not in self.may_change}
        for name, instead in self.formerly.items():
            if name in now and name not in was:
                now = {key: value for key, value in now.items() if key != name} | dict(instead)
        return now

    def changes(self, was: Mapping[str, str]) -> dict[str, str]:
        """Of the parts that may change or that were not said, what a checkpoint says of them that is another now."""
        parts = sorted({*self.may_change, *self.formerly} & self.identity.keys())
        return {name: was.get(name, NOT_SAID) for name in parts if was.get(name) != self.identity[name]}


def save_checkpoint(folder: Path, state: Mapping[str, Any], identity: Identity | Mapping[str, str]) -> None:
    """Write checkpoint.pt, whole or not at all. ``identity`` says what is trained, on what and how."""
    with replacing(folder / _FILE) as file:
        torch.save({**state, "identity": _facts(identity)}, file)


def load_checkpoint(
    folder: Path,
    identity: Identity | Belongs | Mapping[str, str],
    device: torch.device | str = "cpu",
) -> dict[str, Any] | None:
    """The state that was saved in ``folder``, or None; ConservatorError for one of another identity."""
    path = folder / _FILE
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    was, belongs = state["identity"], identity if isinstance(identity, Belongs) else Belongs(_facts(identity))
    check_same(path, {k: v for k, v in was.items() if k not in belongs.may_change}, belongs.compared(was))
    return state


def checkpoint_identity(folder: Path) -> dict[str, str] | None:
    """What the checkpoint in ``folder`` says of itself, or None where there is none; its weights are not read."""
    path = folder / _FILE
    if not path.exists():
        return None
    found: dict[str, str] = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["identity"]
    return found


def _facts(identity: Identity | Mapping[str, str]) -> dict[str, str]:
    return identity.facts() if isinstance(identity, Identity) else dict(identity)


def refuse_more(folder: Path, done: int, asked: int) -> None:
    """Raise ConservatorError where a checkpoint is further than the run that is asked for."""
    if done > asked:
        raise ConservatorError(
            f"{folder} has {done} steps already, more than the {asked} that are asked for; ask for as many, or use "
            "another folder"
        )


def write_curve(folder: Path, curve: Curve) -> None:
    """Write curve.csv."""
    with (folder / "curve.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(curve[0]))
        writer.writeheader()
        writer.writerows(curve)


def read_curve(folder: Path) -> Curve:
    """The rows of curve.csv; none where there is no such file."""
    path = folder / "curve.csv"
    if not path.exists():
        return []
    with path.open(newline="") as file:
        return [{name: float(value) for name, value in row.items()} for row in csv.DictReader(file)]


def draw_curve(
    folder: Path, curve: Sequence[Mapping[str, float]], value: str, before: float, unit: str = " dB"
) -> None:
    """Draw curve.png: ``value`` over minutes, from the value ``before``; ``unit`` as it is written behind a number.

    Drawn by Pillow: a training needs no plotting library.
    """
    from PIL import Image as Pictures
    from PIL import ImageDraw

    width, height, edge = 720, 400, 56
    seen = [(0.0, before), *((row["minutes"], row[value]) for row in curve)]
    low, high = min(v for _, v in seen), max(before + 0.1, *(v for _, v in seen))
    last = max(1e-9, *(m for m, _ in seen))
    points = [
        (edge + m / last * (width - 2 * edge), height - edge - (v - low) / (high - low) * (height - 2 * edge))
        for m, v in seen
    ]
    picture = Pictures.new("RGB", (width, height), "white")
    draw = ImageDraw.Draw(picture)
    draw.line([(edge, edge), (edge, height - edge), (width - edge, height - edge)], fill="black")
    for a, b in itertools.pairwise(points):
        draw.line([a, b], fill=(31, 90, 160), width=2)
    draw.text((edge, edge - 20), f"{value} {high:.2f}{unit}", fill="black")
    draw.text((6, height - edge - 12), f"{low:.2f}", fill="black")
    draw.text((width - 2 * edge, height - edge + 8), f"{last:.1f} minutes", fill="black")
    picture.save(folder / "curve.png")


def warm_rate(highest: float, step: int, steps: int) -> float:
    """A learning rate that warms up over a twentieth of the steps, 500 at most, and falls to nothing along a cosine."""
    warm = min(1.0, (step + 1) / max(1, min(500, steps // 20)))
    return highest * warm * 0.5 * (1 + math.cos(math.pi * step / steps))


def tensorboard_writer(folder: Path) -> Callable[[int, dict[str, float]], None]:
    """A function that writes scalars for TensorBoard; MissingExtraError where it is not installed."""
    try:
        from torch.utils.tensorboard import SummaryWriter
    except ImportError as error:
        raise MissingExtraError("TensorBoard is not installed; get it with: pip install tensorboard") from error
    writer = SummaryWriter(str(folder))

    def write(step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            writer.add_scalar(name, value, step)
        writer.flush()

    return write


def ship_weights(
    folder: Path,
    name: str,
    tensors: Mapping[str, Tensor],
    *,
    data: str,
    recipe: str,
    command: str,
    scores: Mapping[str, float],
    made_with: Mapping[str, str],
    metadata: Mapping[str, str] | None = None,
    seed: int | None = None,
    network: str | None = None,
) -> Path:
    """Put weights into a folder of weights with their entry in its manifest; return the file NAME.safetensors.

    ``data`` says in words what they were trained on, ``recipe`` where the code or the page is that says how,
    ``command`` (see commands.command_line) what makes them again. ``made_with`` are the hashes of what they were made
    with as it was when the training began (see ``hashes_of_weights`` and weights/chain.py); empty: of nothing.
    ``network`` is the name in NETWORKS of an expert's.
    """
    entry: dict[str, str | int | float] = {"license": "Apache-2.0", "data": data, "recipe": recipe, "command": command}
    if seed is not None:
        entry["seed"] = seed
    if network is not None:
        entry["network"] = network
    return store_weights(folder, name, tensors, entry, scores, metadata, made_with)


def hashes_of_weights(*given: Path | str) -> dict[str, str]:
    """Hashes of weights by name, for ``made_with``: names of the manifest, or files, known there by their content.

    A file that does not ship is called by its name, FILE.safetensors. Names that are neither are left out, since tools
    without weights have none.
    """
    entries = manifest()
    by_hash = {str(entry["sha256"]): name for name, entry in entries.items()}
    found: dict[str, str] = {}
    for one in given:
        if str(one) in entries:
            found[str(one)] = str(entries[str(one)]["sha256"])
        elif Path(one).is_file():
            content = sha256(Path(one))
            found[by_hash.get(content, Path(one).name)] = content
    return found

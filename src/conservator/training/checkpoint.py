"""What every training leaves behind: a checkpoint to go on from, and a curve."""

from __future__ import annotations

import csv
import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from conservator.errors import ConservatorError, MissingExtraError
from conservator.files import replacing

Curve = list[dict[str, float]]
"""Rows of ``step``, ``minutes`` and what was measured then."""
_FILE = "checkpoint.pt"


def save_checkpoint(folder: Path, state: Mapping[str, Any], identity: Mapping[str, str]) -> None:
    """Write checkpoint.pt, whole or not at all. ``identity`` says what is trained, and how."""
    with replacing(folder / _FILE) as file:
        torch.save({**state, "identity": dict(identity)}, file)


def load_checkpoint(
    folder: Path,
    identity: Mapping[str, str],
    device: torch.device | str = "cpu",
    may_change: frozenset[str] = frozenset(),
) -> dict[str, Any] | None:
    """The state that was saved in ``folder``, or None; ConservatorError for one of another identity.

    The parts of it that ``may_change`` are not compared.
    """
    path = folder / _FILE
    if not path.exists():
        return None
    state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
    was = state["identity"]
    if other := sorted(k for k in (identity.keys() | was.keys()) - may_change if identity.get(k) != was.get(k)):
        named = "; ".join(f"{k} {was.get(k, 'not said')}, now {identity.get(k, 'not said')}" for k in other)
        raise ConservatorError(f"{path} was trained with {named}; use the same settings or another folder")
    return state


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


def draw_curve(folder: Path, curve: Sequence[Mapping[str, float]], value: str, before: float) -> None:
    """Draw curve.png: ``value`` (dB) over minutes, from the value ``before``.

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
    draw.text((edge, edge - 20), f"{value} {high:.2f} dB", fill="black")
    draw.text((6, height - edge - 12), f"{low:.2f}", fill="black")
    draw.text((width - 2 * edge, height - edge + 8), f"{last:.1f} minutes", fill="black")
    picture.save(folder / "curve.png")


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

"""A training in one picture: whether a reward that rose was deceived, and what became of six photos meanwhile.

A reward is deceived where it rises while PSNR, SSIM or ST-LPIPS fall. ``keep_pictures`` is called at each checkpoint;
``draw_progress`` needs nothing but the folder of a training.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from PIL import Image as Pictures
from PIL import ImageDraw, ImageFont

from conservator.errors import ConservatorError
from conservator.files import replacing
from conservator.image import Image, to_array
from conservator.policies.actor_critic import ActorCritic
from conservator.training.rl.ppo import play_starts
from conservator.training.rl.tree import StartTree
from conservator.training.run import Curve, read_curve

KEPT = "progress"
"""The folder of the pictures, in that of a training: BEFORE-i.png, UPDATE-i.png, UNDAMAGED-i.png."""
PICTURE = "progress.webp"
_PHOTOS, _UPDATES = 6, 6
_BEFORE, _UNDAMAGED = "before", "undamaged"
_SIDE = 144
"""Pixels of a photo's part, shown as it is: eighteen blocks of a JPEG."""
_PANEL = (2 * _SIDE, 132)
_MEASURES = {
    "quality": "perception's estimate, dB",
    "feedback": "feedback, levels",
    "psnr": "PSNR, dB",
    "ssim": "SSIM",
    "st_lpips": "ST-LPIPS, less",
    "consistency": "consistency",
    "calls": "calls a photo",
}
"""What is drawn of a curve where it has it, and its words. Of all of them more is better, but for the calls."""


def keep_pictures(folder: Path, tree: StartTree, actor_critic: ActorCritic, update: int) -> None:
    """Write what the policy makes now of the first six starts held out, or to learn from where none is held out."""
    kept = folder / KEPT
    kept.mkdir(parents=True, exist_ok=True)
    starts = list(tree.held_out or tree.training)[:_PHOTOS]
    rollouts = play_starts(tree, actor_critic, starts, None)
    for i, (start, rollout) in enumerate(zip(starts, rollouts, strict=True)):
        tools = [actor_critic.tools[action] for action in rollout.actions if action < len(actor_critic.tools)]
        before, undamaged = tree.pair(start)
        _write(kept / f"{_BEFORE}-{i}.png", before)
        _write(kept / f"{update:05d}-{i}.png", tree.picture((start, tuple(tools))))
        if undamaged is not None:
            _write(kept / f"{_UNDAMAGED}-{i}.png", undamaged)


def _write(path: Path, image: Image) -> None:
    """The middle of the native crop of most texture, or of a picture that is its own study."""
    part = image[min(1, len(image) - 1)][None]
    top, left = (max(0, n - _SIDE) // 2 for n in part.shape[-2:])
    shown = part[..., top : top + _SIDE, left : left + _SIDE]
    with replacing(path) as file:
        Pictures.fromarray(to_array(shown, np.uint8)).save(file, format="PNG")


def draw_progress(folder: Path, paid: str = "") -> Path:
    """Draw ``progress.webp`` of a training's folder: a panel for each measure, below it the photos, update by update.

    ``paid`` names the measure that was the reward. Raises ConservatorError where no training left a curve.
    """
    curve = read_curve(folder)
    if not curve:
        raise ConservatorError(f"{folder} holds no curve; give the folder of a training: conservator train r1")
    panels = [name for name in _MEASURES if all(math.isfinite(row.get(name, math.nan)) for row in curve)]
    columns, rows = _columns(folder / KEPT), _photos(folder / KEPT)
    across = max(1, len(columns) * _SIDE // _PANEL[0])
    top = -(-len(panels) // across) * _PANEL[1]
    sheet = Pictures.new("RGB", (max(across * _PANEL[0], len(columns) * _SIDE), top + 20 + rows * _SIDE), "white")
    draw = ImageDraw.Draw(sheet)
    for number, name in enumerate(panels):
        corner = (number % across * _PANEL[0], number // across * _PANEL[1])
        _draw_panel(draw, corner, curve, name, _MEASURES[name] + (" (paid)" if name == paid else ""))
    for x, column in enumerate(columns):
        label = {_BEFORE: "as it came", _UNDAMAGED: "undamaged"}.get(column, f"update {column.lstrip('0') or 0}")
        draw.text((x * _SIDE + 4, top + 4), label, fill="black", font=ImageFont.load_default(11))
        for y in range(rows):
            path = folder / KEPT / f"{column}-{y}.png"
            if path.exists():
                with Pictures.open(path, formats=["PNG"]) as picture:
                    sheet.paste(picture.convert("RGB"), (x * _SIDE, top + 20 + y * _SIDE))
    with replacing(folder / PICTURE) as file:
        sheet.save(file, format="WEBP", quality=92)
    return folder / PICTURE


def _columns(kept: Path) -> list[str]:
    """The pictures as they came, at six updates from the first to the last, and undamaged, where there are such."""
    found = {path.stem.rpartition("-")[0] for path in kept.glob("*.png")}
    updates = sorted(found - {_BEFORE, _UNDAMAGED})
    chosen = [updates[round(i)] for i in np.linspace(0, len(updates) - 1, min(_UPDATES, len(updates)))]
    return [*([_BEFORE] if _BEFORE in found else []), *chosen, *([_UNDAMAGED] if _UNDAMAGED in found else [])]


def _photos(kept: Path) -> int:
    return len(list(kept.glob(f"{_BEFORE}-*.png")))


def _draw_panel(draw: ImageDraw.ImageDraw, corner: tuple[int, int], curve: Curve, name: str, title: str) -> None:
    """One measure over the updates, from its least to its greatest."""
    (left, top), (width, height) = corner, _PANEL
    font = ImageFont.load_default(11)
    values, steps = [row[name] for row in curve], [row["step"] for row in curve]
    low, high = min(values), max(values)
    edge, head, foot = 48, 22, 20
    draw.text((left + 6, top + 5), title, fill="black", font=font)
    draw.text((left + 6, top + head), f"{high:.3g}", fill="black", font=font)
    draw.text((left + 6, top + height - foot - 12), f"{low:.3g}", fill="black", font=font)
    draw.text((left + width - 70, top + height - foot + 3), f"update {max(steps):.0f}", fill="black", font=font)
    box = [(left + edge, top + head), (left + edge, top + height - foot), (left + width - 8, top + height - foot)]
    draw.line(box, fill=(150, 150, 150))
    points = _points(steps, values, box)
    draw.line(points, fill=(31, 90, 160), width=2)
    for x, y in points:
        draw.ellipse((x - 2, y - 2, x + 2, y + 2), fill=(31, 90, 160))


def _points(
    steps: Sequence[float], values: Sequence[float], box: Sequence[tuple[int, int]]
) -> list[tuple[float, float]]:
    """Steps, from 0, and values as places in a box given by its upper left, lower left and lower right corners."""
    (left, top), (_, bottom), (right, _) = box
    low, high = min(values), max(values)
    spread = high - low or 1.0
    return [
        (left + step / max(*steps, 1) * (right - left), bottom - (value - low) / spread * (bottom - top))
        for step, value in zip(steps, values, strict=True)
    ]

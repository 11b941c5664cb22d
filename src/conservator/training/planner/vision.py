"""Teach the vision tower of a nano model to grade the severity of every damage, before it learns to plan.

    conservator train nano-vision --photos FOLDER

Photos are damaged on the fly, so it never sees a picture twice; a planner's data holds a few thousand only.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from conservator.degradations import degrade
from conservator.files import replacing
from conservator.image import Image, in_8_bits
from conservator.perception.perception import GRADED_KINDS
from conservator.policies.vision_language import VisionLanguageModel
from conservator.training.data.crops import Photos, ahead, random_crop
from conservator.training.data.recipes import random_recipe, severities, without_resizing
from conservator.training.planner.nano import encoder_hash, encoder_named, new_nano
from conservator.training.planner.orders import VisionOrder, size_of, torch_device
from conservator.training.run import load_checkpoint, save_checkpoint, warm_rate, write_curve

_LEVELS = 4
_HELD_OUT = 256
"""Pictures of held-out photos that it is measured on."""


@dataclass(frozen=True)
class Damaged(Dataset[tuple[Image, Tensor]]):
    """Item ``step`` is the batch of that step: pictures (B, 3, side, side) and severities (B, kinds), 0 to 4."""

    photos: Sequence[Sequence[NDArray[np.uint8]]]
    order: VisionOrder
    stream: int = 0

    def __len__(self) -> int:
        return self.order.steps

    def __getitem__(self, step: int) -> tuple[Image, Tensor]:
        rngs = [np.random.default_rng([self.order.seed, self.stream, step, i]) for i in range(self.order.batch)]
        pictures, grades = zip(*map(self._one, rngs), strict=True)
        return torch.cat(pictures), torch.stack(grades)

    def _one(self, rng: np.random.Generator) -> tuple[Image, Tensor]:
        clean = random_crop(self.photos[int(rng.integers(len(self.photos)))], self.order.side, rng)
        recipe = without_resizing(random_recipe(rng))
        found = severities(recipe)
        return in_8_bits(degrade(clean, recipe)), torch.tensor([int(found.get(kind, 0)) for kind in GRADED_KINDS])


class Sight(nn.Module):
    """A vision tower, and a head on mean and spread of its tokens: logits (B, kinds, 4) of "it is worse than this"."""

    def __init__(self, model: VisionLanguageModel) -> None:
        super().__init__()
        self._patches = model.patches
        self.tower = model.network.model.visual
        width = model.network.config.vision_config.out_hidden_size
        self.head = nn.Linear(2 * width, len(GRADED_KINDS) * _LEVELS)

    def forward(self, pictures: Image) -> Tensor:
        flat, grids = zip(*(self._patches(picture) for picture in pictures.cpu().split(1)), strict=True)
        device = self.head.weight.device
        seen = self.tower(torch.cat(flat).to(device), grid_thw=torch.stack(grids).to(device))
        tokens = seen.pooler_output.reshape(len(pictures), -1, self.head.in_features // 2)
        pooled = torch.cat([tokens.mean(1), tokens.std(1)], 1)
        logits: Tensor = self.head(pooled).reshape(-1, len(GRADED_KINDS), _LEVELS)
        return logits


def train_vision(order: VisionOrder, report: Callable[[str], None] = print) -> Path:
    """Train a nano model's tower and return its file, vision.safetensors in ``order.output``; goes on where it stopped.

    Raises ConservatorError for a folder of another order, and for a width that heads cannot share.
    """
    from safetensors.torch import save

    order.output.mkdir(parents=True, exist_ok=True)
    photos = Photos(order.photos)
    run = _Run(order, photos.digest)
    run.load()
    held_out = Damaged(photos.held_out, order, stream=1)
    unseen = [held_out[i] for i in range(max(1, _HELD_OUT // order.batch))]
    while run.step < order.steps:
        loss = run.segment(Damaged(photos.training, order), min(order.steps, run.step + order.every))
        scores = measure_sight(run.sight, unseen)
        run.curve.append({"step": run.step, "minutes": run.seconds / 60, "loss": loss, **scores})
        run.save()
        report(f"step {run.step}: loss {loss:.3f}, " + ", ".join(f"{k} {v:.3f}" for k, v in scores.items()))
    path = order.output / "vision.safetensors"
    tensors = {name: value.detach().cpu().contiguous() for name, value in run.sight.tower.state_dict().items()}
    with replacing(path) as file:
        file.write(save(tensors))
    return path


def severity_loss(logits: Tensor, grades: Tensor) -> Tensor:
    """Cumulative cross-entropy: for every kind and level, whether it is worse."""
    target = (grades[..., None] > torch.arange(_LEVELS, device=grades.device)).float()
    return F.binary_cross_entropy_with_logits(logits, target)


@torch.no_grad()
def measure_sight(sight: Sight, batches: Sequence[tuple[Image, Tensor]]) -> dict[str, float]:
    """Mean F1 of the kinds, the mean error in levels where there is damage, and how many clean pictures look clean."""
    sight.eval()
    present = torch.cat([sight(pictures).sigmoid().cpu() for pictures, _ in batches])
    truth = torch.cat([grades for _, grades in batches])
    sight.train()
    found = present[..., 0] > 0.5
    hits = (found & (truth > 0)).sum(0)
    f1 = 2 * hits / (found.sum(0) + (truth > 0).sum(0)).clamp(min=1)
    error = ((present > 0.5).sum(-1) - truth).abs().float()
    return {
        "f1": float(f1.mean()),
        "level_error": float(error[truth > 0].mean()),
        "clean_called_clean": float((~found.any(1))[(truth == 0).all(1)].float().mean()),
    }


class _Run:
    """Network, optimiser and progress of one training."""

    def __init__(self, order: VisionOrder, photos: str) -> None:
        """``photos`` is the digest of what it learns from."""
        torch.set_flush_denormal(True)
        torch.manual_seed(order.seed)
        self.order, self.device, self._photos = order, torch_device(order.device), photos
        self.sight = (
            Sight(new_nano([""], order.seed, encoder_named(order.encoder), **size_of(order))).to(self.device).train()
        )
        self.sight.requires_grad_(True)
        self.optimizer = torch.optim.AdamW(self.sight.parameters(), lr=order.rate, weight_decay=0.05)
        self.step, self.seconds, self.curve = 0, 0.0, list[dict[str, float]]()

    def segment(self, items: Damaged, end: int) -> float:
        """Train until step ``end``; the mean loss."""
        begun, losses = time.monotonic(), []
        for pictures, grades in ahead(items, range(self.step, end), self.order.workers):
            for group in self.optimizer.param_groups:
                group["lr"] = warm_rate(self.order.rate, self.step, self.order.steps)
            with torch.autocast(self.device, torch.bfloat16, enabled=self.order.bfloat16 or self.device != "cpu"):
                loss = severity_loss(self.sight(pictures).float(), grades.to(self.device))
            self.optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(self.sight.parameters(), 1.0)
            self.optimizer.step()
            losses.append(float(loss.detach()))
            self.step += 1
        self.seconds += time.monotonic() - begun
        return sum(losses) / len(losses)

    def save(self) -> None:
        """Write the checkpoint and the curve."""
        state: dict[str, Any] = {
            "sight": self.sight.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {"step": self.step, "seconds": self.seconds},
            "curve": self.curve,
        }
        save_checkpoint(self.order.output, state, self._identity())
        write_curve(self.order.output, self.curve)

    def load(self) -> None:
        """Go on where ``save`` stopped, if it ever did."""
        state = load_checkpoint(self.order.output, self._identity(), self.device)
        if state is None:
            return
        self.sight.load_state_dict(state["sight"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["progress"]["step"], state["progress"]["seconds"]
        self.curve = state["curve"]

    def _identity(self) -> dict[str, str]:
        """What must be the same for a run to go on."""
        names = ("steps", "batch", "rate", "side", "width", "layers", "seed")
        own = {name: str(getattr(self.order, name)) for name in names} | encoder_hash(self.order.encoder)
        return own | {"photos": self._photos}

"""Train the eye.

Photos are damaged by the public protocols' combinations and by random recipes; tools work on some of them. The eye
learns which damages are there, and how severe, from native crops and a small overview.
"""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.files import replacing
from conservator.networks.eye import EyeNet
from conservator.perception.perception import GRADED_KINDS
from conservator.perception.statistics import statistics
from conservator.tools.catalog import make_toolbox
from conservator.tools.tool import Toolbox
from conservator.training.crops import Photos, ahead, training_data
from conservator.training.states import Replay, States
from conservator.weights import load_weights, store_weights

STEPS, TOOLBOX = 3000, "conservator"
"""Of the eye that ships."""
START = "derain"
"""The expert whose encoder it starts from: it knows noise and JPEG, too."""
HELD_OUT = 960
"""Pictures that thresholds and scores are measured on."""


def loss_of(eye: EyeNet, batch: Sequence[Tensor]) -> Tensor:
    """Cumulative cross-entropy of the severities, and a Huber loss of the quality."""
    overview, crops, measured, levels, quality = batch
    with torch.autocast(overview.device.type, torch.bfloat16):
        logits, estimate = eye(overview, crops, measured)
    target = (levels[..., None] > torch.arange(4, device=levels.device)).float()
    graded = F.binary_cross_entropy_with_logits(logits.float(), target)
    return graded + 0.02 * F.huber_loss(estimate.float(), quality, delta=3.0)


def train(
    eye: EyeNet,
    photos: Photos,
    folder: Path,
    *,
    steps: int,
    tools: Toolbox | None,
    rate: float = 2e-3,
    batch: int = 16,
    fresh: int = 3,
    replay: int = 2000,
    workers: int = 1,
    seed: int = 0,
    device: str = "cpu",
) -> EyeNet:
    """Train; every step sees ``fresh`` new pictures. Resumes from ``folder``; returns the running mean."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(seed)
    replay = min(replay, 4 * steps * fresh)
    identity: dict[str, object] = {
        "seed": seed,
        "rate": rate,
        "batch": batch,
        "fresh": fresh,
        "tools": ",".join(tools or ()),
    }
    eye = eye.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    mean = copy.deepcopy(eye).requires_grad_(False)
    slowly = {id(value) for value in eye.near.parameters()}  # they know something already
    groups = [[v for v in eye.parameters() if (id(v) in slowly) == slow] for slow in (False, True)]
    optimizer = torch.optim.AdamW([{"params": group} for group in groups], lr=rate, weight_decay=0.02)
    checkpoint, done = folder / "checkpoint.pt", 0
    if checkpoint.exists():
        done = _resume(checkpoint, identity, steps, eye=eye, mean=mean, optimizer=optimizer)
    held_out = held_out_set(photos, tools, HELD_OUT // 3, seed)
    indices = range(done * fresh, done * fresh + replay // 2 + (steps - done) * fresh)
    loader = ahead(States(photos.training, seed, tools), indices, workers)
    pictures, rng, started = Replay(replay), np.random.default_rng([seed, done, 7]), time.monotonic()
    for _ in range(replay // 2):
        pictures.add(next(loader))
    for step in range(done, steps):
        for _ in range(fresh):
            pictures.add(next(loader))
        share = step / steps
        for group, factor in zip(optimizer.param_groups, (1.0, 0.3), strict=True):
            group["lr"] = factor * rate * min(1, (step + 1) / 200) * 0.5 * (1 + math.cos(math.pi * share))
        loss = loss_of(eye, [x.to(device) for x in pictures.draw(batch, rng)])
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(eye.parameters(), 1.0)
        optimizer.step()
        _follow(mean, eye, max(0.004, 9 / (10 + step)))
        if (step + 1) % 250 == 0 or step + 1 == steps:
            state = {"eye": eye.state_dict(), "mean": mean.state_dict(), "optimizer": optimizer.state_dict()}
            with replacing(checkpoint) as file:
                torch.save({**state, "step": step + 1, "identity": identity}, file)
            found = scores(mean, held_out, [0.5] * len(GRADED_KINDS))
            line = " ".join(f"{name} {value:.3f}" for name, value in found.items() if not name.startswith("f1_"))
            minutes = (time.monotonic() - started) / 60
            print(f"step {step + 1}, {minutes:.1f} min, f1 {found['f1_mean']:.3f} {line}", flush=True)  # noqa: T201
    return mean.eval()


def _resume(checkpoint: Path, identity: dict[str, object], steps: int, **parts: EyeNet | torch.optim.AdamW) -> int:
    """Load the parts of a run and return its step; ConservatorError for a run of something else."""
    state = torch.load(checkpoint, weights_only=True)
    done = int(state["step"])
    if state["identity"] != identity or done > steps:
        raise ConservatorError(
            f"{checkpoint} holds {done} steps of {state['identity']}, expected at most {steps} of {identity}; "
            "use another folder"
        )
    for name, part in parts.items():
        part.load_state_dict(state[name])
    return done


@torch.no_grad()
def _follow(mean: EyeNet, eye: EyeNet, share: float) -> None:
    """Move the running mean of the weights; batch statistics are running means already."""
    for slow, fast in zip(mean.parameters(), eye.parameters(), strict=True):
        slow.lerp_(fast, share)
    for old, new in zip(mean.buffers(), eye.buffers(), strict=True):
        old.copy_(new)


def held_out_set(photos: Photos, tools: Toolbox | None, count: int, seed: int) -> list[Tensor]:
    """Pictures of photos that no step sees: overviews, crops, statistics, severities, PSNR."""
    states = States(photos.held_out, seed + 1, tools, treated=0.25)
    return [torch.stack(parts) for parts in zip(*(states[i] for i in range(count)), strict=True)]


def probabilities(eye: EyeNet, batch: Sequence[Tensor]) -> Tensor:
    """(N, kinds, 4): the probability that each severity is at least 1 to 4, falling along the last axis."""
    was = eye.training
    eye.eval()
    parts = []
    with torch.inference_mode():
        for overview, crops, measured in zip(*(x.split(16) for x in batch[:3]), strict=True):
            logits, _ = eye(overview.float() / 255, crops.float() / 255, measured)
            parts.append(torch.cummin(logits.sigmoid(), dim=2).values)
    eye.train(was)
    return torch.cat(parts)


def scores(eye: EyeNet, batch: Sequence[Tensor], thresholds: Sequence[float]) -> dict[str, float]:
    """Presence F1 per kind and mean, exact sets, severities within one level, clean photos called clean."""
    found, truth = probabilities(eye, batch), batch[3]
    present = found[..., 0] > torch.tensor(thresholds)
    hits = (present & (truth > 0)).sum(0)
    f1 = 2 * hits / (present.sum(0) + (truth > 0).sum(0)).clamp(min=1)
    level = torch.where(present, (found > 0.5).sum(-1).clamp(min=1), 0)
    clean = (truth == 0).all(1)
    per_kind = {f"f1_{kind}": float(value) for kind, value in zip(GRADED_KINDS, f1, strict=True)}
    return per_kind | {
        "f1_mean": float(f1.mean()),
        "exact_set": float((present == (truth > 0)).all(1).float().mean()),
        "within_one_level": float(((level - truth).abs() <= 1).float().mean()),
        "clean_called_clean": float((~present[clean]).all(1).float().mean()),
    }


def thresholds_of(eye: EyeNet, batch: Sequence[Tensor], false_alarms: float = 0.003) -> list[float]:
    """Per kind the probability of best F1, but at least such that few clean photos raise an alarm."""
    found, truth = probabilities(eye, batch)[..., 0].numpy(), batch[3].numpy() > 0
    clean = ~truth.any(1)
    grid = np.linspace(0.2, 0.9, 71)
    chosen = []
    for k in range(len(GRADED_KINDS)):
        there = truth[:, k].sum()
        f1 = [2 * (truth[:, k] & (found[:, k] > t)).sum() / max(1, there + (found[:, k] > t).sum()) for t in grid]
        quiet = float(np.quantile(found[clean, k], 1 - false_alarms))
        chosen.append(float(max(grid[int(np.argmax(f1))], min(0.9, quiet))))
    return chosen


def make_eye(
    folder: Path,
    into: Path,
    output: Path,
    *,
    steps: int = STEPS,
    toolbox: str = TOOLBOX,
    workers: int = 1,
    seed: int = 0,
    device: str = "cpu",
) -> dict[str, float]:
    """Train the eye on the photos of ``folder``, set its thresholds on held-out ones, store it in ``into``.

    ``toolbox`` names the tools whose results the eye sees, too; ``output`` keeps checkpoints. Returns its scores.
    """
    torch.set_flush_denormal(True)
    tools = make_toolbox(toolbox) if toolbox else None
    for tool in (tools or {}).values():
        tool.setup("cpu")
    photos = Photos(folder)
    torch.manual_seed(seed)
    names = tuple(statistics(torch.zeros(1, 3, 64, 64)))
    eye = EyeNet(len(names), len(GRADED_KINDS))
    expert = load_weights(START)[0]
    known = eye.near.encoder.state_dict().keys()
    eye.near.encoder.load_state_dict({name: expert[name].float() for name in known})
    eye = train(
        eye,
        photos,
        output / "eye",
        steps=steps,
        tools=tools,
        workers=workers,
        seed=seed,
        device=device,
    )
    eye = eye.to("cpu")
    held_out = held_out_set(photos, tools, HELD_OUT, seed)
    thresholds = thresholds_of(eye, [x[::2] for x in held_out])
    found = scores(eye, [x[1::2] for x in held_out], thresholds)
    entry: dict[str, str | int | float] = {
        "license": "Apache-2.0",
        "data": training_data(folder),
        "recipe": f"random_recipe and States in conservator.training.states, tools {toolbox or 'none'}",
        "command": f"conservator train eye --photos train/free --steps {steps}",
        "seed": seed,
    }
    metadata = {
        "thresholds": json.dumps(thresholds),
        "kinds": json.dumps([str(kind) for kind in GRADED_KINDS]),
        "statistics": json.dumps(names),
    }
    tensors = {name: value.half() for name, value in eye.state_dict().items()}
    store_weights(into, "eye", tensors, entry, found, metadata)
    return found

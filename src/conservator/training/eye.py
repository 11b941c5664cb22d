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
from dataclasses import dataclass
from multiprocessing import get_all_start_methods
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from conservator.degradations import (
    BY_KIND,
    MIO_GROUPS,
    RESTOREAGENT_COMBINATIONS,
    Kind,
    LowResolution,
    Recipe,
    Severity,
    degrade,
    mio_recipe,
)
from conservator.errors import ConservatorError
from conservator.files import replacing
from conservator.image import Image, to_image
from conservator.metrics.fidelity import psnr
from conservator.networks.eye import OVERVIEW, EyeNet
from conservator.perception.perception import GRADED_KINDS
from conservator.perception.statistics import statistics
from conservator.perception.study import study
from conservator.tools.catalog import make_toolbox
from conservator.tools.tool import Toolbox, is_specialist
from conservator.training.crops import Photos, random_crop, training_data
from conservator.weights import load_weights, store_weights

NATURE = (
    *(Kind.LOW_LIGHT, Kind.HAZE, Kind.RAIN, Kind.DEFOCUS_BLUR),
    *(Kind.GAUSSIAN_BLUR, Kind.MOTION_BLUR, Kind.NOISE, Kind.JPEG),
)
"""The order in which damage befalls a photo: scene, optics, sensor, codec."""

STEPS, TOOLBOX = 3000, "conservator"
"""Of the eye that ships."""
START = "derain"
"""The expert whose encoder it starts from: it knows noise and JPEG, too."""
HELD_OUT = 960
"""Pictures that thresholds and scores are measured on."""
_CROPS, _CROP = 2, 192
_MIO = tuple(combination for group in MIO_GROUPS.values() for combination in group)
_BEST_QUALITY = 45.0  # dB; what a clean photo is said to have
_WHOLE = 768  # pixels; photos this large are shown whole
_WRECKED = 1.4  # times the error that there was


def random_recipe(rng: np.random.Generator) -> Recipe:
    """Nothing, a combination of a public protocol, or up to four damages of any severity in the order of nature."""
    share = rng.random()
    if share < 0.15:
        return ()
    if share < 0.45:
        return mio_recipe(_MIO[int(rng.integers(len(_MIO)))], rng)
    if share < 0.65:
        return mio_recipe(RESTOREAGENT_COMBINATIONS[int(rng.integers(len(RESTOREAGENT_COMBINATIONS)))], rng)
    count = int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))
    chosen = sorted(rng.choice(len(NATURE), count, replace=False).tolist())
    recipe = []
    for kind in (NATURE[i] for i in chosen):
        makers = BY_KIND[kind]
        severity = Severity(int(rng.choice([1, 2, 3, 4], p=[0.16, 0.28, 0.28, 0.28])))
        recipe.append(makers[int(rng.integers(len(makers)))].sample(severity, rng))
    return tuple(recipe)


def severities(recipe: Recipe) -> dict[Kind, Severity]:
    """The severity of each kind in a recipe, the worst where one comes twice."""
    found: dict[Kind, Severity] = {}
    for degradation in recipe:
        found[degradation.kind] = max(degradation.severity, found.get(degradation.kind, Severity.NONE))
    return found


@dataclass(frozen=True)
class States(Dataset[tuple[Tensor, ...]]):
    """Item i: overview (3, 128, 128) and crops (2, 3, 192, 192) as uint8, statistics (S,), severities (8,), PSNR."""

    photos: Sequence[Sequence[NDArray[np.uint8]]]
    seed: int
    tools: Toolbox | None
    treated: float = 0.35
    """Share of the pictures that tools have worked on."""

    def __len__(self) -> int:
        return 2**40

    def __getitem__(self, index: int) -> tuple[Tensor, ...]:
        rng = np.random.default_rng([self.seed, index])
        recipe = random_recipe(rng)
        picture = self._picture(recipe, rng)
        image, clean = picture.after(recipe), picture.after(tuple(d for d in recipe if isinstance(d, LowResolution)))
        found = severities(recipe)
        if self.tools and rng.random() < self.treated:
            image, found = self._treated(image, picture, recipe, rng)
        levels = torch.tensor([int(found.get(kind, Severity.NONE)) for kind in GRADED_KINDS])
        quality = torch.tensor(min(_BEST_QUALITY, psnr(image, clean)))
        measured = torch.tensor(list(statistics(study(image, views=_CROPS)).values()))
        return *_views(image, rng), measured, levels, quality

    def _picture(self, recipe: Recipe, rng: np.random.Generator) -> _Picture:
        """A whole photo, or a part of one, which is larger where the recipe makes it smaller."""
        photo = self.photos[int(rng.integers(len(self.photos)))]
        if any(isinstance(degradation, LowResolution) for degradation in recipe):
            return _Picture(random_crop(photo, 4 * _CROP, rng, turned=False))
        fitting = [level for level in photo if min(level.shape[:2]) >= _CROP + 16 and max(level.shape[:2]) <= _WHOLE]
        if fitting and rng.random() < 0.35:
            clean = to_image(fitting[0])
            return _Picture(clean.flip(-1).contiguous() if rng.random() < 0.5 else clean)
        side = int(rng.choice([320, 320, 448]))
        # some are cut out of a larger picture: there, the blocks of a JPEG begin anywhere
        top, left = (int(rng.integers(16)) for _ in range(2)) if rng.random() < 0.2 else (0, 0)
        return _Picture(random_crop(photo, side, rng, turned=False), top, left)

    def _treated(
        self, image: Image, picture: _Picture, recipe: Recipe, rng: np.random.Generator
    ) -> tuple[Image, dict[Kind, Severity]]:
        """One to three tools, mostly for damages that are there, and what they leave of the severities.

        What is left is the error to the picture without these damages, as a share of what it was before the tool.
        """
        assert self.tools is not None
        left = severities(recipe)
        specs = [tool.spec for tool in self.tools.values() if tool.spec.scale == 1 and is_specialist(tool.spec)]
        for _ in range(int(rng.integers(1, 4))):
            fitting = [spec for spec in specs if spec.removes & left.keys()]
            choices = fitting if fitting and rng.random() < 0.85 else specs
            spec = choices[int(rng.integers(len(choices)))]
            treated = self.tools[spec.name](image)
            gone = spec.removes | (severities(recipe).keys() - left.keys())
            target = picture.after(tuple(d for d in recipe if d.kind not in gone))
            remains = 10 ** ((psnr(image, target) - psnr(treated, target)) / 20)
            if remains > _WRECKED and not spec.removes & left.keys():
                break  # a tool without a damage that spoils the picture: what it leaves has no name
            image = treated
            for kind in spec.removes & left.keys():
                level = round(left[kind] * min(1.0, remains))
                left.pop(kind)
                if level:
                    left[kind] = Severity(level)
        return image, left


@dataclass(frozen=True)
class _Picture:
    """A clean picture (1, 3, H, W), and where the cut begins that is shown of it and its damaged versions."""

    clean: Image
    top: int = 0
    left: int = 0

    def after(self, recipe: Recipe) -> Image:
        """What a recipe makes of it."""
        image = degrade(self.clean, recipe)
        height, width = (n - 16 * bool(self.top or self.left) for n in image.shape[-2:])
        return image[..., self.top : self.top + height, self.left : self.left + width]


def _views(image: Image, rng: np.random.Generator) -> tuple[Tensor, Tensor]:
    overview = F.interpolate(image, (OVERVIEW, OVERVIEW), mode="bilinear", antialias=True)[0]
    crops = []
    for _ in range(_CROPS):
        top, left = (16 * int(rng.integers((n - _CROP) // 16 + 1)) for n in image.shape[-2:])
        crops.append(image[0, :, top : top + _CROP, left : left + _CROP])
    return _bytes(overview), _bytes(torch.stack(crops))


def _bytes(x: Tensor) -> Tensor:
    return (x * 255).round().clamp(0, 255).to(torch.uint8)


class Replay:
    """The last ``size`` pictures: each is seen a few times, for making one costs more than learning from it."""

    def __init__(self, size: int) -> None:
        self.size, self.items = size, list[tuple[Tensor, ...]]()
        self._next = 0

    def add(self, item: tuple[Tensor, ...]) -> None:
        """Keep one picture; the oldest goes."""
        if len(self.items) < self.size:
            self.items.append(item)
        else:
            self.items[self._next] = item
            self._next = (self._next + 1) % self.size

    def draw(self, count: int, rng: np.random.Generator) -> list[Tensor]:
        """A batch, mirrored half of the time."""
        chosen = [self.items[i] for i in rng.integers(len(self.items), size=count)]
        overview, crops, measured, levels, quality = (torch.stack(parts) for parts in zip(*chosen, strict=True))
        if rng.random() < 0.5:
            overview, crops = overview.flip(-1), crops.flip(-1)
        return [overview.float() / 255, crops.float() / 255, measured, levels, quality]


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
    identity = {"seed": seed, "rate": rate, "batch": batch, "fresh": fresh, "tools": ",".join(tools or ())}
    eye = eye.to(device, memory_format=torch.channels_last).train()  # type: ignore[call-overload]
    mean = copy.deepcopy(eye).requires_grad_(False)
    slowly = {id(value) for value in eye.near.parameters()}  # they know something already
    groups = [[v for v in eye.parameters() if (id(v) in slowly) == slow] for slow in (False, True)]
    optimizer = torch.optim.AdamW([{"params": group} for group in groups], lr=rate, weight_decay=0.02)
    checkpoint, done = folder / "checkpoint.pt", 0
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        done = state["step"]
        if state["identity"] != identity or done > steps:
            raise ConservatorError(
                f"{checkpoint} holds {done} steps of {state['identity']}, expected at most {steps} of {identity}; "
                "use another folder"
            )
        eye.load_state_dict(state["eye"])
        mean.load_state_dict(state["mean"])
        optimizer.load_state_dict(state["optimizer"])
    held_out = held_out_set(photos, tools, HELD_OUT // 3, seed)
    states = States(photos.training, seed, tools)
    sampler = range(done * fresh, done * fresh + replay // 2 + (steps - done) * fresh)
    loader = iter(
        DataLoader(
            states,
            batch_size=None,
            sampler=sampler,
            num_workers=workers,
            prefetch_factor=16 if workers else None,
            multiprocessing_context="fork" if workers and "fork" in get_all_start_methods() else None,
        )
    )
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
        with torch.no_grad():
            for slow, fast in zip(mean.parameters(), eye.parameters(), strict=True):
                slow.lerp_(fast, max(0.004, 9 / (10 + step)))
            for old, new in zip(mean.buffers(), eye.buffers(), strict=True):
                old.copy_(new)  # batch statistics are running means already
        if (step + 1) % 250 == 0 or step + 1 == steps:
            state = {"eye": eye.state_dict(), "mean": mean.state_dict(), "optimizer": optimizer.state_dict()}
            with replacing(checkpoint) as file:
                torch.save({**state, "step": step + 1, "identity": identity}, file)
            found = scores(mean, held_out, [0.5] * len(GRADED_KINDS))
            line = " ".join(f"{name} {value:.3f}" for name, value in found.items() if not name.startswith("f1_"))
            minutes = (time.monotonic() - started) / 60
            print(f"step {step + 1}, {minutes:.1f} min, f1 {found['f1_mean']:.3f} {line}", flush=True)  # noqa: T201
    return mean.eval()


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
        "recipe": f"random_recipe and States in conservator.training.eye, tools {toolbox or 'none'}",
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

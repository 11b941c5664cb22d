"""What the eye learns from: photos damaged by known recipes, treated by toolchains, every state of them measured."""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.claims import Identity, claim
from conservator.degradations import (
    BY_KIND,
    MIO_GROUPS,
    RESTOREAGENT_COMBINATIONS,
    TAUGHT,
    Kind,
    LowResolution,
    Recipe,
    Severity,
    degrade,
    mio_recipe,
)
from conservator.errors import ToolFailedError
from conservator.evaluation.rows import content_of
from conservator.files import replacing
from conservator.image import Image, decibels
from conservator.metrics.fidelity import ssim
from conservator.networks.eye import Trunk
from conservator.perception.eyes import StatisticalPerception, changes, with_networks
from conservator.perception.opinions import ASKED
from conservator.perception.perception import GRADED_KINDS, Look
from conservator.perception.study import study
from conservator.photo import load_photo
from conservator.tools.catalog import make_toolbox
from conservator.tools.tool import Toolbox, ToolSpec, is_specialist
from conservator.weights import load_weights

TRUNK = "denoise_medium"
"""The expert whose encoder the eye looks through."""
BEST_QUALITY = 45.0
"""dB; what a clean photo is said to have."""
_MIO = tuple(combination for group in MIO_GROUPS.values() for combination in group)
_SHARD = 50
_WRECKED = 1.4  # times the error that there was


@dataclass(frozen=True)
class Sample:
    """The states of one damaged photo. State 0 is the damaged one, the last is the clean one."""

    features: Tensor
    """(S, F) of every state: statistics, the experts' opinions, then what the trunk sees."""
    scores: Tensor
    """(S, 2): PSNR (RGB, dB, at most 45) and SSIM to the clean photo."""
    severities: Tensor
    """(S, kinds): what is left of each damage; -1 where a tool spoiled the picture, which has no name."""
    pairs: Tensor
    """(P, 2): a state, and a later one that tools made of it, at once or in several steps."""
    changes: Tensor
    """(P, C): what changed between them (perception/eyes.py)."""


def random_recipe(rng: np.random.Generator) -> Recipe:
    """Nothing, a combination of a public protocol, or up to four damages of any severity in the order of nature."""
    share = rng.random()
    if share < 0.12:
        return ()
    if share < 0.45:
        return mio_recipe(_MIO[int(rng.integers(len(_MIO)))], rng)
    if share < 0.62:
        return mio_recipe(RESTOREAGENT_COMBINATIONS[int(rng.integers(len(RESTOREAGENT_COMBINATIONS)))], rng)
    count = int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))
    chosen = sorted(rng.choice(len(TAUGHT), count, replace=False).tolist())
    recipe = []
    for kind in (TAUGHT[i] for i in chosen):
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


def random_part(image: Image, rng: np.random.Generator) -> Image:
    """A part of 260 to 640 pixels a side of a photo, reduced by 1 to 2.5 first, mirrored half of the time."""
    factor = 1 / float(rng.choice([1.0, 1.0, 1.4, 2.0, 2.5]))
    height, width = image.shape[-2:]
    size = (max(260, round(height * factor)), max(260, round(width * factor)))
    if factor < 1:
        image = F.interpolate(image, size, mode="bicubic", antialias=True).clamp(0, 1)
    h, w = (min(side, int(rng.choice([320, 384, 512, 512, 640]))) for side in image.shape[-2:])
    top, left = (int(rng.integers(0, n - m + 1)) for n, m in zip(image.shape[-2:], (h, w), strict=True))
    part = image[..., top : top + h, left : left + w]
    return (part.flip(-1) if rng.random() < 0.5 else part).contiguous()


class _Walk:
    """The states of one photo as they come about."""

    def __init__(self, clean: Image, recipe: Recipe, trunk: Trunk) -> None:
        self.clean, self.recipe, self.trunk = clean, recipe, trunk
        self.damaged = degrade(clean, recipe)
        self.reference = self.after(tuple(d for d in recipe if isinstance(d, LowResolution)))
        self.looks: list[Look] = []
        self.left: list[dict[Kind, Severity]] = []
        self.spoiled: set[int] = set()
        self.pairs: list[tuple[int, int]] = []
        self.changes: list[Tensor] = []

    def after(self, recipe: Recipe) -> Image:
        """The study of what a recipe makes of the clean photo, at the places of the damaged one's."""
        return study(degrade(self.clean, recipe), like=self.damaged)

    def add(self, image: Image, left: dict[Kind, Severity]) -> int:
        """Measure a state; return its number."""
        seen = with_networks(StatisticalPerception().measure(image), image, self.trunk)
        self.looks.append(Look(image, seen))
        self.left.append(left)
        return len(self.looks) - 1

    def treat(self, state: int, image: Image, spec: ToolSpec) -> int:
        """Add what a tool made of a state; return its number.

        What is left of a damage is the error to the picture without it, as a share of what it was before the tool.
        """
        left, spoiled = dict(self.left[state]), state in self.spoiled
        gone = spec.removes | (severities(self.recipe).keys() - left.keys())
        target = self.after(tuple(d for d in self.recipe if d.kind not in gone or isinstance(d, LowResolution)))
        remains = 10 ** ((_psnr(self.looks[state].image, target) - _psnr(image, target)) / 20)
        spoiled |= remains > _WRECKED and not spec.removes & left.keys()
        for kind in spec.removes & left.keys():
            level = round(left.pop(kind) * min(1.0, remains))
            if level:
                left[kind] = Severity(level)
        number = self.add(image, left)
        if spoiled:
            self.spoiled.add(number)
        return number

    def compare(self, before: int, after: int, treated: frozenset[Kind]) -> None:
        """Note what changed between two states."""
        self.pairs.append((before, after))
        self.changes.append(changes(self.looks[before], self.looks[after], treated))

    def sample(self) -> Sample:
        """All of it, the clean photo last."""
        self.add(self.reference, {})
        scores = [(_psnr(look.image, self.reference), _ssim(look.image, self.reference)) for look in self.looks]
        levels = torch.tensor([[int(left.get(kind, Severity.NONE)) for kind in GRADED_KINDS] for left in self.left])
        levels[sorted(self.spoiled)] = -1
        width = len(self.looks[0].percept.features) + 5 + len(GRADED_KINDS)
        return Sample(
            torch.stack([look.percept.features for look in self.looks]),
            torch.tensor(scores, dtype=torch.float32),
            levels,
            torch.tensor(self.pairs, dtype=torch.long).reshape(-1, 2),
            torch.stack(self.changes) if self.changes else torch.zeros(0, width),
        )


def _psnr(study: Image, reference: Image) -> float:
    """PSNR (RGB, dB) of all pictures of a study together, at most BEST_QUALITY."""
    return float(decibels((study - reference).square().mean().double(), BEST_QUALITY))


def _ssim(study: Image, reference: Image) -> float:
    """Mean SSIM of the pictures of a study."""
    pairs = zip(study.split(1), reference.split(1), strict=True)
    return sum(ssim(*pair) for pair in pairs) / len(study)


def make_sample(path: Path, seed: int, tools: Toolbox, chains: int, trunk: Trunk) -> Sample:
    """Damage one photo, let random toolchains work on it, and measure every state."""
    rng = np.random.default_rng([seed, 20])
    walk = _Walk(random_part(load_photo(path).image, rng), random_recipe(rng), trunk)
    walk.add(study(walk.damaged), severities(walk.recipe))
    specs = [tool.spec for tool in tools.values() if tool.spec.scale == 1 and is_specialist(tool.spec)]
    for _ in range(chains):
        state, treated = 0, frozenset[Kind]()
        for _ in range(int(rng.choice([1, 2, 3], p=[0.6, 0.3, 0.1]))):
            fitting = [spec for spec in specs if spec.removes & walk.left[state].keys()]
            choices = fitting if fitting and rng.random() < 0.8 else specs
            spec = choices[int(rng.integers(len(choices)))]
            try:
                image = tools[spec.name](walk.looks[state].image)
            except ToolFailedError:
                break
            before, state = state, walk.treat(state, image, spec)
            treated |= spec.removes
            walk.compare(before, state, spec.removes)
            if before:
                walk.compare(0, state, treated)
    return walk.sample()


def expert_trunk(name: str = TRUNK) -> Trunk:
    """A trunk with the encoder of an expert that ships."""
    weights, trunk = load_weights(name)[0], Trunk()
    trunk.load_state_dict({key: weights[key].float() for key in trunk.state_dict()})
    return trunk.eval().to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]


_WORKER: tuple[Toolbox, Trunk] | None = None


def _work(task: tuple[Path, int, int, str]) -> Sample:
    global _WORKER
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    path, seed, chains, toolbox = task
    if _WORKER is None:
        tools = make_toolbox(toolbox)
        for tool in tools.values():
            tool.setup("cpu")
        _WORKER = tools, expert_trunk()
    tools, trunk = _WORKER
    return make_sample(path, seed, tools, chains, trunk)


def samples_folder(photos: Sequence[Path], chains: int, toolbox: str, seed: int, folder: Path) -> Path:
    """The subfolder of shards for this and nothing else: photos, tools, their weights, seed, number of toolchains."""
    tools = make_toolbox(toolbox)
    root = Path(os.path.commonpath([path.parent for path in photos]))
    contents = content_of(photos, root, tools, toolbox, folder)
    used = {name: value for name, value in contents.weights.items() if name in {*tools, *ASKED, TRUNK} or "." in name}
    identity = Identity.of(
        {"chains": chains, "seed": seed, "toolbox": toolbox}, photos=contents.photos, tools=contents.tools, weights=used
    )
    own = folder / identity.digest()
    claim(own, identity)
    return own


def build(
    photos: Sequence[Path], count: int, chains: int, toolbox: str, seed: int, jobs: int, folder: Path
) -> list[Sample]:
    """Make ``count`` samples, photo after photo; shards of them in ``folder`` are not made again."""
    folder = samples_folder(photos, chains, toolbox, seed, folder)
    samples: list[Sample] = []
    with ProcessPoolExecutor(jobs) as processes:
        for first in range(0, count, _SHARD):
            shard = folder / f"{first:06d}.pt"
            numbers = range(first, min(count, first + _SHARD))
            stored = torch.load(shard, weights_only=True) if shard.exists() else []
            if len(stored) < len(numbers):
                tasks = [(photos[i % len(photos)], seed * 1_000_003 + i, chains, toolbox) for i in numbers]
                stored = [astuple(sample) for sample in processes.map(_work, tasks, chunksize=5)]
                with replacing(shard) as file:
                    torch.save(stored, file)
                print(f"{numbers.stop} of {count} samples", flush=True)  # noqa: T201
            samples += [Sample(*parts) for parts in stored[: len(numbers)]]
    return samples

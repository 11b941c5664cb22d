"""What perception and the network of harm learn from: damaged photos and what tools made of them, every state measured.

Photos and their damage are as ``random_scene`` of training/data/scenes.py draws them.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from conservator.claims import Identity, claim
from conservator.degradations import LowResolution, Recipe, degrade
from conservator.errors import ToolFailedError
from conservator.evaluation.rows import content_of
from conservator.files import replacing
from conservator.image import Image, decibels, in_8_bits
from conservator.kinds import Kind, Severity
from conservator.metrics.fidelity import ssim
from conservator.networks.encoder import CropEncoder
from conservator.networks.store import NetworkStore
from conservator.perception.experts import SCENE_SIDE
from conservator.perception.features import ASKED, CHANGE, TOLD, Acuity, Measured, change
from conservator.perception.harm import TRACES, traces
from conservator.perception.measuring import NetworkMeasuring
from conservator.perception.perception import GRADED_KINDS
from conservator.perception.study import study
from conservator.photo import load_photo
from conservator.tools.catalog import make_toolbox
from conservator.tools.experts import sharing
from conservator.tools.tool import Toolbox, ToolSpec, is_specialist
from conservator.training.data.recipes import severities
from conservator.training.data.scenes import random_scene, scenes_drawn
from conservator.weights import load_weights

ACUITY = Acuity()
"""How much a perception sees that is trained now."""
ENCODER_OF = "denoise_medium"
"""The expert whose encoder perception looks through."""
BEST_QUALITY = 45.0
"""dB; what a clean photo is said to have: a smaller difference is none."""
MOST_PSNR = 100.0
"""dB; equal pictures have it."""
_TRIED, _OTHERS = 3, (2, 4)
"""Tools for what is there that are tried on a state at most; tools for what is not there, beside these, and where there
are no such tools. Ours: about as many as a policy tries on a state."""
_SHARD = 50
_WRECKED = 1.4  # times the error that there was


@dataclass(frozen=True)
class Sample:
    """The states of one photo. State 0 is the damaged one, the last is the clean one."""

    features: Tensor
    """(S, F) of every state: TOLD of perception/features.py, then, not reduced, what the crop encoder sees and what
    experts know of the scene."""
    scores: Tensor
    """(S, 2): PSNR (RGB, dB, at most MOST_PSNR) and SSIM to the clean photo."""
    severities: Tensor
    """(S, kinds): what is left of each damage; -1 where a tool spoiled the picture, which has no name."""
    pairs: Tensor
    """(P, 2): a state, and a later one that tools made of it, at once or in several steps."""
    moved: Tensor
    """(P, CHANGE) of perception/features.py: how far the pixels moved, and what was treated."""
    traces: Tensor
    """(P, TRACES) of perception/harm.py: what else the pixels tell of the change."""


class _Walk:
    """The states of one photo as they come about."""

    def __init__(self, clean: Image, recipe: Recipe, measure: NetworkMeasuring) -> None:
        self.clean, self.recipe, self.measure = clean, recipe, measure
        self.damaged = in_8_bits(degrade(clean, recipe))
        self._made: dict[Recipe, Image] = {}
        self.reference = self.after(tuple(d for d in recipe if isinstance(d, LowResolution)))
        self.states: list[Measured] = []
        self.left: list[dict[Kind, Severity]] = []
        self.spoiled: set[int] = set()
        self.pairs: list[tuple[int, int]] = []
        self.moved: list[Tensor] = []
        self.traces: list[Tensor] = []

    def after(self, recipe: Recipe) -> Image:
        """The study of what a recipe makes of the clean photo, at the places of the damaged one's."""
        if recipe not in self._made:
            self._made[recipe] = study(degrade(self.clean, recipe), like=self.damaged)
        return self._made[recipe]

    def add(self, image: Image, left: dict[Kind, Severity]) -> int:
        """Measure a state; return its number."""
        known = next((state for state in self.states if torch.equal(state.image, image)), None)
        self.states.append(known or Measured(image, self.measure(image)[1]))
        self.left.append(left)
        return len(self.states) - 1

    def treat(self, state: int, image: Image, spec: ToolSpec) -> int:
        """Add what a tool made of a state; return its number.

        What is left of a damage is the error to the picture without it, as a share of what it was before the tool.
        """
        left, spoiled = dict(self.left[state]), state in self.spoiled
        gone = spec.removes | (severities(self.recipe).keys() - left.keys())
        target = self.after(tuple(d for d in self.recipe if d.kind not in gone or isinstance(d, LowResolution)))
        was, now = (min(_psnr(picture, target), BEST_QUALITY) for picture in (self.states[state].image, image))
        remains = 10 ** ((was - now) / 20)
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
        images = self.states[before].image, self.states[after].image
        self.pairs.append((before, after))
        self.moved.append(change(*images, treated))
        self.traces.append(traces(*images))

    def psnr(self, state: int) -> float:
        """Of a state, to the clean photo (RGB, dB, at most MOST_PSNR)."""
        return _psnr(self.states[state].image, self.reference)

    def sample(self) -> Sample:
        """All of it, the clean photo last."""
        self.add(self.reference, {})
        scores = [(self.psnr(i), _ssim(state.image, self.reference)) for i, state in enumerate(self.states)]
        levels = torch.tensor([[int(left.get(kind, Severity.NONE)) for kind in GRADED_KINDS] for left in self.left])
        levels[sorted(self.spoiled)] = -1
        return Sample(
            torch.stack([state.features for state in self.states]),
            torch.tensor(scores, dtype=torch.float32),
            levels,
            torch.tensor(self.pairs, dtype=torch.long).reshape(-1, 2),
            torch.stack(self.moved) if self.moved else torch.zeros(0, len(CHANGE)),
            torch.stack(self.traces) if self.traces else torch.zeros(0, len(TRACES)),
        )


def _psnr(study: Image, reference: Image) -> float:
    """PSNR (RGB, dB) of all pictures of a study together, at most MOST_PSNR."""
    return float(decibels((study - reference).square().mean().double(), MOST_PSNR))


def _ssim(study: Image, reference: Image) -> float:
    """Mean SSIM of the pictures of a study."""
    pairs = zip(study.split(1), reference.split(1), strict=True)
    return sum(ssim(*pair) for pair in pairs) / len(study)


def make_sample(path: Path, seed: int, tools: Toolbox, measure: NetworkMeasuring, treated: bool = True) -> Sample:
    """Draw a scene of one photo, try tools on it, then on what the best or any of them made, and measure every state.

    Without ``treated`` there are two states, the damaged one and the clean one.
    """
    rng = np.random.default_rng([seed, 20])
    walk = _Walk(*random_scene(load_photo(path).image, rng), measure)
    state, kinds = walk.add(study(walk.damaged), severities(walk.recipe)), frozenset[Kind]()
    specs = [tool.spec for tool in tools.values() if tool.spec.scale == 1 and is_specialist(tool.spec)]
    for _ in range(int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15])) if treated else 0):
        children: dict[int, frozenset[Kind]] = {}
        for spec in _candidates(specs, frozenset(walk.left[state]), rng):
            try:
                image = tools[spec.name](walk.states[state].image)
            except ToolFailedError:
                continue
            if torch.equal(image, walk.states[state].image):
                continue
            child = walk.treat(state, image, spec)
            children[child] = kinds | spec.removes
            walk.compare(state, child, spec.removes)
            if state:
                walk.compare(0, child, children[child])
        if not children:
            break
        state = max(children, key=walk.psnr) if rng.random() < 0.7 else int(rng.choice(list(children)))
        kinds = children[state]
    return walk.sample()


def _candidates(specs: Sequence[ToolSpec], left: frozenset[Kind], rng: np.random.Generator) -> list[ToolSpec]:
    """Tools for what is left of the damage, and some for what is not there, kind by kind, for kinds differ in tools."""
    fitting = [spec for spec in specs if spec.removes & left]
    absent = [kind for kind in GRADED_KINDS if kind not in left]
    chosen = [fitting[int(i)] for i in rng.permutation(len(fitting))[:_TRIED]]
    for i in rng.permutation(len(absent))[: _OTHERS[not fitting]]:
        others = [spec for spec in specs if absent[int(i)] in spec.removes and spec not in fitting]
        chosen += [others[int(rng.integers(len(others)))]] if others else []
    return list(dict.fromkeys(chosen))


def expert_encoder(name: str = ENCODER_OF) -> CropEncoder:
    """A crop encoder with the weights of an expert that ships, ready to run."""
    weights, encoder = load_weights(name)[0], CropEncoder(ACUITY.crop_side)
    encoder.load_state_dict({key: weights[key].float() for key in encoder.state_dict()})
    return encoder.eval()


_WORKER: tuple[Toolbox, NetworkMeasuring] | None = None


def _work(task: tuple[Path, int, bool, str]) -> Sample:
    global _WORKER
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    path, seed, treated, toolbox = task
    if _WORKER is None:
        networks = NetworkStore()  # an expert that is a tool and is asked is loaded once
        tools = sharing(make_toolbox(toolbox), networks)
        for tool in tools.values():
            tool.setup("cpu")
        _WORKER = tools, NetworkMeasuring(expert_encoder(), nn.Identity(), networks, "cpu", ACUITY.native_side)
    tools, measure = _WORKER
    return make_sample(path, seed, tools, measure, treated)


def samples_folder(photos: Sequence[Path], treated: bool, toolbox: str, seed: int, folder: Path) -> Path:
    """The subfolder of shards for this and nothing else.

    For these photos, tools and weights, by their content, for these features and this seed, treated or not.
    """
    tools = make_toolbox(toolbox)
    root = Path(os.path.commonpath([path.parent for path in photos]))
    contents = content_of(photos, root, tools, toolbox, folder)
    known = {*tools, *ASKED, ENCODER_OF}
    used = {name: value for name, value in contents.weights.items() if name in known or "." in name}
    told = hashlib.sha256(" ".join((*TOLD, *CHANGE, *TRACES)).encode()).hexdigest()
    settings = {"treated": treated, "seed": seed, "toolbox": toolbox, "features": told}
    settings |= {"scenes": scenes_drawn(), "sides": [ACUITY.crop_side, SCENE_SIDE, ACUITY.native_side]}
    identity = Identity.of(settings, photos=contents.photos, tools=contents.tools, weights=used)
    own = folder / identity.digest()
    claim(own, identity)
    return own


def make_samples(
    photos: Sequence[Path], count: int, treated: bool, toolbox: str, seed: int, jobs: int, folder: Path
) -> list[Sample]:
    """Make ``count`` samples, photo after photo; shards of them in ``folder`` are not made again."""
    folder = samples_folder(photos, treated, toolbox, seed, folder)
    samples: list[Sample] = []
    with ProcessPoolExecutor(jobs) as processes:
        for first in range(0, count, _SHARD):
            shard = folder / f"{first:06d}.pt"
            numbers = range(first, min(count, first + _SHARD))
            stored = torch.load(shard, weights_only=True) if shard.exists() else []
            if len(stored) < len(numbers):
                tasks = [(photos[i % len(photos)], seed * 1_000_003 + i, treated, toolbox) for i in numbers]
                stored = [astuple(sample) for sample in processes.map(_work, tasks, chunksize=5)]
                with replacing(shard) as file:
                    torch.save(stored, file)
                print(f"{numbers.stop} of {count} samples", flush=True)  # noqa: T201
            samples += [Sample(*parts) for parts in stored[: len(numbers)]]
    return samples

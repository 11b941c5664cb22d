"""What the network of harm learns from: photos, damaged or not, and what tools made of them, measured by the truth.

Photos are those that train what ships, as ``random_scene`` of training/data/scenes.py draws them.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import astuple, dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from conservator.claims import Identity, claim
from conservator.degradations import degrade
from conservator.errors import ToolFailedError
from conservator.evaluation.rows import content_of
from conservator.files import replacing
from conservator.image import Image, decibels, in_8_bits
from conservator.kinds import Kind
from conservator.metrics.fidelity import ssim
from conservator.networks.store import NetworkStore
from conservator.perception.harm import HARM_FACTS, harm_facts
from conservator.perception.network import NetworkPerception
from conservator.perception.perception import Look
from conservator.perception.study import study
from conservator.photo import load_photo
from conservator.tools.catalog import make_toolbox
from conservator.tools.experts import sharing
from conservator.tools.tool import Toolbox, ToolSpec, is_specialist
from conservator.training.data.scenes import random_scene

_SUSPICION = 0.05
"""Confidence from which the policies that ship try a tool (policies/planning.py)."""
_TRIED = 5
"""Tools that are tried on a state at most, two of them whatever perception sees."""
_SHARD = 40


@dataclass(frozen=True)
class HarmSample:
    """The treatments that were tried on one photo."""

    facts: Tensor
    """(P, HARM_FACTS): what is told of each treatment."""
    scores: Tensor
    """(P, 4): PSNR (RGB, dB, at most 100) and SSIM to the truth, before and after."""
    share: str
    """Which of the shares it is of."""
    natural: bool
    """Whether its scene is dark or hazy by nature."""
    names: str
    """The toolchain of each treatment, joined by ">", these by ","."""


def make_harm_sample(path: Path, seed: int, tools: Toolbox, perception: NetworkPerception) -> HarmSample:
    """Damage one photo, or not, and try tools on it, then on what the best or any of them made."""
    rng = np.random.default_rng([seed, 31])
    scene = random_scene(load_photo(path).image, rng)
    damaged = in_8_bits(degrade(scene.truth, scene.damage))
    trial = _Trial(study(damaged), study(scene.truth, like=damaged), tools, perception)
    state = _State(trial.start)
    for _ in range(int(rng.choice([1, 2, 3], p=[0.5, 0.35, 0.15]))):
        children = trial.treated(state, _candidates(trial.specs, state.look, rng))
        if not children:
            break
        quality = [trial.scores(child.look.image)[0] for child in children]
        place = int(np.argmax(quality)) if rng.random() < 0.7 else int(rng.integers(len(children)))
        state = children[place]
    return trial.sample(scene.share, scene.natural)


@dataclass(frozen=True)
class _State:
    """A picture, and what was done to the photo to get it."""

    look: Look
    toolchain: tuple[str, ...] = ()
    treated: frozenset[Kind] = frozenset()


class _Trial:
    """The treatments of one photo as they come about."""

    def __init__(self, damaged: Image, reference: Image, tools: Toolbox, perception: NetworkPerception) -> None:
        self._reference, self._tools, self._perception = reference, tools, perception
        self.start = Look(damaged, perception.grade(damaged))
        self.specs = [tool.spec for tool in tools.values() if tool.spec.scale == 1 and is_specialist(tool.spec)]
        self._facts: list[Tensor] = []
        self._scores: list[tuple[float, ...]] = []
        self._names: list[str] = []

    def treated(self, state: _State, specs: Sequence[ToolSpec]) -> list[_State]:
        """What these tools make of a state, each noted beside it and beside the start."""
        children = []
        for spec in specs:
            try:
                image = self._tools[spec.name](state.look.image)
            except ToolFailedError:
                continue
            if torch.equal(image, state.look.image):
                continue
            look = Look(image, self._perception.grade(image))
            child = _State(look, (*state.toolchain, spec.name), state.treated | spec.removes)
            children.append(child)
            self._note(state.look, child, spec.removes)
            if state.toolchain:
                self._note(self.start, child, child.treated)
        return children

    def _note(self, before: Look, after: _State, kinds: frozenset[Kind]) -> None:
        self._facts.append(harm_facts(self._perception, before, after.look, kinds))
        self._scores.append((*self.scores(before.image), *self.scores(after.look.image)))
        self._names.append(">".join(after.toolchain))

    def scores(self, image: Image) -> tuple[float, float]:
        """PSNR (RGB, dB, at most 100) and mean SSIM of all pictures of a study, to the truth."""
        structure = [ssim(*pair) for pair in zip(image.split(1), self._reference.split(1), strict=True)]
        error = (image - self._reference).square().mean().double()
        return float(decibels(error, 100.0)), sum(structure) / len(structure)

    def sample(self, share: str, natural: bool) -> HarmSample:
        """All of it."""
        facts = torch.stack(self._facts) if self._facts else torch.zeros(0, len(HARM_FACTS))
        return HarmSample(facts, torch.tensor(self._scores).reshape(-1, 4), share, natural, ",".join(self._names))


def _candidates(specs: Sequence[ToolSpec], state: Look, rng: np.random.Generator) -> list[ToolSpec]:
    """Tools for what is suspected, at random where they are many, and two of any kind."""
    suspected = {kind for kind, confidence in state.percept.confidences.items() if confidence > _SUSPICION}
    fitting = [spec for spec in specs if spec.removes & suspected]
    others = [spec for spec in specs if spec not in fitting]
    rng.shuffle(fitting)
    rng.shuffle(others)
    first = fitting[: _TRIED - 2]
    return [*first, *others[: min(2, _TRIED - len(first))]]


_WORKER: tuple[Toolbox, NetworkPerception] | None = None


def _work(task: tuple[Path, int, str]) -> HarmSample:
    global _WORKER
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    path, seed, toolbox = task
    if _WORKER is None:
        networks = NetworkStore()
        tools = sharing(make_toolbox(toolbox), networks)
        for tool in tools.values():
            tool.setup("cpu")
        _WORKER = tools, NetworkPerception.load(networks=networks)
    return make_harm_sample(path, seed, *_WORKER)


def make_harm_samples(
    photos: Sequence[Path], count: int, toolbox: str, seed: int, jobs: int, folder: Path
) -> list[HarmSample]:
    """Make ``count`` samples, photo after photo; shards of them in ``folder`` are not made again.

    The shards lie in a subfolder that is of these photos, tools and weights alone, by their content.
    """
    root = Path(os.path.commonpath([path.parent for path in photos]))
    contents = content_of(photos, root, make_toolbox(toolbox), toolbox, folder)
    settings = {"seed": seed, "toolbox": toolbox, "facts": " ".join(HARM_FACTS)}
    used = {name: value for name, value in contents.weights.items() if name == "perception" or "." in name}
    identity = Identity.of(settings, photos=contents.photos, tools=contents.tools, weights=used)
    own = folder / identity.digest()
    claim(own, identity)
    samples: list[HarmSample] = []
    with ProcessPoolExecutor(jobs) as processes:
        for first in range(0, count, _SHARD):
            shard, numbers = own / f"{first:06d}.pt", range(first, min(count, first + _SHARD))
            stored = torch.load(shard, weights_only=True) if shard.exists() else []
            if len(stored) < len(numbers):
                tasks = [(photos[i % len(photos)], seed * 1_000_003 + i, toolbox) for i in numbers]
                stored = [astuple(sample) for sample in processes.map(_work, tasks, chunksize=2)]
                with replacing(shard) as file:
                    torch.save(stored, file)
                print(f"{numbers.stop} of {count} samples", flush=True)  # noqa: T201
            samples += [HarmSample(*parts) for parts in stored[: len(numbers)]]
    return samples

"""Train twelve tools like those of RL-Restore, in the paper's architecture or in a compact one of ours."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save
from torch import Tensor, nn

from conservator.degradations import Degradation, GaussianBlur, GaussianNoise, JpegCompression
from conservator.degradations.noise import draw_seed
from conservator.evaluation.patches import BANDS
from conservator.files import replacing
from conservator.tools.rl_restore import rl_restore_specs
from conservator.tools.rl_restore_own import Architecture, own_network
from conservator.training.crops import Damage, Lesson, Photos
from conservator.training.tools import Budget, Trained, train_expert

_SLIGHT_NOISE, _SLIGHT_JPEG = 5.0, 80
"""Added to all tool data, for in a toolchain no tool meets its damage alone: sigma up to this (of 255), quality from
this on. The paper does not say how slight; these are a reimplementer's."""
_SIDE, _BATCH = 64, 32


@dataclass(frozen=True)
class Order:
    """What to train, on what, and where it goes."""

    photos: Path
    output: Path
    """Folder of checkpoints, one subfolder per tool."""
    architecture: Architecture = "paper"
    steps: int = 4000
    """Per tool; the paper's are 320,000 of 64 crops by SGD, which takes days on a CPU."""
    rate: float = 1e-3
    others: float = 1.0
    """How slight the added noise and JPEG are: 1 as above, 4 up to sigma 20 and down to quality 20."""
    only: tuple[str, ...] = ()
    """Names of the tools to train now; all when empty."""
    seed: int = 0
    workers: int = 1
    device: str = "cpu"


def band_damage(kind: str, band: int, others: float = 1.0) -> Damage:
    """The damage of one tool's crops: its own, from its range, with slight noise and JPEG besides.

    ``kind`` is a key of BANDS, ``band`` 0 to 3. Blur, then noise, then JPEG, as in the agent's patches.
    """
    low, high = BANDS[kind][band]
    worst = max(10, round(100 - others * (100 - _SLIGHT_JPEG)))

    def damage(rng: np.random.Generator) -> Lesson:
        amount = float(rng.uniform(low, high))
        noise = amount if kind == "noise" else float(rng.uniform(0, others * _SLIGHT_NOISE))
        quality = round(amount) if kind == "jpeg" else int(rng.integers(worst, 100, endpoint=True))
        recipe: list[Degradation] = [GaussianBlur(amount)] if kind == "blur" else []
        recipe += [GaussianNoise(noise / 255, draw_seed(rng)), JpegCompression(quality)]
        return Lesson(tuple(recipe))

    return damage


def train_tools(order: Order, report: Callable[[str], None] = print) -> tuple[dict[str, Tensor], dict[str, float]]:
    """Train the tools one after another and return their tensors, and their PSNR before and after in dB.

    Resumes where an earlier run with the same folder and settings stopped; a tool that is done is not trained again.
    Raises ConservatorError for a folder of photos or a checkpoint that will not do.
    """
    torch.set_flush_denormal(True)
    photos = Photos(order.photos)
    tensors: dict[str, Tensor] = {}
    scores: dict[str, float] = {}
    for index, spec in enumerate(rl_restore_specs()):
        if order.only and spec.name not in order.only:
            continue
        trained = _train_one(order, index, spec.name, photos, report)
        tensors |= named(spec.name, trained.network)
        scores |= {f"{spec.name}_in": trained.psnr_in, f"{spec.name}_out": trained.psnr_out}
        report(f"{spec.name}: {trained.psnr_in:.2f} -> {trained.psnr_out:.2f} dB in {trained.minutes:.1f} minutes")
    return tensors, scores


def _train_one(order: Order, index: int, name: str, photos: Photos, report: Callable[[str], None]) -> Trained:
    kind, band = list(BANDS)[index // 4], index % 4
    torch.manual_seed(order.seed + index)
    network = own_network(order.architecture, index)()
    if order.architecture == "paper":
        _start_near_identity(network)
    budget = Budget(
        steps=order.steps, rate=order.rate, side=_SIDE, batch=_BATCH, seed=order.seed, workers=order.workers
    )
    return train_expert(
        network,
        band_damage(kind, band, order.others),
        photos,
        order.output / name,
        budget,
        device=order.device,
        identity={"tool": name, "architecture": order.architecture, "others": str(order.others)},
        report=report,
    )


def _start_near_identity(network: nn.Module) -> None:
    """Make the learned residual small at first; torch's own initialisation starts 20 dB below the input."""
    last = network.get_submodule("conv3")
    assert isinstance(last, nn.Conv2d)
    nn.init.zeros_(last.weight)
    if last.bias is not None:
        nn.init.zeros_(last.bias)


def named(tool: str, network: nn.Module) -> dict[str, Tensor]:
    """The tensors of one tool as a toolbox's file holds them, in half precision."""
    return {f"{tool}.{k}": v.detach().cpu().half().contiguous() for k, v in network.state_dict().items()}


def write_tools(path: Path, tensors: Mapping[str, Tensor], architecture: str) -> Path:
    """Write a file that the toolbox ``rl-restore:FILE`` reads, whole or not at all; return its path."""
    path.parent.mkdir(parents=True, exist_ok=True)
    data = save(dict(tensors), {"architecture": architecture})
    with replacing(path) as file:
        file.write(data)
    return path

"""Train twelve tools like those of RL-Restore, in the paper's architecture or in a compact one of ours.

Or one plain network for all damage, which any toolbox has to beat.
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors.torch import save
from torch import Tensor, nn

from conservator.degradations.patches import DAMAGE_BANDS, DrawRecipe
from conservator.files import replacing
from conservator.tools.rl_restore import strength
from conservator.tools.rl_restore_own import Architecture, own_network, own_specs
from conservator.training.data.crops import Photos
from conservator.training.data.patches import PatchBatches, PatchSource, patch_photos
from conservator.training.data.recipes import band_damage, mixture
from conservator.training.experts.train import Budget, Trained, never, train_network
from conservator.training.run import Belongs

_SIDE, _BATCH, _HELD_OUT = 64, 16, 128
_COMMON = "mixed"
"""Damage that tools of one size have in common. Among patches that need nothing, too, a small network stays what it is
at first, the identity, for thousands of steps: leaving those alone is worth more than all it can gain."""


@dataclass(frozen=True)
class RestoreToolsOrder:
    """What to train, on what, and where it goes."""

    photos: Path
    output: Path
    """Folder of checkpoints, one subfolder per network."""
    architecture: Architecture = "paper"
    base: int = 2000
    """Steps on mixtures of damage that every tool of one size begins with, done once per size; 0 for none."""
    steps: int = 1200
    """Per tool, after that; the paper's are 320,000 of 64 crops by SGD, which takes days on a CPU."""
    rate: float = 1e-3
    others: float = 4.0
    """How slight the noise and JPEG are that are added: 1 is up to sigma 5 and down to quality 80, 4 up to sigma 20 and
    down to quality 20."""
    seed: int = 0
    workers: int = 1
    device: str = "cpu"


TOOLBOX_NAMES: Mapping[str, str] = {
    "paper": "rl_restore",
    "compact": "rl_restore_compact",
    "plain": "rl_restore_plain",
}
"""What the weights of an architecture are called."""
_BASES = "base_weak", "base_strong"


def networks_of(order: RestoreToolsOrder) -> dict[str, int]:
    """The subfolders of an order's networks, and the steps that each is trained for."""
    specs = own_specs(order.architecture)
    sizes = {strength(index) for index in range(len(specs))}
    bases = {_BASES[size]: order.base for size in sorted(sizes)} if order.base else {}
    return {**bases, **{spec.name: order.steps for spec in specs}}


def train_tools(
    order: RestoreToolsOrder, report: Callable[[str], None] = print, stop: Callable[[], bool] = never
) -> tuple[dict[str, Tensor], dict[str, float]] | None:
    """Train the tools one after another and return their tensors, and their PSNR before and after in dB.

    Resumes where an earlier run with the same folder and settings stopped; a tool that is done is not trained again.
    None where ``stop`` ended it, which is asked before each step. Raises ConservatorError for a folder of photos or a
    checkpoint that will not do.
    """
    torch.set_flush_denormal(True)
    photos = patch_photos(order.photos)
    tensors: dict[str, Tensor] = {}
    scores: dict[str, float] = {}
    bases: dict[int, Mapping[str, Tensor]] = {}
    for index, spec in enumerate(own_specs(order.architecture)):
        torch.manual_seed(order.seed + index)
        network, size = own_network(order.architecture, index)(), strength(index)
        if order.architecture == "paper":
            _start_near_identity(network)
        if order.base:
            if size not in bases:
                trained = _train(order, network, _BASES[size], mixture(_COMMON), photos, report, stop)
                if trained is None:
                    return None
                bases[size] = trained.network.state_dict()
            network.load_state_dict(bases[size])
        kind, band = list(DAMAGE_BANDS)[index // 4], index % 4
        draw = mixture(_COMMON) if order.architecture == "plain" else band_damage(kind, band, order.others)
        trained = _train(order, network, spec.name, draw, photos, report, stop)
        if trained is None:
            return None
        tensors |= named(spec.name, trained.network)
        scores |= {f"{spec.name}_in": trained.psnr_in, f"{spec.name}_out": trained.psnr_out}
    return tensors, scores


def _train(
    order: RestoreToolsOrder,
    network: nn.Module,
    name: str,
    draw: DrawRecipe,
    photos: Photos,
    report: Callable[[str], None],
    stop: Callable[[], bool],
) -> Trained | None:
    base = name in _BASES
    steps = order.base if base else order.steps
    identity = {"tool": name, "architecture": order.architecture, "photos": photos.digest, "base": str(order.base)}
    identity |= {} if base else {"others": str(order.others)}
    held_out = PatchBatches(PatchSource(photos.held_out, draw, _SIDE), _HELD_OUT, order.seed)
    trained = train_network(
        network,
        PatchBatches(PatchSource(photos.training, draw, _SIDE), _BATCH, order.seed + zlib.crc32(name.encode())),
        held_out[0],
        order.output / name,
        Budget(steps=steps, rate=order.rate, side=_SIDE, batch=_BATCH, seed=order.seed, workers=order.workers),
        device=order.device,
        belongs=Belongs(identity),
        stop=stop,
        report=report,
    )
    if trained.steps < steps:
        return None
    report(f"{name}: {trained.psnr_in:.2f} -> {trained.psnr_out:.2f} dB in {trained.minutes:.1f} minutes")
    return trained


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

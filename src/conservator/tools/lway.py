"""LWay: an upscaler adapted to the photo that it enlarges (Chen et al., "Low-Res Leads the Way", CVPR 2024).

What the upscaler made of a photo, degraded again as the photo was, must give the photo back. The network that degrades
is trained once (networks/lway.py) and stays as it is; a copy of the upscaler is trained on patches of the photo.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np
import torch
from torch import Tensor, nn

from conservator.adapting import Manner
from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.networks.lway import DegradationTransfer
from conservator.networks.store import NetworkStore
from conservator.pool import tell
from conservator.tools.degraded import (
    EDGE,
    SHIPPED_TRANSFER,
    Degraded,
    PhotoPatches,
    load_transfer,
    look_at,
    shows_too_little,
)
from conservator.tools.experts import EXPERTS, WeightsSource
from conservator.tools.tool import Tool, Toolbox, ToolSpec

_BATCH = 8
"""Patches of an iteration."""
_LOOK, _STALLED = 5, 0.02
"""After so many iterations the error of the held-out patches is measured again. Where it fell by less than this share
of what it fell before, it stalls."""
_WON = 0.95
"""Share of the error at first that must not be exceeded in the end; otherwise nothing was won, and nothing changes.

Noise is in both: of a noisy photo more than a twentieth of what can be won must be won."""


class Enlarger(Protocol):
    """A tool that enlarges by a network which can be trained further."""

    @property
    def spec(self) -> ToolSpec:
        """The tool's spec; its ``scale`` is 2 or more."""

    @property
    def weights_sha256(self) -> str:
        """Hash of the network's weights."""

    def network(self, networks: NetworkStore, device: str) -> nn.Module:
        """Its bare network on a torch device, float32: maps images (B, 3, H, W) to larger ones; it does not clip."""


_USUAL = Manner()


@dataclass(frozen=True)
class Adapted:
    """What adapting came to."""

    network: nn.Module
    """The network adapted, or the one that was given where nothing was won."""
    iterations: int
    before: float
    """Mean square error of the held-out patches made again by the network as it was given: weighted, levels squared.

    Noise is in it, before and after alike.
    """
    after: float
    """The same by the network adapted, at its best."""

    @property
    def won(self) -> bool:
        """Whether the network adapted is the better one by that error."""
        return self.after <= _WON * self.before


def adapt(
    network: nn.Module,
    scale: int,
    degraded: Sequence[Degraded],
    transfer: DegradationTransfer,
    manner: Manner,
    seed: int = 0,
    progress: Callable[[int], None] = lambda iteration: None,
) -> Adapted:
    """Train a copy of an upscaler on patches of photos until those held out say that no more is to be had.

    A noisy photo is both what goes in and what must come out, so a network would learn to keep its noise. Therefore
    noise z of the deviation that was estimated is added to the patch that goes in, and subtracted from the one that
    must come out: their errors are then independent (Pang et al., "Recorrupted-to-Recorrupted", CVPR 2021).
    """
    rng, generator = np.random.default_rng(seed), torch.Generator().manual_seed(seed)
    chosen = [PhotoPatches.of(photo, network, manner.flat, rng) for photo in degraded]
    training, held_out = (PhotoPatches.together([pair[i] for pair in chosen]) for i in range(2))
    adapted = copy.deepcopy(network).train().requires_grad_(True)
    optimizer = torch.optim.Adam(adapted.parameters(), lr=manner.rate)

    def again(patches: PhotoPatches, drawn: torch.Generator) -> tuple[Tensor, Tensor]:
        """Patches enlarged, and how far each pixel, made again of them, is from what it should be."""
        z = patches.noise * torch.randn(patches.photo.shape, generator=drawn).to(patches.photo)
        with torch.autocast(patches.photo.device.type, torch.bfloat16, enabled=_fast_in_half()):
            enlarged = adapted(patches.photo + z)
        enlarged = enlarged.float()
        missed = transfer.reconstructor(enlarged, patches.code, scale, manner.share(scale)) - (patches.photo - z)
        return enlarged, missed[..., EDGE:-EDGE, EDGE:-EDGE]

    def held_out_error() -> float:
        with torch.no_grad():
            _, missed = again(held_out, torch.Generator().manual_seed(seed))
            return 255**2 * float((held_out.weights * missed.square()).mean())

    before = best = held_out_error()
    kept, stalled, done = copy.deepcopy(adapted.state_dict()), 0, 0
    while done < manner.iterations and stalled < manner.patience:
        few = training.few(rng.choice(len(training.photo), min(_BATCH, len(training.photo)), replace=False))
        enlarged, missed = again(few, generator)
        loss = (few.weights * missed.abs()).mean() + manner.anchor * (enlarged - few.first).abs().mean()
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        done += 1
        progress(done)
        if done % _LOOK == 0 or done == manner.iterations:
            now = held_out_error()
            stalled = stalled + 1 if best - now < _STALLED * (before - best) else 0
            if now < best:
                best, kept = now, copy.deepcopy(adapted.state_dict())
    adapted.load_state_dict(kept)
    result = Adapted(adapted.eval().requires_grad_(False), done, before, best)
    return result if result.won else replace(result, network=network)


def _fast_in_half() -> bool:
    """Whether this machine multiplies bfloat16 faster than float32; others imitate it, and take longer."""
    can = torch.cpu.get_capabilities() if hasattr(torch.cpu, "get_capabilities") else {}  # torch 2.13
    return bool(can.get("avx512_bf16") or can.get("amx_bf16"))


class AdaptedTool(Tool):
    """A tool that enlarges, its network adapted to each photo; the network that was given stays as it is."""

    def __init__(
        self,
        tool: Enlarger,
        manner: Manner = _USUAL,
        weights: WeightsSource = SHIPPED_TRANSFER,
        networks: NetworkStore | None = None,
    ) -> None:
        """``weights`` are those of a DegradationTransfer; ``networks`` is where it takes its networks from."""
        if tool.spec.scale < 2:
            raise ConservatorError(f"{tool.spec.name} does not enlarge; only what enlarges can be adapted by LWay")
        self.spec = replace(
            tool.spec,
            name=f"{tool.spec.name}_adapted",
            description=f"{tool.spec.description.removesuffix('.')}, adapted to each photo by LWay.",
            cost=float(manner.iterations),
        )
        self._tool, self._manner, self._weights, self._networks = tool, manner, weights, networks
        self._network: nn.Module | None = None
        self._transfer: DegradationTransfer | None = None

    @property
    def weights_sha256(self) -> str:
        """Of both networks: what it makes depends on the transfer, too."""
        hashes = self._tool.weights_sha256, self._weights.sha256
        return hashlib.sha256(" ".join(hashes).encode()).hexdigest() if all(hashes) else ""

    @property
    def identity(self) -> str:
        known = super().identity
        return f"{known} {self._manner!r}" if known else ""

    def sharing(self, networks: NetworkStore) -> AdaptedTool:
        """The same tool, not set up, that takes its networks from a store."""
        return AdaptedTool(self._tool, self._manner, self._weights, networks)

    def in_manner(self, manner: Manner) -> AdaptedTool:
        """The same tool, not set up, that adapts in another manner."""
        return AdaptedTool(self._tool, manner, self._weights, self._networks)

    def bounded(self, iterations: int) -> AdaptedTool:
        """The same tool, not set up, with other iterations at most."""
        return self.in_manner(replace(self._manner, iterations=iterations))

    def setup(self, device: str) -> None:
        """Load both networks."""
        networks = self._networks or NetworkStore()
        self._network, self._transfer = (
            self._tool.network(networks, device),
            load_transfer(networks, device, self._weights),
        )

    def fitted(self, image: Image) -> Tool:
        """Adapt to a photo; tells how many iterations, the errors before and after, the blur and noise, the seconds."""
        return self.fitted_to([image])

    def fitted_to(self, images: Sequence[Image]) -> Tool:
        """The same, adapted to photos that were degraded alike."""
        if self._network is None or self._transfer is None:
            raise ConservatorError(f"tool {self.spec.name} has no weights yet; call setup(device) first")
        start, network = time.perf_counter(), self._network
        device = next(network.parameters()).device
        with torch.inference_mode(False):
            photos = [image.to(device).clone() for image in images if not shows_too_little(image)]
            degraded = [look_at(photo, self._transfer) for photo in photos]
            fitting = [one for one in degraded if not one.left_alone]
            of = self._manner.iterations if fitting else 0
            tell(iteration=0, of=of, **_mean_of(degraded))
            if of:
                with torch.enable_grad():
                    adapted = adapt(
                        *(network, self.spec.scale, fitting, self._transfer, self._manner),
                        progress=lambda i: tell(iteration=i),
                    )
                network = adapted.network
                tell(squared_error_before=adapted.before, squared_error_after=adapted.after, won=float(adapted.won))
        tell(seconds=time.perf_counter() - start)
        return _Enlarging(self.spec, network)

    def restore(self, image: Image) -> Image:
        raise ConservatorError(f"{self.spec.name} adapts to a whole photo; call the tool, or fitted(photo) first")


def _mean_of(degraded: Sequence[Degraded]) -> dict[str, float]:
    """What is told of photos: their blur in pixels, their noise in levels of 255, how much of them repeats."""
    if not degraded:
        return {}
    return {
        "blur_in_pixels": float(np.mean([one.blur for one in degraded])),
        "noise_in_levels": 255 * float(np.mean([float(one.noise.mean()) for one in degraded])),
        "pattern": float(np.mean([one.pattern for one in degraded])),
    }


class _Enlarging(Tool):
    """An upscaler as it runs on one photo."""

    def __init__(self, spec: ToolSpec, network: nn.Module) -> None:
        self.spec, self._network = spec, network

    def restore(self, image: Image) -> Image:
        image = image.to(next(self._network.parameters()).device, memory_format=torch.channels_last)
        return torch.cat([self._network(item) for item in image.split(1)]).contiguous()


def adapted_tools() -> tuple[AdaptedTool, ...]:
    """The upscalers that ship, adapted to each photo."""
    return tuple(AdaptedTool(tool) for tool in EXPERTS if tool.spec.scale > 1)


def bounded(tools: Toolbox, iterations: int | None) -> Toolbox:
    """The same tools, those that adapt themselves in so many iterations at most; without a number as they are."""
    if iterations is None:
        return tools
    bound = {name: tool.bounded(iterations) for name, tool in adapting(tools).items()}
    return Toolbox(*(bound.get(name, tool) for name, tool in tools.items()))


def adapting(tools: Toolbox) -> dict[str, AdaptedTool]:
    """The tools that adapt themselves, by name."""
    return {name: tool for name, tool in tools.items() if isinstance(tool, AdaptedTool)}

"""LWay: an upscaler adapted to the photo that it enlarges (Chen et al., "Low-Res Leads the Way", CVPR 2024).

What the upscaler made of a photo, degraded again as the photo was, must give the photo back. The network that degrades
is trained once (networks/lway.py) and stays as it is; a copy of the upscaler is trained on patches of the photo.
"""

from __future__ import annotations

import copy
import hashlib
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from typing import Protocol, TypeAlias, cast

import numpy as np
import pywt
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from conservator.adapting import Manner
from conservator.errors import ConservatorError
from conservator.image import Image, luma
from conservator.networks.lway import DegradationTransfer
from conservator.networks.store import NetworkStore
from conservator.pool import tell
from conservator.tools.experts import EXPERTS, Shipped, WeightsSource
from conservator.tools.tool import Tool, Toolbox, ToolSpec

_SIDE, _EDGE = 48, 6
"""Pixels of a patch, and of its margin that does not count, because more than the patch would be needed to know it."""
SMALLEST = 64
"""Pixels of the shorter side of a photo that can be adapted to: room for a patch, and for one that is held out."""
_BATCH = 8
_PATCHES, _HELD_OUT = 64, 8
"""Patches of a photo that are learned from, and those that only say when to stop."""
_LARGEST = 2_000_000
"""Pixels; of a larger photo only the most telling patches may be chosen."""
_SHARP = 0.2
"""Pixels of the photo; where the blur before the reduction is estimated to be less, there is nothing to adapt to."""
_SEEN = 4 / 255
"""Of the detail bands: two levels between neighbours. Where nothing in a photo is more, it shows no blur."""
_SILENT = 1 / 255
"""Deviation below which noise is taken for none: rounding to 8 bits is a third of it."""
_LOOK, _STALLED = 5, 0.02
"""After so many iterations the held-out patches are looked at, and whether their error fell by more than this share of
what it fell before."""
_WON = 0.95
"""Share of the error at first that must not be exceeded in the end; otherwise nothing was won, and nothing changes."""


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


def detail(photo: Image) -> Tensor:
    """How much a photo (1, 3, H, W) shows at each place, 0 to 1: (1, 1, H, W).

    The norm of the three detail bands of a Haar transform of the luminance, as the authors of LWay have it; enlarged
    bilinearly, divided by its 99th percentile and clipped, which is ours.
    """
    strength = F.interpolate(_strength(photo), photo.shape[-2:], mode="bilinear", align_corners=False)
    most = max(1e-4, float(np.quantile(strength.numpy(), 0.99)))
    return (strength / most).clamp(0, 1).to(photo.device)


def _strength(photo: Image) -> Tensor:
    _, bands = pywt.dwt2(luma(photo)[0, 0].cpu().numpy(), "haar")
    return torch.from_numpy(np.sqrt(sum(band.astype(np.float32) ** 2 for band in bands)))[None, None]


_SHIPPED = Shipped("lway")
_USUAL = Manner()


def load_transfer(networks: NetworkStore, device: str, weights: WeightsSource = _SHIPPED) -> DegradationTransfer:
    """The degradation transfer on a torch device, from a store."""
    return cast("DegradationTransfer", networks.load("lway", weights.sha256, weights.tensors, device))


@dataclass(frozen=True)
class Degraded:
    """A photo, and what the encoder says of it."""

    photo: Image
    code: Tensor
    blur: float
    """Deviation of the blur before the reduction, pixels of the photo; the mean of all directions."""
    noise: Tensor
    """Deviation (1, 3, 1, 1) of the noise in red, green and blue; 0 where it is negligible."""

    @property
    def worth_adapting(self) -> bool:
        """Whether there is blur, and anything that shows it."""
        return self.blur >= _SHARP and _strength(self.photo).amax().item() >= _SEEN


def look_at(photo: Image, transfer: DegradationTransfer) -> Degraded:
    """Say how a photo (1, 3, H, W) was degraded; of a large one, by its most telling parts."""
    height, width = photo.shape[-2:]
    parts = [photo]
    if height * width > _LARGEST:
        side = 512
        weights = F.avg_pool2d(detail(photo), side)
        best = weights.flatten().argsort(descending=True, stable=True)[: _LARGEST // side**2]
        corners = [divmod(int(i), weights.shape[-1]) for i in best]
        parts = [photo[..., side * y : side * (y + 1), side * x : side * (x + 1)] for y, x in corners]
    with torch.no_grad():
        code = torch.stack([transfer.encoder(part) for part in parts]).mean(0)
        a, b, c = (float(number) for number in transfer.reconstructor.spread(code)[0])
        noise = transfer.reconstructor.deviation(code).clamp(min=0)[..., None, None]
    blur = ((a * a + b * b) / 2 + c * c) ** 0.5
    return Degraded(photo, code, blur, torch.where(noise < _SILENT, torch.zeros_like(noise), noise))


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
    chosen = [_Patches.of(photo, network, manner.flat, rng) for photo in degraded]
    training, held_out = (_Patches.together([pair[i] for pair in chosen]) for i in range(2))
    adapted = copy.deepcopy(network).train().requires_grad_(True)
    optimizer = torch.optim.Adam(adapted.parameters(), lr=manner.rate)

    def again(patches: _Patches, drawn: torch.Generator) -> tuple[Tensor, Tensor]:
        """Patches enlarged, and how far each pixel, made again of them, is from what it should be."""
        z = patches.noise * torch.randn(patches.photo.shape, generator=drawn).to(patches.photo)
        with torch.autocast(patches.photo.device.type, torch.bfloat16, enabled=_fast_in_half()):
            enlarged = adapted(patches.photo + z)
        enlarged = enlarged.float()
        missed = transfer.reconstructor(enlarged, patches.code, scale, manner.trust) - (patches.photo - z)
        return enlarged, missed[..., _EDGE:-_EDGE, _EDGE:-_EDGE]

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


_Corners: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class _Patches:
    """Patches (N, 3, S, S) of photos, with all that their error depends on."""

    photo: Image
    weights: Tensor
    """Of the pixels whose error counts."""
    code: Tensor
    noise: Tensor
    first: Image
    """What the network as it was given makes of each."""

    @classmethod
    def of(
        cls, degraded: Degraded, network: nn.Module, flat: float, rng: np.random.Generator
    ) -> tuple[_Patches, _Patches]:
        """Those of one photo to learn from, and those that are held out; the more a place shows, the likelier."""
        photo, weights = degraded.photo, flat + (1 - flat) * detail(degraded.photo)
        side = min(_SIDE, *photo.shape[-2:])
        corners, chances = _corners(weights, side)
        held_out = _draw(corners, chances, _HELD_OUT, rng)
        apart = (np.abs(corners[:, None] - held_out[None]).max(2) >= side).all(1)
        if apart.sum() >= len(held_out):  # otherwise the photo is too small to hold a part of it out
            corners, chances = corners[apart], chances[apart]
        parts = []
        for places in (_draw(corners, chances, _PATCHES, rng), held_out):
            cut = [(..., slice(y, y + side), slice(x, x + side)) for y, x in places.tolist()]
            patches = torch.cat([photo[place] for place in cut])
            with torch.no_grad():
                first = torch.cat([network(few) for few in patches.split(_BATCH)])
            code, noise = (x.expand(len(cut), *x.shape[1:]) for x in (degraded.code, degraded.noise))
            counts = torch.cat([weights[place] for place in cut])[..., _EDGE:-_EDGE, _EDGE:-_EDGE]
            parts.append(cls(patches, counts, code, noise, first))
        return parts[0], parts[1]

    @classmethod
    def together(cls, parts: Sequence[_Patches]) -> _Patches:
        """Those of several photos, as large as the smallest of them."""
        side = min(part.photo.shape[-1] for part in parts)
        scale = parts[0].first.shape[-1] // parts[0].photo.shape[-1]
        sizes = {"photo": side, "weights": side - 2 * _EDGE, "first": scale * side}
        cut = {name: torch.cat([getattr(p, name)[..., :n, :n] for p in parts]) for name, n in sizes.items()}
        told = {name: torch.cat([getattr(p, name) for p in parts]) for name in ("code", "noise")}
        return cls(**cut, **told)

    def few(self, numbers: NDArray[np.int64]) -> _Patches:
        """Some of them."""
        index = torch.from_numpy(numbers).to(self.photo.device)
        return _Patches(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


def _corners(weights: Tensor, side: int) -> tuple[_Corners, NDArray[np.float64]]:
    """Corners (N, 2) of patches that half overlap, and how much each shows; of a large photo only the best."""
    step = max(1, side // 2)
    mean = F.avg_pool2d(weights, side, step)[0, 0].cpu().numpy()
    corners = step * np.stack(np.meshgrid(*map(np.arange, mean.shape), indexing="ij"), -1).reshape(-1, 2)
    chances = mean.reshape(-1).astype(np.float64)
    most = _LARGEST // step**2
    best = np.argsort(-chances, kind="stable")[:most]
    return corners[best], chances[best]


def _draw(corners: _Corners, chances: NDArray[np.float64], count: int, rng: np.random.Generator) -> _Corners:
    count = min(count, len(corners))
    return corners[rng.choice(len(corners), count, replace=False, p=chances / chances.sum())]


class AdaptedTool(Tool):
    """A tool that enlarges, its network adapted to each photo; the network that was given stays as it is."""

    def __init__(
        self,
        tool: Enlarger,
        manner: Manner = _USUAL,
        weights: WeightsSource = _SHIPPED,
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
            photos = [image.to(device).clone() for image in images if min(image.shape[-2:]) >= SMALLEST]
            degraded = [look_at(photo, self._transfer) for photo in photos]
            worth = [photo for photo in degraded if photo.worth_adapting]
            of = self._manner.iterations if worth else 0
            tell(iteration=0, of=of, **_mean_of(degraded))
            if of:
                with torch.enable_grad():
                    adapted = adapt(
                        *(network, self.spec.scale, worth, self._transfer, self._manner),
                        progress=lambda i: tell(iteration=i),
                    )
                network = adapted.network
                tell(error_before=adapted.before, error_after=adapted.after, won=float(adapted.won))
        tell(seconds=time.perf_counter() - start)
        return _Enlarging(self.spec, network)

    def restore(self, image: Image) -> Image:
        raise ConservatorError(f"{self.spec.name} adapts to a whole photo; call the tool, or fitted(photo) first")


def _mean_of(degraded: Sequence[Degraded]) -> dict[str, float]:
    """What is told of photos: the blur in pixels, the noise in levels of 255."""
    if not degraded:
        return {}
    return {
        "blur": float(np.mean([one.blur for one in degraded])),
        "noise": 255 * float(np.mean([float(one.noise.mean()) for one in degraded])),
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

"""How a photo was degraded, as LWay's encoder says, and patches of it that tell most (Chen et al., CVPR 2024)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import TypeAlias, cast

import numpy as np
import pywt
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from conservator.image import Image, luma
from conservator.networks.lway import DegradationTransfer
from conservator.networks.store import NetworkStore
from conservator.tools.experts import Shipped, WeightsSource
from conservator.tools.periodic import periodicity

_SIDE = 48
"""Pixels of a patch."""
EDGE = 6
"""Pixels of its margin that does not count, because more than the patch would be needed to know it."""
_SMALLEST = 64
"""Pixels of the shorter side of a photo that can be adapted to. Of less, a patch would be nearly all."""
_FEW = 8
"""Patches that a network takes at once."""
_PATCHES, _HELD_OUT = 64, 8
"""Patches of a photo that are learned from, and those that only say when to stop."""
_LARGEST = 2_000_000
"""Pixels; of a larger photo only the most telling patches may be chosen."""
_SHARP = 0.2
"""Pixels of the photo; where the blur before the reduction is estimated to be less, there is nothing to adapt to."""
_SEEN = 4 / 255
"""Of the detail bands: two levels between neighbours. Where nothing in a photo is more, it shows no blur."""
_PATTERN = 0.5
"""Periodicity beyond which blur and noise are not believed: sharp stripes were told to be blurred by 0.7 pixels, and
lost 6 dB by it, while held-out patches agreed, which show the same. Photos have 0.45 at most."""
_SILENT = 1 / 255
"""Deviation below which noise is taken for none: rounding to 8 bits is a third of it."""


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


SHIPPED_TRANSFER = Shipped("lway")
"""The weights of the degradation transfer."""


def load_transfer(
    networks: NetworkStore, device: str, weights: WeightsSource = SHIPPED_TRANSFER
) -> DegradationTransfer:
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
    pattern: float
    """How much of it repeats (periodicity)."""

    @property
    def left_alone(self) -> str:
        """Why the photo is not adapted to; "" where it is."""
        if self.blur < _SHARP:
            return "it is sharp"
        return "it is a pattern that repeats, of which blur cannot be told" if self.pattern > _PATTERN else ""


def shows_too_little(photo: Image) -> str:
    """Why nothing can be said of a photo (1, 3, H, W); "" where something can."""
    if min(photo.shape[-2:]) < _SMALLEST:
        return f"it has fewer than {_SMALLEST} pixels a side"
    return "it is flat" if float(_strength(photo).amax()) < _SEEN else ""


def look_at(photo: Image, transfer: DegradationTransfer) -> Degraded:
    """Say how a photo (1, 3, H, W) was degraded that does not show too little; of a large one, by its telling parts."""
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
    places = _draw(*_corners(detail(photo) + 1e-3), _PATCHES, np.random.default_rng(0))
    pattern = periodicity(_cut(photo, places))
    return Degraded(photo, code, blur, torch.where(noise < _SILENT, torch.zeros_like(noise), noise), pattern)


_Corners: TypeAlias = NDArray[np.int64]


@dataclass(frozen=True)
class PhotoPatches:
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
    ) -> tuple[PhotoPatches, PhotoPatches]:
        """Those of one photo to learn from, and those that are held out; the more a place shows, the likelier.

        ``flat`` is the weight of the flattest places. A photo too small to hold parts of it out holds none out.
        """
        photo, weights = degraded.photo, flat + (1 - flat) * detail(degraded.photo)
        corners, chances = _corners(weights)
        held_out = _draw(corners, chances, _HELD_OUT, rng)
        apart = (np.abs(corners[:, None] - held_out[None]).max(2) >= _SIDE).all(1)
        if apart.sum() >= len(held_out):
            corners, chances = corners[apart], chances[apart]
        parts = []
        for places in (_draw(corners, chances, _PATCHES, rng), held_out):
            patches = _cut(photo, places)
            with torch.no_grad():
                first = torch.cat([network(few) for few in patches.split(_FEW)])
            code, noise = (x.expand(len(patches), *x.shape[1:]) for x in (degraded.code, degraded.noise))
            parts.append(cls(patches, _cut(weights, places)[..., EDGE:-EDGE, EDGE:-EDGE], code, noise, first))
        return parts[0], parts[1]

    @classmethod
    def together(cls, parts: Sequence[PhotoPatches]) -> PhotoPatches:
        """Those of several photos."""
        return cls(*(torch.cat([getattr(part, field.name) for part in parts]) for field in fields(cls)))

    def few(self, numbers: NDArray[np.int64]) -> PhotoPatches:
        """Some of them."""
        index = torch.from_numpy(numbers).to(self.photo.device)
        return PhotoPatches(**{field.name: getattr(self, field.name)[index] for field in fields(self)})


def _cut(image: Tensor, places: _Corners) -> Tensor:
    return torch.cat([image[..., y : y + _SIDE, x : x + _SIDE] for y, x in places.tolist()])


def _corners(weights: Tensor) -> tuple[_Corners, NDArray[np.float64]]:
    """Corners (N, 2) of patches that half overlap, and how much each shows; of a large photo only the best."""
    step = _SIDE // 2
    mean = F.avg_pool2d(weights, _SIDE, step)[0, 0].cpu().numpy()
    corners = step * np.stack(np.meshgrid(*map(np.arange, mean.shape), indexing="ij"), -1).reshape(-1, 2)
    chances = mean.reshape(-1).astype(np.float64)
    most = _LARGEST // step**2
    best = np.argsort(-chances, kind="stable")[:most]
    return corners[best], chances[best]


def _draw(corners: _Corners, chances: NDArray[np.float64], count: int, rng: np.random.Generator) -> _Corners:
    count = min(count, len(corners))
    return corners[rng.choice(len(corners), count, replace=False, p=chances / chances.sum())]

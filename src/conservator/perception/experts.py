"""What the experts would change in a picture: the one that finds nothing to do says that its damage is absent.

Each was trained on many more pictures than perception, a good part of them without its damage. Asked on small parts
they cost little, and their answers are summed up to a few numbers.
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conservator.image import Image, luma
from conservator.networks.bilateral import BilateralNet
from conservator.networks.store import NetworkStore
from conservator.perception.features import ASKED, NATIVE, SCENE
from conservator.tools.experts import EXPERTS

SCENE_SIDE = 128
"""Pixels of the overview that experts of the scene are asked about: what they look at themselves."""
_PLACES = ("textured", "smooth")  # the first two crops of a study


class AskedExperts:
    """The networks of the experts that perception asks.

    Perception runs them bare, on pictures of the right size, and without clipping: how far an expert leaves [0, 1]
    tells something, too. They are those of the tools where both have one ``NetworkStore``.
    """

    def __init__(self, networks: NetworkStore, device: str, side: int) -> None:
        """Load them onto a torch device, those that ``networks`` does not hold yet.

        ``side`` is that of the middle of native crops, in pixels, a multiple of 16.
        """
        experts = {expert.spec.name: expert for expert in EXPERTS}
        self._networks: dict[str, nn.Module] = {name: experts[name].network(networks, device) for name in ASKED}
        self._device, self._side = device, side

    def __call__(self, image: Image) -> Tensor:
        """Ask about one image (1, 3, H, W), or about a study: (EXPERT_CHANGES,) on the CPU.

        Of a study the overview stands for the scene, its first two crops, the most textured and a smooth one, for the
        rest.
        """
        scene = _scene(image)
        crops = _middle(image[1:3] if len(image) > 2 else image[-1:].expand(2, -1, -1, -1), self._side)
        shown = {"scene": scene, **{place: crops[i : i + 1] for i, place in enumerate(_PLACES)}}
        asked = (*((name, "scene") for name in SCENE), *NATIVE)
        found = [_answer(shown[place], self._ask(name, shown[place])) for name, place in asked]
        return torch.tensor([number for answer in found for number in answer])

    def summary(self, image: Image) -> Tensor:
        """What those of SCENE know of the scene of one image, or of a study: (SCENE_SEEN,) on the CPU."""
        scene, known = _scene(image).to(self._device), []
        for name in SCENE:
            network = self._networks[name]
            assert isinstance(network, BilateralNet), "all experts of the scene are"
            known.append(network.summary(scene)[0])
        return torch.cat(known).cpu()

    def _ask(self, name: str, picture: Image) -> Image:
        answer: Image = self._networks[name](picture.to(self._device))
        return answer.cpu()


def _answer(before: Image, after: Image) -> tuple[float, float, float, float]:
    """How much changes, how much of that is one way, how large the largest changes are, how much beside the texture."""
    y = luma(after) - luma(before)
    size = float(y.pow(2).mean().sqrt()) + 1e-4
    texture = float((luma(before) - F.avg_pool2d(luma(before), 3, 1, 1, count_include_pad=False)).std()) + 1e-3
    largest = float(y.abs().flatten()[::4].quantile(0.99)) + 1e-4
    return math.log10(size), float(y.mean()) / size, math.log10(largest / size), math.log10(size / texture)


def _scene(image: Image) -> Image:
    """One image, or the overview of a study, as the experts of the scene see it."""
    return F.interpolate(image[:1], (SCENE_SIDE, SCENE_SIDE), mode="bilinear", antialias=True)


def _middle(crops: Image, side: int) -> Image:
    """The middle of each crop, its sides multiples of 16, ``side`` at most."""
    height, width = crops.shape[-2:]
    crops = F.pad(crops, (0, max(0, 16 - width), 0, max(0, 16 - height)), mode="replicate")
    h, w = (min(side, length // 16 * 16) for length in crops.shape[-2:])
    top, left = (crops.shape[-2] - h) // 2, (crops.shape[-1] - w) // 2
    return crops[..., top : top + h, left : left + w].contiguous(memory_format=torch.channels_last)

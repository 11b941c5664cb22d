"""What the experts would change in a picture: the one that finds nothing to do says that its damage is absent.

Each was trained on many more pictures than an eye, a good part of them without its damage. Asked on small parts they
cost little, and their answers are summed up to a few numbers.
"""

from __future__ import annotations

import math
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conservator.image import Image, luma
from conservator.networks import make_network
from conservator.weights import load_weights

SCENE = ("brighten_mild", "brighten_dark", "dehaze")
"""The experts that are asked about the whole scene."""
NATIVE = (("derain", 0), ("derain", 1), ("deblur_defocus", 0))
"""Those that are asked about a native crop, and which: the most textured, or a smooth one."""
ASKED = tuple(dict.fromkeys((*SCENE, *(name for name, _ in NATIVE))))
"""All of them; an eye must be trained again when one of them is."""
_SCENE_SIDE, _NATIVE_SIDE = 128, 160  # pixels
_ANSWER = 4
OPINIONS = _ANSWER * (len(SCENE) + len(NATIVE))
"""Numbers per picture."""


def opinions(image: Image) -> Tensor:
    """Ask the experts about one image (1, 3, H, W), or about a study: (OPINIONS,).

    Of a study the overview stands for the scene, its first two crops, the most textured and a smooth one, for the rest.
    """
    scene = F.interpolate(image[:1], (_SCENE_SIDE, _SCENE_SIDE), mode="bilinear", antialias=True)
    crops = _middle(image[1:3] if len(image) > 2 else image[-1:].expand(2, -1, -1, -1))
    with torch.inference_mode():
        found = [_answer(scene, _expert(name, "bilateral")(scene)) for name in SCENE]
        for name, which in NATIVE:
            crop = crops[which : which + 1]
            found.append(_answer(crop, _expert(name, "unet")(crop)))
    return torch.tensor([number for answer in found for number in answer])


def _answer(before: Image, after: Image) -> tuple[float, float, float, float]:
    """How much changes, how much of that is one way, how large the largest changes are, how much beside the texture."""
    y = luma(after) - luma(before)
    size = float(y.pow(2).mean().sqrt()) + 1e-4
    texture = float((luma(before) - F.avg_pool2d(luma(before), 3, 1, 1, count_include_pad=False)).std()) + 1e-3
    largest = float(y.abs().flatten()[::4].quantile(0.99)) + 1e-4
    return math.log10(size), float(y.mean()) / size, math.log10(largest / size), math.log10(size / texture)


def _middle(crops: Image) -> Image:
    """The middle of each crop, its sides multiples of 16."""
    height, width = crops.shape[-2:]
    crops = F.pad(crops, (0, max(0, 16 - width), 0, max(0, 16 - height)), mode="replicate")
    h, w = (min(_NATIVE_SIDE, side // 16 * 16) for side in crops.shape[-2:])
    top, left = (crops.shape[-2] - h) // 2, (crops.shape[-1] - w) // 2
    return crops[..., top : top + h, left : left + w].contiguous(memory_format=torch.channels_last)


@cache
def _expert(name: str, network: str) -> nn.Module:
    expert = make_network(network)
    expert.load_state_dict({key: value.float() for key, value in load_weights(name)[0].items()})
    return expert.eval().requires_grad_(False).to(memory_format=torch.channels_last)  # type: ignore[call-overload,no-any-return]

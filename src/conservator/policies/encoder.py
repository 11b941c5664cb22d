"""A frozen image encoder in Hugging Face format, CLIP or its like, that looks at a study. Needs the extra [mllm].

Restore-R1's own encoder is CLIP's (Radford et al., 2021). An encoder reads pictures of one size, of 224 pixels mostly.
So the overview is reduced to it, and of each native crop the middle is taken, never resized: a resized crop would show
less noise.
"""

from __future__ import annotations

import hashlib
from functools import lru_cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.extras import import_mllm
from conservator.image import Image
from conservator.policies.vision_language import normalisation_of


class ImageEncoder:
    """An encoder, and how pictures are shown to it. It learns nothing, and threads may share it."""

    def __init__(self, network: Any, side: int, mean: Tensor, deviation: Tensor, name: str) -> None:
        """``network`` maps (B, 3, side, side), less ``mean`` and by ``deviation`` (3, 1, 1), to a ``pooler_output``.

        ``name`` is what it is loaded by.
        """
        self.name, self._network, self._side = name, network, side
        self._mean, self._deviation = mean, deviation
        self.sha256 = _content(network)
        """Of its weights (hex)."""
        self.width = 2 * self._pooled(torch.zeros(1, 3, side, side)).shape[1]
        """How many features there are: those of the overview, then the mean of those of the crops."""

    def encode(self, image: Image) -> Tensor:
        """The features (width,) of a study, or of a picture that is its own: it is overview and crop at once."""
        crops = image[1:] if len(image) > 1 else image
        overview = F.interpolate(image[:1], (self._side, self._side), mode="bicubic", antialias=True).clamp(0, 1)
        found = self._pooled(torch.cat([overview, self._middle(crops)]))
        return torch.cat([found[0], found[1:].mean(0)])

    def _middle(self, crops: Image) -> Image:
        """The middle of native crops (B, 3, side, side); what is smaller is continued by its border."""
        height, width = crops.shape[-2:]
        below, right = max(0, self._side - height), max(0, self._side - width)
        padded = F.pad(crops, (0, right, 0, below), mode="replicate")
        top, left = ((n - self._side) // 2 for n in padded.shape[-2:])
        return padded[..., top : top + self._side, left : left + self._side]

    @torch.inference_mode()
    def _pooled(self, pictures: Image) -> Tensor:
        out = self._network(pixel_values=(pictures - self._mean) / self._deviation)
        found: Tensor = out.pooler_output.float()
        return found.clone()


@lru_cache(maxsize=2)
def load_encoder(name: str) -> ImageEncoder:
    """Load a folder in Hugging Face format, or a model by its id; safetensors only, and no code of it is run.

    The vision part of CLIP, SigLIP and the like is taken, or a model that is one. Raises ConservatorError when it
    is none, MissingExtraError without the extra [mllm].
    """
    transformers = import_mllm("transformers")
    try:
        config = transformers.AutoConfig.from_pretrained(name)
        whole = transformers.AutoModel.from_pretrained(name, dtype=torch.float32, use_safetensors=True)
    except (OSError, ValueError, KeyError) as error:
        reason = str(error).strip().splitlines()[0]
        raise ConservatorError(f"{name} cannot be loaded as an image encoder: {reason}") from error
    side = getattr(getattr(config, "vision_config", config), "image_size", None)
    if not isinstance(side, int):
        raise ConservatorError(
            f"{name} is a {config.model_type}, which says no size of its pictures; give a vision model such as CLIP's"
        )
    network = getattr(whole, "vision_model", whole).eval().requires_grad_(False)
    mean, deviation = (torch.tensor(values)[:, None, None] for values in normalisation_of(name))
    try:
        return ImageEncoder(network, side, mean, deviation, name)
    except (AttributeError, TypeError) as error:
        raise ConservatorError(
            f"{name} is a {config.model_type}, which pools no features of a picture ({error}); give a vision model "
            "such as CLIP's"
        ) from error


def _content(network: Any) -> str:
    found = hashlib.sha256()
    for name, value in sorted(network.state_dict().items()):
        found.update(name.encode())
        found.update(value.contiguous().numpy().data)
    return found.hexdigest()

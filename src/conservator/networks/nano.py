"""The nano planner: Qwen3-VL's architecture at 6 million parameters, for a CPU. Needs the extra [mllm].

Patches of 16 pixels, taken from native crops and never resized, go into 192 numbers each, so that noise and the 8 pixel
blocks of JPEG are still there; four make one token of the language model, and a study of five pictures 320 tokens.

A vision transformer that begins with random weights does not see noise, JPEG and blur for thousands of steps: what they
change is the energy of fine detail, far below that of light and dark. So its first layer begins as a cosine transform
whose fine frequencies are raised, and with one constant number beside them, against which every layer's normalisation
shows the energy of all the others.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from conservator.extras import import_mllm
from conservator.networks.encoder import ENCODED, CropEncoder, ReducedEncoder

PATCH, MERGE = 16, 2
_WIDTH, _LOOKS, _LAYERS, _HEAD = 192, 3, 6, 64
_GRID = 16
"""Patches a side for which positions are learned; other grids interpolate between them."""


_RAISED = 2.5
"""Power of the frequency by which cosines are raised: photos fall off with it, noise does not."""
_GAIN, _CONSTANT = 0.05, 2.0


def nano_config(
    vocabulary: int,
    image: int,
    opening: int,
    closing: int,
    end: int,
    pad: int,
    width: int = _WIDTH,
    layers: int = _LAYERS,
) -> Any:
    """The transformers configuration of a nano model.

    ``image``, what opens and closes one, ``end`` and ``pad`` are tokens, below ``vocabulary``; ``width`` (a multiple of
    64) and ``layers`` make smaller or larger ones.
    """
    head = min(_HEAD, width // 2)
    text = {
        "vocab_size": vocabulary,
        "hidden_size": width,
        "intermediate_size": 3 * width,
        "num_hidden_layers": layers,
        "num_attention_heads": width // head,
        "num_key_value_heads": max(1, width // head // 2),
        "head_dim": head,
        "max_position_embeddings": 4096,
        "rope_parameters": {
            "rope_type": "default",
            "rope_theta": 10_000.0,
            "mrope_section": [head // 2 - 2 * (head // 6), head // 6, head // 6],
            "mrope_interleaved": True,
        },
        "eos_token_id": end,
        "pad_token_id": pad,
    }
    vision = {
        "depth": min(_LOOKS, layers),
        "hidden_size": width,
        "intermediate_size": 4 * width,
        "num_heads": width // head,
        "patch_size": PATCH,
        "spatial_merge_size": MERGE,
        "temporal_patch_size": 1,
        "out_hidden_size": width,
        "num_position_embeddings": _GRID * _GRID,
        "deepstack_visual_indexes": [min(_LOOKS, layers) // 2 - 1],
    }
    return import_mllm("transformers").Qwen3VLConfig(
        text_config=text,
        vision_config=vision,
        image_token_id=image,
        video_token_id=image,
        vision_start_token_id=opening,
        vision_end_token_id=closing,
        tie_word_embeddings=True,
        eos_token_id=end,
        pad_token_id=pad,
    )


def make_nano(config: Any) -> Any:
    """A Qwen3VLForConditionalGeneration that has learned nothing; seed torch before, and it is the same again."""
    network = import_mllm("transformers").Qwen3VLForConditionalGeneration(config)
    # the usual 0.02 is right for a width of 2,500; with it a model this narrow learns nothing for thousands of steps
    for part in (network.model.visual, network.model.language_model):
        for module in part.modules():
            if isinstance(module, nn.Linear):
                nn.init.normal_(module.weight, std=module.in_features**-0.5)
    _begin_with_cosines(network.model.visual.patch_embed.proj)
    return network


class EncodedPatches(nn.Module):
    """The first layer of a vision tower, and beside it what perception's encoder sees at the same places.

    The encoder, the trunk of an expert that removes noise, looks at blocks of four patches (32 pixels) at full size;
    its standardised numbers are mapped to the tower's width and added to the patches. It is not trained further: to
    remove a damage is to know it.
    """

    def __init__(self, proj: nn.Conv3d, encoder: ReducedEncoder) -> None:
        """``proj`` is the layer that the tower had: (P, 3 * p * p) patches to (P, D)."""
        super().__init__()
        self.proj, self.encoder = proj, encoder.eval().requires_grad_(False)
        self.told = nn.Linear(ENCODED, proj.out_channels)
        nn.init.normal_(self.told.weight, std=ENCODED**-0.5)
        nn.init.zeros_(self.told.bias)

    def train(self, mode: bool = True) -> EncodedPatches:
        """Train all but the encoder."""
        super().train(mode)
        self.encoder.eval()
        return self

    def forward(self, patches: Tensor) -> Tensor:
        """Map flat patches (P, 3 * p * p), the four of a block together, -1 to 1, to (P, D)."""
        pixels = patches.to(self.proj.weight.dtype).view(-1, *self.proj.weight.shape[1:])
        own: Tensor = self.proj(pixels).flatten(1)
        with torch.no_grad():
            four = pixels[:, :, 0].unflatten(0, (-1, MERGE, MERGE)).permute(0, 3, 1, 4, 2, 5)
            blocks = four.reshape(-1, 3, MERGE * PATCH, MERGE * PATCH) / 2 + 0.5
            seen = self.encoder.standardise(self.encoder.trunk.each(blocks))
        told: Tensor = self.told(seen.to(self.told.weight.dtype)).repeat_interleave(MERGE * MERGE, 0)
        return own + told


def add_encoder(network: Any, encoder: ReducedEncoder, silent: bool = False) -> None:
    """Let the vision tower of a nano model begin with perception's encoder, too; its configuration says so then.

    A ``silent`` one adds nothing before it is trained: a model that has learned something answers as before.
    """
    visual = network.model.visual
    visual.patch_embed = EncodedPatches(visual.patch_embed.proj, encoder)
    if silent:
        nn.init.zeros_(visual.patch_embed.told.weight)
    network.config.conservator_encoder = True


def fitting_encoder(tensors: Mapping[str, Tensor]) -> ReducedEncoder:
    """An encoder of perception that takes those of the tensors of a nano model that are an encoder's."""
    return ReducedEncoder(CropEncoder(), tensors["model.visual.patch_embed.encoder.axes"].shape[1])


def has_encoder(config: Any) -> bool:
    """Whether the tower of a configuration's model begins with an encoder of perception."""
    return bool(getattr(config, "conservator_encoder", False))


@torch.no_grad()
def _begin_with_cosines(embedding: nn.Conv3d) -> None:
    """Make the filters (D, 3, 1, p, p) cosines: three quarters of them of light, the rest of two colour differences."""
    filters, side = len(embedding.weight), embedding.weight.shape[-1]
    waves, frequencies = _cosines(side)
    colours = torch.tensor([[1.0, 1.0, 1.0], [1.0, 0.0, -1.0], [-1.0, 2.0, -1.0]])
    colours = colours / colours.norm(dim=1, keepdim=True)
    coloured = filters // 8
    light = torch.linspace(0, len(waves) - 1, filters - 2 * coloured - 1).round().long().tolist()
    chosen = [(0, i) for i in light] + [(colour, i) for colour in (1, 2) for i in range(coloured)]
    embedding.weight.zero_()
    for filter_, (colour, i) in zip(embedding.weight, chosen, strict=False):
        raised = _GAIN * (1 + float(frequencies[i])) ** _RAISED
        filter_[:, 0] = raised * colours[colour][:, None, None] * waves[i]
    assert embedding.bias is not None
    nn.init.zeros_(embedding.bias)
    embedding.bias[-1] = _CONSTANT


def _cosines(side: int) -> tuple[Tensor, Tensor]:
    """The basis (side * side, side, side) of the two-dimensional cosine transform, coarse to fine; its frequencies."""
    k, n = torch.arange(side)[:, None], torch.arange(side)[None]
    line = torch.cos(math.pi * (n + 0.5) * k / side) * math.sqrt(2 / side)
    line[0] /= math.sqrt(2)
    waves = torch.einsum("ai,bj->abij", line, line).reshape(-1, side, side)
    frequencies = (k**2 + n**2).float().sqrt().reshape(-1)
    order = frequencies.argsort(stable=True)
    return waves[order], frequencies[order]

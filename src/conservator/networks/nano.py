"""The nano planner: Qwen3-VL's architecture at 13 million parameters, for a CPU. Needs the extra [mllm].

Patches of 16 pixels, taken from native crops and never resized, go into 256 numbers each, so that noise and the 8 pixel
blocks of JPEG are still there; four make one token of the language model, and a study of five pictures 320 tokens.
"""

from __future__ import annotations

from typing import Any

from conservator.extras import import_mllm

PATCH, MERGE = 16, 2
_WIDTH, _LOOKS, _LAYERS, _HEAD = 256, 6, 6, 64
_GRID = 16
"""Patches a side for which positions are learned; other grids interpolate between them."""


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
    """A Qwen3VLForConditionalGeneration with random weights; seed torch before, and it is the same again."""
    return import_mllm("transformers").Qwen3VLForConditionalGeneration(config)

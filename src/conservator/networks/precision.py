"""Half precision where it is faster: in training. What looks and treats stays exact (docs/results/perception.md)."""

from __future__ import annotations

import torch


def half_precision(device: torch.device) -> torch.autocast:
    """Multiply in bfloat16 where the device does so itself: a GPU, or a CPU that knows bfloat16 or AVX-512.

    Other CPUs emulate it and take twelve times as long as in float32 (an AMD EPYC with AVX2), so they stay in float32.
    """
    emulated = device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported()
    return torch.autocast(device.type, torch.bfloat16, enabled=not emulated)

"""How the features of a picture are measured: by statistics alone, or with what networks see, too."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn

from conservator.image import Image
from conservator.networks.store import NetworkStore
from conservator.perception.experts import AskedExperts
from conservator.perception.features import as_features
from conservator.perception.statistics import statistics

Measuring: TypeAlias = Callable[[Image], tuple[Mapping[str, float], Tensor]]
"""Measures an image or a study: its statistics by name, and all its features (F,), float32 on the CPU."""


def measure_statistics(image: Image) -> tuple[Mapping[str, float], Tensor]:
    """The statistics of one image (1, 3, H, W), or of a study; they are the features (STATISTICS,), too."""
    measures = statistics(image)
    return measures, as_features(measures)


class NetworkMeasuring:
    """Statistics, what experts would change, what an encoder sees in native crops, and what experts know of the scene.

    The crops are those of a study, or the picture itself.
    """

    def __init__(
        self, encoder: nn.Module, scene: nn.Module | None, networks: NetworkStore, device: str, side: int
    ) -> None:
        """``encoder`` maps crops (B, 3, H, W) to a vector; ``scene`` reduces (SCENE_SEEN,) to one, None to nothing.

        Experts come from ``networks`` and are asked about native crops of ``side`` pixels. All but ``scene`` run on
        ``device``.
        """
        self._encoder = encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._scene = scene
        self._experts, self._device = AskedExperts(networks, device, side), device

    def __call__(self, image: Image) -> tuple[Mapping[str, float], Tensor]:
        measures, told = measure_statistics(image)
        with torch.inference_mode():
            seen = self._encoder((image[1:] if len(image) > 1 else image).to(self._device)).cpu()
            known = [] if self._scene is None else [self._scene(self._experts.summary(image))]
            return measures, torch.cat([told, self._experts(image), seen, *known])

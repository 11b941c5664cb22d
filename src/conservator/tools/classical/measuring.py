"""Tools that measure the whole photo once and then treat it tile by tile."""

from __future__ import annotations

import copy
from abc import abstractmethod
from dataclasses import replace
from typing import Generic, Self, TypeVar

import torch

from conservator.image import Image
from conservator.tools.tool import Tool

Found = TypeVar("Found")


class MeasuringTool(Tool, Generic[Found]):
    """Subclasses write ``measure`` and ``treat``; what was found in the whole photo holds for each of its tiles."""

    _measured = False
    _found: Found | None = None

    @abstractmethod
    def measure(self, image: Image) -> Found | None:
        """What there is to treat in one whole image (1, 3, H, W); None where nothing is, and it comes back as it is."""

    @abstractmethod
    def treat(self, image: Image, found: Found) -> Image:
        """Treat one image or one of its tiles, (1, 3, H, W)."""

    def fitted(self, image: Image) -> Self:
        fit = copy.copy(self)
        fit._measured, fit._found = True, self.measure(image)
        if fit._found is None:
            fit.spec = replace(self.spec, tile=None)  # blending tiles would round the pixels that must stay as they are
        return fit

    def restore(self, image: Image) -> Image:
        if not self._measured:  # called by itself: each image is a whole
            return torch.cat([self.fitted(item).restore(item) for item in image.split(1)])
        return image if self._found is None else self.treat(image, self._found)

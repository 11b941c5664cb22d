"""What storing a photo costs: JPEG and a smaller size."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Literal, Self

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F

from conservator.degradations.degradation import Degradation, by_severity, grade
from conservator.degradations.fields import Range
from conservator.errors import ImageError
from conservator.image import Image, to_array, to_image
from conservator.kinds import Kind, Severity
from conservator.resample import bicubic_to

JPEG_MAX_SIDE = 65_500
"""Longest side, in pixels, that libjpeg writes."""


@dataclass(frozen=True)
class JpegCompression(Degradation):
    """A real JPEG, encoded and decoded in memory by libjpeg; ``quality`` on its scale, 1 (worst) to 100.

    Samples quality: LOW 60-80, MEDIUM 30-50, HIGH 18-28, VERY_HIGH 8-16; subsampling 4:2:0 in three cases of four,
    else 4:4:4. Raises ImageError where a side is longer than 65,500 pixels.
    """

    kind: ClassVar[Kind] = Kind.JPEG
    quality: Annotated[int, Range(1, 100)]
    subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = "4:2:0"

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        low, high = by_severity(severity, (60, 80), (30, 50), (18, 28), (8, 16))
        quality = int(rng.integers(low, high, endpoint=True))
        return cls(quality=quality, subsampling="4:2:0" if rng.random() < 0.75 else "4:4:4")

    @property
    def severity(self) -> Severity:
        return grade(self.quality, 55, 29, 17)

    def __call__(self, image: Image) -> Image:
        if max(image.shape[-2:]) > JPEG_MAX_SIDE:
            sides = f"{image.shape[-1]} x {image.shape[-2]}"
            raise ImageError(
                f"the image is {sides} pixels, but a JPEG has at most {JPEG_MAX_SIDE} a side; make it smaller"
            )
        return torch.cat([self._round_trip(item[None]) for item in image]).to(image.device)

    def _round_trip(self, image: Image) -> Image:
        file = io.BytesIO()
        PIL.Image.fromarray(to_array(image, np.uint8)).save(
            file, format="JPEG", quality=self.quality, subsampling=self.subsampling
        )
        with PIL.Image.open(file, formats=["JPEG"]) as decoded:
            return to_image(np.asarray(decoded))


@dataclass(frozen=True)
class ShiftedJpeg(Degradation):
    """A JPEG of a picture that was cropped afterwards: blocks begin ``right`` and ``down`` pixels before its corner.

    Followed by ``JpegCompression`` it is the double JPEG whose blocks do not meet. The pixels that were cropped are the
    border's, repeated. Samples quality and subsampling as JpegCompression, right and down 0-15.
    """

    kind: ClassVar[Kind] = Kind.JPEG
    quality: Annotated[int, Range(1, 100)]
    right: Annotated[int, Range(0, 15)]
    down: Annotated[int, Range(0, 15)]
    subsampling: Literal["4:4:4", "4:2:2", "4:2:0"] = "4:2:0"

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        whole = JpegCompression.sample(severity, rng)
        right, down = (int(rng.integers(16)) for _ in range(2))
        return cls(whole.quality, right, down, whole.subsampling)

    @property
    def severity(self) -> Severity:
        return JpegCompression(self.quality).severity

    def __call__(self, image: Image) -> Image:
        larger = F.pad(image, (self.right, 0, self.down, 0), mode="replicate")
        return JpegCompression(self.quality, self.subsampling)(larger)[..., self.down :, self.right :].contiguous()


@dataclass(frozen=True)
class LowResolution(Degradation):
    """A smaller image, (B, 3, ceil(H / factor), ceil(W / factor)), by MATLAB's antialiased bicubic (resample.py).

    It shows the whole frame and stays small, as in AgenticIR's protocol (factor 4); ``bicubic_to`` enlarges it again.
    Samples factor: LOW 2, MEDIUM 3, HIGH 4, VERY_HIGH 6.
    """

    kind: ClassVar[Kind] = Kind.LOW_RESOLUTION
    factor: Annotated[int, Range(2, 16)]

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        return cls(factor=by_severity(severity, 2, 3, 4, 6))

    @property
    def severity(self) -> Severity:
        return grade(self.factor, 3, 4, 6)

    def __call__(self, image: Image) -> Image:
        height, width = (math.ceil(side / self.factor) for side in image.shape[-2:])
        return bicubic_to(image, height, width)


@dataclass(frozen=True)
class AreaReduction(Degradation):
    """A smaller image, (B, 3, ceil(H / factor), ceil(W / factor)): each pixel the mean of those it stands for.

    As thumbnails are made, and as binned pixels of a sensor see. Samples factor: LOW 2, MEDIUM 3, HIGH 4, VERY_HIGH 6.
    """

    kind: ClassVar[Kind] = Kind.LOW_RESOLUTION
    factor: Annotated[int, Range(2, 16)]

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        return cls(factor=by_severity(severity, 2, 3, 4, 6))

    @property
    def severity(self) -> Severity:
        return grade(self.factor, 3, 4, 6)

    def __call__(self, image: Image) -> Image:
        size = [math.ceil(side / self.factor) for side in image.shape[-2:]]
        return F.interpolate(image, size, mode="area").clamp_(0, 1)

"""Makes of damage that benches alone may use, to see what was learned beyond the makes of the training."""

from __future__ import annotations

import io
import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.nn import functional as F

from conservator.degradations.codec import JpegCompression
from conservator.degradations.degradation import Degradation, by_severity, grade
from conservator.degradations.fields import Range, Seed
from conservator.degradations.kernels import convolve, gather_taps, path_taps
from conservator.degradations.noise import draw_seed, normal
from conservator.image import Image, to_array, to_image
from conservator.kinds import Kind, Severity
from conservator.resample import bicubic_to

_SIGMAS = (3.0, 10.0), (10.0, 22.0), (22.0, 35.0), (35.0, 50.0)
"""Of Gaussian noise at its four severities, of 255."""


@dataclass(frozen=True)
class EnlargedNoise(Degradation):
    """Noise as an enlarged photo has it: Gaussian, drawn two thirds as large, enlarged 1.5 times by bicubic.

    ``sigma`` is its standard deviation after that. Samples sigma as GaussianNoise.
    """

    kind: ClassVar[Kind] = Kind.NOISE
    sigma: Annotated[float, Range(0, 1)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        return cls(rng.uniform(*by_severity(severity, *_SIGMAS)) / 255, draw_seed(rng))

    @property
    def severity(self) -> Severity:
        return grade(255 * self.sigma, 10, 22, 35)

    def __call__(self, image: Image) -> Image:
        rng = np.random.default_rng(self.seed)
        height, width = image.shape[-2:]
        small = math.ceil(height / 1.5), math.ceil(width / 1.5)
        noise = torch.cat([normal((1, 3, *small), rng, image) for _ in image])
        large = F.interpolate(noise, scale_factor=1.5, mode="bicubic")[..., :height, :width]
        # NumPy adds up in the same order for any number of threads
        spread = np.sqrt(np.square(large.cpu().numpy(), dtype=np.float64).mean(axis=(1, 2, 3), keepdims=True))
        scale = torch.from_numpy(self.sigma / np.maximum(spread, 1e-6)).to(large)
        return (image + scale * large).clamp_(0, 1)


@dataclass(frozen=True)
class RowBanding(Degradation):
    """Each row brighter or darker by its own amount, mostly in all channels alike: readout noise of a sensor.

    ``sigma`` is the standard deviation of the rows, nine tenths of its variance common to the channels; the pixels have
    independent noise of a third of it. Samples sigma (of 255): LOW 2-5, MEDIUM 6-10, HIGH 12-18, VERY_HIGH 20-30.
    """

    kind: ClassVar[Kind] = Kind.NOISE
    sigma: Annotated[float, Range(0, 1)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        return cls(rng.uniform(*by_severity(severity, (2, 5), (6, 10), (12, 18), (20, 30))) / 255, draw_seed(rng))

    @property
    def severity(self) -> Severity:
        return grade(255 * self.sigma, 5.5, 11, 19)

    def __call__(self, image: Image) -> Image:
        rng = np.random.default_rng(self.seed)
        return torch.cat([item + self.sigma * self._noise(item, rng) for item in image.split(1)]).clamp_(0, 1)

    @staticmethod
    def _noise(image: Image, rng: np.random.Generator) -> Tensor:
        height, width = image.shape[-2:]
        common, own = normal((1, 1, height, 1), rng, image), normal((1, 3, height, 1), rng, image)
        return math.sqrt(0.9) * common + math.sqrt(0.1) * own + normal((1, 3, height, width), rng, image) / 3


@dataclass(frozen=True)
class ReducedJpeg(Degradation):
    """A JPEG that was reduced by 0.75 afterwards, so that its blocks are 6 pixels wide; ``quality`` as JpegCompression.

    The photo is first enlarged by 4/3, so that it keeps its size. Samples quality: LOW 45-65, MEDIUM 25-40, HIGH 14-22,
    VERY_HIGH 6-11.
    """

    kind: ClassVar[Kind] = Kind.JPEG
    quality: Annotated[int, Range(1, 100)]

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        low, high = by_severity(severity, (45, 65), (25, 40), (14, 22), (6, 11))
        return cls(int(rng.integers(low, high, endpoint=True)))

    @property
    def severity(self) -> Severity:
        return grade(self.quality, 42, 23, 12)

    def __call__(self, image: Image) -> Image:
        height, width = image.shape[-2:]
        large = bicubic_to(image, math.ceil(height * 4 / 3), math.ceil(width * 4 / 3)).clamp_(0, 1)
        return bicubic_to(JpegCompression(self.quality)(large), height, width).clamp_(0, 1)


@dataclass(frozen=True)
class WebpCompression(Degradation):
    """A lossy WebP, encoded and decoded in memory by libwebp; ``quality`` on its scale, 0 (worst) to 100.

    Samples quality: LOW 55-75, MEDIUM 25-40, HIGH 8-15, VERY_HIGH 0-3. Sides of at most 16,383 pixels.
    """

    kind: ClassVar[Kind] = Kind.JPEG
    quality: Annotated[int, Range(0, 100)]

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        low, high = by_severity(severity, (55, 75), (25, 40), (8, 15), (0, 3))
        return cls(int(rng.integers(low, high, endpoint=True)))

    @property
    def severity(self) -> Severity:
        return grade(self.quality, 45, 20, 5)

    def __call__(self, image: Image) -> Image:
        return torch.cat([self._round_trip(item[None]) for item in image]).to(image.device)

    def _round_trip(self, image: Image) -> Image:
        file = io.BytesIO()
        PIL.Image.fromarray(to_array(image, np.uint8)).save(file, format="WEBP", quality=self.quality)
        with PIL.Image.open(file, formats=["WEBP"]) as decoded:
            return to_image(np.asarray(decoded.convert("RGB")))


@dataclass(frozen=True)
class ShakenHand(Degradation):
    """A hand that shakes while the shutter is open: a random walk whose wider side measures ``reach`` pixels.

    The walk turns by a normal angle of 0.25 rad at each of its 64 steps and changes its pace, as the generators of
    random trajectories do (after Boracchi and Foi 2012). Its centre of mass lies on the pixel.
    Samples reach: LOW 9-13, MEDIUM 14-19, HIGH 20-25, VERY_HIGH 26-31.
    """

    kind: ClassVar[Kind] = Kind.MOTION_BLUR
    reach: Annotated[float, Range(0, 128)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        return cls(rng.uniform(*by_severity(severity, (9, 13), (14, 19), (20, 25), (26, 31))), draw_seed(rng))

    @property
    def severity(self) -> Severity:
        return grade(self.reach, 13.5, 19.5, 25.5)

    def __call__(self, image: Image) -> Image:
        rng = np.random.default_rng(self.seed)
        turn = rng.uniform(-math.pi, math.pi) + np.cumsum(rng.normal(0, 0.25, 64))
        pace = np.exp(np.cumsum(rng.normal(0, 0.15, 64)))
        walk = np.cumsum(np.stack([pace * np.sin(turn), pace * np.cos(turn)]), axis=1)
        walk *= self.reach / np.ptp(walk, axis=1).max()
        # between two steps of the walk the light falls evenly
        fine = np.stack([np.interp(np.arange(0, 63, 0.25), np.arange(64), line) for line in walk])
        down, right = fine - fine.mean(axis=1, keepdims=True)
        margin = math.ceil(self.reach) + 1
        taps = path_taps(down, right, np.ones(len(down)))
        return gather_taps(F.pad(image, (margin,) * 4, mode="replicate"), taps, (margin, margin)).clamp_(0, 1)


@dataclass(frozen=True)
class HexagonBlur(Degradation):
    """A lens out of focus behind six blades: an even hexagon of ``radius`` pixels from its centre to its corners.

    ``angle`` in degrees turns it. Samples radius: LOW 1.5-2.2, MEDIUM 2.5-3.5, HIGH 4-5, VERY_HIGH 5.5-7.
    """

    kind: ClassVar[Kind] = Kind.DEFOCUS_BLUR
    radius: Annotated[float, Range(0, 64)]
    angle: Annotated[float, Range(-180, 180)]

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        return cls(rng.uniform(*by_severity(severity, (1.5, 2.2), (2.5, 3.5), (4, 5), (5.5, 7))), rng.uniform(-30, 30))

    @property
    def severity(self) -> Severity:
        return grade(self.radius, 2.35, 3.75, 5.25)

    def __call__(self, image: Image) -> Image:
        return convolve(image, self._kernel()).clamp_(0, 1)

    def _kernel(self) -> Tensor:
        """Seven by seven points in each pixel say how much of it the hexagon covers."""
        reach, fine = math.ceil(self.radius) + 1, 7
        side = (2 * reach + 1) * fine
        place = (torch.arange(side) + 0.5) / fine - reach - 0.5
        inside = torch.ones(side, side, dtype=torch.bool)
        for turn in range(3):
            angle = math.radians(self.angle + 60 * turn)
            across = place[:, None] * math.sin(angle) + place[None, :] * math.cos(angle)
            inside &= across.abs() <= max(self.radius * math.sqrt(3) / 2, 0.1)
        kernel = F.avg_pool2d(inside[None, None].float(), fine)[0, 0]
        return kernel / kernel.sum()


@dataclass(frozen=True)
class BlurredReduction(Degradation):
    """A smaller image of a lens that nobody knows: a slanting Gaussian blur, then the bicubic reduction.

    ``along`` and ``across`` are the sigmas in pixels of the larger image, ``angle`` in degrees turns the longer one.
    Samples factor: LOW 2, MEDIUM 3, HIGH 4, VERY_HIGH 6; the sigmas 0.2-0.7 times the factor.
    """

    kind: ClassVar[Kind] = Kind.LOW_RESOLUTION
    factor: Annotated[int, Range(2, 16)]
    along: Annotated[float, Range(0, 16)]
    across: Annotated[float, Range(0, 16)]
    angle: Annotated[float, Range(-180, 180)]

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        factor = by_severity(severity, 2, 3, 4, 6)
        across, along = sorted(factor * rng.uniform(0.2, 0.7, 2))
        return cls(factor, along, across, rng.uniform(-90, 90))

    @property
    def severity(self) -> Severity:
        return grade(self.factor, 3, 4, 6)

    def __call__(self, image: Image) -> Image:
        height, width = (math.ceil(side / self.factor) for side in image.shape[-2:])
        return bicubic_to(convolve(image, self._kernel()), height, width).clamp_(0, 1)

    def _kernel(self) -> Tensor:
        reach, turn = math.ceil(3 * max(self.along, self.across)), math.radians(self.angle)
        x = torch.arange(-reach, reach + 1, dtype=torch.float64)
        first = x[None, :] * math.cos(turn) + x[:, None] * math.sin(turn)
        second = x[:, None] * math.cos(turn) - x[None, :] * math.sin(turn)
        sigmas = max(self.along, 0.01), max(self.across, 0.01)
        kernel = torch.exp(-0.5 * ((first / sigmas[0]) ** 2 + (second / sigmas[1]) ** 2))
        return (kernel / kernel.sum()).float()

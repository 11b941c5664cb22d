"""Noise of sensors. Amplitudes are in units of the image range [0, 1]; divide the papers' 0-255 figures by 255."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import numpy as np
import torch
from torch import Tensor

from conservator.degradations.degradation import Degradation, by_severity, grade
from conservator.degradations.fields import Range, Seed
from conservator.degradations.kernels import convolve_separable, gaussian_window
from conservator.image import Image
from conservator.kinds import Kind, Severity


def draw_seed(rng: np.random.Generator) -> int:
    """A seed for one degradation."""
    return int(rng.integers(2**32))


def normal(shape: tuple[int, ...], rng: np.random.Generator, like: Tensor) -> Tensor:
    """Standard normal values, drawn by NumPy: the same for any number of threads and on any device."""
    return torch.from_numpy(rng.standard_normal(shape, dtype=np.float32)).to(like.device)


@dataclass(frozen=True)
class GaussianNoise(Degradation):
    """Independent Gaussian noise on every value; ``sigma`` is its standard deviation, 0.1 being 25.5 of 255.

    Samples sigma (of 255): LOW 3-10, MEDIUM 10-22, HIGH 22-35, VERY_HIGH 35-50.
    """

    kind: ClassVar[Kind] = Kind.NOISE
    sigma: Annotated[float, Range(0, 1)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        sigma = rng.uniform(*by_severity(severity, (3, 10), (10, 22), (22, 35), (35, 50)))
        return cls(sigma=sigma / 255, seed=draw_seed(rng))

    @property
    def severity(self) -> Severity:
        return grade(255 * self.sigma, 10, 22, 35)

    def __call__(self, image: Image) -> Image:
        noise = normal(tuple(image.shape), np.random.default_rng(self.seed), image)
        return noise.mul_(self.sigma).add_(image).clamp_(0, 1)


@dataclass(frozen=True)
class PoissonNoise(Degradation):
    """Photon noise by BasicSR's convention, which AgenticIR's protocol uses with ``scale`` in [1, 3].

    The image is rounded to 8 bits; n is the number of distinct levels in it (all channels together), rounded up to a
    power of two; the noise is ``scale * (Poisson(n * x) / n - x)``, added to the image before rounding. So its variance
    is ``scale ** 2 * x / n``, where n is 256 for nearly every photo.
    Samples scale: LOW 0.3-0.8, MEDIUM 0.8-1.4, HIGH 1.4-2.2, VERY_HIGH 2.2-3.
    """

    kind: ClassVar[Kind] = Kind.NOISE
    scale: Annotated[float, Range(0, 10)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        scale = rng.uniform(*by_severity(severity, (0.3, 0.8), (0.8, 1.4), (1.4, 2.2), (2.2, 3.0)))
        return cls(scale=scale, seed=draw_seed(rng))

    @property
    def severity(self) -> Severity:
        return grade(self.scale, 0.8, 1.4, 2.2)

    def __call__(self, image: Image) -> Image:
        rng = np.random.default_rng(self.seed)
        out = torch.empty_like(image)
        for item, target in zip(image, out, strict=True):
            levels = (item * 255).round().to(torch.uint8)
            n = 2 ** math.ceil(math.log2(len(torch.unique(levels))))
            for plane, source, channel in zip(
                levels, item, target, strict=True
            ):  # one at a time: counts are 64 bits wide
                x = plane.cpu().numpy() / np.float32(255)
                noise = (rng.poisson(x * n) / n - x).astype(np.float32)
                channel.copy_(torch.from_numpy(noise)).mul_(self.scale).add_(source)
        return out.clamp_(0, 1)


@dataclass(frozen=True)
class CameraNoise(Degradation):
    """Noise as a developed photo shows it: stronger in the shadows, a little correlated, with coarse colour blotches.

    Drawn in linear light with variance ``read ** 2 + shot * x``, the Poisson-Gaussian model of raw sensors (Foi et al.
    2008, as in Brooks et al. 2019, "Unprocessing Images"). Half of the variance is common to the channels and fine
    (blurred by 0.5 px, as demosaicing does), half is each channel's own and coarser (1 px); these two figures are ours.
    Samples shot: LOW 0.0003-0.001, MEDIUM 0.0015-0.004, HIGH 0.005-0.012, VERY_HIGH 0.015-0.035; read is
    sqrt(shot) times 0.03 to 0.1.
    """

    kind: ClassVar[Kind] = Kind.NOISE
    read: Annotated[float, Range(0, 1)]
    shot: Annotated[float, Range(0, 1)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        shot = rng.uniform(*by_severity(severity, (3e-4, 1e-3), (1.5e-3, 4e-3), (5e-3, 1.2e-2), (1.5e-2, 3.5e-2)))
        return cls(read=math.sqrt(shot) * rng.uniform(0.03, 0.1), shot=shot, seed=draw_seed(rng))

    @property
    def severity(self) -> Severity:
        return grade(self.shot, 0.00125, 0.0045, 0.0135)

    def __call__(self, image: Image) -> Image:
        rng = np.random.default_rng(self.seed)
        out = torch.empty_like(image)
        for item, target in zip(image, out, strict=True):
            common = _grain(item[0], 0.5, rng)
            for source, channel in zip(item, target, strict=True):  # one at a time: a photo has a dozen such planes
                grain = _grain(source, 1.0, rng).add_(common).mul_(math.sqrt(0.5))
                x = torch.where(source <= 0.04045, source / 12.92, ((source + 0.055) / 1.055) ** 2.4)
                x.add_(grain.mul_(torch.sqrt(self.read**2 + self.shot * x))).clamp_(0, 1)
                channel.copy_(torch.where(x <= 0.0031308, x * 12.92, 1.055 * x ** (1 / 2.4) - 0.055))
        return out.clamp_(0, 1)


def _grain(like: Tensor, sigma: float, rng: np.random.Generator) -> Tensor:
    """Normal noise (H, W) blurred by ``sigma`` pixels and brought back to variance 1."""
    window = gaussian_window(sigma, radius=4)
    noise = normal((1, 1, *like.shape), rng, like)
    return convolve_separable(noise, window)[0, 0].div_(float(window.square().sum()))


@dataclass(frozen=True)
class LuminanceNoise(Degradation):
    """Gaussian noise that is the same in all three channels, as of a scan or of a gray picture: it has no colour.

    ``sigma`` is its standard deviation. Samples sigma (of 255): LOW 3-10, MEDIUM 10-22, HIGH 22-35, VERY_HIGH 35-50.
    """

    kind: ClassVar[Kind] = Kind.NOISE
    sigma: Annotated[float, Range(0, 1)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        sigma = rng.uniform(*by_severity(severity, (3, 10), (10, 22), (22, 35), (35, 50)))
        return cls(sigma=sigma / 255, seed=draw_seed(rng))

    @property
    def severity(self) -> Severity:
        return grade(255 * self.sigma, 10, 22, 35)

    def __call__(self, image: Image) -> Image:
        batch, _, height, width = image.shape
        noise = normal((batch, 1, height, width), np.random.default_rng(self.seed), image)
        return (image + self.sigma * noise).clamp_(0, 1)


@dataclass(frozen=True)
class FilmGrain(Degradation):
    """Grain of film: strongest in the middle tones, none in black and white, as wide as the grains are.

    Covering a share x of an area with opaque grains at random leaves a variance in proportion to x (1 - x) (the Boolean
    model of Newson et al. 2017); ``strength`` is the standard deviation at x = 0.5. ``size`` is the sigma, in pixels,
    of the Gaussian that correlates neighbours; ``colour`` the share of the variance that each layer of the film has for
    itself, 0 for a black-and-white film.
    Samples strength (of 255): LOW 4-10, MEDIUM 12-22, HIGH 25-36, VERY_HIGH 40-60; size 0.3-1.4; colour 0 in one case
    of three, else 0.2-0.8.
    """

    kind: ClassVar[Kind] = Kind.NOISE
    strength: Annotated[float, Range(0, 1)]
    size: Annotated[float, Range(0, 2)]
    colour: Annotated[float, Range(0, 1)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        strength = rng.uniform(*by_severity(severity, (4, 10), (12, 22), (25, 36), (40, 60)))
        colour = 0.0 if rng.random() < 1 / 3 else rng.uniform(0.2, 0.8)
        return cls(strength / 255, rng.uniform(0.3, 1.4), colour, draw_seed(rng))

    @property
    def severity(self) -> Severity:
        return grade(255 * self.strength, 11, 23.5, 38)

    def __call__(self, image: Image) -> Image:
        rng = np.random.default_rng(self.seed)
        out = torch.empty_like(image)
        for item, target in zip(image, out, strict=True):
            common = _grain(item[0], self.size, rng).mul_(math.sqrt(1 - self.colour))
            for source, channel in zip(item, target, strict=True):
                grain = common
                if self.colour:
                    grain = _grain(source, self.size, rng).mul_(math.sqrt(self.colour)).add_(common)
                channel.copy_(source + 2 * self.strength * torch.sqrt(source * (1 - source)) * grain)
        return out.clamp_(0, 1)

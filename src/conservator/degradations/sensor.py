"""Noise from where it comes from: the raw picture of a sensor, developed as a camera does."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar, Self

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from conservator.degradations.degradation import Degradation, by_severity, grade
from conservator.degradations.fields import Range, Seed
from conservator.degradations.kernels import Taps, gather_taps
from conservator.degradations.noise import draw_seed, normal
from conservator.image import Image
from conservator.kinds import Kind, Severity

_CROSS, _NEAR, _FAR = ((-1, 0), (1, 0), (0, -1), (0, 1)), ((-1, -1), (-1, 1), (1, -1), (1, 1)), ((-2, 0), (2, 0))
_ALONG = ((0, -2), (0, 2))


def _taps(centre: float, *rings: tuple[tuple[tuple[int, int], ...], float]) -> Taps:
    """Weights in eighths: of the centre, and of rings of places around it."""
    return {(0, 0): centre / 8} | {place: weight / 8 for places, weight in rings for place in places}


_GREEN = _taps(4, (_CROSS, 2), (_FAR + _ALONG, -1))
_BESIDE = _taps(5, (_CROSS[2:], 4), (_NEAR, -1), (_ALONG, -1), (_FAR, 0.5))
_ABOVE = _taps(5, (_CROSS[:2], 4), (_NEAR, -1), (_FAR, -1), (_ALONG, 0.5))
_ACROSS = _taps(6, (_NEAR, 2), (_FAR + _ALONG, -1.5))
"""The linear demosaicing of Malvar et al. (2004): green at red and blue; red where reds lie beside, above, across."""
_REACH = 2
_TABLE = 1024


@dataclass(frozen=True)
class RawNoise(Degradation):
    """Noise of a sensor behind a Bayer mosaic, developed: white balance, demosaicing, colours, tone curve.

    The photo is taken back to linear camera colours and to one colour a pixel; noise of variance
    ``read ** 2 + shot * x`` is added there, cut off at the sensor's white, and developed forward. Demosaicing is linear
    (Malvar et al. 2004), so that the noise alone goes through it: the clean photo keeps the detail that it has.
    ``red`` and ``blue`` are the gains of white balance, ``saturation`` how much farther from gray the colours are than
    the camera sees them, ``contrast`` the share of 3 y^2 - 2 y^3 in the tone curve, ``phase`` the mosaic's corner.
    Samples shot: LOW 1e-4-6e-4, MEDIUM 1e-3-2.5e-3, HIGH 4e-3-8e-3, VERY_HIGH 1.2e-2-2.5e-2; read as Brooks et al.
    (2019) found it, the log of its variance 2.18 log shot + 1.2, +-0.26; red 1.9-2.4, blue 1.5-1.9 (RSBlur, Rim et al.
    2022); saturation 0-0.8, contrast 0-0.8. A camera's JPEG follows as a degradation of its own.
    """

    kind: ClassVar[Kind] = Kind.NOISE
    shot: Annotated[float, Range(0, 1)]
    read: Annotated[float, Range(0, 1)]
    red: Annotated[float, Range(1, 4)]
    blue: Annotated[float, Range(1, 4)]
    saturation: Annotated[float, Range(0, 2)]
    contrast: Annotated[float, Range(0, 0.95)]
    phase: Annotated[int, Range(0, 3)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        shot = rng.uniform(*by_severity(severity, (1e-4, 6e-4), (1e-3, 2.5e-3), (4e-3, 8e-3), (1.2e-2, 2.5e-2)))
        return cls.of_shot(shot, rng)

    @classmethod
    def of_shot(cls, shot: float, rng: np.random.Generator) -> Self:
        """A camera drawn at random, at the sensitivity whose photon noise has this variance in white."""
        read = math.exp((2.18 * math.log(shot) + 1.2 + rng.normal(0, 0.26)) / 2)
        gains = rng.uniform(1.9, 2.4), rng.uniform(1.5, 1.9)
        look = rng.uniform(0, 0.8), rng.uniform(0, 0.8)
        return cls(shot, min(1.0, read), *gains, *look, int(rng.integers(4)), draw_seed(rng))

    @property
    def severity(self) -> Severity:
        return grade(self.shot, 8e-4, 3e-3, 1e-2)

    def __call__(self, image: Image) -> Image:
        rng = np.random.default_rng(self.seed)
        return torch.cat([self._developed(item[None], rng) for item in image])

    def _developed(self, image: Image, rng: np.random.Generator, exposure: float = 1.0) -> Image:
        linear = exposure * _to_linear(self._untoned(image))
        gains = image.new_tensor([self.red, 1, self.blue]).view(1, 3, 1, 1)
        camera = _saturated(linear, 1 / (1 + self.saturation)) / gains
        masks = _bayer(image.shape[-2] + 2 * _REACH, image.shape[-1] + 2 * _REACH, self.phase).to(image.device)
        mosaic = (F.pad(camera, (_REACH,) * 4, mode="replicate") * masks).sum(1, keepdim=True)
        noise = normal(tuple(mosaic.shape), rng, image).mul_(torch.sqrt(self.read**2 + self.shot * mosaic.clamp(min=0)))
        noise = (mosaic + noise).clamp_(max=1) - mosaic
        colours = _saturated(_demosaic(noise, masks) * gains, 1 + self.saturation)
        return self._toned(_from_linear((linear + colours).clamp_(0, 1))).clamp_(0, 1)

    def _toned(self, x: Tensor) -> Tensor:
        return x + self.contrast * (3 * x**2 - 2 * x**3 - x)

    def _untoned(self, y: Tensor) -> Tensor:
        """The inverse of ``_toned``, between the entries of a table."""
        x = torch.linspace(0, 1, _TABLE + 1, dtype=torch.float64)
        inverse = torch.from_numpy(np.interp(x.numpy(), self._toned(x).numpy(), x.numpy())).float().to(y.device)
        place = y * _TABLE
        below = place.floor().clamp_(max=_TABLE - 1)
        entry = below.long()
        return torch.lerp(inverse[entry], inverse[entry + 1], place - below)


@dataclass(frozen=True)
class Underexposure(Degradation):
    """Too little light where light falls: ``stops`` less of it in linear light, before the noise and the tone curve.

    The noise and the development are those of ``RawNoise``. Held out for benches.
    Samples stops: LOW 1-1.4, MEDIUM 1.5-1.9, HIGH 2-2.4, VERY_HIGH 2.5-3; shot 1e-4-2e-3; contrast 0-0.8.
    """

    kind: ClassVar[Kind] = Kind.LOW_LIGHT
    stops: Annotated[float, Range(0, 8)]
    shot: Annotated[float, Range(1e-6, 1)]
    contrast: Annotated[float, Range(0, 0.95)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        stops = rng.uniform(*by_severity(severity, (1, 1.4), (1.5, 1.9), (2, 2.4), (2.5, 3)))
        return cls(stops, math.exp(rng.uniform(math.log(1e-4), math.log(2e-3))), rng.uniform(0, 0.8), draw_seed(rng))

    @property
    def severity(self) -> Severity:
        return grade(self.stops, 1.45, 1.95, 2.45)

    def __call__(self, image: Image) -> Image:
        rng = np.random.default_rng(self.seed)
        camera = replace(RawNoise.of_shot(self.shot, np.random.default_rng(self.seed)), contrast=self.contrast)
        return torch.cat([camera._developed(item[None], rng, 2**-self.stops) for item in image])


def _to_linear(x: Tensor) -> Tensor:
    return torch.where(x <= 0.04045, x / 12.92, _power((x + 0.055) / 1.055, 2.4))


def _from_linear(x: Tensor) -> Tensor:
    return torch.where(x <= 0.0031308, x * 12.92, 1.055 * _power(x, 1 / 2.4) - 0.055)


def _power(x: Tensor, exponent: float) -> Tensor:
    """By NumPy, for torch's power differs in the last bit with the number of threads."""
    return torch.from_numpy(x.cpu().numpy() ** np.float32(exponent)).to(x.device)


def _saturated(x: Tensor, by: float) -> Tensor:
    """Colours ``by`` times as far from their gray."""
    gray = (0.25 * x[:, :1] + 0.5 * x[:, 1:2] + 0.25 * x[:, 2:]).expand_as(x)
    return torch.lerp(gray, x, by)


def _bayer(height: int, width: int, phase: int) -> Tensor:
    """Which pixels see red, green and blue, (1, 3, H, W) of 0 and 1; ``phase`` 0 to 3 is where red lies."""
    rows = (torch.arange(height) + phase // 2)[:, None] % 2
    columns = (torch.arange(width) + phase % 2)[None, :] % 2
    red, blue = (1 - rows) * (1 - columns), rows * columns
    return torch.stack([red, 1 - red - blue, blue])[None].float()


def _demosaic(mosaic: Tensor, masks: Tensor) -> Tensor:
    """Three colours (1, 3, H, W) of a mosaic (1, 1, H + 4, W + 4)."""
    own, green, beside, above, across = (
        gather_taps(mosaic, taps, (_REACH, _REACH)) for taps in ({(0, 0): 1.0}, _GREEN, _BESIDE, _ABOVE, _ACROSS)
    )
    inner = masks[..., _REACH:-_REACH, _REACH:-_REACH]
    is_red, is_green, is_blue = inner[:, :1], inner[:, 1:2], inner[:, 2:]
    # a green pixel lies in a row of reds where its neighbour to the side is red
    reds = (masks[:, :1].roll(1, -1) + masks[:, :1].roll(-1, -1)).clamp(max=1)[..., _REACH:-_REACH, _REACH:-_REACH]
    red = is_red * own + is_blue * across + is_green * torch.where(reds > 0, beside, above)
    blue = is_blue * own + is_red * across + is_green * torch.where(reds > 0, above, beside)
    return torch.cat([red, is_green * own + (1 - is_green) * green, blue], 1)

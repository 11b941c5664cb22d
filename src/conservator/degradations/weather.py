"""Rain and haze."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.nn import functional as F

from conservator.degradations.degradation import Degradation, by_severity
from conservator.degradations.fields import Range, Seed
from conservator.degradations.kernels import convolve_separable, gather_taps, gaussian_window, line_taps
from conservator.degradations.kinds import Kind, Severity
from conservator.degradations.noise import draw_seed
from conservator.errors import RecipeError
from conservator.image import Image

RAIN_LIGHT = 0.8
"""What a pixel that is all rain looks like, in [0, 1]: the blend of MiOIR."""
DROP_LIGHT = 32.0
"""Light of the brightest drop, spread over the pixels of its streak; set so that PSNR is about that of MiOIR's rain."""


@dataclass(frozen=True)
class Rain(Degradation):
    """Bright streaks in front of the scene: I = J (1 - r) + 0.8 r, by the description of MiOIR's ``add_rain``.

    One pixel in 25600 / ``value`` is a drop, of random brightness; each is drawn out to a line of ``length`` pixels
    that fades at its ends, ``angle`` degrees from the vertical (positive: the top leans to the right), and blurred by a
    Gaussian window of ``width`` pixels (odd). r in [0, 1] is the field of these lines, saturating where they cross.
    AgenticIR: value 50-100, length 20-40, angle -30 to 30, width 3.
    Samples value: LOW 8-20, MEDIUM 20-45, HIGH 45-75, VERY_HIGH 75-100; the rest as AgenticIR.
    """

    kind: ClassVar[Kind] = Kind.RAIN
    value: Annotated[float, Range(0, 400)]
    length: Annotated[int, Range(1, 400)]
    angle: Annotated[float, Range(-90, 90)]
    width: Annotated[int, Range(1, 31)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        value = rng.uniform(*by_severity(severity, (8, 20), (20, 45), (45, 75), (75, 100)))
        length = int(rng.integers(20, 40, endpoint=True))
        return cls(value=value, length=length, angle=rng.uniform(-30, 30), width=3, seed=draw_seed(rng))

    def __call__(self, image: Image) -> Image:
        rain = self._streaks(image).to(image.device)
        return torch.lerp(image, torch.full_like(rain, RAIN_LIGHT), rain).clamp_(0, 1)

    def _streaks(self, image: Image) -> Tensor:
        """The field r, (B, 1, H, W) in [0, 1]."""
        rng = np.random.default_rng(self.seed)
        batch, _, height, width = image.shape
        canvas = (batch, 1, height + 2 * self.length, width + 2 * self.length)  # streaks come in from outside, too
        uniform = torch.from_numpy(rng.random(canvas, dtype=np.float32))
        chance = self.value / 25600
        # a drop's uniform number, below the chance, is its brightness as well
        drops = torch.where(uniform < chance, 0.4 + 0.6 * uniform / max(chance, 1e-9), 0.0)
        profile = [math.sin(math.pi * (i + 0.5) / self.length) ** 0.5 for i in range(self.length)]
        fade = [DROP_LIGHT / self.length * p for p in profile]  # a faster drop leaves a longer, fainter streak
        lines = gather_taps(drops, line_taps(fade, 90 + self.angle), (self.length, self.length))
        radius = self.width // 2
        window = gaussian_window(0.3 * (radius - 1) + 0.8, radius)
        return 1 - torch.exp(-convolve_separable(lines, window))


@dataclass(frozen=True)
class Haze(Degradation):
    """Scattered light: I = J t + A (1 - t) with t = exp(-beta d), depth d divided by its maximum.

    ``airlight`` is A, ``beta`` the density. d is read from ``depth``, a 16-bit gray PNG (far is bright) resized to the
    image, or else made up: a ground that recedes upwards, with smooth hills drawn by ``depth_seed``.
    A file that cannot be read as depth raises RecipeError when the degradation is applied.
    AgenticIR: airlight 0.7-1, beta 0.6-1.8.
    Samples beta: LOW 0.2-0.45, MEDIUM 0.6-0.9, HIGH 0.9-1.35, VERY_HIGH 1.35-1.8; airlight 0.7-1.
    """

    kind: ClassVar[Kind] = Kind.HAZE
    airlight: Annotated[float, Range(0, 1)]
    beta: Annotated[float, Range(0, 20)]
    depth_seed: Seed
    depth: str | None = None

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        beta = rng.uniform(*by_severity(severity, (0.2, 0.45), (0.6, 0.9), (0.9, 1.35), (1.35, 1.8)))
        return cls(airlight=rng.uniform(0.7, 1.0), beta=beta, depth_seed=draw_seed(rng))

    def __call__(self, image: Image) -> Image:
        depth = self._made_up_depth(image) if self.depth is None else read_depth(self.depth, *image.shape[-2:])
        transmission = torch.exp(-self.beta * depth).to(image.device)
        return torch.lerp(torch.full_like(image, self.airlight), image, transmission).clamp_(0, 1)

    def _made_up_depth(self, image: Image) -> Tensor:
        """(B, 1, H, W) in [0, 1], smooth, far at the top."""
        batch, _, height, width = image.shape
        rng = np.random.default_rng(self.depth_seed)
        coarse = torch.from_numpy(rng.standard_normal((batch, 1, 5, 7), dtype=np.float32))
        hills = F.interpolate(coarse, (height, width), mode="bicubic", align_corners=True)
        ground = torch.linspace(1, 0.15, height)[:, None]
        depth = (ground + 0.12 * hills).clamp_(min=0.05)
        return depth / depth.amax(dim=(1, 2, 3), keepdim=True)


def read_depth(path: str, height: int, width: int) -> Tensor:
    """Read a 16-bit gray PNG as depth (1, 1, height, width) in [0, 1], resized bilinearly, its maximum 1.

    Raises RecipeError for a file that is missing, is no such PNG, or is zero everywhere.
    """
    try:
        with PIL.Image.open(path, formats=["PNG"]) as file:
            mode, values = file.mode, np.asarray(file)
    except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RecipeError(f"haze: cannot read the depth map {path} as PNG: {reason}") from error
    if not mode.startswith("I"):
        raise RecipeError(f"haze: the depth map {path} has mode {mode}, expected a 16-bit gray PNG")
    depth = torch.from_numpy(values.astype(np.float32))[None, None]
    depth = F.interpolate(depth, (height, width), mode="bilinear", antialias=True)
    farthest = float(depth.max())
    if farthest <= 0:
        raise RecipeError(
            f"haze: the depth map {path} is zero everywhere, expected greater values for greater distance"
        )
    return depth / farthest

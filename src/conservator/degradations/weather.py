"""Rain, snow and haze."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Annotated, ClassVar, Self

import numpy as np
import PIL.Image
import torch
from torch import Tensor
from torch.nn import functional as F

from conservator.degradations.degradation import Degradation, by_severity, grade
from conservator.degradations.fields import Range, Seed
from conservator.degradations.kernels import convolve_separable, gather_taps, gaussian_window, line_taps
from conservator.degradations.noise import draw_seed
from conservator.errors import RecipeError
from conservator.image import Image
from conservator.kinds import Kind, Severity

RAIN_LIGHT = 0.8
"""What a pixel that is all rain looks like, in [0, 1]: the blend of MiOIR."""
SNOW_LIGHT, SNOW_LAYERS = 0.95, 3
"""What a pixel that is all snow looks like; from far to near."""
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

    @property
    def severity(self) -> Severity:
        return grade(self.value, 20, 45, 75)

    def __call__(self, image: Image) -> Image:
        rain = self._streaks(image).to(image.device)
        return torch.lerp(image, torch.full_like(rain, RAIN_LIGHT), rain).clamp_(0, 1)

    def _streaks(self, image: Image) -> Tensor:
        """The field r, (B, 1, H, W) in [0, 1]."""
        light = DROP_LIGHT / self.length  # a faster drop leaves a longer, fainter streak
        rng = np.random.default_rng(self.seed)
        return 1 - torch.exp(-_streaks(image, self.value, self.length, self.angle, self.width, light, rng))


def _streaks(
    image: Image, value: float, length: int, angle: float, width: int, light: float, rng: np.random.Generator
) -> Tensor:
    """Light of streaks that add up, (B, 1, H, W): drops of ``light`` a pixel drawn out to lines and blurred."""
    batch, _, height, columns = image.shape
    canvas = (batch, 1, height + 2 * length, columns + 2 * length)  # streaks come in from outside, too
    uniform = torch.from_numpy(rng.random(canvas, dtype=np.float32))
    chance = value / 25600
    # a drop's uniform number, below the chance, is its brightness as well
    drops = torch.where(uniform < chance, 0.4 + 0.6 * uniform / max(chance, 1e-9), 0.0)
    profile = [light * math.sin(math.pi * (i + 0.5) / length) ** 0.5 for i in range(length)]
    lines = gather_taps(drops, line_taps(profile, 90 + angle), (length, length))
    radius = width // 2
    return convolve_separable(lines, gaussian_window(0.3 * (radius - 1) + 0.8, radius))


@dataclass(frozen=True)
class Downpour(Degradation):
    """Rain that falls in sheets: I = J + light * r, clipped, r the streaks of ``layers`` slopes around ``angle``.

    The additive model of Rain100H (Yang et al. 2017); how the streaks are drawn is ours, as in ``Rain``. ``slant`` in
    degrees is how far the layers' slopes spread; ``density`` is Rain's value, shared out among them.
    Samples density, light and layers: LOW 4-15, 0.2-0.4, 1; MEDIUM 15-40, 0.3-0.6, 1-2; HIGH 40-90, 0.5-0.8, 2-3;
    VERY_HIGH 90-160, 0.7-1, 3-5; length 12-70, slope -40 to 40, slant 0-20, width 1 or 3.
    """

    kind: ClassVar[Kind] = Kind.RAIN
    density: Annotated[float, Range(0, 400)]
    light: Annotated[float, Range(0, 1)]
    layers: Annotated[int, Range(1, 8)]
    length: Annotated[int, Range(1, 400)]
    angle: Annotated[float, Range(-90, 90)]
    slant: Annotated[float, Range(0, 90)]
    width: Annotated[int, Range(1, 31)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        density = rng.uniform(*by_severity(severity, (4, 15), (15, 40), (40, 90), (90, 160)))
        light = rng.uniform(*by_severity(severity, (0.2, 0.4), (0.3, 0.6), (0.5, 0.8), (0.7, 1.0)))
        layers = int(rng.integers(*by_severity(severity, (1, 1), (1, 2), (2, 3), (3, 5)), endpoint=True))
        length, angle = int(rng.integers(12, 70, endpoint=True)), rng.uniform(-40, 40)
        width = 1 if rng.random() < 0.5 else 3
        return cls(density, light, layers, length, angle, rng.uniform(0, 20), width, draw_seed(rng))

    @property
    def severity(self) -> Severity:
        return grade(self.density, 15, 40, 90)

    def __call__(self, image: Image) -> Image:
        rain = torch.zeros_like(image[:, :1])
        for rng in np.random.default_rng(self.seed).spawn(self.layers):
            slope = float(np.clip(self.angle + rng.uniform(-self.slant, self.slant), -90, 90))
            length = max(1, round(self.length * rng.uniform(0.6, 1)))
            # the brightest line of one pixel saturates where it is thickest
            rain += _streaks(image, self.density / self.layers, length, slope, self.width, 1.5, rng).to(image.device)
        return (image + self.light * rain.clamp_(0, 1)).clamp_(0, 1)


@dataclass(frozen=True)
class VeiledRain(Degradation):
    """Rain near and far: ``layers`` of streaks screened over a scene that far rain veils, J (1 - veil) + 0.8 veil.

    Screening, 1 - (1 - J) (1 - r), leaves bright places as they are. Each layer has a length of up to ``length`` pixels
    and a slope around ``angle`` degrees from the vertical; ``density`` is Rain's value, shared out among them.
    Samples density and veil: LOW 6-16, 0-0.1; MEDIUM 18-40, 0-0.2; HIGH 45-85, 0.05-0.25; VERY_HIGH 95-160, 0.1-0.3;
    2-4 layers, length 10-60, angle normal with sigma 20, width 1 or 3.
    """

    kind: ClassVar[Kind] = Kind.RAIN
    density: Annotated[float, Range(0, 400)]
    veil: Annotated[float, Range(0, 1)]
    layers: Annotated[int, Range(1, 8)]
    length: Annotated[int, Range(1, 400)]
    angle: Annotated[float, Range(-90, 90)]
    width: Annotated[int, Range(1, 31)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        density = rng.uniform(*by_severity(severity, (6, 16), (18, 40), (45, 85), (95, 160)))
        veil = rng.uniform(*by_severity(severity, (0, 0.1), (0, 0.2), (0.05, 0.25), (0.1, 0.3)))
        layers, length = int(rng.integers(2, 4, endpoint=True)), int(rng.integers(10, 60, endpoint=True))
        angle = float(np.clip(rng.normal(0, 20), -90, 90))
        return cls(density, veil, layers, length, angle, 1 if rng.random() < 0.5 else 3, draw_seed(rng))

    @property
    def severity(self) -> Severity:
        return grade(self.density, 17, 42, 90)

    def __call__(self, image: Image) -> Image:
        clear = torch.ones_like(image[:, :1])
        for rng in np.random.default_rng(self.seed).spawn(self.layers):
            slope = float(np.clip(self.angle + rng.normal(0, 3), -90, 90))  # one wind blows through all layers
            length = max(1, round(self.length * rng.uniform(0.5, 1)))
            light = DROP_LIGHT / length
            streaks = _streaks(image, self.density / self.layers, length, slope, self.width, light, rng)
            clear *= torch.exp(-streaks).to(image.device)
        veiled = torch.lerp(image, torch.full_like(image, RAIN_LIGHT), self.veil)
        return (1 - (1 - veiled) * clear).clamp_(0, 1)


@dataclass(frozen=True)
class Snow(Degradation):
    """Bright flakes in front of the scene: I = J (1 - s) + 0.95 s, in layers from fine and far to large and near.

    ``density`` is how many flakes there are in 10,000 pixels of the farthest layer; each of the two layers nearer has
    flakes 1.7 times as wide and a third as many. ``size`` in pixels is the radius of the farthest flakes; ``wind`` and
    ``angle`` draw each flake out to a line of that many radii, in degrees from the vertical. The layers follow the
    description of Snow100K (Liu et al. 2018: small, medium, large); how they are drawn is ours.
    Samples density: LOW 6-16, MEDIUM 16-36, HIGH 36-70, VERY_HIGH 70-120; size 0.8-1.8, wind 0-4, angle -45 to 45.
    """

    kind: ClassVar[Kind] = Kind.SNOW
    density: Annotated[float, Range(0, 1000)]
    size: Annotated[float, Range(0.3, 20)]
    wind: Annotated[float, Range(0, 40)]
    angle: Annotated[float, Range(-90, 90)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        density = rng.uniform(*by_severity(severity, (6, 16), (16, 36), (36, 70), (70, 120)))
        return cls(density, rng.uniform(0.8, 1.8), rng.uniform(0, 4), rng.uniform(-45, 45), draw_seed(rng))

    @property
    def severity(self) -> Severity:
        return grade(self.density, 16, 36, 70)

    def __call__(self, image: Image) -> Image:
        clear = torch.ones_like(image[:, :1])
        for layer, rng in enumerate(np.random.default_rng(self.seed).spawn(SNOW_LAYERS)):
            clear = clear * (1 - self._flakes(image, layer, rng).to(image.device))
        return torch.lerp(torch.full_like(image, SNOW_LIGHT), image, clear).clamp_(0, 1)

    def _flakes(self, image: Image, layer: int, rng: np.random.Generator) -> Tensor:
        """The field s of one layer, (B, 1, H, W) in [0, 1]."""
        batch, _, height, width = image.shape
        radius = self.size * 1.7**layer
        length = max(1, round(self.wind * radius))
        border = length + math.ceil(3 * radius)
        uniform = torch.from_numpy(rng.random((batch, 1, height + 2 * border, width + 2 * border), dtype=np.float32))
        chance = self.density / 10_000 / 3**layer
        # a flake's uniform number, below the chance, is how much it hides as well
        flakes = torch.where(uniform < chance, 0.4 + 0.6 * uniform / max(chance, 1e-9), 0.0)
        drawn = gather_taps(flakes, line_taps([1 / length] * length, 90 + self.angle), (length, length))
        soft = convolve_separable(drawn, gaussian_window(0.6 * radius, math.ceil(2 * radius)))
        side = [(n - m) // 2 for n, m in zip(soft.shape[-2:], (height, width), strict=True)]
        soft = soft[..., side[0] : side[0] + height, side[1] : side[1] + width]
        # a flake that stands still hides what is behind its middle; one that moves shares that out along its way
        return (soft * 2 * math.pi * (0.6 * radius) ** 2 * max(1.0, length / (2 * radius))).clamp_(0, 1)


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

    @property
    def severity(self) -> Severity:
        return grade(self.beta, 0.5, 0.9, 1.35)

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


@dataclass(frozen=True)
class UnevenHaze(Degradation):
    """Haze as it drifts: a coloured airlight, banks that are denser, and depth that jumps where objects end.

    As ``Haze``, with the airlight of each channel; ``bank`` from 0 to 1 is how much the density varies over the picture
    in smooth banks, ``relief`` from 0 to 1 how much of the depth follows the picture's own large regions of brightness.
    Samples beta as Haze; airlight 0.65-1, its channels apart by up to 0.1; bank 0-0.7; relief 0-0.7.
    """

    kind: ClassVar[Kind] = Kind.HAZE
    red: Annotated[float, Range(0, 1)]
    green: Annotated[float, Range(0, 1)]
    blue: Annotated[float, Range(0, 1)]
    beta: Annotated[float, Range(0, 20)]
    bank: Annotated[float, Range(0, 1)]
    relief: Annotated[float, Range(0, 1)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        beta = rng.uniform(*by_severity(severity, (0.2, 0.45), (0.6, 0.9), (0.9, 1.35), (1.35, 1.8)))
        light = rng.uniform(0.65, 1.0)
        red, green, blue = (min(1.0, light + rng.uniform(-0.05, 0.05)) for _ in range(3))
        return cls(red, green, blue, beta, rng.uniform(0, 0.7), rng.uniform(0, 0.7), draw_seed(rng))

    @property
    def severity(self) -> Severity:
        return grade(self.beta, 0.5, 0.9, 1.35)

    def __call__(self, image: Image) -> Image:
        rng = np.random.default_rng(self.seed)
        size = image.shape[-2:]
        ground = Haze(1.0, self.beta, draw_seed(rng))._made_up_depth(image)
        depth = torch.lerp(ground, self._regions(image, rng), self.relief)
        coarse = torch.from_numpy(rng.standard_normal((len(image), 1, 4, 5), dtype=np.float32))
        banks = torch.tanh(F.interpolate(coarse, size, mode="bicubic", align_corners=True))
        transmission = torch.exp(-self.beta * depth * (1 + self.bank * banks)).to(image.device)
        airlight = image.new_tensor([self.red, self.green, self.blue]).view(1, 3, 1, 1).expand_as(image)
        return torch.lerp(airlight, image, transmission).clamp_(0, 1)

    @staticmethod
    def _regions(image: Image, rng: np.random.Generator) -> Tensor:
        """Depth (B, 1, H, W) in [0, 1] in steps: brightness of a coarse picture, cut into a few random levels."""
        side = min(image.shape[-2:])
        smooth = F.avg_pool2d(F.pad(image.mean(1, keepdim=True), (2,) * 4, mode="replicate"), 5, 1)
        if side > 128:  # what is an object does not depend on how many pixels show it
            small = F.interpolate(smooth, scale_factor=128 / side, mode="bilinear", antialias=True)
            smooth = F.interpolate(small, image.shape[-2:], mode="bilinear")
        edges = torch.from_numpy(np.sort(rng.uniform(0.1, 0.9, 3)).astype(np.float32))
        depths = torch.from_numpy(rng.uniform(0.1, 1, 4).astype(np.float32))
        return depths[torch.bucketize(smooth.cpu(), edges)]


@dataclass(frozen=True)
class RoomHaze(Degradation):
    """Smoke in a room: coloured, bright or dim air, and the depth of a box with things that stand on its floor.

    As ``Haze``, with the airlight of each channel, ``red``, ``green``, ``blue``; the room is drawn by ``seed``: where
    its lines meet, how far the walls are, and three to seven boxes.
    Samples beta as Haze; airlight 0.25-1 (RIDCP, Wu et al. 2023), its channels apart by up to 0.05.
    """

    kind: ClassVar[Kind] = Kind.HAZE
    red: Annotated[float, Range(0, 1)]
    green: Annotated[float, Range(0, 1)]
    blue: Annotated[float, Range(0, 1)]
    beta: Annotated[float, Range(0, 20)]
    seed: Seed

    @classmethod
    def sample(cls, severity: Severity, rng: np.random.Generator) -> Self:
        beta = rng.uniform(*by_severity(severity, (0.2, 0.45), (0.6, 0.9), (0.9, 1.35), (1.35, 1.8)))
        light = rng.uniform(0.25, 1.0)
        red, green, blue = (float(np.clip(light + rng.uniform(-0.025, 0.025), 0, 1)) for _ in range(3))
        return cls(red, green, blue, beta, draw_seed(rng))

    @property
    def severity(self) -> Severity:
        return grade(self.beta, 0.5, 0.9, 1.35)

    def __call__(self, image: Image) -> Image:
        rng = np.random.default_rng(self.seed)
        depth = torch.stack([_room(image.shape[-2], image.shape[-1], rng) for _ in image])[:, None]
        transmission = torch.exp(-self.beta * depth).to(image.device)
        airlight = image.new_tensor([self.red, self.green, self.blue]).view(1, 3, 1, 1).expand_as(image)
        return torch.lerp(airlight, image, transmission).clamp_(0, 1)


def _room(height: int, width: int, rng: np.random.Generator) -> Tensor:
    """Depth (H, W) of a box seen from inside, its maximum 1."""
    across, down = rng.uniform(0.2, 0.8), rng.uniform(0.25, 0.65)
    x = (torch.arange(width) + 0.5) / width - across
    y = ((torch.arange(height) + 0.5) / height - down)[:, None]
    left, right, ceiling, floor = (rng.uniform(0.15, 0.6) for _ in range(4))  # a wall that far off meets the back there
    walls = torch.maximum(torch.maximum(x / right, -x / left), torch.maximum(y / floor, -y / ceiling))
    depth = 1 / walls.clamp(min=1)
    for _ in range(int(rng.integers(3, 8))):
        nearness = rng.uniform(1.1, 2.5)  # where its foot stands on the floor, in distances of the back wall
        foot, tall = floor * nearness, rng.uniform(0.1, 0.6) * nearness
        middle, half = rng.uniform(-0.6, 0.6), rng.uniform(0.03, 0.2) * nearness
        inside = ((x - middle).abs() < half) & (y < foot) & (y > foot - tall)
        depth = torch.where(inside, torch.minimum(depth, torch.tensor(1 / nearness)), depth)
    return (depth / depth.max()).float()


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

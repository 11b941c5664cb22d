"""What single tools are measured on: photos damaged as trainings do, as none does, and real pairs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch

from conservator.degradations import (
    BlurredReduction,
    Degradation,
    EnlargedNoise,
    Haze,
    HexagonBlur,
    JpegCompression,
    Kind,
    LowResolution,
    Recipe,
    ReducedJpeg,
    RowBanding,
    ShakenHand,
    Underexposure,
    WebpCompression,
    degrade,
    mio_recipe,
)
from conservator.degradations import GaussianNoise as Noise
from conservator.degradations.patches import DrawRecipe
from conservator.errors import ConservatorError
from conservator.evaluation.parts import pair_set
from conservator.image import Image, in_8_bits
from conservator.kinds import Severity
from conservator.photo import find_photos, load_photo

Pairs: TypeAlias = Callable[[Path], Iterator[tuple[Image, Image]]]
"""(folder of validation data) -> damaged and clean images."""


@dataclass(frozen=True)
class ToolProtocol:
    """One row of damage, and the tools it is for."""

    name: str
    pairs: Pairs = field(repr=False)
    removes: frozenset[Kind]
    """Tools that remove one of these are tried."""
    make: str = "trained"
    """Whose damage it is: a make that trainings draw, one that is "held out" from them, or "real"."""
    channel: str = "RGB"
    """What PSNR is measured on: RGB, or Y of YCbCr."""
    scale: int = 1
    border: int = 0
    """Pixels cut off before measuring, as super-resolution papers do."""
    clipped: bool = True
    """Whether images hold what a file can: 8 bits from black to white. Papers on denoising mostly do not."""


def _each(name: str, draw: DrawRecipe, keep: DrawRecipe = lambda rng: ()) -> Pairs:
    """The photos of a folder, damaged; ``keep`` is the damage that stays in what they are compared with."""

    def pairs(data: Path) -> Iterator[tuple[Image, Image]]:
        for i, path in enumerate(_photos(data, name)):
            clean = load_photo(path).image
            damaged, target = (degrade(clean, d(np.random.default_rng([0, i]))) for d in (draw, keep))
            yield in_8_bits(damaged), target

    return pairs


def _unclipped(name: str, sigma: float) -> Pairs:
    def pairs(data: Path) -> Iterator[tuple[Image, Image]]:
        for i, path in enumerate(_photos(data, name)):
            clean = load_photo(path).image
            noise = np.random.default_rng([0, i]).normal(0, sigma / 255, clean.shape)
            yield clean + torch.from_numpy(noise.astype(np.float32)), clean

    return pairs


def _reduced(name: str, factor: int, blur: DrawRecipe | None = None) -> Pairs:
    def pairs(data: Path) -> Iterator[tuple[Image, Image]]:
        for i, path in enumerate(_photos(data, name)):
            clean = load_photo(path).image
            height, width = (side // factor * factor for side in clean.shape[-2:])
            clean = clean[..., :height, :width]
            recipe = (LowResolution(factor),) if blur is None else blur(np.random.default_rng([0, i]))
            yield in_8_bits(degrade(clean, recipe)), clean

    return pairs


def _real(name: str, make: str, removes: frozenset[Kind]) -> ToolProtocol:
    """A set of pairs of parts.py."""
    return ToolProtocol(name, lambda data: (pair.load() for pair in pair_set(name).pairs(data)), removes, make)


def _with_depth(data: Path) -> Iterator[tuple[Image, Image]]:
    """Haze as the protocol has it, by the depth that was measured of each photo."""
    for i, path in enumerate(_photos(data.parent, "depth/rgb")):
        rng, clean = np.random.default_rng([0, i]), load_photo(path).image
        depth = data.parent / "depth" / f"{path.stem.split('_')[0]}.png"
        haze = Haze(rng.uniform(0.7, 1), rng.uniform(0.6, 1.8), 0, str(depth))
        yield in_8_bits(degrade(clean, (haze,))), clean


def _photos(data: Path, name: str) -> list[Path]:
    if not (data / name).is_dir():
        raise ConservatorError(
            f"{data / name} is not there; give the folder that holds CBSD68, CID22_val and the others"
        )
    return find_photos(data / name, recursive=False)


def _noise(sigma: float) -> DrawRecipe:
    return lambda rng: (Noise(sigma / 255, int(rng.integers(2**32))),)


def _jpeg(quality: int) -> DrawRecipe:
    return lambda rng: (JpegCompression(quality),)


def _mio(kind: Kind, *more: DrawRecipe) -> DrawRecipe:
    return lambda rng: (*mio_recipe((kind,), rng), *(d for recipe in more for d in recipe(rng)))


def _any(make: type[Degradation]) -> DrawRecipe:
    """One of the make, of any severity, each as likely."""
    return lambda rng: (make.sample(Severity(int(rng.integers(1, 5))), rng),)


def _small(rng: np.random.Generator) -> Recipe:
    return (LowResolution(4),)


def _held_out(kind: Kind, photos: str, *makes: type[Degradation]) -> tuple[ToolProtocol, ...]:
    return tuple(
        ToolProtocol(f"{photos} {make.name}", _each(photos, _any(make)), frozenset({kind}), "held out")
        for make in makes
    )


_NOISE, _JPEG, _RAIN, _HAZE, _DARK, _SMALL = (
    frozenset({kind}) for kind in (Kind.NOISE, Kind.JPEG, Kind.RAIN, Kind.HAZE, Kind.LOW_LIGHT, Kind.LOW_RESOLUTION)
)
PROTOCOLS: tuple[ToolProtocol, ...] = (
    *(ToolProtocol(f"CBSD68 noise {s}", _each("CBSD68", _noise(s)), _NOISE) for s in (15, 25, 50)),
    *(
        ToolProtocol(f"CBSD68 noise {s} unclipped", _unclipped("CBSD68", s), _NOISE, clipped=False)
        for s in (15, 25, 50)
    ),
    *_held_out(Kind.NOISE, "CBSD68", EnlargedNoise, RowBanding),
    _real("PolyU_sub Canon5D2", "real", _NOISE),
    _real("Nam_sub 01 to 06", "real", _NOISE),
    *(ToolProtocol(f"LIVE1_10 JPEG {q}", _each("LIVE1_10", _jpeg(q)), _JPEG) for q in (10, 20, 30, 40)),
    *_held_out(Kind.JPEG, "LIVE1_10", ReducedJpeg, WebpCompression),
    *(
        ToolProtocol(f"CID22 {kind.label}{name}", _each("CID22_val", _mio(kind, *more)), frozenset({kind}))
        for kind in (Kind.MOTION_BLUR, Kind.DEFOCUS_BLUR)
        for name, more in (("", ()), (" + JPEG 20", (_jpeg(20),)), (" + noise 10", (_noise(10),)))
    ),
    ToolProtocol(
        "CID22 motion blur, reduced by 4",
        _each("CID22_val", _mio(Kind.MOTION_BLUR, _small), _small),
        frozenset({Kind.MOTION_BLUR}),
    ),
    *_held_out(Kind.MOTION_BLUR, "CID22_val", ShakenHand),
    *_held_out(Kind.DEFOCUS_BLUR, "CID22_val", HexagonBlur),
    ToolProtocol("CID22 rain", _each("CID22_val", _mio(Kind.RAIN)), _RAIN),
    _real("RainFu_sub", "held out", _RAIN),
    _real("Rain100H_sub", "held out", _RAIN),
    ToolProtocol("CID22 haze", _each("CID22_val", _mio(Kind.HAZE)), _HAZE),
    ToolProtocol("haze by real depth", _with_depth, _HAZE, "held out"),
    _real("SOTS_indoor_sub", "held out", _HAZE),
    ToolProtocol("CID22 low light", _each("CID22_val", _mio(Kind.LOW_LIGHT)), _DARK),
    *_held_out(Kind.LOW_LIGHT, "CID22_val", Underexposure),
    _real("FiveK9", "real", _DARK),
    *(
        ToolProtocol(f"{name} x4", _reduced(name, 4), _SMALL, channel="Y", scale=4, border=4)
        for name in ("Set5", "Set14")
    ),
    *(
        ToolProtocol(
            f"Set14 x{factor} after blur",
            _reduced(
                "Set14",
                factor,
                lambda rng, n=factor: (BlurredReduction(n, 1.8, 1.2, rng.uniform(-90, 90)),),  # type: ignore[misc]
            ),
            _SMALL,
            "held out",
            scale=factor,
        )
        for factor in (2, 4)
    ),
    ToolProtocol("CID22 clean", _each("CID22_val", lambda rng: ()), frozenset(Kind) - {Kind.LOW_RESOLUTION}),
)
"""Fixed seeds; of pairs of development and calibration, never of the test parts (docs/results/openings.md)."""

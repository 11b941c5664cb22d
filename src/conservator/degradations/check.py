"""The contract of a degradation, as a function: run it on a class of your own before you use it."""

from __future__ import annotations

import dataclasses
import itertools
import json

import numpy as np
import torch

from conservator.degradations.degradation import Degradation
from conservator.image import Image, decibels, to_image
from conservator.kinds import Kind, Severity
from conservator.resample import bicubic_to

LEVELS = (Severity.LOW, Severity.MEDIUM, Severity.HIGH, Severity.VERY_HIGH)
DRAWS = 6
_CAP = 100.0
"""dB; of a photo that a damage leaves as it is, so that a mean over photos is a number."""


def check_degradation(cls: type[Degradation]) -> None:
    """Raise AssertionError with a sentence unless the class keeps the contract of ``Degradation``.

    It must be a frozen dataclass with a kind; come back equal from its JSON fields; know its own severity; give the
    same pixels twice; give a finite float32 image in [0, 1] of the same shape (LOW_RESOLUTION: not larger) for any
    size and batch; lower the mean PSNR with each severity; refuse severity NONE with ValueError. Takes a second or
    two.
    """
    _check_class(cls)
    photos = _photos()
    for severity in LEVELS:
        degradation = cls.sample(severity, np.random.default_rng(0))
        _check_record(cls, degradation)
        told = degradation.severity
        _expect(told == severity, f"{degradation} was sampled as {severity.label}, but says {told.label}")
        for image in (photos[:1], photos[:2], photos[:1, :, :9, :7], photos[:1, :, 3:66, 5:62], photos[:1, :, :1, :1]):
            _check_call(degradation, image)
    _check_severity(cls, photos)


def _expect(holds: bool, sentence: str) -> None:
    if not holds:
        raise AssertionError(sentence)


def _photos() -> Image:
    """Two real photos, (2, 3, 160, 160)."""
    from skimage import data

    astronaut, coffee = data.astronaut()[40:200, 140:300], data.coffee()[100:260, 180:340]
    return torch.cat([to_image(astronaut), to_image(coffee)])


def _check_class(cls: type[Degradation]) -> None:
    _expect(isinstance(getattr(cls, "kind", None), Kind), f"{cls.name}: kind must be a Kind")
    frozen = dataclasses.is_dataclass(cls) and cls.__dataclass_params__.frozen
    _expect(frozen, f"{cls.name}: must be a dataclass with frozen=True, so that a recipe cannot change")
    try:
        cls.sample(Severity.NONE, np.random.default_rng(0))
    except ValueError:
        return
    raise AssertionError(f"{cls.name}: sample must raise ValueError for severity NONE")


def _check_record(cls: type[Degradation], degradation: Degradation) -> None:
    values = dataclasses.asdict(degradation)  # type: ignore[call-overload]
    try:
        copy = cls(**json.loads(json.dumps(values, allow_nan=False)))
    except (TypeError, ValueError) as error:
        raise AssertionError(f"{cls.name}: fields must be plain JSON values, but {values}: {error}") from error
    _expect(copy == degradation, f"{cls.name}: comes back from JSON as {copy}, expected {degradation}")


def _check_call(degradation: Degradation, image: Image) -> None:
    shape, before = tuple(image.shape), image.clone()
    what = f"{degradation} on an image of shape {shape}"
    out = degradation(image)
    _expect(torch.equal(image, before), f"{what} changes its input")
    _expect(out.dtype == torch.float32, f"{what} gives {out.dtype}, expected float32")
    if degradation.kind is Kind.LOW_RESOLUTION:
        fits = out.shape[:2] == image.shape[:2] and all(
            1 <= a <= b for a, b in zip(out.shape[2:], shape[2:], strict=True)
        )
    else:
        fits = out.shape == image.shape
    _expect(fits, f"{what} gives shape {tuple(out.shape)}")
    low, high = (float(v) for v in torch.aminmax(out))
    _expect(low >= 0 and high <= 1, f"{what} gives values in [{low}, {high}], expected [0, 1]")
    _expect(torch.equal(out, degradation(image)), f"{what} gives other pixels the second time")


def _check_severity(cls: type[Degradation], photos: Image) -> None:
    means = []
    for severity in LEVELS:
        # the same draws at each level, so that levels are compared and not luck
        draws = [cls.sample(severity, np.random.default_rng(seed)) for seed in range(DRAWS)]
        means.append(float(np.mean([_psnr(draw(photos), photos) for draw in draws])))
    falls = all(weaker > stronger for weaker, stronger in itertools.pairwise(means))
    listed = ", ".join(f"{severity.label} {mean:.2f}" for severity, mean in zip(LEVELS, means, strict=True))
    _expect(falls, f"{cls.name}: mean PSNR must fall with each severity, got {listed} dB")


def _psnr(image: Image, reference: Image) -> float:
    """Mean over the batch of PSNR in RGB, dB; a smaller image is first brought back to size."""
    if image.shape != reference.shape:
        image = bicubic_to(image, reference.shape[-2], reference.shape[-1])
    return float(decibels((image - reference).square().mean(dim=(1, 2, 3)), _CAP).mean())

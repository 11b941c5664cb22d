"""``check_perception``: what every perception must hold, shipped so that others' perceptions run the same checks."""

from __future__ import annotations

import math
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor

import torch
from skimage import data

from conservator.image import Image, to_image
from conservator.kinds import OBJECTIVES, Kind, Severity
from conservator.perception.perception import GRADED_KINDS, Gain, Look, Percept, Perception
from conservator.perception.study import study

_SIZES = ((8, 8), (9, 31), (64, 10), (130, 97))
_NOISE = 0.15
"""Deviation of the noise of the obvious case; 38 grey levels of 255."""


def check_perception(perception: Perception, image: Image | None = None) -> None:
    """Raise AssertionError with a sentence when ``perception`` breaks the contract of Perception.

    Checked, on pictures from 8x8 pixels on, on studies, and from eight threads: a severity and a probability in [0, 1]
    for every kind that is graded, and a finite quality; the same answer when asked again; an input that stays as it
    was; gains that are finite, for every objective, zero for equal pictures, above zero where a photo that is all noise
    gave way to the photo, and below zero the other way round. ``image`` is an undamaged photo (1, 3, H, W), at least
    400 pixels a side, to check with; without it, one that comes with scikit-image.
    """
    scene = to_image(data.astronaut()) if image is None else image
    noise = torch.randn(scene.shape, generator=torch.Generator().manual_seed(0))
    noisy = (scene + _NOISE * noise).clamp(0, 1)
    pictures = [scene[..., :height, :width] for height, width in _SIZES] + [study(scene), study(noisy, like=scene)]
    for picture in pictures:
        _check_grades(perception, picture)
    _check_gains(perception, pictures[-2], pictures[-1])
    _check_threads(perception, pictures[:5])  # the noisy study would only take time


def _check_grades(perception: Perception, picture: Image) -> None:
    name, size = type(perception).__name__, "x".join(map(str, picture.shape))
    given = picture.clone()
    try:
        seen = perception.grade(given)
    except Exception as error:
        raise AssertionError(f"{name}: failed on a picture of {size}: {type(error).__name__}: {error}") from error
    assert torch.equal(given, picture), f"{name}: grading changed its input of {size} in place"
    expected = {*GRADED_KINDS, Kind.LOW_RESOLUTION}
    for what, kinds in (("severity", seen.severities.keys()), ("probability", seen.confidences.keys())):
        missing = [kind.label for kind in Kind if kind in expected - kinds]
        assert not missing, f"{name}: grading {size} gave no {what} of {', '.join(missing)}"
    for kind, severity in seen.severities.items():
        assert isinstance(severity, Severity), f"{name}: the severity of {kind.label} is {severity!r}, not a Severity"
    for kind, probability in seen.confidences.items():
        assert 0 <= probability <= 1, f"{name}: the probability of {kind.label} is {probability}, not in [0, 1]"
    assert math.isfinite(seen.quality), f"{name}: the quality of {size} is {seen.quality}, not a number of dB"
    assert perception.grade(given) == seen, f"{name}: graded {size} twice, and differently"


def _check_gains(perception: Perception, clean: Image, noisy: Image) -> None:
    name, treated = type(perception).__name__, frozenset({Kind.NOISE})
    before, after = (Look(picture, perception.grade(picture)) for picture in (noisy, clean))
    same = Look(noisy.clone(), before.percept)
    gains = {
        "removing the noise of a photo": perception.weigh(before, after, treated),
        "adding noise to a photo": perception.weigh(after, before, treated),
        "a treatment that changed nothing": perception.weigh(before, same, treated),
    }
    for what, gain in gains.items():
        _check_gain(f"{name}: {what}", gain)
    again = perception.weigh(before, after, treated)
    assert again == gains["removing the noise of a photo"], f"{name}: weighed a treatment twice, and differently"
    better, worse, none = gains.values()
    for objective in OBJECTIVES:
        told = f"{name}, {objective}:"
        assert none.mean[objective] == none.deviation[objective] == 0, f"{told} what changed nothing gained something"
        assert better.mean[objective] > 0, f"{told} a photo gained {better.mean[objective]:.2f} dB by losing its noise"
        assert worse.mean[objective] < 0, f"{told} a photo gained {worse.mean[objective]:.2f} dB by noise"


def _check_gain(what: str, gain: Gain) -> None:
    for part, values in (("gain", gain.mean), ("deviation", gain.deviation)):
        missing = [objective for objective in OBJECTIVES if objective not in values]
        assert not missing, f"{what} has no {part} for {', '.join(missing)}"
        for objective, value in values.items():
            assert math.isfinite(value), f"{what} has a {part} of {value} for {objective}, not a number of dB"
    assert min(gain.deviation.values()) >= 0, f"{what} has a negative deviation"


def _check_threads(perception: Perception, pictures: Sequence[Image]) -> None:
    """Eight threads, each with all pictures in an order of its own, see what one sees."""
    alone = [perception.grade(picture) for picture in pictures]

    def grade(first: int) -> list[tuple[int, Percept]]:
        order = [(first + i) % len(pictures) for i in range(len(pictures))]
        return [(i, perception.grade(pictures[i])) for i in order]

    with ThreadPoolExecutor(8) as threads:
        seen = [pair for pairs in threads.map(grade, range(8)) for pair in pairs]
    for i, percept in seen:
        assert percept == alone[i], (
            f"{type(perception).__name__}: from eight threads it saw something else in a picture than from one; keep "
            "nothing of a picture in the object"
        )

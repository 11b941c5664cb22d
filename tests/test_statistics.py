"""Statistics stay the numbers that perception was trained on; the quick ways to them find what the plain ones do."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.degradations import degrade, parse_recipe
from conservator.image import Image, luma
from conservator.perception import statistics as measured
from conservator.perception import streaks, study, windows
from conservator.perception.features import STATISTICS
from conservator.tools.classical import blur_model
from conservator.tools.classical.basics import block_mean
from conservator.tools.classical.kernels import DEFOCUS, MOTION

KNOWN = Path(__file__).with_name("statistics.json")
"""The statistics of three pictures, in their order, as the weights that ship know them: before there were shortcuts."""


def test_the_numbers_are_those_that_perception_was_trained_on(coffee: Image, astronaut: Image) -> None:
    pictures = {
        "study": study(coffee),
        "small": astronaut[..., 100:140, 200:290],
        "large": coffee[..., :390, :600],
    }
    for name, known in json.loads(KNOWN.read_text()).items():
        found = measured.statistics(pictures[name])
        expected = dict(zip(STATISTICS, known, strict=True))
        assert found == pytest.approx(expected, rel=1e-3, abs=1e-3), name


SIZES = [(48, 48), (64, 67), (129, 101), (200, 256)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("quick", "plain"),
    [
        (lambda y: block_mean(y, 2), lambda y: F.avg_pool2d(y, 2)),
        (lambda y: block_mean(y, 16), lambda y: F.avg_pool2d(y, 16)),
        (windows.five_pixel_mean, lambda y: F.avg_pool2d(y, 5, 1)),
        (windows.seven_pixel_minimum, lambda y: -F.max_pool2d(-y, 7, 1)),
        (lambda y: windows.surroundings(y, 7), lambda y: F.avg_pool2d(y, 15, 1, 7, count_include_pad=False)),
        (lambda y: windows.surroundings(y, 4, 2), lambda y: F.avg_pool2d(y, 9, 2, 4, count_include_pad=False)),
        (lambda y: windows.quantiles(y, 0.02, 0.5, 0.995), lambda y: y.flatten(1).quantile(percents(), dim=1).T),
        (streaks._line_responses, lambda y: F.conv2d(y, streaks._streak_kernels(), stride=2)),
    ],
)
def test_a_quick_way_finds_what_the_plain_one_does(
    quick: Callable[[Tensor], Tensor], plain: Callable[[Tensor], Tensor], size: tuple[int, int], coffee: Image
) -> None:
    y = luma(torch.cat([coffee[..., : size[0], : size[1]], coffee[..., -size[0] :, -size[1] :]]))
    torch.testing.assert_close(quick(y), plain(y), rtol=1e-5, atol=1e-6)


def test_matrices_of_large_pictures_are_not_kept() -> None:
    """A photo that is no study may be graded, too: a matrix for 4,000 pixels a side takes 64 MB."""
    y = torch.rand(1, 1, 16, 1500, generator=torch.Generator().manual_seed(0))
    before = windows._averaging.cache_info().currsize
    means = windows.surroundings(y, 7)
    assert windows._averaging.cache_info().currsize == before
    torch.testing.assert_close(means[..., :700], windows.surroundings(y[..., :720], 7)[..., :700], rtol=1e-5, atol=1e-6)


def percents() -> Tensor:
    return torch.tensor([0.02, 0.5, 0.995])


@pytest.mark.parametrize("recipe", ["motion:high", "noise:high", "defocus:high"])
@pytest.mark.parametrize("family", [MOTION, DEFOCUS])
def test_the_best_kernel_is_among_the_promising_ones(family: blur_model.Family, recipe: str, coffee: Image) -> None:
    y = luma(degrade(coffee, parse_recipe(recipe, seed=1)))
    spectra = [blur_model._weighted(blur_model.mean_power(y), noise**2) for noise in (1 / 255, 6 / 255)]
    candidates = blur_model._candidates(family)
    everyone = torch.arange(len(candidates.transfer))
    for spectrum, fit in zip(spectra, blur_model._best_fits(spectra, family), strict=True):
        least = blur_model._best_of(candidates, everyone, spectrum).misfit
        assert fit.misfit == pytest.approx(least, rel=1e-5)  # not the same kernel: short lines have equal ones
    if family is MOTION:
        assert all(len(numbers) < 100 for numbers in blur_model._promising(spectra, candidates))


def test_what_is_kept_for_sizes_does_not_grow_with_them() -> None:
    for width in range(48, 78):
        measured.statistics(torch.rand(1, 3, 48, width, generator=torch.Generator().manual_seed(width)))
    assert measured._geometry.cache_info().currsize <= 8
    assert windows._averaging.cache_info().currsize <= 16


def test_kernels_that_perception_needed_first_can_be_trained_with() -> None:
    blur_model._candidates.cache_clear()
    measured.statistics(torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)))
    assert not any(kernel.is_inference() for kernel in blur_model._candidates(DEFOCUS).kernels)

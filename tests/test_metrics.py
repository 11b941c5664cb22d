"""Metrics: against scikit-image, against what is known by construction, and the contract."""

from __future__ import annotations

import importlib
import importlib.util
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from conservator.errors import ConservatorError, ImageError, MissingExtraError, NameNotFoundError
from conservator.image import Image, luma
from conservator.metrics import (
    DEFAULT_FULL_REFERENCE,
    DEFAULT_NO_REFERENCE,
    METRICS,
    FullReference,
    NoReference,
    check_metric,
    make_metric,
    metrics_at_hand,
)
from conservator.metrics.fidelity import TABLE_CAP, psnr, psnr_of_each, psnr_y


def noised(image: Image, sigma: float, seed: int = 0) -> Image:
    generator = torch.Generator().manual_seed(seed)
    return (image + torch.randn(image.shape, generator=generator) * (sigma / 255)).clamp(0, 1)


def blurred(image: Image, side: int) -> Image:
    return F.avg_pool2d(image, side, stride=1, padding=side // 2, count_include_pad=False)


def score(name: str, *images: Image) -> float:
    return make_metric(name).score(*images)


@pytest.mark.parametrize("name", [*DEFAULT_FULL_REFERENCE, *DEFAULT_NO_REFERENCE])
@pytest.mark.parametrize("photo", ["synthetic", "astronaut", "coffee"])
def test_contract(name: str, photo: str, request: pytest.FixtureRequest) -> None:
    image = None if photo == "synthetic" else request.getfixturevalue(photo)[..., :257, :301]
    check_metric(make_metric(name), image)


@pytest.mark.parametrize("sigma", [3.0, 15.0, 60.0])
def test_psnr_agrees_with_scikit_image(astronaut: Image, sigma: float) -> None:
    from skimage.metrics import peak_signal_noise_ratio

    image = noised(astronaut, sigma)
    expected = peak_signal_noise_ratio(astronaut.numpy().astype(np.float64), image.numpy(), data_range=1)
    assert score("psnr", image, astronaut) == pytest.approx(expected, abs=1e-4)


def test_psnr_of_a_known_error_and_of_equal_images() -> None:
    reference = torch.full((1, 3, 20, 30), 0.5)
    assert score("psnr", reference + 0.1, reference) == pytest.approx(20, abs=1e-4)
    assert score("psnr_y", reference + 0.1, reference) == pytest.approx(20 + 20 * math.log10(255 / 219), abs=1e-4)
    assert score("psnr", reference, reference.clone()) == math.inf


def test_psnr_is_capped_only_where_it_is_better(astronaut: Image) -> None:
    image = noised(astronaut, 3)
    free = psnr(image, astronaut)
    assert 35 < free < 45
    assert psnr(image, astronaut, cap=30) == psnr_y(image, astronaut, cap=30) == 30
    assert psnr(image, astronaut, cap=60) == free
    assert psnr(astronaut, astronaut.clone(), cap=TABLE_CAP) == TABLE_CAP == 100


def test_psnr_of_each_gives_the_numbers_of_psnr(astronaut: Image, coffee: Image) -> None:
    """As does the way in which trainings and agents of RL-Restore computed it, before there was one definition."""
    cleans = torch.cat([astronaut[..., :63, :63], coffee[..., 100:163, 200:263], coffee[..., :63, :63]])
    images = torch.cat([noised(cleans[:1], 20), noised(cleans[1:2], 2), cleans[2:]])
    found = psnr_of_each(images, cleans, cap=50)
    assert found.shape == (3,)
    alone = [psnr(a, b, cap=50) for a, b in zip(images.split(1), cleans.split(1), strict=True)]
    assert found.tolist() == pytest.approx(alone, abs=1e-12)
    assert found[2] == 50
    before = -10 * (images - cleans).square().mean(dim=(1, 2, 3)).clamp(min=1e-5).log10()
    assert found.tolist() == pytest.approx(before.tolist(), abs=2e-5)


def test_a_benchmark_measures_stand_ins_only_where_they_stand_in() -> None:
    """SSIM stands for MS-SSIM, and LPIPS and DISTS, where they can be had, for ST-LPIPS."""

    def missing(image: Image, reference: Image) -> float:
        raise MissingExtraError("not installed")

    there, gone = (FullReference(name, True, score) for name, score in (("there", psnr), ("gone", missing)))
    first = FullReference("first", True, psnr, stands_in_for=("gone",))
    second = FullReference("second", True, psnr, stands_in_for=("gone", "there"))
    metrics = [there, gone, first, second, make_metric("noise")]
    assert [metric.name for metric in metrics_at_hand(metrics)] == ["there", "first", "noise"]
    assert [metric.name for metric in metrics_at_hand()][:3] == ["psnr", "psnr_y", "ssim"]
    assert "ms_ssim" not in [metric.name for metric in metrics_at_hand()]


def test_an_installed_package_can_offer_a_metric(
    astronaut: Image, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    code = (
        "from conservator.metrics import NoReference\nBRIGHT = NoReference('bright', True, lambda x: float(x.mean()))\n"
    )
    (tmp_path / "offers_bright.py").write_text(code)
    about = tmp_path / "offers_bright-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: offers-bright\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[conservator.metrics]\nbright = offers_bright:BRIGHT\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert score("bright", astronaut) == pytest.approx(float(astronaut.mean()))
    assert "bright" in [metric.name for metric in metrics_at_hand()]
    (about / "entry_points.txt").write_text("[conservator.metrics]\nbright = offers_bright:DARK\n")
    importlib.invalidate_caches()
    with pytest.raises(
        ConservatorError, match="package offers-bright offers metrics as bright = offers_bright:DARK, but"
    ):
        make_metric("dark")


def test_psnr_y_agrees_with_scikit_images_ycbcr(coffee: Image) -> None:
    from skimage.color import rgb2ycbcr

    image = noised(coffee, 20)
    a, b = (rgb2ycbcr(x[0].permute(1, 2, 0).numpy())[..., 0] for x in (image, coffee))
    assert score("psnr_y", image, coffee) == pytest.approx(10 * math.log10(255**2 / np.mean((a - b) ** 2)), abs=1e-3)


@pytest.mark.parametrize("damage", [lambda x: noised(x, 25), lambda x: blurred(x, 7), lambda x: x.sqrt()])
def test_ssim_agrees_with_scikit_image(astronaut: Image, damage: object) -> None:
    from skimage.metrics import structural_similarity

    reference = astronaut[..., :201, :333]
    image = damage(reference)  # type: ignore[operator]
    a, b = (luma(x)[0, 0].double().numpy() * 255 for x in (image, reference))
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    _, expected = structural_similarity(a, b, full=True, **options)
    assert score("ssim", image, reference) == pytest.approx(expected[5:-5, 5:-5].mean(), abs=1e-4)


def test_ms_ssim_is_the_product_of_its_scales(astronaut: Image) -> None:
    """On a size that halves without rest, each scale is scikit-image's, and the weights those of Wang 2003."""
    from skimage.metrics import structural_similarity

    reference, image = astronaut, noised(astronaut, 30)
    planes = [luma(x).double() * 255 for x in (image, reference)]
    options = {"gaussian_weights": True, "sigma": 1.5, "use_sample_covariance": False, "data_range": 255}
    expected = 1.0
    for scale, weight in enumerate((0.0448, 0.2856, 0.3001, 0.2363, 0.1333)):
        a, b = (p[0, 0].numpy() for p in planes)
        # K1 so large that the luminance term is 1 leaves the contrast-structure term, which the finer scales use
        _, full = structural_similarity(a, b, full=True, K1=0.01 if scale == 4 else 1e6, **options)
        expected *= full[5:-5, 5:-5].mean() ** weight
        planes = [F.avg_pool2d(p, 2) for p in planes]
    assert score("ms_ssim", image, reference) == pytest.approx(expected, abs=1e-4)


def test_ms_ssim_of_small_images_is_nan_never_zero(astronaut: Image) -> None:
    assert math.isnan(score("ms_ssim", astronaut[..., :160, :400], astronaut[..., :160, :400]))
    assert score("ms_ssim", astronaut[..., :161, :163], astronaut[..., :161, :163]) == pytest.approx(1, abs=1e-6)
    assert math.isnan(score("ssim", astronaut[..., :10, :400], astronaut[..., :10, :400]))


@pytest.mark.parametrize("name", [m.name for m in METRICS.values() if isinstance(m, FullReference)])
def test_other_sizes_are_refused_with_both_sizes(astronaut: Image, name: str) -> None:
    with pytest.raises(ImageError, match=r"512x500 pixels and its reference 512x512 pixels"):
        score(name, astronaut[..., :500, :], astronaut)
    with pytest.raises(ImageError, match="batch of 2"):
        score(name, astronaut.repeat(2, 1, 1, 1), astronaut.repeat(2, 1, 1, 1))


@pytest.mark.parametrize("sigma", [5.0, 15.0, 40.0])
def test_noise_finds_the_sigma_that_was_added(coffee: Image, sigma: float) -> None:
    assert score("noise", noised(coffee, sigma)) == pytest.approx(sigma, rel=0.12, abs=1)


def test_sharpness_hardly_depends_on_contrast_and_noise(astronaut: Image) -> None:
    sharp = score("sharpness", astronaut)
    assert score("sharpness", astronaut * 0.5 + 0.2) == pytest.approx(sharp, rel=0.05)
    assert score("sharpness", noised(astronaut, 15)) == pytest.approx(sharp, rel=0.05)
    assert score("sharpness", blurred(astronaut, 5)) < 0.8 * sharp


def test_piqe_against_values_of_an_independent_port(astronaut: Image, coffee: Image) -> None:
    """The PyPI package pypiqe 1.2 gives these on the luma in 8 bits; it rounds and pads otherwise."""
    assert score("piqe", astronaut) == pytest.approx(33.76, abs=1)
    assert score("piqe", coffee) == pytest.approx(27.83, abs=1)


@pytest.mark.parametrize("name", DEFAULT_NO_REFERENCE)
@pytest.mark.parametrize("shape", [(1, 1), (7, 200), (17, 19), (65, 97)])
def test_flat_and_tiny_images_end_in_a_number_or_nan(name: str, shape: tuple[int, int]) -> None:
    value = score(name, torch.full((1, 3, *shape), 0.5))
    assert isinstance(value, float)
    assert not math.isinf(value)


def test_names() -> None:
    assert all(name == value.name for name, value in METRICS.items())
    with pytest.raises(NameNotFoundError, match="did you mean psnr"):
        make_metric("psnrr")


def test_check_metric_catches_a_wrong_direction_and_a_swallowed_size() -> None:
    with pytest.raises(AssertionError, match="must score worse"):
        check_metric(FullReference("upside_down", higher_is_better=False, score=psnr))
    with pytest.raises(AssertionError, match="must raise ImageError"):
        check_metric(FullReference("tolerant", True, lambda a, b: psnr(a, b) if a.shape == b.shape else 0.0))
    with pytest.raises(AssertionError, match="more noise or more blur"):
        check_metric(NoReference("constant", True, lambda image: 1.0))


@pytest.mark.parametrize(
    ("name", "package"), [("lpips", "lpips"), ("dists", "DISTS_pytorch"), ("st_lpips", "stlpips_pytorch")]
)
def test_an_absent_package_is_said_plainly(astronaut: Image, name: str, package: str) -> None:
    if importlib.util.find_spec(package):
        pytest.skip(f"{package} is installed")
    extra = "stlpips" if name == "st_lpips" else "perceptual"
    with pytest.raises(MissingExtraError, match=rf"{name} .*conservator\[{extra}\]"):
        score(name, astronaut, astronaut)


def test_st_lpips_works_offline() -> None:
    if not importlib.util.find_spec("stlpips_pytorch"):
        pytest.skip("the stlpips extra is not installed")
    try:
        check_metric(make_metric("st_lpips"))
    except MissingExtraError as error:
        pytest.skip(str(error))


def test_importing_the_metrics_loads_nothing_heavy() -> None:
    code = "import sys, conservator.metrics; print({'torchvision', 'skimage', 'scipy', 'lpips'} & set(sys.modules))"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "set()"

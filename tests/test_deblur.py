"""Deblurring by an estimated kernel: the kernel is found, filters undo it, a network learns to make one of theirs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from skimage import data

from conservator.degradations import (
    DefocusBlur,
    Degradation,
    GaussianBlur,
    GaussianNoise,
    JpegCompression,
    LineBlur,
    MotionBlur,
    degrade,
)
from conservator.evaluation.tools import size
from conservator.image import Image, in_8_bits, to_image
from conservator.kinds import Kind
from conservator.metrics.fidelity import psnr
from conservator.networks.store import NetworkStore
from conservator.networks.unet import ResidualUNet
from conservator.tools import make_toolbox
from conservator.tools.classical.kernels import DEFOCUS, GAUSSIAN, MOTION
from conservator.tools.deblur import Deblur, views
from conservator.tools.experts import make_spec
from conservator.training.data import makes
from conservator.training.data.crops import Lesson, Photos, kernel_of
from conservator.training.experts.train import Budget, train_expert

BLURS: tuple[Degradation, ...] = (
    MotionBlur(15, 4.0, 30),
    LineBlur(13, -60, 0.3),
    DefocusBlur(4, 0.4),
    GaussianBlur(2),
)


class Untrained:
    """Weights of the network as initialised: it gives back the photo, whatever filters make of it."""

    sha256 = "0" * 64

    def tensors(self) -> dict[str, torch.Tensor]:
        """As a file would hold them."""
        torch.manual_seed(0)
        return dict(ResidualUNet(images=4).state_dict())


@pytest.fixture(scope="module")
def clean() -> Image:
    return to_image(np.ascontiguousarray(data.astronaut()[:384, 64:448]))


@pytest.fixture(scope="module")
def deblur() -> Deblur:
    spec = make_spec("deblur", frozenset({Kind.MOTION_BLUR, Kind.DEFOCUS_BLUR}), "Deblurs.", "unet_deblur")
    tool = Deblur(spec, (MOTION, DEFOCUS, GAUSSIAN), Untrained(), NetworkStore())
    tool.setup("cpu")
    return tool


@pytest.mark.parametrize("blur", BLURS, ids=lambda blur: type(blur).__name__)
def test_filters_undo_a_known_blur(clean: Image, blur: Degradation) -> None:
    blurred = in_8_bits(degrade(clean, (blur,)))
    made = views(blurred, kernel_of((blur,)))
    assert made.shape == (1, 12, 384, 384)
    assert torch.equal(made[:, :3], blurred)
    assert float(made.amin()) >= -0.5
    assert float(made.amax()) <= 1.5
    gains = [psnr(made[:, i : i + 3].clamp(0, 1), clean) - psnr(blurred, clean) for i in (3, 6, 9)]
    assert gains[0] > gains[2] > 0.2, "the less noise a filter expects, the more it restores of a photo without any"
    assert gains[0] > 4


def test_its_size_is_that_of_a_u_net_that_sees_four_pictures(deblur: Deblur) -> None:
    parameters, operations = size(deblur)
    assert parameters == pytest.approx(sum(p.numel() for p in ResidualUNet(images=4).parameters()) / 1e6)
    plain = 12 * 32 * 9 / 4 / 1000  # the first convolution of a U-Net that sees one, a pixel of the photo
    one = make_toolbox("experts")["denoise_medium"]
    one.setup("cpu")
    assert operations == pytest.approx(size(one)[1] + 3 * plain)


def test_a_blur_to_one_side_is_undone_to_that_side(clean: Image) -> None:
    blur = (MotionBlur(15, 4.0, 30),)
    blurred = degrade(clean, blur)
    right, wrong = (views(blurred, k)[:, 6:9].clamp(0, 1) for k in (kernel_of(blur), kernel_of(blur).flip(0, 1)))
    assert psnr(right, clean) > psnr(blurred, clean) + 3
    assert psnr(wrong, clean) < psnr(blurred, clean)


@pytest.mark.parametrize("blur", BLURS, ids=lambda blur: type(blur).__name__)
def test_a_blur_is_known_roughly(blur: Degradation) -> None:
    rng = np.random.default_rng(0)
    known = [makes.roughly(blur, rng) for _ in range(50)]
    assert len(set(known)) == 50
    assert all(type(one) is type(blur) for one in known)
    extents = [float(kernel_of((one,)).gt(1e-3).sum()) for one in known]
    assert 0 < np.std(extents) < 0.3 * np.mean(extents)


def test_kernels_are_no_larger_than_the_blur() -> None:
    assert kernel_of((DefocusBlur(3, 0.1),)).shape == (7, 7)
    kernel = kernel_of((LineBlur(9, 0, 0.0),))
    assert kernel.shape[0] <= 11
    assert float(kernel.sum()) == pytest.approx(1, abs=1e-6)
    assert float(kernel.sum(1).max()) == pytest.approx(1, abs=1e-6), "a shake to the right stays in its row"


@pytest.mark.parametrize(
    "damage",
    [(), (GaussianNoise(25 / 255, 1),), (JpegCompression(50),)],
    ids=["nothing", "noise", "JPEG"],
)
def test_a_kernel_is_found_beneath_noise_and_jpeg(deblur: Deblur, damage: tuple[Degradation, ...]) -> None:
    blur = LineBlur(15, 30, 0.0)
    found = deblur.find(in_8_bits(degrade(to_image(data.coffee()[:, :512]), (blur, *damage))))
    assert found is not None
    assert moments(found.kernel) == pytest.approx(moments(kernel_of((blur,))), rel=0.3)


def moments(kernel: torch.Tensor) -> tuple[float, float, float]:
    """Variances in x and y, and the covariance; pixels squared."""
    place = torch.arange(len(kernel), dtype=torch.float32) - len(kernel) // 2
    y, x = (p - (kernel * p).sum() for p in torch.meshgrid(place, place, indexing="ij"))
    return float((kernel * x * x).sum()), float((kernel * y * y).sum()), float((kernel * x * y).sum())


def test_a_sharp_photo_comes_back_as_it_is(deblur: Deblur, clean: Image) -> None:
    assert deblur.find(clean) is None
    assert torch.equal(deblur(clean), clean)
    assert torch.equal(deblur(clean[..., :50, :70]), clean[..., :50, :70])


def test_an_untrained_network_changes_nothing(deblur: Deblur, clean: Image) -> None:
    blurred = in_8_bits(degrade(clean, (DefocusBlur(4, 0.4),)))
    assert deblur.find(blurred) is not None
    assert torch.allclose(deblur(blurred), blurred, atol=1e-5)


@pytest.mark.slow
def test_a_short_training_learns_to_use_the_filters(clean: Image, tmp_path: Path) -> None:
    folder = tmp_path / "photos"
    folder.mkdir()
    for name in ("coffee", "rocket", "chelsea"):
        PillowImage.fromarray(getattr(data, name)()).save(folder / f"{name}.png")
    torch.manual_seed(0)
    network = ResidualUNet(widths=(16, 24, 32, 32), middle=1, images=4)
    blur = (DefocusBlur(4, 0.4),)
    budget = Budget(steps=50, batch=4, side=64, workers=0)
    trained = train_expert(network, lambda rng: Lesson(blur, known=blur), Photos(folder), tmp_path / "run", budget)
    assert trained.psnr_out > trained.psnr_in + 0.5
    blurred = in_8_bits(degrade(clean, blur))
    with torch.no_grad():
        made = trained.network(views(blurred, kernel_of(blur))).clamp(0, 1)
    assert psnr(made, clean) > psnr(blurred, clean) + 0.5

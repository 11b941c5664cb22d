"""Resizing: a constant stays constant, a ramp in place, and Pillow agrees."""

from __future__ import annotations

import numpy as np
import PIL.Image
import pytest
import torch

from conservator.errors import ImageError
from conservator.image import Image
from conservator.metrics.fidelity import psnr
from conservator.resample import bicubic_resize, bicubic_to


def gray(value: float, height: int = 256, width: int = 256) -> Image:
    return torch.full((1, 3, height, width), value)


@pytest.mark.parametrize("scale", [0.25, 1 / 3, 0.7, 1.0, 2.5, 4.0])
def test_resizing_keeps_a_constant_and_the_documented_size(scale: float) -> None:
    out = bicubic_resize(gray(0.3, 37, 23), scale)
    assert out.shape == (1, 3, int(np.ceil(37 * scale)), int(np.ceil(23 * scale)))
    assert torch.allclose(out, torch.full_like(out, 0.3), atol=1e-6)


def test_resizing_keeps_a_ramp_in_place() -> None:
    ramp = torch.linspace(0, 1, 240).view(1, 1, 1, -1).expand(1, 3, 4, -1)
    small = bicubic_resize(ramp, 0.25)
    assert torch.allclose(small[0, 0, 0, 3:-3], ramp[0, 0, 0].view(-1, 4).mean(1)[3:-3], atol=1e-6)
    assert torch.allclose(bicubic_resize(ramp, 4)[0, 0, 0].view(-1, 4).mean(1)[3:-3], ramp[0, 0, 0, 3:-3], atol=1e-6)


def test_an_enlarged_step_has_keys_weights() -> None:
    step = torch.tensor([0.2, 0.2, 0.2, 0.6, 0.6, 0.6]).view(1, 1, 1, -1).expand(1, 3, 1, -1)
    # at x2 the new pixels lie a quarter away from the old: weights of the cubic at 0.25, 0.75, 1.25, 1.75
    weights = np.array([111, 29, -9, -3]) / 128
    assert weights.sum() == 1
    out = bicubic_resize(step, 2)[0, 0, 0]
    assert float(out[5]) == pytest.approx(0.2 + 0.4 * (weights[1] + weights[3]), abs=1e-6)
    assert float(out[4]) == pytest.approx(0.2 + 0.4 * weights[2], abs=1e-6)


@pytest.mark.parametrize("size", [(60, 80), (101, 77), (480, 960)])
def test_resizing_agrees_with_pillow_away_from_the_border(photo: Image, size: tuple[int, int]) -> None:
    ours = bicubic_to(photo, *size)[0]
    theirs = [PIL.Image.fromarray(p.numpy()).resize(size[::-1], PIL.Image.Resampling.BICUBIC) for p in photo[0]]
    reference = torch.from_numpy(np.stack([np.asarray(p) for p in theirs])).clamp(0, 1)
    assert (ours - reference)[:, 10:-10, 10:-10].abs().max() < 1e-4


def test_down_and_up_again(photo: Image) -> None:
    again = bicubic_resize(bicubic_resize(photo, 0.25), 4)
    assert again.shape == photo.shape
    assert 22 < psnr(again, photo) < 30
    assert torch.equal(again, bicubic_to(bicubic_resize(photo, 0.25), 240, 320))
    assert torch.allclose(bicubic_resize(photo, 1), photo, atol=1e-6)


def test_resizing_mirrors_at_the_border_even_of_tiny_images() -> None:
    tiny = torch.rand(1, 3, 2, 3, generator=torch.Generator().manual_seed(0))
    mirrored = torch.cat([tiny.flip(-1), tiny, tiny.flip(-1)], -1)
    assert torch.allclose(bicubic_resize(tiny, 4), bicubic_resize(mirrored, 4)[..., 12:24], atol=1e-6)
    assert bicubic_resize(tiny, 0.25).shape == (1, 3, 1, 1)


def test_impossible_sizes_are_refused(photo: Image) -> None:
    for scale in (0, -1, float("nan"), float("inf")):
        with pytest.raises(ImageError, match="expected a positive number"):
            bicubic_resize(photo, scale)
    with pytest.raises(ImageError, match="at least one pixel"):
        bicubic_to(photo, 0, 4)

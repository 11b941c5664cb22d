"""``check_metric``: what every metric must hold, shipped so that metrics written elsewhere run the same checks."""

from __future__ import annotations

import math
from itertools import pairwise

import torch
import torch.nn.functional as F

from conservator.errors import ImageError
from conservator.image import Image
from conservator.metrics.metric import FullReference, NoReference


def check_metric(metric: FullReference | NoReference, image: Image | None = None) -> None:
    """Raise AssertionError with a sentence when ``metric`` breaks the contract of its type.

    Checked on ``image``, a clean photo (1, 3, H, W) of at least 176 pixels a side, or a synthetic scene without it:
    scores are floats, finite, deterministic, and leave the image as it was; odd sizes work (97x65 pixels may be NaN,
    which says "too small"). With a reference: the reference itself scores best, more noise and more blur score worse,
    another size raises ImageError. Without: more noise or more blur scores worse.
    """
    clean = _scene() if image is None else image[..., : image.shape[-2] - 1 + image.shape[-2] % 2, :]  # an odd height
    noisy = [_noised(clean, sigma) for sigma in (10, 30)]
    blurred = [_blurred(clean, side) for side in (3, 7)]
    before = clean.clone()
    if isinstance(metric, FullReference):
        _check_full_reference(metric, clean, noisy, blurred)
        odd = metric.score(noisy[0][..., :65, :97], clean[..., :65, :97])
    else:
        _check_no_reference(metric, clean, noisy, blurred)
        odd = metric.score(noisy[0][..., :65, :97])
    assert isinstance(odd, float), f"{metric.name}: 97x65 pixels gave a {type(odd).__name__}, not a float"
    assert not math.isinf(odd), f"{metric.name}: 97x65 pixels gave {odd}"
    assert torch.equal(before, clean), f"{metric.name}: changed its input in place"


def _check_full_reference(metric: FullReference, clean: Image, noisy: list[Image], blurred: list[Image]) -> None:
    best = metric.score(clean, clean.clone())
    assert not math.isnan(best), f"{metric.name}: an image against itself gave NaN"
    for what, images in (("noise", noisy), ("blur", blurred)):
        scores = [metric.score(image, clean) for image in images]
        _check_finite(metric, what, scores)
        assert scores[0] == metric.score(images[0], clean), f"{metric.name}: two calls gave different scores"
        assert _falls(metric, [best, *scores]), (
            f"{metric.name}: more {what} must score worse, but none, some, much gave {[best, *scores]}"
        )
    try:
        metric.score(clean, clean[..., 1:])
    except ImageError:
        return
    raise AssertionError(f"{metric.name}: an image and a reference of other sizes must raise ImageError")


def _check_no_reference(metric: NoReference, clean: Image, noisy: list[Image], blurred: list[Image]) -> None:
    rows = {}
    for what, images in (("noise", noisy), ("blur", blurred)):
        scores = [metric.score(image) for image in (clean, *images)]
        _check_finite(metric, what, scores)
        assert scores[0] == metric.score(clean), f"{metric.name}: two calls gave different scores"
        rows[what] = scores
    assert any(_falls(metric, scores) for scores in rows.values()), (
        f"{metric.name}: more noise or more blur must score worse, but none, some, much gave {rows}"
    )


def _check_finite(metric: FullReference | NoReference, what: str, scores: list[float]) -> None:
    assert all(isinstance(s, float) and math.isfinite(s) for s in scores), f"{metric.name}: {what} gave {scores}"


def _falls(metric: FullReference | NoReference, scores: list[float]) -> bool:
    """Whether each score is worse than the one before."""
    sign = 1 if metric.higher_is_better else -1
    return all(sign * a > sign * b for a, b in pairwise(scores))


def _noised(image: Image, sigma: float) -> Image:
    generator = torch.Generator().manual_seed(0)
    return (image + torch.randn(image.shape, generator=generator) * (sigma / 255)).clamp(0, 1)


def _blurred(image: Image, side: int) -> Image:
    return F.avg_pool2d(image, side, stride=1, padding=side // 2, count_include_pad=False)


def _scene() -> Image:
    """A synthetic photo, 181x193: a shaded background, discs, stripes and a little texture."""
    y, x = torch.meshgrid(torch.linspace(0, 1, 181), torch.linspace(0, 1, 193), indexing="ij")
    image = torch.stack([0.2 + 0.6 * x, 0.3 + 0.4 * y, 0.7 - 0.5 * x * y])
    for cx, cy, radius, colour in ((0.3, 0.4, 0.15, 0.9), (0.7, 0.6, 0.2, 0.15), (0.2, 0.8, 0.1, 0.6)):
        image = torch.where(((x - cx) ** 2 + (y - cy) ** 2 < radius**2)[None], torch.full_like(image, colour), image)
    image = image + 0.1 * torch.sin(60 * x) * (y > 0.8)
    texture = torch.randn(image.shape, generator=torch.Generator().manual_seed(1))
    return (image + 0.01 * texture).clamp(0, 1)[None]

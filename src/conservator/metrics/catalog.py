"""Every metric by name."""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType
from typing import TypeAlias

import torch

from conservator.errors import MissingExtraError, name_not_found
from conservator.metrics.fidelity import ms_ssim, psnr, psnr_y, ssim
from conservator.metrics.metric import FullReference, NoReference
from conservator.metrics.noreference import noise, piqe, sharpness
from conservator.metrics.perceptual import dists, lpips, st_lpips

Metric: TypeAlias = FullReference | NoReference

FULL_REFERENCE = (
    FullReference("psnr", higher_is_better=True, score=psnr),
    FullReference("psnr_y", higher_is_better=True, score=psnr_y),
    FullReference("ssim", higher_is_better=True, score=ssim),
    FullReference("ms_ssim", higher_is_better=True, score=ms_ssim),
    FullReference("lpips", higher_is_better=False, score=lpips),
    FullReference("dists", higher_is_better=False, score=dists),
    FullReference("st_lpips", higher_is_better=False, score=st_lpips),
)
NO_REFERENCE = (
    NoReference("piqe", higher_is_better=False, score=piqe),
    NoReference("sharpness", higher_is_better=True, score=sharpness),
    NoReference("noise", higher_is_better=False, score=noise),
)

METRICS: Mapping[str, Metric] = MappingProxyType({m.name: m for m in (*FULL_REFERENCE, *NO_REFERENCE)})

DEFAULT_FULL_REFERENCE = ("psnr", "psnr_y", "ssim", "ms_ssim")
"""The ones that need no optional package."""
DEFAULT_NO_REFERENCE = ("piqe", "sharpness", "noise")


def full_reference_at_hand() -> tuple[str, ...]:
    """What a benchmark can measure here: ``psnr``, ``psnr_y``, ``ssim``, then ``lpips`` and ``dists`` as far as their
    packages and backbones can be had, or ``st_lpips`` where neither can and its package is installed."""
    classical = ("psnr", "psnr_y", "ssim")
    learned = tuple(filter(_works, ("lpips", "dists"))) or tuple(filter(_works, ("st_lpips",)))
    return classical + learned


def _works(name: str) -> bool:
    metric = next(metric for metric in FULL_REFERENCE if metric.name == name)
    probe = torch.zeros(1, 3, 64, 64)
    try:
        metric.score(probe, probe)
    except MissingExtraError:
        return False
    return True


def make_metric(name: str) -> Metric:
    """The metric of this name; raises NameNotFoundError with the nearest names."""
    try:
        return METRICS[name]
    except KeyError:
        raise name_not_found("metric", name, METRICS) from None

"""Every metric by name."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from types import MappingProxyType

import torch

from conservator.errors import MissingExtraError, name_not_found
from conservator.extensions import offered
from conservator.metrics.fidelity import TABLE_CAP, ms_ssim, psnr, psnr_y, ssim
from conservator.metrics.metric import FullReference, Metric, NoReference
from conservator.metrics.noreference import noise, piqe, sharpness
from conservator.metrics.perceptual import dists, lpips, st_lpips

FULL_REFERENCE = (
    FullReference("psnr", higher_is_better=True, score=psnr, at_most=TABLE_CAP),
    FullReference("psnr_y", higher_is_better=True, score=psnr_y, at_most=TABLE_CAP),
    FullReference("ssim", higher_is_better=True, score=ssim),
    FullReference("ms_ssim", higher_is_better=True, score=ms_ssim, stands_in_for=("ssim",)),
    FullReference("lpips", higher_is_better=False, score=lpips),
    FullReference("dists", higher_is_better=False, score=dists),
    FullReference("st_lpips", higher_is_better=False, score=st_lpips, stands_in_for=("lpips", "dists")),
)
NO_REFERENCE = (
    NoReference("piqe", higher_is_better=False, score=piqe),
    NoReference("sharpness", higher_is_better=True, score=sharpness),
    NoReference("noise", higher_is_better=False, score=noise),
)
"""A new metric is one line here: benchmarks measure it, tables and pages show it, ``compare`` knows it."""

METRICS: Mapping[str, Metric] = MappingProxyType({m.name: m for m in (*FULL_REFERENCE, *NO_REFERENCE)})

DEFAULT_FULL_REFERENCE = ("psnr", "psnr_y", "ssim", "ms_ssim")
"""The ones that need no optional package."""
DEFAULT_NO_REFERENCE = tuple(metric.name for metric in NO_REFERENCE)


METRIC_GROUP = "conservator.metrics"
"""The group of entry points by which installed packages offer metrics: each names one, or an iterable of them."""


def known_metrics() -> dict[str, Metric]:
    """Every metric by name: those that ship, then those that installed packages offer.

    Raises ConservatorError, which names the package's entry point, for one that cannot be loaded, is no metric, or has
    the name of another.
    """
    found = dict(METRICS)
    for offer in offered(METRIC_GROUP):
        value = offer.value
        for metric in value if isinstance(value, Iterable) else [value]:
            if not isinstance(metric, FullReference | NoReference):
                raise offer.refused(f"{metric!r} is no metric; expected a FullReference or NoReference")
            if metric.name in found:
                raise offer.refused(f"there is a metric {metric.name} already")
            found[metric.name] = metric
    return found


def metrics_at_hand(metrics: Iterable[Metric] | None = None) -> tuple[Metric, ...]:
    """What a benchmark measures here of some metrics, of all that are known unless told otherwise.

    All whose packages and backbones can be had, but for those that stand in for one that can.
    """
    chosen = known_metrics() if metrics is None else {metric.name: metric for metric in metrics}
    works = cache(lambda name: name in chosen and _works(chosen[name]))
    return tuple(
        metric
        for name, metric in chosen.items()
        if not (isinstance(metric, FullReference) and any(map(works, metric.stands_in_for))) and works(name)
    )


def _works(metric: Metric) -> bool:
    probe = torch.zeros(1, 3, 64, 64)
    try:
        _ = metric.score(probe, probe) if isinstance(metric, FullReference) else metric.score(probe)
    except MissingExtraError:
        return False
    return True


def make_metric(name: str) -> Metric:
    """The metric of this name; raises NameNotFoundError with the nearest names."""
    if name in METRICS:
        return METRICS[name]
    known = known_metrics()
    if name not in known:
        raise name_not_found("metric", name, known)
    return known[name]

"""Image quality with and without a reference."""

from __future__ import annotations

from conservator.metrics.catalog import (
    DEFAULT_FULL_REFERENCE,
    DEFAULT_NO_REFERENCE,
    FULL_REFERENCE,
    METRICS,
    NO_REFERENCE,
    known_metrics,
    make_metric,
    metrics_at_hand,
)
from conservator.metrics.check import check_metric
from conservator.metrics.metric import FullReference, Metric, NoReference

__all__ = [
    "DEFAULT_FULL_REFERENCE",
    "DEFAULT_NO_REFERENCE",
    "FULL_REFERENCE",
    "METRICS",
    "NO_REFERENCE",
    "FullReference",
    "Metric",
    "NoReference",
    "check_metric",
    "known_metrics",
    "make_metric",
    "metrics_at_hand",
]

"""Moved to conservator/kinds.py; this file goes when nobody imports it any more."""

from conservator.kinds import NATURE, TAUGHT, Kind, Severity

__all__ = ["NATURE", "TAUGHT", "Kind", "Severity"]

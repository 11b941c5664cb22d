"""Perception: what can be told from a photo alone."""

from conservator.perception.perception import Percept, Perception
from conservator.perception.statistical import StatisticalPerception
from conservator.perception.study import study

__all__ = ["Percept", "Perception", "StatisticalPerception", "study"]

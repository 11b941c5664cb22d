"""Perception: what can be told from a photo alone."""

from conservator.perception.perception import Look, Percept, Perception
from conservator.perception.statistical import StatisticalPerception
from conservator.perception.study import study

__all__ = ["Look", "Percept", "Perception", "StatisticalPerception", "study"]

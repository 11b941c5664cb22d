"""Perception: what can be told from a photo alone."""

from conservator.perception.network import NetworkPerception
from conservator.perception.perception import Look, Percept, Perception
from conservator.perception.statistical import StatisticalPerception
from conservator.perception.study import study

__all__ = ["Look", "NetworkPerception", "Percept", "Perception", "StatisticalPerception", "study"]

"""Perception: what can be told from a photo alone."""

from conservator.perception.eyes import NetworkPerception, StatisticalPerception
from conservator.perception.perception import Look, Percept, Perception
from conservator.perception.study import study

__all__ = ["Look", "NetworkPerception", "Percept", "Perception", "StatisticalPerception", "study"]

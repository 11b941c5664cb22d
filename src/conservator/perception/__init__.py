"""Perception: what can be told from a photo alone."""

from conservator.perception.network import NetworkPerception
from conservator.perception.perception import Blind, Look, Percept, Perception
from conservator.perception.statistical import StatisticalPerception
from conservator.perception.study import study

__all__ = ["Blind", "Look", "NetworkPerception", "Percept", "Perception", "StatisticalPerception", "study"]

"""Perception: what can be told from a photo alone."""

from conservator.perception.eyes import NetworkPerception, StatisticalPerception
from conservator.perception.perception import Blind, Look, Percept, Perception
from conservator.perception.study import study

__all__ = ["Blind", "Look", "NetworkPerception", "Percept", "Perception", "StatisticalPerception", "study"]

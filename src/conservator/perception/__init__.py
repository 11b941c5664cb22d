"""Perception: what can be told from a photo alone."""

from conservator.perception.check import check_perception
from conservator.perception.network import NetworkPerception, StatisticalPerception, load_perception
from conservator.perception.perception import Blind, Gain, Look, Percept, Perception
from conservator.perception.risk import Admission, HarmEstimate, Verdict
from conservator.perception.study import study

__all__ = [
    "Admission",
    "Blind",
    "Gain",
    "HarmEstimate",
    "Look",
    "NetworkPerception",
    "Percept",
    "Perception",
    "StatisticalPerception",
    "Verdict",
    "check_perception",
    "load_perception",
    "study",
]

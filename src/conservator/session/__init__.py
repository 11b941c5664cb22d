"""Sessions: the one loop, and the trajectory that records it."""

from conservator.session.scope import ANYTHING, TONAL, Scope
from conservator.session.session import Observation, Policy, Session, run, step_together
from conservator.session.trajectory import Action, Apply, Decision, Rollback, Step, Stop, Trajectory, Usage

__all__ = [
    "ANYTHING",
    "TONAL",
    "Action",
    "Apply",
    "Decision",
    "Observation",
    "Policy",
    "Rollback",
    "Scope",
    "Session",
    "Step",
    "Stop",
    "Trajectory",
    "Usage",
    "run",
    "step_together",
]

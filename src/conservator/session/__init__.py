"""Sessions: the one loop, and the trajectory that records it."""

from conservator.session.session import Observation, Policy, Session, run, step_together
from conservator.session.trajectory import Action, Apply, Decision, Rollback, Step, Stop, Trajectory

__all__ = [
    "Action",
    "Apply",
    "Decision",
    "Observation",
    "Policy",
    "Rollback",
    "Session",
    "Step",
    "Stop",
    "Trajectory",
    "run",
    "step_together",
]

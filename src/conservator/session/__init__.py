"""Sessions: the one loop, and the trajectory that records it."""

from conservator.session.scope import ANYTHING, Scope
from conservator.session.session import Observation, Policy, Session, run
from conservator.session.together import TogetherPolicy, decide_together, run_together, step_together
from conservator.session.trajectory import Action, Apply, Decision, Refusal, Rollback, Step, Stop, Trajectory, Usage

__all__ = [
    "ANYTHING",
    "Action",
    "Apply",
    "Decision",
    "Observation",
    "Policy",
    "Refusal",
    "Rollback",
    "Scope",
    "Session",
    "Step",
    "Stop",
    "TogetherPolicy",
    "Trajectory",
    "Usage",
    "decide_together",
    "run",
    "run_together",
    "step_together",
]

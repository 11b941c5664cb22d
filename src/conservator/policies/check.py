"""``check_policy``: what every policy must hold, shipped so that policies written elsewhere run the same checks."""

from __future__ import annotations

from conservator.session.session import Policy, Session
from conservator.session.trajectory import Apply, Rollback, Stop


def check_policy(policy: Policy, session: Session) -> None:
    """Run ``policy`` on a fresh session and raise AssertionError with a sentence when it breaks the contract.

    Checked: it ends by Stop or within the steps, every action is legal, and asked again about each of the observations
    it had, it decides the same (its only memory is the trajectory).
    """
    name, tools = policy.name, {spec.name for spec in session.observe().tools}
    assert name, "a policy must have a name"
    observations, decisions = [], []
    while not (session.stopped or session.exhausted):
        observations.append(session.observe())
        decisions.append(policy.act(observations[-1]))
        action = decisions[-1].action
        assert isinstance(action, Apply | Rollback | Stop), f"{name}: {action!r} is no action"
        if isinstance(action, Apply):
            assert action.tool in tools, f"{name}: asked for {action.tool!r}, which is not in the toolbox"
        if isinstance(action, Rollback):
            last = observations[-1].trajectory.last.id
            assert 0 <= action.to <= last, f"{name}: rolled back to step {action.to}, but steps are 0 to {last}"
        session.step(decisions[-1])
    for observation, decision in zip(observations, decisions, strict=True):
        again = policy.act(observation)
        assert again.action == decision.action, (
            f"{name}: decided {decision.action} and, asked again at step {len(observation.trajectory.steps)}, "
            f"{again.action}; a policy's only memory is the trajectory"
        )

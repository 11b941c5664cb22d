"""``check_policy``: what every policy must hold, shipped so that policies written elsewhere run the same checks."""

from __future__ import annotations

import math
from dataclasses import replace

from conservator.perception.risk import Verdict
from conservator.session import Observation, Policy, Session, TogetherPolicy
from conservator.session.trajectory import Apply, Decision, Refusal, Rollback, Step, Stop


def check_policy(policy: Policy, session: Session) -> None:
    """Run ``policy`` on a fresh session and raise AssertionError with a sentence when it breaks the contract.

    Checked: it ends by Stop or within the steps; every action is legal (or None, where a model's reply was of no use,
    which the session records as a step with an error); plans name tools on offer; it can go on after a step that
    failed, and after one that risk control refused, whose tool is then offered no more; asked again about each of the
    observations it had, it decides the same (its only memory is the trajectory); and where it decides on many
    observations together (``act_together``), neither order nor company makes a difference.
    """
    assert policy.name, "a policy must have a name"
    observations, decisions = [], []
    while not (session.stopped or session.exhausted):
        observations.append(session.observe())
        decisions.append(policy.act(observations[-1]))
        _check_decision(policy.name, decisions[-1], observations[-1])
        step = session.step(decisions[-1])
        assert decisions[-1].action is not None or step.error, f"{policy.name}: an unusable reply left no error"
    for observation, decision in zip(observations, decisions, strict=True):
        again = policy.act(observation)
        assert (again.action, again.plan) == (decision.action, decision.plan), (
            f"{policy.name}: decided {_said(decision)} and, asked again at step {len(observation.trajectory.steps)}, "
            f"{_said(again)}; a policy's only memory is the trajectory"
        )
    if isinstance(policy, TogetherPolicy):
        _check_together(policy, observations, decisions)
    if observations and observations[0].steps_left > 1:
        for failed in _failures(observations[0], decisions[0]):
            known = replace(failed, tools=observations[0].tools)  # asking again for what was refused is taken as a stop
            _check_decision(policy.name, policy.act(failed), known)


def _check_together(policy: TogetherPolicy, observations: list[Observation], decisions: list[Decision]) -> None:
    assert policy.act_together([]) == [], f"{policy.name}: decides on no observations together as on some"
    order = [*reversed(range(len(observations))), *range(len(observations))]
    together = policy.act_together([observations[i] for i in order])
    assert len(together) == len(order), f"{policy.name}: gave {len(together)} decisions on {len(order)} observations"
    for i, decision in zip(order, together, strict=True):
        assert (decision.action, decision.plan) == (decisions[i].action, decisions[i].plan), (
            f"{policy.name}: decided {_said(decisions[i])} at step {i + 1} alone, and {_said(decision)} in company"
        )


def _check_decision(name: str, decision: Decision, observation: Observation) -> None:
    tools, last = {spec.name for spec in observation.tools}, observation.trajectory.last.id
    match decision.action:
        case Apply(tool):
            assert tool in tools, f"{name}: asked for {tool!r}, which is not in the toolbox"
        case Rollback(to):
            assert 0 <= to <= last, f"{name}: rolled back to step {to}, but steps are 0 to {last}"
        case Stop() | None:
            pass
        case other:
            raise AssertionError(f"{name}: {other!r} is no action")
    unknown = [tool for tool in decision.plan if tool not in tools]
    assert not unknown, f"{name}: plans with {', '.join(map(repr, unknown))}, not in the toolbox"


def _failures(observation: Observation, decision: Decision) -> list[Observation]:
    """What the policy would observe, had its decision failed or been refused, and had a reply been of no use."""
    last, failures = observation.trajectory.last, []
    for attempted, error in ((decision, "the tool failed"), (Decision(None), "the reply could not be understood")):
        if isinstance(attempted.action, Stop):
            continue
        step = Step(last.id + 1, last.id, attempted, last.image, last.percept, error=error)
        trajectory = observation.trajectory.add(step)
        failures.append(replace(observation, trajectory=trajectory, steps_left=observation.steps_left - 1))
    for spec in observation.tools:
        if decision.action == Apply(spec.name):
            refusal = Refusal(spec.name, spec.removes, Verdict(1.0, 0.0), math.nan, last.image, last.image)
            step = Step(last.id + 1, last.id, decision, last.image, last.percept, error=refusal.words, refusal=refusal)
            others = tuple(other for other in observation.tools if other != spec)
            failures.append(replace(observation, trajectory=observation.trajectory.add(step), tools=others))
    return failures


def _said(decision: Decision) -> str:
    return f"{decision.action}" + (f" and then {', '.join(decision.plan)}" if decision.plan else "")

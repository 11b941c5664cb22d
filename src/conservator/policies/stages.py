"""Agents that try tools within a fixed order of damages: 4KAgent's traversal, and MAIR's three stages.

4KAgent (NeurIPS 2025) treats one damage after the other: it runs all tools for the damage on the current picture and
keeps the best by quality measures. MAIR (IJCV 2026) undoes damage in the reverse order of the imaging process: what
compression did, then what the camera did, then what the scene did. Both are ``Greedy`` with an order.

What is ours: both orders are fixed (4KAgent asks a language model), a damage is one that the first look saw, the best
is that which perception estimates to gain most, and nothing is taken that does not gain. Size comes last, because what
follows an enlargement costs 4 or 16 times as much.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from conservator.kinds import Kind
from conservator.perception.perception import Objective, Perception
from conservator.policies.fixed import EXPERT_ORDER
from conservator.policies.search import Greedy, State
from conservator.pool import Pool
from conservator.session.session import Observation
from conservator.session.trajectory import Apply, Decision, Refusal, Stop
from conservator.tools.tool import ToolSpec, is_specialist

ONE_BY_ONE = tuple(frozenset({kind}) for kind in EXPERT_ORDER)
"""The stages of ``traverse``: a damage each."""
IMAGING_PROCESS = (
    frozenset({Kind.JPEG}),
    frozenset({Kind.NOISE, Kind.MOTION_BLUR, Kind.DEFOCUS_BLUR, Kind.GAUSSIAN_BLUR}),
    frozenset({Kind.RAIN, Kind.HAZE, Kind.LOW_LIGHT}),
    frozenset({Kind.LOW_RESOLUTION}),
)
"""The stages of ``stages``: compression, camera, scene; then size."""


class Staged(Greedy):
    """Within each stage it tries all specialists for the damages that were seen, and takes what gains most.

    A damage is treated once. When no tool of a stage gains, the next stage begins; it never goes back to one.
    """

    def __init__(
        self,
        stages: Sequence[frozenset[Kind]],
        pool: Pool,
        perception: Perception,
        objective: Objective = "balanced",
        name: str = "stages",
    ) -> None:
        super().__init__(pool, perception, objective=objective, name=name)
        self._stages = stages

    def act(self, observation: Observation) -> Decision:
        """The best treatment of the first stage, from the one that was reached on, that has one; else stop."""
        seen, done = frozenset(observation.trajectory.steps[0].percept.present), observation.treated
        reached = max((i for i, stage in enumerate(self._stages) if stage & done), default=0)
        refused, thought = list[Refusal](), "no damage is left to treat"
        for stage in self._stages[reached:]:
            left = stage & seen - done
            tools = tuple(spec for spec in observation.tools if spec.removes & left and not spec.removes & done)
            if not tools:
                continue
            decision = super().act(replace(observation, tools=tools))
            refused += decision.refused
            if isinstance(decision.action, Apply):
                return replace(decision, refused=tuple(refused))
            thought = decision.thought
        return Decision(Stop(), thought=thought, refused=tuple(refused))

    def _fits(self, spec: ToolSpec, state: State) -> bool:
        """Every specialist of a stage is tried, whatever severity it is made for."""
        return is_specialist(spec)

"""What a whole rollout is paid: from the input to the result, and for each call that it made."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import pairwise

from conservator.errors import ConservatorError, PoolError, ToolFailedError
from conservator.image import Image
from conservator.pool import Pool
from conservator.session import Trajectory
from conservator.tools.tool import Tool
from conservator.training.rl.rewards import (
    CONSISTENCY,
    COST,
    HARMED,
    call_cost,
    consistency_reward,
    joined,
    metric_change,
    step_harm,
)
from conservator.training.rl.weighting import Weighting, WeightingName, make_weighting

_OTHERS = {COST: 0.1, HARMED: 0.5, CONSISTENCY: 1.0}
"""What a call, a lost dB and an inconsistency of 1 count beside a metric's deviation: ours, not tuned. A call counts
as in the questions (``CALL_COST``): at 0.02 models learned to call to the end (docs/results/tir-agent.md)."""


class RolloutReward:
    """Components of a rollout: the change of every metric from input to result, ``harm``, ``consistency``, ``cost``.

    One metric is always left out of what is paid, and reported: it tells whether the others were hacked.
    """

    def __init__(
        self, metrics: Iterable[str], left_out: str | None, toolbox: Mapping[str, Tool], pool: Pool | None = None
    ) -> None:
        """``metrics`` are all that are measured, ``left_out`` among them, or None to measure without paying for less.

        Raises ConservatorError where it is not among them, or alone, and for psnr, of which ``harm`` always pays.
        A ``pool`` hosts the metrics' models (``metric_models``); without one they are computed where they are asked.
        """
        self.metrics = tuple(metrics)
        self.paid = tuple(name for name in self.metrics if name != left_out)
        if not self.paid or (left_out is not None and left_out not in self.metrics):
            raise ConservatorError(
                f"the metrics are {', '.join(self.metrics)} and {left_out} is to be left out; name it among the "
                "metrics, and at least one more"
            )
        if left_out == "psnr":
            raise ConservatorError("psnr cannot be left out, since what is lost of it is always paid for; name another")
        self.left_out, self._pool = left_out, pool
        self._whole = joined(*(metric_change(name, pool) for name in self.metrics), step_harm)
        self._each = consistency_reward(toolbox)

    def __call__(self, trajectory: Trajectory, reference: Image | None) -> Mapping[str, float] | None:
        """The components; None where a metric could not be computed, or its pool failed: that is not the policy's.

        Calls that were taken back cost, too; inconsistent are only those that made the result.
        """
        steps, made = trajectory.steps, trajectory.path()
        try:
            components = dict(self._whole(steps[0], steps[-1], reference))
        except (PoolError, ToolFailedError):  # in a pool a metric is called as tools are
            return None
        components |= {CONSISTENCY: 0.0, COST: 0.0}
        for step in made:
            components[CONSISTENCY] += self._each(steps[step.parent or 0], step, reference)[CONSISTENCY]
        for before, after in pairwise(steps):
            components[COST] += call_cost(before, after, reference)[COST]
        return components if all(map(math.isfinite, components.values())) else None

    def of_all(self, trajectories: Sequence[Trajectory], reference: Image | None) -> list[Mapping[str, float] | None]:
        """The components of rollouts of one photo: side by side with a pool, which then runs metrics as batches."""
        if self._pool is None or not trajectories:
            return [self(one, reference) for one in trajectories]
        with ThreadPoolExecutor(len(trajectories)) as threads:
            return list(threads.map(lambda one: self(one, reference), trajectories))

    def weighting(self, name: WeightingName) -> Weighting:
        """The weighting of this name over the components: metrics count 1 at first, the left-out one nothing."""
        weights = {**dict.fromkeys(self.metrics, 0.0), **dict.fromkeys(self.paid, 1.0), **_OTHERS}
        return make_weighting(name, weights, self.paid)

"""Learning by reward: what a step is paid, the environments, and the learners."""

from conservator.training.rl.check import check_reward
from conservator.training.rl.rewards import (
    CONSISTENCY,
    COST,
    Reward,
    call_cost,
    consistency_reward,
    joined,
    metric_change,
    step_error,
    step_harm,
    step_psnr,
    step_quality,
)
from conservator.training.rl.rollouts import RolloutReward
from conservator.training.rl.weighting import (
    AdaptiveWeights,
    Components,
    FixedWeights,
    GroupNormalised,
    RunningScale,
    StaticWeights,
    Weighting,
    make_weighting,
)

__all__ = [
    "CONSISTENCY",
    "COST",
    "AdaptiveWeights",
    "Components",
    "FixedWeights",
    "GroupNormalised",
    "Reward",
    "RolloutReward",
    "RunningScale",
    "StaticWeights",
    "Weighting",
    "call_cost",
    "check_reward",
    "consistency_reward",
    "joined",
    "make_weighting",
    "metric_change",
    "step_error",
    "step_harm",
    "step_psnr",
    "step_quality",
]

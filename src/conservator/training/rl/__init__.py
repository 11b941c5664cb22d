"""Learning by reward: what a step is paid, the environments, and the learners."""

from conservator.training.rl.check import check_reward
from conservator.training.rl.rewards import (
    CONSISTENCY,
    COST,
    Reward,
    call_cost,
    consistency_reward,
    joined,
    step_error,
    step_psnr,
    step_quality,
    step_ssim,
)
from conservator.training.rl.weighting import Components, FixedWeights, RunningScale, Weighting

__all__ = [
    "CONSISTENCY",
    "COST",
    "Components",
    "FixedWeights",
    "Reward",
    "RunningScale",
    "Weighting",
    "call_cost",
    "check_reward",
    "consistency_reward",
    "joined",
    "step_error",
    "step_psnr",
    "step_quality",
    "step_ssim",
]

"""Steps per second of RL-Restore's environment, one session and many together, and where the time goes.

python benchmarks/environment.py [TOOLBOX]      say rl-restore:published; without it, untrained networks of their size
"""

from __future__ import annotations

import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from skimage import data

from conservator.degradations.patches import PATCH_SCALES
from conservator.image import to_array, to_image
from conservator.networks.dqn import QNetwork
from conservator.policies.dqn import Agent, DqnPolicy
from conservator.pool import LocalPool
from conservator.resample import bicubic_resize
from conservator.tools import Toolbox, make_toolbox
from conservator.tools.rl_restore import rl_restore_specs
from conservator.tools.rl_restore_own import own_network, own_tools
from conservator.training.data.patches import PatchSource
from conservator.training.data.recipes import mixture
from conservator.training.rl.env import RestorationEnv, VectorRestorationEnv
from conservator.training.rl.episode import Episode, EpisodeRules

STEPS = 600


def untrained() -> Toolbox:
    tensors = {
        f"{spec.name}.{name}": value
        for index, spec in enumerate(rl_restore_specs())
        for name, value in own_network("paper", index)().state_dict().items()
    }
    return Toolbox(*own_tools(tensors, {"architecture": "paper"}))


def source() -> PatchSource:
    photos = [to_image(photo()) for photo in (data.astronaut, data.coffee, data.chelsea)]
    pyramids = [[to_array(bicubic_resize(p, s).clamp(0, 1), np.uint8) for s in PATCH_SCALES] for p in photos]
    return PatchSource(pyramids, mixture("all"))


def single(rules: EpisodeRules, steps: int) -> float:
    env, rng = RestorationEnv(rules), np.random.default_rng(0)
    env.reset(seed=0)
    start = time.perf_counter()
    for _ in range(steps):
        *_, terminated, truncated, _ = env.step(rng.integers(env.action_space.n))
        if terminated or truncated:
            env.reset()
    return steps / (time.perf_counter() - start)


def vectorised(rules: EpisodeRules, steps: int, sessions: int) -> float:
    env, rng = VectorRestorationEnv(rules, sessions), np.random.default_rng(0)
    env.reset(seed=0)
    start = time.perf_counter()
    for _ in range(steps // sessions):
        env.step(rng.integers(len(rules.toolbox) + 1, size=sessions))
    return steps // sessions * sessions / (time.perf_counter() - start)


@contextmanager
def timed(*places: tuple[type, str]) -> Iterator[dict[str, float]]:
    """Seconds spent in these methods while the block runs, in all threads together."""
    seconds: dict[str, float] = defaultdict(float)
    originals = [(owner, name, getattr(owner, name)) for owner, name in places]

    def watched(label: str, call: Callable[..., Any]) -> Callable[..., Any]:
        def run(*args: Any, **kwargs: Any) -> Any:
            start = time.perf_counter()
            try:
                return call(*args, **kwargs)
            finally:
                seconds[label] += time.perf_counter() - start

        return run

    for owner, name, call in originals:
        setattr(owner, name, watched(f"{owner.__name__}.{name}", call))
    try:
        yield seconds
    finally:
        for owner, name, call in originals:
            setattr(owner, name, call)


def where(rules: EpisodeRules) -> None:
    tool = type(next(iter(rules.toolbox.values())))
    with timed((tool, "restore"), (PatchSource, "__call__"), (Episode, "outcome"), (Episode, "observed")) as seconds:
        start = time.perf_counter()
        vectorised(rules, STEPS, 32)
        total = time.perf_counter() - start
    for name, spent in sorted(seconds.items(), key=lambda item: -item[1]):
        print(f"  {name:24} {1000 * spent / STEPS:6.2f} ms a step, {spent / total:4.0%} of the wall clock")


def deciding(rules: EpisodeRules) -> None:
    policy = DqnPolicy(Agent(QNetwork(len(rules.toolbox)).eval(), tuple(rules.toolbox)))
    env = VectorRestorationEnv(rules, 32)
    env.reset(seed=0)
    observations = [session.observe() for session in env.sessions]
    start = time.perf_counter()
    for observation in observations:
        policy.act(observation)
    alone = time.perf_counter() - start
    start = time.perf_counter()
    policy.act_together(observations)
    together = time.perf_counter() - start
    print(f"deciding: {1000 * alone / 32:.2f} ms alone, {1000 * together / 32:.2f} ms each of 32 together")


if __name__ == "__main__":
    torch.set_num_threads(1)
    torch.set_flush_denormal(True)
    toolbox = make_toolbox(sys.argv[1]) if len(sys.argv) > 1 else untrained()
    with LocalPool(toolbox, workers=2, max_batch=1) as pool:
        rules = EpisodeRules(source(), toolbox, pool)
        single(rules, 60)  # loads the tools
        one = single(rules, STEPS)
        print(f"one session:   {one:6.0f} steps a second")
        for sessions in (8, 32, 64):
            many = vectorised(rules, STEPS, sessions)
            print(f"{sessions:2} together:   {many:6.0f} steps a second, {many / one:.1f} times")
        where(rules)
        deciding(rules)

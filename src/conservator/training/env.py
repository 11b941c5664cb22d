"""Gymnasium environments around ``Session``: one image at a time, or many sessions that step together.

Actions are the tools in the toolbox's order, then stop. *Terminated* is an episode that the agent ended, or that fell
below its input where ``harm_ends``; *truncated* is one whose decisions ran out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conservator.errors import InvalidActionError, MissingExtraError
from conservator.evaluation.patches import SIDE, batch_psnr
from conservator.evaluation.rl_restore import try_all
from conservator.image import Image
from conservator.perception.perception import Blind
from conservator.policies.dqn import LONGEST
from conservator.pool.pool import Pool
from conservator.session import Apply, Decision, Session, Stop, step_together
from conservator.tools.tool import Toolbox
from conservator.training.rewards import Reward, step_psnr

try:
    import gymnasium
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise MissingExtraError("environments need Gymnasium; get it with: pip install 'conservator[train]'") from error

Observed: TypeAlias = dict[str, Any]
"""``image``: float32 (3, 63, 63) in [0, 1]. ``previous``: int64, the tool that made it counted from 1, 0 for none."""
Source: TypeAlias = Callable[[np.random.Generator], tuple[Image, Image]]
"""Draws one damaged image (1, 3, H, W) and the undamaged one."""


@dataclass(frozen=True)
class Rules:
    """What an episode is."""

    source: Source
    toolbox: Toolbox
    pool: Pool
    reward: Reward = field(default=step_psnr)
    longest: int = LONGEST
    """Decisions at most."""
    harm_ends: bool = True
    """Whether an episode ends when the image is worse than its input, as in the authors' training."""
    side: int = SIDE
    """Of the images of the source, in pixels."""

    def observation_space(self) -> spaces.Dict:
        """Of one session."""
        image = spaces.Box(0.0, 1.0, (3, self.side, self.side), np.float32)
        return spaces.Dict({"image": image, "previous": spaces.Discrete(len(self.toolbox) + 1)})

    def action_space(self) -> spaces.Discrete:
        """The tools, then stop."""
        return spaces.Discrete(len(self.toolbox) + 1)


@dataclass(frozen=True)
class Foreseen:
    """What each tool would do now in each session."""

    images: Tensor
    """(N, tools, 3, side, side)."""
    rewards: Tensor
    """(N, tools)."""
    ends: Tensor
    """(N, tools): whether the episode would be over, by harm or because decisions run out."""


class Episode:
    """One session with its reference."""

    def __init__(self, rules: Rules, rng: np.random.Generator) -> None:
        self._rules = rules
        damaged, self.clean = rules.source(rng)
        self.session = Session(damaged, rules.toolbox, rules.pool, Blind(), rules.longest)
        self.psnr = self.start = float(batch_psnr(damaged, self.clean))
        """PSNR (RGB) now, dB."""
        self._names = list(rules.toolbox)

    def observed(self) -> Observed:
        """What the agent may know; the steps before are its own to remember."""
        last = self.session.trajectory.last
        chosen = last.decision.action if last.decision is not None and last.error is None else None
        previous = self._names.index(chosen.tool) + 1 if isinstance(chosen, Apply) else 0
        return {"image": last.image[0].numpy().copy(), "previous": np.int64(previous)}

    def decision(self, action: int) -> Decision:
        """The decision that an action number stands for; InvalidActionError for one that stands for none."""
        if not 0 <= action <= len(self._names):
            raise InvalidActionError(f"the action is {action}, expected 0 to {len(self._names)}")
        return Decision(Stop() if action == len(self._names) else Apply(self._names[action]))

    def outcome(self) -> tuple[float, bool, bool]:
        """Reward of the last step, terminated, truncated."""
        before, last = self.session.trajectory.steps[-2], self.session.trajectory.last
        reward = float(self._rules.reward(before.image, last.image, self.clean))
        self.psnr = float(batch_psnr(last.image, self.clean))
        terminated = self.session.stopped or (self._rules.harm_ends and self.psnr < self.start)
        return reward, terminated, self.session.exhausted and not terminated

    def info(self) -> dict[str, Any]:
        """PSNR now (dB, RGB), what was gained, and how many tools were applied."""
        return {"psnr": self.psnr, "gain": self.psnr - self.start, "tools": len(self.session.trajectory.toolchain())}


class RestorationEnv(gymnasium.Env[Observed, np.int64]):
    """One image at a time."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own declaration

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._episode: Episode | None = None
        self.observation_space, self.action_space = rules.observation_space(), rules.action_space()

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observed, dict[str, Any]]:
        """Begin with another damaged image; the same seed gives the same ones."""
        super().reset(seed=seed)
        self._episode = Episode(self._rules, self.np_random)
        return self._episode.observed(), self._episode.info()

    def step(self, action: np.int64) -> tuple[Observed, float, bool, bool, dict[str, Any]]:
        """Carry out one action. Raises InvalidActionError after the end of an episode, or for no action."""
        if self._episode is None:
            raise InvalidActionError("there is no episode; call reset first")
        self._episode.session.step(self._episode.decision(int(action)))
        reward, terminated, truncated = self._episode.outcome()
        return self._episode.observed(), reward, terminated, truncated, self._episode.info()


class VectorRestorationEnv(VectorEnv[Observed, NDArray[np.int64], NDArray[Any]]):
    """Many sessions that step together: the calls of one tool run as one batch through the pool.

    A session that ends is followed by the next in the same step; ``final_obs`` and ``final_info`` in the info, and
    ``_final_obs``, a mask (N,), then say how it ended. Seeded with n, session i is a
    ``RestorationEnv`` seeded with n + i.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, rules: Rules, num_envs: int) -> None:
        self._rules, self.num_envs = rules, num_envs
        self.single_observation_space, self.single_action_space = rules.observation_space(), rules.action_space()
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self._episodes: list[Episode] = []

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observed, dict[str, Any]]:
        """Begin all sessions anew."""
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed
        for i, one in enumerate(seeds or []):
            if one is not None:
                self._generators[i] = gymnasium.utils.seeding.np_random(one)[0]
        self._episodes = [Episode(self._rules, rng) for rng in self._generators]
        return self._observed(), {}

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observed, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Carry out one action in each session. Raises InvalidActionError for what is no action."""
        if not self._episodes:
            raise InvalidActionError("there are no episodes; call reset first")
        decisions = [episode.decision(int(a)) for episode, a in zip(self._episodes, actions, strict=True)]
        step_together([episode.session for episode in self._episodes], decisions)
        outcomes = [episode.outcome() for episode in self._episodes]
        rewards, terminated, truncated = (np.array(column) for column in zip(*outcomes, strict=True))
        ended = terminated | truncated
        info: dict[str, Any] = {}
        if ended.any():
            last = [episode.observed() if e else None for episode, e in zip(self._episodes, ended, strict=True)]
            details = [episode.info() if e else None for episode, e in zip(self._episodes, ended, strict=True)]
            info = {"final_obs": np.array(last, object), "final_info": np.array(details, object)}
            info |= {"_final_obs": ended, "_final_info": ended}
            for i in np.flatnonzero(ended):
                self._episodes[i] = Episode(self._rules, self._generators[i])
        return self._observed(), rewards.astype(np.float64), terminated, truncated, info

    def foresee(self) -> Foreseen:
        """Try every tool in every session without carrying any out: a simulator may, a photo could not.

        It costs as many calls as there are tools.
        """
        before = torch.cat([episode.session.trajectory.last.image for episode in self._episodes])
        clean = torch.cat([episode.clean for episode in self._episodes])
        tried = try_all(before, self._rules.toolbox, self._rules.pool)
        rewards = torch.stack([self._rules.reward(before, after, clean) for after in tried], 1)
        start, steps = (
            torch.tensor(values)[:, None]
            for values in (
                [episode.start for episode in self._episodes],
                [len(episode.session.trajectory.steps) for episode in self._episodes],
            )
        )
        ends = (steps >= self._rules.longest).expand_as(rewards)
        if self._rules.harm_ends:
            ends = ends | (torch.stack([batch_psnr(after, clean) for after in tried], 1) < start)
        return Foreseen(torch.stack(tried, 1), rewards, ends)

    def _observed(self) -> Observed:
        each = [episode.observed() for episode in self._episodes]
        return {name: np.stack([one[name] for one in each]) for name in ("image", "previous")}

"""Gymnasium environments around ``Session``: one image at a time, or many sessions that step together.

Actions are the tools in the toolbox's order, then stop. *Terminated* is an episode that the agent ended, or that fell
below its input where ``harm_ends``; *truncated* is one whose decisions ran out. A tool's failure is a step that changed
nothing; a PoolError is raised, changes nothing, and the same step may be tried again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from conservator.errors import ConservatorError, InvalidActionError, MissingExtraError
from conservator.session import Session, step_together
from conservator.training.rl.episode import Episode, EpisodeRules, Observed, StepOutcome

try:
    import gymnasium
    from gymnasium import spaces
    from gymnasium.vector import AutoresetMode, VectorEnv
    from gymnasium.vector.utils import batch_space
except ImportError as error:
    raise MissingExtraError("environments need Gymnasium; get it with: pip install 'conservator[train]'") from error


def observation_space(rules: EpisodeRules) -> spaces.Dict:
    """Of one session: ``Observed``. Raises ConservatorError for images of any size, which no space holds."""
    if rules.size is None:
        raise ConservatorError("an environment shows images of one size; say which in the rules")
    image = spaces.Box(0.0, 1.0, (3, *rules.size), np.float32)
    return spaces.Dict({"image": image, "previous": spaces.Discrete(len(rules.toolbox) + 1)})


def action_space(rules: EpisodeRules) -> spaces.Discrete:
    """The tools, then stop."""
    return spaces.Discrete(len(rules.toolbox) + 1)


class RestorationEnv(gymnasium.Env[Observed, np.int64]):
    """One image at a time."""

    metadata: dict[str, Any] = {"render_modes": []}  # noqa: RUF012 - Gymnasium's own declaration

    def __init__(self, rules: EpisodeRules) -> None:
        self._rules = rules
        self._episode: Episode | None = None
        self.observation_space, self.action_space = observation_space(rules), action_space(rules)

    @property
    def session(self) -> Session:
        """The session of this episode, for a ``Policy`` to observe. Raises InvalidActionError before reset."""
        return self._current().session

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observed, dict[str, Any]]:
        """Begin with another damaged image; the same seed gives the same ones."""
        super().reset(seed=seed)
        self._episode = Episode(self._rules, self.np_random)
        return self._episode.observed(), self._episode.info()

    def step(self, action: np.int64) -> tuple[Observed, float, bool, bool, dict[str, Any]]:
        """Carry out one action. Raises InvalidActionError after the end of an episode, or for no action."""
        episode = self._current()
        episode.session.step(episode.decision(int(action)))
        outcome = episode.outcome()
        (reward,) = _pay(self._rules, [outcome])
        return episode.observed(), reward, outcome.terminated, outcome.truncated, episode.info(outcome)

    def _current(self) -> Episode:
        if self._episode is None:
            raise InvalidActionError("there is no episode; call reset first")
        return self._episode


@dataclass(frozen=True)
class Foreseen:
    """What each tool would do now in each session."""

    images: Tensor
    """(N, tools, 3, H, W)."""
    rewards: Tensor
    """(N, tools)."""
    ends: Tensor
    """(N, tools): whether the episode would be over, by harm or because decisions run out."""


class VectorRestorationEnv(VectorEnv[Observed, NDArray[np.int64], NDArray[Any]]):
    """Many sessions that step together: the calls of one tool run as one batch through the pool.

    It is what Gymnasium's ``SyncVectorEnv`` makes of as many ``RestorationEnv`` with ``AutoresetMode.SAME_STEP``: a
    session that ends is followed by the next in the same step; ``final_obs`` and ``final_info`` in the info, with their
    masks (N,), then say how it ended. Seeded with n, session i is a ``RestorationEnv`` seeded with n + i.
    """

    metadata: dict[str, Any] = {"autoreset_mode": AutoresetMode.SAME_STEP}  # noqa: RUF012

    def __init__(self, rules: EpisodeRules, num_envs: int) -> None:
        self._rules, self.num_envs = rules, num_envs
        self.single_observation_space, self.single_action_space = observation_space(rules), action_space(rules)
        self.observation_space = batch_space(self.single_observation_space, num_envs)
        self.action_space = batch_space(self.single_action_space, num_envs)
        self._generators = [np.random.default_rng() for _ in range(num_envs)]
        self._episodes: list[Episode] = []

    @property
    def sessions(self) -> list[Session]:
        """The sessions of the current episodes, for a ``Policy`` to observe."""
        return [episode.session for episode in self._episodes]

    def reset(
        self, *, seed: int | Sequence[int | None] | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observed, dict[str, Any]]:
        """Begin all sessions anew; ``seed`` is one for all, counted on from session to session, or one for each."""
        seeds = [seed + i for i in range(self.num_envs)] if isinstance(seed, int) else seed or [None] * self.num_envs
        for i, one in zip(range(self.num_envs), seeds, strict=True):
            if one is not None:
                self._generators[i] = gymnasium.utils.seeding.np_random(one)[0]
        self._episodes = [Episode(self._rules, rng) for rng in self._generators]
        infos: dict[str, Any] = {}
        for i, episode in enumerate(self._episodes):
            infos = self._add_info(infos, episode.info(), i)
        return self._observed(), infos

    def step(
        self, actions: NDArray[np.int64]
    ) -> tuple[Observed, NDArray[Any], NDArray[Any], NDArray[Any], dict[str, Any]]:
        """Carry out one action in each session. Raises InvalidActionError for what is no action."""
        self._episodes, outcomes = self._carried_out(self._begun(), actions)
        rewards = np.array(_pay(self._rules, outcomes), np.float64)
        terminated, truncated = np.array([(o.terminated, o.truncated) for o in outcomes], bool).T.copy()
        infos: dict[str, Any] = {}
        for i, outcome in enumerate(outcomes):
            episode = self._episodes[i]
            info = episode.info(outcome)
            if outcome.ended:
                infos = self._add_info(infos, {"final_obs": episode.observed(), "final_info": info}, i)
                self._episodes[i] = Episode(self._rules, self._generators[i])
                info = self._episodes[i].info()
            infos = self._add_info(infos, info, i)
        return self._observed(), rewards, terminated, truncated, infos

    def foresee(self) -> Foreseen:
        """Try every tool in every session without carrying any out: a simulator may, a photo could not.

        It costs as many calls as there are tools, each a batch of all sessions. The weighting learns nothing from it.
        """
        episodes, tools = self._begun(), len(self._rules.toolbox)
        tried = [episode for episode in episodes for _ in range(tools)]
        after, outcomes = self._carried_out(tried, np.tile(np.arange(tools), len(episodes)))
        images = torch.cat([episode.session.trajectory.last.image for episode in after])
        rewards = torch.tensor(self._rules.weighting([outcome.components for outcome in outcomes]))
        ends = torch.tensor([outcome.ended for outcome in outcomes])
        shape = (len(episodes), tools)
        return Foreseen(images.unflatten(0, shape), rewards.unflatten(0, shape), ends.unflatten(0, shape))

    def _carried_out(
        self, episodes: Sequence[Episode], actions: NDArray[np.int64]
    ) -> tuple[list[Episode], list[StepOutcome]]:
        """One step of forks of these episodes: where the pool fails, the episodes are as they were."""
        decisions = [episode.decision(int(action)) for episode, action in zip(episodes, actions, strict=True)]
        forks = [episode.fork() for episode in episodes]
        step_together([fork.session for fork in forks], decisions)
        return forks, [fork.outcome() for fork in forks]

    def _begun(self) -> list[Episode]:
        if not self._episodes:
            raise InvalidActionError("there are no episodes; call reset first")
        return self._episodes

    def _observed(self) -> Observed:
        each = [episode.observed() for episode in self._episodes]
        return {name: np.stack([one[name] for one in each]) for name in ("image", "previous")}


def _pay(rules: EpisodeRules, outcomes: Sequence[StepOutcome]) -> list[float]:
    """The rewards of steps that were made, from which the weighting learns."""
    components = [outcome.components for outcome in outcomes]
    rules.weighting.update(components)
    return rules.weighting(components)

"""Rollouts of a model that calls tools: many sessions in step, their calls drawn, and how much they differ."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np

from conservator.degradations import Recipe, degrade
from conservator.degradations.patches import DrawRecipe
from conservator.errors import PoolError
from conservator.image import Image, in_8_bits
from conservator.kinds import Kind, parse_kinds
from conservator.photo import load_photo
from conservator.policies.reading import Prompt
from conservator.policies.replies import draw, follow
from conservator.policies.tool_calling import ToolCallingPolicy
from conservator.pool import MemoPool, Pool, RayPool, host
from conservator.restorer import Restorer
from conservator.session import Decision, Observation, Policy, Session, Trajectory, decide_together, step_together
from conservator.training.data.parts import random_part
from conservator.training.data.recipes import random_recipe, severities, with_kinds, without_resizing
from conservator.training.planner.orders import CROP_SIDE
from conservator.training.rl.rewards import METRIC, metric_models

RolloutStarts: TypeAlias = Callable[[int], tuple[Image, Image]]
"""number -> a damaged image to begin from, and the undamaged one."""
_TRIES = 3
"""How often a call whose pool fails is tried, until its rollout is dropped."""


@contextmanager
def rollout_pool(
    name: str | None, restorer: Restorer, metrics: Iterable[str] = ()
) -> Iterator[tuple[Pool, Pool | None]]:
    """Where rollouts call tools, and where their metrics are computed: in a shared pool, which is joined for as long.

    Without a name tools run in the restorer's own pool, and metrics, None, where they are asked for. Both remember.
    Raises PoolError where there is no such pool.
    """
    if name is None:
        yield MemoPool(restorer.models), None
        return
    models = host(restorer.toolbox, **{METRIC: metric_models(metrics)})
    with MemoPool(RayPool(models, name)) as pool:
        yield pool, pool


class DrawnCalls:
    """A policy that draws its calls by the model's chances: what GRPO compares."""

    name = "drawn"

    def __init__(self, policy: ToolCallingPolicy, rng: np.random.Generator, temperature: float = 1.0) -> None:
        self._policy, self._rng, self._temperature = policy, rng, temperature

    def act(self, observation: Observation) -> Decision:
        """Draw the next call."""
        return self.act_together([observation])[0]

    def act_together(self, observations: Sequence[Observation]) -> list[Decision]:
        """Draw a call for each; what was said until now is read once where it is the same for several."""
        prompts = [self._policy.prompt(observation) for observation in observations]
        alike: dict[tuple[bytes, bytes], list[int]] = {}
        for i, prompt in enumerate(prompts):
            alike.setdefault(same_prompt(prompt), []).append(i)
        decisions: dict[int, Decision] = {}
        for group in alike.values():
            with self._policy.model.lock:
                reading = self._policy.model.read(prompts[group[0]])
                for i in group:
                    replies = {said: action for action, said in self._policy.replies(observations[i]).items()}
                    said = follow(replies, draw(list(replies), reading.next, self._rng, self._temperature))
                    decisions[i] = Decision(replies[said], by=self.name)
        return [decisions[i] for i in range(len(observations))]


def same_prompt(prompt: Prompt) -> tuple[bytes, bytes]:
    """Equal for prompts that say and show the same."""
    return prompt.ids.numpy().tobytes(), prompt.patches.numpy().tobytes()


def roll_out(policy: Policy, sessions: Sequence[Session]) -> list[Trajectory | None]:
    """Run the sessions together; None for one whose pool failed to the end, which says nothing of its decisions.

    As ``run_together`` does it, but for one thing: a call whose pool failed is tried again, not drawn again. Another
    call in its place would teach the model to shun a tool that cannot be reached at the moment.
    """
    lost = set[int]()
    while live := [i for i, session in enumerate(sessions) if not session.over and i not in lost]:
        decisions = decide_together(policy, [sessions[i].observe() for i in live])
        pending = dict(zip(live, decisions, strict=True))
        for _ in range(_TRIES):
            steps = {i: len(sessions[i].trajectory.steps) for i in pending}
            with suppress(PoolError):
                step_together([sessions[i] for i in pending], list(pending.values()))
            pending = {i: d for i, d in pending.items() if len(sessions[i].trajectory.steps) == steps[i]}
            if not pending:
                break
        lost |= pending.keys()
    return [None if i in lost else session.trajectory for i, session in enumerate(sessions)]


@dataclass(frozen=True)
class Diversity:
    """How much the rollouts of a photo differ, as means over the photos: each from 1 to the number of rollouts."""

    trajectories: float
    """Distinct sequences of actions."""
    orders: float
    """Distinct sequences of damages that were treated."""
    tools: float
    """Distinct sets of tools."""

    @classmethod
    def of(cls, groups: Iterable[Sequence[Trajectory]], removes: Mapping[str, frozenset[Kind]]) -> Diversity:
        """Of the rollouts of each photo; ``removes`` are the kinds that each tool is for."""
        counts = []
        for group in groups:
            actions = {tuple(step.decision.action for step in one.steps[1:] if step.decision) for one in group}
            orders = {tuple(removes[tool] for tool in one.toolchain()) for one in group}
            counts.append((len(actions), len(orders), len({frozenset(one.toolchain()) for one in group})))
        return cls(*np.mean(counts, axis=0).tolist()) if counts else cls(np.nan, np.nan, np.nan)


class DamagedCrops:
    """Damaged crops of clean photos with the undamaged ones, by number: as the questions of planners are about.

    The same number gives the same crop, so that what begins alike is computed once, by those who remember.
    """

    def __init__(self, photos: Sequence[Path], *seed: int, draw: DrawRecipe = random_recipe) -> None:
        """``draw`` draws the damage; what would make a picture smaller is left out of it."""
        self._photos, self._seed, self._draw = photos, seed, draw
        self._made: dict[int, tuple[Image, Image]] = {}

    def photo(self, number: int) -> Path:
        """The photo that a crop is of."""
        return self._photos[number % len(self._photos)]

    def __call__(self, number: int) -> tuple[Image, Image]:
        """A damaged crop (1, 3, 224, 224), and the undamaged one."""
        if number not in self._made:
            rng = np.random.default_rng([*self._seed, number])
            recipe = without_resizing(self._draw(rng))
            clean = random_part(load_photo(self.photo(number)).image, rng)
            clean = clean[..., :CROP_SIDE, :CROP_SIDE].contiguous()
            self._made[number] = in_8_bits(degrade(clean, recipe)), clean
        return self._made[number]


def without_pairs(pairs: Collection[str]) -> DrawRecipe:
    """Draws any damage, but never all kinds of one of "rain+noise" together."""
    refused = [parse_pair(pair) for pair in pairs]

    def draw(rng: np.random.Generator) -> Recipe:
        while True:
            recipe = random_recipe(rng)
            if not any(pair <= severities(recipe).keys() for pair in refused):
                return recipe

    return draw


def only_pair(pair: str) -> DrawRecipe:
    """Draws the kinds of "rain+noise" together, each of any severity, and nothing else."""
    kinds = parse_pair(pair)
    return lambda rng: with_kinds(kinds, (), rng)


def parse_pair(pair: str) -> frozenset[Kind]:
    """The kinds of "rain+noise"; NameNotFoundError for one that there is not."""
    return parse_kinds(pair.replace("+", ","))

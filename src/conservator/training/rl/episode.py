"""Episodes: one damaged image on its way, paid at every step. What an episode is stands in ``EpisodeRules``."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np

from conservator.degradations.patches import PATCH_SIDE, UNDAMAGED_PSNR
from conservator.errors import ConservatorError, InvalidActionError
from conservator.image import Image
from conservator.metrics.fidelity import psnr_of_each
from conservator.perception.perception import Blind, Perception
from conservator.policies.dqn import LONGEST
from conservator.pool import Pool
from conservator.session import Apply, Decision, Scope, Session, Stop
from conservator.tools.tool import Toolbox
from conservator.training.rl.rewards import Reward, step_psnr
from conservator.training.rl.weighting import FixedWeights, Weighting

Observed: TypeAlias = dict[str, Any]
"""``image``: float32 (3, H, W) in [0, 1]. ``previous``: int64, the tool that made it counted from 1, 0 for none."""
Source: TypeAlias = Callable[[np.random.Generator], tuple[Image, Image | None]]
"""Draws one damaged image (1, 3, H, W), and the undamaged one or None where nobody has it."""


@dataclass(frozen=True)
class EpisodeRules:
    """What an episode is. The defaults are RL-Restore's: patches of 63 pixels, three decisions, paid in PSNR."""

    source: Source
    toolbox: Toolbox
    pool: Pool
    perception: Perception = field(default_factory=Blind)
    """What grades each image, for rewards and policies that ask it."""
    reward: Reward = field(default=step_psnr)
    weighting: Weighting = field(default_factory=FixedWeights)
    """Of the reward's components; it learns from the steps that are made."""
    scope: Scope = field(default_factory=Scope)
    """Which tools an image is offered; the others are errors."""
    longest: int = LONGEST
    """Decisions at most."""
    harm_ends: bool = True
    """Whether an episode ends when its image has less PSNR than its input, as in the authors' training."""
    size: tuple[int, int] | None = (PATCH_SIDE, PATCH_SIDE)
    """Height and width of the source's images, in pixels; None where they are studies, or images of any size, which
    Gymnasium's environments cannot show."""

    def __post_init__(self) -> None:
        if self.longest < 1 or min(self.size or (1,)) < 1:
            raise ConservatorError(f"longest is {self.longest} and size {self.size}, expected 1 or more of each")
        if self.scope.upscale:
            raise ConservatorError("the images of an environment keep their size; use a scope without upscale")


@dataclass(frozen=True)
class StepOutcome:
    """What the last step brought."""

    components: Mapping[str, float]
    """Of the reward, before they are weighed."""
    terminated: bool
    """The agent stopped, or did harm where that ends an episode."""
    truncated: bool
    """Its decisions ran out."""

    @property
    def ended(self) -> bool:
        """Whether the episode is over."""
        return self.terminated or self.truncated


class Episode:
    """One session with its reference, if it has one. Actions are the tools in the toolbox's order, then stop."""

    def __init__(self, rules: EpisodeRules, rng: np.random.Generator) -> None:
        """Draw an image. Raises ConservatorError for one of another size, and for harm that nobody could tell."""
        self._rules, self._names = rules, list(rules.toolbox)
        damaged, self.clean = rules.source(rng)
        for image in (damaged, self.clean):
            expected = damaged.shape if rules.size is None else (1, 3, *rules.size)
            if image is not None and image.shape != expected:
                raise ConservatorError(f"the source gave {tuple(image.shape)}, the rules say {tuple(expected)}")
        if self.clean is None and rules.harm_ends:
            raise ConservatorError("without references nobody can tell harm by PSNR; set harm_ends=False")
        self.session = Session(damaged, rules.toolbox, rules.pool, rules.perception, rules.longest, rules.scope)
        self.psnr = self.start = self._measured()
        """PSNR (RGB) now, dB, counted up to 50, of a study the mean of its parts; NaN without a reference."""
        self.ended = False

    def fork(self) -> Episode:
        """The same episode, which goes its own way from here."""
        fork = copy.copy(self)
        fork.session = self.session.fork()
        return fork

    def observed(self) -> Observed:
        """What the agent may know; the steps before are its own to remember."""
        last = self.session.trajectory.last
        chosen = last.decision.action if last.decision is not None and last.error is None else None
        previous = self._names.index(chosen.tool) + 1 if isinstance(chosen, Apply) else 0
        return {"image": last.image[0].numpy().copy(), "previous": np.int64(previous)}

    def decision(self, action: int) -> Decision:
        """The decision that an action number stands for.

        Raises InvalidActionError for one that stands for none, and after the end of the episode.
        """
        if self.ended:
            raise InvalidActionError("the episode is over; call reset")
        if not 0 <= action <= len(self._names):
            raise InvalidActionError(f"the action is {action}, expected 0 to {len(self._names)}")
        return Decision(Stop() if action == len(self._names) else Apply(self._names[action]))

    def outcome(self) -> StepOutcome:
        """What the last step of the session brought; notes whether it was the end."""
        before, last = self.session.trajectory.steps[-2], self.session.trajectory.last
        components = self._rules.reward(before, last, self.clean)
        self.psnr = self._measured()
        terminated = self.session.stopped or (self._rules.harm_ends and self.psnr < self.start)
        outcome = StepOutcome(components, terminated, self.session.exhausted and not terminated)
        self.ended = outcome.ended
        return outcome

    def info(self, outcome: StepOutcome | None = None) -> dict[str, Any]:
        """What is known beside the observation: for curves, and for agents that ask what is allowed.

        The number of ``tools`` applied, ``action_mask`` (int8, 1 for what is possible) as Gymnasium's spaces take it;
        with a reference ``psnr`` now and ``gain`` over the input (dB, RGB); and the ``components`` of the last reward.
        """
        offered = {spec.name for spec in self.session.tools}
        mask = np.array([*(name in offered for name in self._names), True], np.int8)
        info: dict[str, Any] = {"tools": len(self.session.trajectory.toolchain()), "action_mask": mask}
        if self.clean is not None:  # no NaN: it differs from itself, and Gymnasium's checks take that for chance
            info |= {"psnr": self.psnr, "gain": self.psnr - self.start}
        return info if outcome is None else {**info, "components": dict(outcome.components)}

    def _measured(self) -> float:
        if self.clean is None:
            return math.nan
        return float(psnr_of_each(self.session.trajectory.last.image, self.clean, UNDAMAGED_PSNR).mean())

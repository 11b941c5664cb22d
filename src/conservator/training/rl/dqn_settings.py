"""How an agent is trained by deep Q-learning: the authors' settings, and ours."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from conservator.errors import name_not_found


@dataclass(frozen=True)
class DqnSettings:
    """How an agent is trained. The defaults are those of the authors' code."""

    steps: int = 2_000_000
    """Steps of the environment, all sessions together. It only says where to stop: no schedule depends on it."""
    planned: int = 0
    """Steps that the schedules below were made for, 0 where they were made for no certain number."""
    warmup: int = 5_000
    """Steps of pure chance before the first update."""
    train_every: int = 4
    """Steps per update of the network."""
    batch: int = 32
    """Episodes per update."""
    memory: int = 500_000
    """Steps that the replay holds, in episodes of three."""
    gamma: float = 0.99
    rate: float = 1e-4
    """Learning rate of Adam, halved every ``halving`` steps down to ``least_rate``."""
    halving: int = 1_000_000
    least_rate: float = 2.5e-5
    explore: int = 1_000_000
    """Steps in which the share of random actions falls from 1 to ``least_explore``."""
    least_explore: float = 0.1
    target_every: int = 10_000
    """Steps after which the target network is renewed."""
    sessions: int = 32
    """That step together (the authors: 1)."""
    double: bool = False
    """The network chooses the next action and the target network values it (van Hasselt et al., 2016)."""
    duelling: bool = False
    """Value and advantages apart (Wang et al., 2016)."""
    returns: int = 1
    """Rewards that are summed before the bootstrap (n-step), as long as the actions are the best."""
    priority: float = 0.0
    """Exponent of prioritised replay, 0 for uniform."""
    contrast: bool = False
    """Whether the network begins as ``QNetwork.see_contrast`` has it."""
    pretrain: int = 0
    """Batches of patches on which the convolutions learn to tell damage before anything is played (pretrain.py)."""
    foresight: bool = False
    """Whether every tool is tried in every state, so that each step teaches what every action is worth and not only the
    one that was taken. It costs as many calls as there are tools; what follows an action is valued when it is tried."""
    floor: float = -math.inf
    """dB; what is worth less counts as this. By how much a wrong tool does harm is nothing worth knowing."""
    turned: bool = False
    """Whether replayed episodes are turned and mirrored by chance: what a tool gains hardly depends on it."""
    unit: float = 1.0
    """dB per unit of the network's values while it learns: Adam moves a bias by no more than its rate, and tools that
    do harm cost 20 dB. The agent that is saved has its values in dB."""
    checkpoint_every: int = 20_000
    """Steps between checkpoints; the sessions begin anew at each, so that a resumed run is the same run."""
    seed: int = 0

    def without(self, *parts: str) -> DqnSettings:
        """The same without some of its parts; raises NameNotFoundError for what is none."""
        plain: dict[str, bool | int | float] = {
            "contrast": False,
            "pretrain": 0,
            "foresight": False,
            "double": False,
            "duelling": False,
            "returns": 1,
            "priority": 0.0,
            "turned": False,
        }
        for part in parts:
            if part not in plain:
                raise name_not_found("part", part, plain)
        return replace(self, **{part: plain[part] for part in parts})  # type: ignore[arg-type]

    @property
    def last(self) -> int:
        """The step at which a run ends: ``steps``, or a little more, for all sessions step together."""
        return math.ceil(self.steps / self.sessions) * self.sessions

    def next_checkpoint(self, step: int) -> int:
        """The step, from ``step`` on, at which the next checkpoint is due: these are the same in shorter runs."""
        return min(self.last, (step // self.checkpoint_every + 1) * self.checkpoint_every)

    def learning_rate(self, step: int) -> float:
        """Adam's at this step."""
        return max(self.least_rate, self.rate * math.pow(0.5, step / self.halving))

    def random_share(self, step: int, skipped: float) -> float:
        """The share of random actions at this step; ``skipped`` is how far exploration was skipped at the start."""
        past = max(0, step - self.warmup) / self.explore + skipped
        return max(self.least_explore, 1 - (1 - self.least_explore) * past)


def published(steps: int = 2_000_000, seed: int = 0) -> DqnSettings:
    """The authors' settings: schedules as they are, however many steps are played."""
    return DqnSettings(steps=steps, seed=seed)


def fast(steps: int = 20_000, seed: int = 0, planned: int | None = None) -> DqnSettings:
    """A hundredth of the published number of steps; schedules shrink with the ``planned`` steps (None: with ``steps``).

    A run that was planned for fewer steps goes on with ``fast(steps, planned=...)`` of what it was planned for.
    ``double`` and ``returns`` are for ``DqnSettings.without("foresight")``: what was foreseen needs neither.
    """
    planned = planned or steps
    return DqnSettings(
        steps=steps,
        planned=planned,
        warmup=planned // 30,
        train_every=2,
        memory=max(3 * 64, planned // 2),  # what was foreseen long ago was valued by a worse network
        rate=1e-3,
        halving=max(1, planned // 4),
        least_rate=5e-5,
        explore=max(1, int(0.3 * planned)),
        least_explore=0.1,
        target_every=max(32, planned // 30),
        double=True,
        duelling=True,
        returns=3,
        priority=0.6,
        contrast=True,
        pretrain=min(4_000, planned // 2),
        foresight=True,
        floor=-5.0,
        turned=True,
        unit=5.0,
        checkpoint_every=max(64, planned // 10),
        seed=seed,
    )

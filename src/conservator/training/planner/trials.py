"""Models that call tools, tried on the same damaged crops: what they draw, what they decide, what a tool is worth."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from conservator.evaluation.journal import whole_lines
from conservator.kinds import Objective
from conservator.perception.remembering import RememberingPerception
from conservator.policies.tool_calling import ToolCallingPolicy
from conservator.policies.vision_language import load_model, model_hash
from conservator.pool import Pool
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.session import Apply, Session, Trajectory
from conservator.training.planner.exploring import DamagedCrops, Diversity, DrawnCalls, roll_out
from conservator.training.rl.rollouts import RolloutReward

_TOGETHER = 16
"""Crops that are decided together, which shares the reading of the model; it changes no result."""


@dataclass(frozen=True)
class Tried:
    """What the rollouts of one crop came to."""

    crop: int
    photo: str
    values: Mapping[str, float]
    """Means over the rollouts: the components of ``RolloutReward``; of several rollouts also ``trajectories``,
    ``orders`` and ``tools``, how many are distinct."""
    called: Mapping[str, int]
    """How often each tool was called."""


class Trials:
    """Tries models on crops, and remembers what was found in a file, so that a killed run goes on."""

    def __init__(
        self,
        crops: DamagedCrops,
        count: int,
        restorer: Restorer,
        pools: tuple[Pool, Pool | None],
        metrics: Sequence[str],
        journal: Path,
        *,
        longest: int = Request.max_steps,
        objective: Objective = "balanced",
        device: str = "cpu",
        measured: Path | None = None,
    ) -> None:
        """The first ``count`` of ``crops``; ``pools`` are of ``rollout_pool``, ``longest`` the decisions at most.

        ``measured`` is a file that keeps what perception measured (``RememberingPerception``).
        """
        self._crops, self._count, self._toolbox = crops, count, restorer.toolbox
        self._pool, computing = pools
        self._perception = RememberingPerception(restorer.perception, measured)
        self._reward = RolloutReward(metrics, None, restorer.toolbox, computing)
        self._longest, self._objective, self._device = longest, objective, device
        self._journal = journal
        self.names = (*metrics, "harm", "consistency", "cost")
        """The components of the reward, as ``Tried.values`` has them."""

    def drawn(self, model: str, rollouts: int, temperature: float, seed: int) -> list[Tried]:
        """Rollouts of each crop, drawn by the model's chances; a crop whose rollouts all failed is left out."""
        removes = {spec.name: spec.removes for spec in self._toolbox.specs}
        policy = self._policy(model)

        def made(numbers: Sequence[int]) -> Iterator[Tried]:
            for number in numbers:
                drawing = DrawnCalls(policy(), np.random.default_rng([seed, number]), temperature)
                start = self._session(number)
                played = roll_out(drawing, [start.fork() for _ in range(rollouts)])
                kept = [one for one in played if one is not None]
                varied = asdict(Diversity.of([kept] if kept else [], removes))
                yield self._tried(number, kept, varied)

        return self._all(f"drawn {model_hash(model)} {rollouts} {temperature} {seed}", made)

    def decided(self, model: str, withheld: str = "") -> list[Tried]:
        """One rollout of each crop, decided by the likeliest call, as in use; a ``withheld`` tool is not offered."""
        policy = self._policy(model)

        def made(numbers: Sequence[int]) -> Iterator[Tried]:
            for i in range(0, len(numbers), _TOGETHER):
                part = numbers[i : i + _TOGETHER]
                done = roll_out(policy(), [self._session(number, withheld) for number in part])
                for number, one in zip(part, done, strict=True):
                    yield self._tried(number, [one] if one is not None else [], {})

        return self._all(f"decided {model_hash(model)} {withheld}", made)

    def _policy(self, model: str) -> Callable[[], ToolCallingPolicy]:
        """Makes the policy of a model; it is loaded when something is to be done."""
        return lambda: ToolCallingPolicy(load_model(model, self._device), self._perception, self._objective)

    def _session(self, number: int, withheld: str = "") -> Session:
        toolbox = self._toolbox.only(*(name for name in self._toolbox if name != withheld))
        return Session(self._crops(number)[0], toolbox, self._pool, self._perception, self._longest)

    def _tried(self, number: int, played: Sequence[Trajectory], varied: Mapping[str, float]) -> Tried:
        paid = [one for one in self._reward.of_all(played, self._crops(number)[1]) if one is not None]
        means = {name: float(np.mean([one[name] for one in paid])) if paid else np.nan for name in self.names}
        steps = [step.decision.action for one in played for step in one.steps[1:] if step.decision is not None]
        called = Counter(action.tool for action in steps if isinstance(action, Apply))
        return Tried(number, self._crops.photo(number).name, {**varied, **means}, dict(called))

    def _all(self, key: str, made: Callable[[Sequence[int]], Iterable[Tried]]) -> list[Tried]:
        """What was found of every crop, those that are missing made now. Crops that could not be measured are left out:
        they are tried again by the next run.
        """
        found = {one.crop: one for one in self._read(key)}
        missing = [number for number in range(self._count) if number not in found]
        if missing:
            self._journal.parent.mkdir(parents=True, exist_ok=True)
            with self._journal.open("a", encoding="utf-8") as file:
                for one in made(missing):
                    if not all(map(np.isfinite, one.values.values())):
                        continue
                    found[one.crop] = one
                    file.write(json.dumps({"key": key, **asdict(one)}) + "\n")
                    file.flush()
        return [found[number] for number in sorted(found) if number < self._count]

    def _read(self, key: str) -> Iterator[Tried]:
        for line in whole_lines(self._journal):
            row = json.loads(line)
            if row.pop("key") == key:
                yield Tried(**row)

"""Group-relative policy optimisation of a model that calls tools. Read from top to bottom: play, pay, learn, measure.

    conservator train grpo --photos FOLDER --model FOLDER

GRPO (Shao et al., "DeepSeekMath", arXiv 2402.03300): several rollouts of one damaged crop are compared, and calls that
led to a better result than the others' become more likely. A step learns once from its rollouts, so no chance has moved
meanwhile and nothing need be clipped; there is no reference model. Each rollout counts the same, however long it is
(Liu et al., "Understanding R1-Zero-like training", arXiv 2503.20783).

A loop of our own over the sessions' own steps, and not TRL's GRPOTrainer: docs/tir-agent.md says what was measured.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from conservator.claims import Identity, claim
from conservator.evaluation.rows import content_of
from conservator.extras import import_mllm
from conservator.files import sha256
from conservator.image import Image
from conservator.perception.remembering import RememberingPerception
from conservator.photo import find_photos
from conservator.policies.tool_calling import ToolCallingPolicy
from conservator.policies.vision_language import VisionLanguageModel, load_model
from conservator.pool import Pool
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.session import Session, Trajectory
from conservator.tools.tool import ToolSpec
from conservator.training.data.crops import held_out
from conservator.training.planner.exploring import (
    DamagedCrops,
    Diversity,
    DrawnCalls,
    RolloutStarts,
    roll_out,
    rollout_pool,
    same_prompt,
    without_pairs,
)
from conservator.training.planner.orders import GrpoOrder, torch_device
from conservator.training.planner.turns import Turn, log_chances, turns_of
from conservator.training.rl.rollouts import RolloutReward
from conservator.training.rl.weighting import Components, normalised
from conservator.training.run import Curve, load_checkpoint, save_checkpoint, write_curve

_RATES = {"nano": 5e-4, "lora": 1e-5, "full": 1e-6}
"""Learning rates: of a small model (docs/results/tir-agent.md), of adapters (ours), of a large one (OPERA's)."""
_LARGE = 100_000_000
"""Parameters from which a model is large."""
_STEEPEST = 1.0
"""Longest gradient."""
_WARMING = 10
"""Steps in which the learning rate grows to its height: Adam's first steps move every weight by the whole rate, by the
sign of a gradient of a few crops."""
_OF_THIS_MACHINE = ("output", "minutes", "steps", "device", "every", "held_out", "photos", "model", "pool", "measured")
"""Fields of an order that do not make another run, or that count by their content."""


def train_grpo(order: GrpoOrder, report: Callable[[str], None] = print) -> Path:
    """Train and return the folder of the model; goes on where an earlier run of the same order stopped.

    Raises ConservatorError for a model that does not call tools, and for a folder of another order.
    """
    order = replace(order, device=torch_device(order.device))
    photos = find_photos(order.photos)
    unseen = held_out(photos)
    with (
        Restorer(Request(toolbox=order.toolbox, objective=order.objective)) as restorer,
        rollout_pool(order.pool, restorer, order.metrics) as pools,
    ):
        draw = without_pairs(order.without)
        starts = DamagedCrops([photo for photo in photos if photo not in set(unseen)], order.seed, 43, draw=draw)
        measured = DamagedCrops(unseen, order.seed, 47, draw=draw) if unseen else None
        if measured is None:
            report(f"{len(photos)} photos are too few to hold one out; nothing is measured on photos that do not train")
        run = GrpoRun(order, starts, measured, restorer, pools)
        found = content_of(photos, order.photos, restorer.toolbox, order.toolbox, order.output)
        settings = {f.name: getattr(order, f.name) for f in fields(order) if f.name not in _OF_THIS_MACHINE}
        begun = {path.name: sha256(path) for path in sorted(Path(order.model).glob("*.safetensors"))}
        settings |= {} if begun else {"model": order.model}
        weights = begun | found.weights_of(Request.perception)
        claim(order.output, Identity.of(settings, photos=found.photos, tools=found.tools, weights=weights))
        run.load()
        until = math.inf if order.minutes is None else time.monotonic() + 60 * order.minutes
        while run.step < order.steps and time.monotonic() < until:
            report(run.play_and_learn())
            if run.step % order.every == 0:
                run.save()
        run.save()
    return run.write_model()


class GrpoRun:
    """Model, optimiser, weights of the reward and progress of one training."""

    def __init__(
        self,
        order: GrpoOrder,
        starts: RolloutStarts,
        unseen: RolloutStarts | None,
        restorer: Restorer,
        pools: tuple[Pool, Pool | None],
    ) -> None:
        """Rollouts begin from the first of ``starts``, and are measured on the first of ``unseen``, if there are any.

        ``pools`` are where tools are called and metrics computed (``rollout_pool``).
        """
        torch.set_flush_denormal(True)
        self.order, self._starts, self._unseen = order, starts, unseen
        self.model = load_model.__wrapped__(order.model, order.device)  # one of its own: no policy's may be trained
        self._toolbox, (self.pool, computing) = restorer.toolbox, pools
        self.perception = RememberingPerception(restorer.perception, order.measured)
        self.policy = ToolCallingPolicy(self.model, self.perception, order.objective)
        large = self.model.parameters >= _LARGE
        _prepare(self.model, order)
        self._learned = [p for p in self.model.network.parameters() if p.requires_grad]
        self._rate = order.rate or _RATES["lora" if order.lora else "full" if large else "nano"]
        self._optimizer = torch.optim.AdamW(self._learned, lr=self._rate, weight_decay=0.0)
        self.reward = RolloutReward(order.metrics, order.left_out, restorer.toolbox, computing)
        self.weighting = self.reward.weighting(order.weighting)
        self.step, self.seconds, self.curve = 0, 0.0, Curve()

    # --- play and pay ---

    def play_and_learn(self) -> str:
        """One step; what it brought, in words."""
        begun, rng = time.monotonic(), np.random.default_rng([self.order.seed, self.step])
        pairs = [self._starts(int(rng.integers(self.order.starts))) for _ in range(self.order.crops)]
        starts = [self._session(damaged) for damaged, _ in pairs]
        sessions = [start.fork() for start in starts for _ in range(self.order.rollouts)]
        played = roll_out(DrawnCalls(self.policy, rng, self.order.temperature), sessions)
        size = self.order.rollouts
        groups = [self.paid(played[i * size : (i + 1) * size], clean) for i, (_, clean) in enumerate(pairs)]
        advantages = self.advantages(groups)
        kept = [trajectory for group in groups for trajectory, _ in group]
        self._learn(sessions[0].tools, kept, advantages)
        self.step += 1
        self.seconds += time.monotonic() - begun
        self.curve.append(self._row(groups, len(sessions) - len(kept)))
        return ", ".join(f"{name} {value:.3g}" for name, value in self.curve[-1].items() if value == value)

    def _session(self, image: Image) -> Session:
        return Session(image, self._toolbox, self.pool, self.perception, self.order.longest)

    def paid(self, played: Sequence[Trajectory | None], clean: Image) -> list[tuple[Trajectory, Components]]:
        """The rollouts of a crop with what they are paid for, but for those that failed or could not be measured."""
        kept = [one for one in played if one is not None]
        paid = zip(kept, self.reward.of_all(kept, clean), strict=True)
        return [(one, components) for one, components in paid if components is not None]

    def advantages(self, groups: Sequence[Sequence[tuple[Trajectory, Components]]]) -> list[float]:
        """How much better each rollout was than the mean of its crop.

        It is not divided by their deviation: where all rollouts come to nearly the same, their differences are to count
        little (Liu et al.), and metrics are in units of their deviation already. For GDPO, which normalises metrics
        within the crop, all rollouts of the step are normalised together.
        """
        paid = [[components for _, components in group] for group in groups]
        self.weighting.update([components for group in paid for components in group])
        worth = [self.weighting(group) for group in paid]
        if self.order.weighting == "gdpo":
            return normalised([value for values in worth for value in values])
        return [value - sum(values) / len(values) for values in worth for value in values]

    # --- learn ---

    def _learn(self, tools: tuple[ToolSpec, ...], trajectories: Sequence[Trajectory], better: Sequence[float]) -> None:
        """One step of the optimiser, by how much better each rollout was; shared turns are computed once."""
        turns: dict[Any, tuple[Turn, float]] = {}
        for trajectory, advantage in zip(trajectories, better, strict=True):
            for turn in turns_of(self.policy, trajectory, tools, self.order.longest):
                key = (*same_prompt(turn.prompt), turn.said)
                turns[key] = turn, turns.get(key, (turn, 0.0))[1] + advantage
        wanted = [(turn, advantage) for turn, advantage in turns.values() if turn.way and abs(advantage) > 1e-6]
        wanted.sort(key=lambda one: len(one[0].prompt.ids))  # so that little of a batch is filling
        for i in range(0, len(wanted), self.order.batch):
            part = wanted[i : i + self.order.batch]
            worth = torch.tensor([advantage for _, advantage in part], device=self.order.device)
            with torch.autocast(self.order.device, torch.bfloat16, enabled=self.order.device != "cpu"):
                chances = log_chances(self.model, [turn for turn, _ in part], self.order.temperature)
            (-(worth * chances).sum() / len(trajectories)).backward()
        torch.nn.utils.clip_grad_norm_(self._learned, _STEEPEST)
        for group in self._optimizer.param_groups:
            group["lr"] = self._rate * min(1.0, (self.step + 1) / _WARMING)
        self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        if self.model.beginnings is not None:
            self.model.beginnings.forget()

    # --- measure and keep ---

    def _row(self, groups: Sequence[Sequence[tuple[Trajectory, Components]]], dropped: int) -> dict[str, float]:
        paid = [components for group in groups for _, components in group]
        removes = {spec.name: spec.removes for spec in self._toolbox.specs}
        varied = Diversity.of([[one for one, _ in group] for group in groups if group], removes)
        row = {"step": float(self.step), "minutes": self.seconds / 60, "dropped": float(dropped)}
        row |= {name: float(np.mean([one[name] for one in paid])) if paid else math.nan for name in self._names}
        row |= {"trajectories": varied.trajectories, "orders": varied.orders, "tools": varied.tools}
        due = self.step % self.order.every == 0 or self.step == self.order.steps
        held = self.measure() if due and self.order.held_out else {}
        return row | {f"held_out_{name}": held.get(name, math.nan) for name in self._names}

    @property
    def _names(self) -> list[str]:
        return [*self.order.metrics, "harm", "consistency", "cost"]

    def measure(self) -> dict[str, float]:
        """The mean of every component on held-out crops, decided as in use: by the likeliest call.

        Nothing where one could not be measured, for the mean of others says something else; or where none is held out.
        """
        if self._unseen is None:
            return {}
        pairs = [self._unseen(number) for number in range(self.order.held_out)]
        done = roll_out(self.policy, [self._session(damaged) for damaged, _ in pairs])
        paid = [self.reward(one, clean) if one else None for one, (_, clean) in zip(done, pairs, strict=True)]
        known = [one for one in paid if one is not None]
        return {name: float(np.mean([one[name] for one in known])) for name in self._names if len(known) == len(paid)}

    def save(self) -> None:
        """Write the checkpoint and the curve."""
        learned = {name: p for name, p in self.model.network.named_parameters() if p.requires_grad}
        state: dict[str, Any] = {"learned": learned, "optimizer": self._optimizer.state_dict(), "curve": self.curve}
        state |= {"weighting": self.weighting.state_dict(), "step": self.step, "seconds": self.seconds}
        save_checkpoint(self.order.output, state, {})
        if self.curve:
            write_curve(self.order.output, self.curve)

    def load(self) -> None:
        """Go on where ``save`` stopped, if it ever did."""
        state = load_checkpoint(self.order.output, {}, self.order.device)
        if state is None:
            return
        self.model.network.load_state_dict(state["learned"], strict=False)
        self.model.remember()
        self._optimizer.load_state_dict(state["optimizer"])
        self.weighting.load_state_dict(state["weighting"])
        self.step, self.seconds, self.curve = state["step"], state["seconds"], state["curve"]

    def write_model(self) -> Path:
        """Write the model, or its adapters, where the policy ``tir`` reads them."""
        folder = self.order.output / "model"
        if self.order.lora:
            self.model.network.save_pretrained(folder)
            self.model.save_words(folder)
        else:
            self.model.save(folder, torch.float16 if self.model.parameters < _LARGE else torch.bfloat16)
        return folder


def _prepare(model: VisionLanguageModel, order: GrpoOrder) -> None:
    """Make the whole model learn, or adapters in it. It stays in the state of use: nothing is dropped by chance."""
    if not order.lora:
        model.network.float().requires_grad_(True)
        return
    from conservator.training.planner.sft import ADAPTED

    adapters = import_mllm("peft").LoraConfig(
        r=order.rank, lora_alpha=2 * order.rank, target_modules=ADAPTED, base_model_name_or_path=order.model
    )
    model.network.add_adapter(adapters)
    model.network.eval()

"""Train the policy r1 from right answers: of each state it is told what every action leads to, at best.

All toolchains of a damaged picture are run and scored by PSNR (evaluation/enumerate.py). The best that can still be
reached by an action is what it is worth; chances by these worths are the targets. This needs references, and many more
calls than PPO for a state, and it never errs about what follows.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.evaluation.enumerate import EachKindOnce, enumerate_toolchains
from conservator.perception.perception import Percept
from conservator.policies.actor_critic import MOST_TOOLS, ActorCritic
from conservator.policies.planning import suspected
from conservator.tools.tool import ToolSpec
from conservator.training.planner.situations import Outlook
from conservator.training.rl.episode import EpisodeRules
from conservator.training.rl.ppo import TrainedR1, measure_starts
from conservator.training.rl.starts import StartingPair, Starts
from conservator.training.rl.tree import StartTree

_KINDS, _EACH = 3, 2
"""Kinds of damage of which toolchains are run, the likeliest, and tools for each; more would take minutes a picture."""


@dataclass(frozen=True)
class ImitationSettings:
    """How the policy learns from right answers."""

    states: int = 6
    """Of each start that are learned from, the start itself and others by chance."""
    unit: float = 0.5
    """dB of worth by which an action is e times as likely as another: differences below it are hardly seen."""
    epochs: int = 60
    batch: int = 64
    rate: float = 1e-3
    """Adam's, which falls to nothing along a cosine."""
    decay: float = 0.01
    """Of the weights, for the states are few."""
    seed: int = 0


@dataclass(frozen=True)
class Answered:
    """States (N, S) with the actions of which the worth is known (N, actions) and the chances to learn (N, actions)."""

    states: Tensor
    possible: Tensor
    targets: Tensor


def train_imitation(
    rules: EpisodeRules,
    tree: StartTree,
    starts: Starts,
    actor_critic: ActorCritic,
    folder: Path,
    settings: ImitationSettings,
    *,
    report: Callable[[str], None] = print,
) -> TrainedR1:
    """Train a fresh policy in place from starts with references; toolchains that ``folder`` holds are not run again.

    Raises ConservatorError for starts without references.
    """
    begin, answers = time.monotonic(), list[Answered]()
    chance = measure_starts(tree, actor_critic, tree.held_out, np.random.default_rng(settings.seed))
    folder.mkdir(parents=True, exist_ok=True)
    for number, pair in enumerate(starts.training):
        journal = folder / f"{number:05d}.jsonl"
        answers.append(answered(rules, tree, number, pair, actor_critic.tools, journal, settings))
        tree.save()
        if (number + 1) % 20 == 0 or number + 1 == len(starts.training):
            report(f"the toolchains of {number + 1} of {len(starts.training)} starts are scored")
    loss = fit_answers(actor_critic, answers, settings)
    scores = measure_starts(tree, actor_critic, tree.held_out)
    tree.save()
    report(f"loss {loss:.3f}; on starts held out " + ", ".join(f"{name} {value:.3g}" for name, value in scores.items()))
    return TrainedR1(actor_critic, (time.monotonic() - begin) / 60, scores, chance)


def answered(
    rules: EpisodeRules,
    tree: StartTree,
    number: int,
    pair: StartingPair,
    tools: Sequence[str],
    journal: Path,
    settings: ImitationSettings,
) -> Answered:
    """Run the toolchains of a start, and say of some of its states what every action is worth."""
    damaged, clean = pair
    if clean is None:
        raise ConservatorError("right answers are told by references, and these photos have none; train by ppo")
    rng = np.random.default_rng([settings.seed, number, 47])
    percept = rules.perception.grade(damaged)
    kinds = sorted(suspected(percept), key=lambda kind: -percept.confidences.get(kind, 0.0))[:_KINDS]
    space = EachKindOnce.of(_few_each(rules.toolbox.specs, percept, rng), frozenset(kinds))
    found = enumerate_toolchains(damaged, clean, space, rules.pool, metrics=("psnr",), journal=journal)
    outlook = Outlook(found, found.column("psnr"))
    others = [prefix for prefix in outlook.reach if 0 < len(prefix) < MOST_TOOLS]
    drawn = [others[i] for i in rng.permutation(len(others))[: settings.states - 1]]
    states, possible, targets = [], [], []
    for toolchain, node in zip([(), *drawn], tree.visit([(number, chain) for chain in ((), *drawn)]), strict=True):
        worth = [outlook.reach.get((*toolchain, tool), float("nan")) for tool in tools]
        worths = torch.tensor([*worth, outlook.scores[toolchain]])
        known = node.possible & worths.isfinite()
        if not known.any():
            continue
        states.append(node.state)
        possible.append(known)
        targets.append((worths / settings.unit).masked_fill(~known, float("-inf")).softmax(0))
    return Answered(torch.stack(states), torch.stack(possible), torch.stack(targets))


def _few_each(specs: Sequence[ToolSpec], percept: Percept, rng: np.random.Generator) -> list[ToolSpec]:
    """At most two tools, drawn by chance, for each set of kinds, where more than two kinds are suspected."""
    if len(suspected(percept)) < _KINDS:
        return list(specs)
    taken: dict[frozenset[str], list[ToolSpec]] = {}
    for i in rng.permutation(len(specs)):
        taken.setdefault(frozenset(specs[i].removes), []).append(specs[i])
    return [spec for group in taken.values() for spec in group[:_EACH]]


def fit_answers(actor_critic: ActorCritic, answers: Sequence[Answered], settings: ImitationSettings) -> float:
    """Teach a network the chances; the mean loss of the last epoch, the divergence from them in nats."""
    states, possible, targets = (
        torch.cat([getattr(one, name) for one in answers]) for name in ("states", "possible", "targets")
    )
    optimizer = torch.optim.AdamW(
        actor_critic.network.parameters(), lr=settings.rate, eps=1e-5, weight_decay=settings.decay
    )
    steps = settings.epochs * -(-len(states) // settings.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng, losses = np.random.default_rng(settings.seed), list[float]()
    for _ in range(settings.epochs):
        losses.clear()
        for rows in torch.from_numpy(rng.permutation(len(states))).split(settings.batch):
            chances = actor_critic.network(states[rows], possible[rows])[0].log_softmax(1)
            gap = targets[rows] * (targets[rows].clamp(min=1e-9).log() - chances.masked_fill(~possible[rows], 0.0))
            loss = gap.masked_fill(~possible[rows], 0.0).sum(1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
    return float(np.mean(losses))

"""Train the policy r1 from right answers: of every known state it is told what each action leads to, at best.

What an action is worth is the PSNR that its step gains and the most that can be gained after it, among the states that
are known (tree.py): all toolchains, where all are known. States of which an action was never tried are left out.
Chances by these worths are the targets. This needs references. It learns from the states that PPO plays on, but is told
of all their actions at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache

import numpy as np
import torch
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.policies.actor_critic import ActorCritic
from conservator.training.rl.ppo import TrainedR1, measure_starts
from conservator.training.rl.tree import StartTree, TreePlace

_GAIN = "psnr"
"""The component of the reward that right answers are told by."""


@dataclass(frozen=True)
class ImitationSettings:
    """How the policy learns from right answers."""

    unit: float = 0.5
    """dB of worth by which an action is e times as likely as another: differences below it are hardly seen."""
    call: float = 0.1
    """dB that a call of a tool costs: what ``greedy`` asks of one (policies/search.py)."""
    epochs: int = 40
    batch: int = 64
    rate: float = 1e-3
    """Adam's, which falls to nothing along a cosine."""
    decay: float = 0.1
    """Of the weights, as in the training of perception, for the starts are few."""
    seed: int = 0


@dataclass(frozen=True)
class Answered:
    """States (N, S) with the actions of which the worth is known (N, actions) and the chances to learn (N, actions)."""

    states: Tensor
    possible: Tensor
    targets: Tensor


def train_imitation(
    tree: StartTree,
    actor_critic: ActorCritic,
    settings: ImitationSettings,
    *,
    report: Callable[[str], None] = print,
) -> TrainedR1:
    """Train a fresh policy in place from the known states of a tree that is closed.

    Raises ConservatorError where steps were not told in PSNR, for want of references.
    """
    if _GAIN not in tree.told:
        raise ConservatorError("right answers are told by references, and these photos have none; train by ppo")
    begin = time.monotonic()
    chance = measure_starts(tree, actor_critic, tree.held_out, np.random.default_rng(settings.seed))
    answers = answered(tree, actor_critic.tools, settings)
    loss = fit_answers(actor_critic, answers, settings)
    scores = measure_starts(tree, actor_critic, tree.held_out)
    tree.save()
    report(f"{len(answers.states)} states, loss {loss:.3f}")
    return TrainedR1(actor_critic, (time.monotonic() - begin) / 60, scores, chance)


def answered(tree: StartTree, tools: tuple[str, ...], settings: ImitationSettings) -> Answered:
    """What every action is worth in the states to learn from that leave a choice, where all of it is known."""

    @cache
    def worths(place: TreePlace) -> Tensor:
        """Of all actions, (tools + 1,), dB; stopping is worth nothing, minus infinity what is not known."""
        (node,), (start, history) = tree.visit([place]), place
        found = torch.full((len(tools) + 1,), float("-inf"))
        if node.over:
            found[-1] = 0.0
        for action in node.possible.nonzero()[:, 0].tolist():
            if action == len(tools):
                found[action] = 0.0
                continue
            after = (start, (*history, tools[action]))
            (made,) = tree.visit([after])
            found[action] = made.components[_GAIN] - settings.call + float(worths(after).max())
        return found

    states, possible, targets = [], [], []
    for place in tree.known:
        (node,) = tree.visit([place])
        if int(node.possible.sum()) < 2 or not tree.whole(place):  # to stop is no right answer for want of others
            continue
        states.append(node.state)
        possible.append(node.possible)
        targets.append((worths(place) / settings.unit).softmax(0))
    if not states:
        raise ConservatorError("no state with a choice is known; have more explored (--explored)")
    return Answered(torch.stack(states), torch.stack(possible), torch.stack(targets))


def fit_answers(actor_critic: ActorCritic, answers: Answered, settings: ImitationSettings) -> float:
    """Teach a network the chances; the mean loss of the last epoch, the divergence from them in nats."""
    optimizer = torch.optim.AdamW(
        actor_critic.network.parameters(), lr=settings.rate, eps=1e-5, weight_decay=settings.decay
    )
    steps = settings.epochs * -(-len(answers.states) // settings.batch)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, steps)
    rng, losses = np.random.default_rng(settings.seed), list[float]()
    for _ in range(settings.epochs):
        losses.clear()
        for rows in torch.from_numpy(rng.permutation(len(answers.states))).split(settings.batch):
            possible, targets = answers.possible[rows], answers.targets[rows]
            chances = actor_critic.network(answers.states[rows], possible)[0].log_softmax(1)
            gap = targets * (targets.clamp(min=1e-9).log() - chances.masked_fill(~possible, 0.0))
            loss = gap.sum(1).mean()
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
            losses.append(float(loss.detach()))
    return float(np.mean(losses))

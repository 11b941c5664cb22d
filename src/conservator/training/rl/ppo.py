"""Train the policy r1 by PPO (Schulman et al., 2017). Read from top to bottom: play, value, update, measure, save.

    conservator train r1 --photos FOLDER

Episodes are short (four tools at most), so each is played to its end and nothing is cut off: what follows the last step
is worth nothing, for the steps that are left are part of what the network is told. ``starts.py`` says where episodes
begin, ``tree.py`` steps the sessions and remembers, ``rewards.py`` and ``feedback.py`` say what a step is paid.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from conservator.kinds import Kind
from conservator.policies.actor_critic import ActorCritic, damage_first
from conservator.training.rl.rewards import COST
from conservator.training.rl.tree import StartTree
from conservator.training.rl.weighting import Weighting
from conservator.training.run import draw_curve, load_checkpoint, save_checkpoint, tensorboard_writer, write_curve


@dataclass(frozen=True)
class PpoSettings:
    """How the policy learns. Where nothing else is said, the values are those that PPO is usually given."""

    updates: int = 40
    """Of the whole run, along which rate and entropy fall: a longer run is another run, and knows its starts by
    heart. Played on 1,090 states of 84 starts, 100 updates at three times the rate gained less on starts held out, and
    more on its own (docs/results/restore-r1.md)."""
    episodes: int = 96
    """That are played for an update."""
    rate: float = 3e-4
    """Adam's at first; it falls to nothing in a straight line."""
    gamma: float = 0.99
    trace: float = 0.95
    """Lambda of the generalised advantages (Schulman et al., 2016)."""
    clip: float = 0.2
    """By how much of itself the chance of an action may change in an update before more of it counts no more."""
    entropy: float = 0.01
    """What the entropy of the chances is worth at first, in units of the reward."""
    least_entropy: float = 0.001
    """And in the end."""
    value: float = 0.5
    """What the error of the values weighs."""
    steepest: float = 0.5
    """Longest gradient."""
    epochs: int = 4
    """Times that an update goes through what was played."""
    batch: int = 64
    """Steps at once."""
    every: int = 10
    """Updates between checkpoints; at each the policy is measured on the starts held out."""
    seed: int = 0

    def left(self, update: int) -> float:
        """The share of the run that is left, 1 to 0."""
        return 1 - update / self.updates


# --- play -------------------------------------------------------------------------------------------------------------


@dataclass
class Rollout:
    """One episode as it was played: a list of T of each."""

    states: list[Tensor] = field(default_factory=list)
    possible: list[Tensor] = field(default_factory=list)
    actions: list[int] = field(default_factory=list)
    chances: list[float] = field(default_factory=list)
    """Of the action that was taken, as the logarithm."""
    values: list[float] = field(default_factory=list)
    components: list[Mapping[str, float]] = field(default_factory=list)
    """Of the reward of each step; of a stop there are none, for it is worth nothing."""

    def total(self, component: str) -> float:
        """What all steps were paid for one thing together."""
        return sum(one.get(component, 0.0) for one in self.components)


@torch.no_grad()
def play_starts(
    tree: StartTree, actor_critic: ActorCritic, starts: Sequence[int], rng: np.random.Generator | None
) -> list[Rollout]:
    """Play an episode from each of the starts of these numbers, all in step; the network sees the live ones at once.

    Actions are drawn by their chances; without ``rng`` they are taken as in use (``damage_first``).
    """
    rollouts, histories = [Rollout() for _ in starts], [tuple[str, ...]() for _ in starts]
    nodes = tree.visit([(start, ()) for start in starts])
    live = [i for i, node in enumerate(nodes) if not node.over]
    while live:
        states, possible = (torch.stack([getattr(nodes[i], name) for i in live]) for name in ("state", "possible"))
        logits, values = actor_critic.network(states, possible)
        chances = logits.log_softmax(1)
        chosen = _likeliest(chances, tree.treats) if rng is None else _drawn(chances, rng)
        going = [i for i, action in zip(live, chosen, strict=True) if action < len(actor_critic.tools)]
        for row, (i, action) in enumerate(zip(live, chosen, strict=True)):
            rollouts[i].states.append(states[row])
            rollouts[i].possible.append(possible[row])
            rollouts[i].actions.append(action)
            rollouts[i].chances.append(float(chances[row, action]))
            rollouts[i].values.append(float(values[row]))
            if i in going:
                histories[i] = (*histories[i], actor_critic.tools[action])
        for i, node in zip(going, tree.visit([(starts[i], histories[i]) for i in going]), strict=True):
            nodes[i] = node
            rollouts[i].components.append(node.components)
        live = [i for i in going if not nodes[i].over]
    return rollouts


def _likeliest(chances: Tensor, treats: Sequence[frozenset[Kind]]) -> list[int]:
    """The action that is taken in use, for each row of logarithms of chances."""
    return [damage_first(row, treats)[0] for row in chances.exp().tolist()]


def _drawn(chances: Tensor, rng: np.random.Generator) -> list[int]:
    """An action for each row of logarithms of chances."""
    below = chances.exp().cumsum(1).double()
    draws = torch.from_numpy(rng.random((len(chances), 1))) * below[:, -1:]
    return [int(row) for row in (below <= draws).sum(1)]


# --- value and update -------------------------------------------------------------------------------------------------


def advantages(rewards: Sequence[float], values: Sequence[float], gamma: float, trace: float) -> list[float]:
    """How much better each of the T steps of a whole episode was than its value foretold (generalised advantages)."""
    found, following, after = list[float](), 0.0, 0.0
    for reward, value in zip(reversed(rewards), reversed(values), strict=True):
        following = reward + gamma * after - value + gamma * trace * following
        after = value
        found.append(following)
    return found[::-1]


@dataclass(frozen=True)
class Played:
    """The steps of many episodes together, (N,) each, states (N, S) and what was possible (N, actions)."""

    states: Tensor
    possible: Tensor
    actions: Tensor
    chances: Tensor
    advantages: Tensor
    returns: Tensor


def put_steps_together(rollouts: Sequence[Rollout], weighting: Weighting, settings: PpoSettings) -> Played:
    """All steps with what they were worth by a weighting, which learns from them first."""
    weighting.update([components for rollout in rollouts for components in rollout.components])
    better = list[float]()
    for rollout in rollouts:
        rewards = weighting(rollout.components)
        rewards += [0.0] * (len(rollout.actions) - len(rewards))  # a stop
        better += advantages(rewards, rollout.values, settings.gamma, settings.trace)
    values = torch.tensor([value for rollout in rollouts for value in rollout.values])
    return Played(
        torch.stack([state for rollout in rollouts for state in rollout.states]),
        torch.stack([possible for rollout in rollouts for possible in rollout.possible]),
        torch.tensor([action for rollout in rollouts for action in rollout.actions]),
        torch.tensor([chance for rollout in rollouts for chance in rollout.chances]),
        torch.tensor(better),
        torch.tensor(better) + values,
    )


def update_network(
    network: nn.Module,
    optimizer: torch.optim.Optimizer,
    played: Played,
    settings: PpoSettings,
    entropy_worth: float,
    rng: np.random.Generator,
) -> dict[str, float]:
    """Go through what was played a few times; the means of losses, entropy and change."""
    seen = list[dict[str, float]]()
    for _ in range(settings.epochs):
        for first in range(0, len(played.actions), settings.batch):
            if first == 0:
                order = torch.from_numpy(rng.permutation(len(played.actions)))
            rows = order[first : first + settings.batch]
            loss, told = clipped_loss(network, played, rows, settings, entropy_worth)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            nn.utils.clip_grad_norm_(network.parameters(), settings.steepest)
            optimizer.step()
            seen.append(told)
    return {name: float(np.mean([one[name] for one in seen])) for name in seen[0]}


def clipped_loss(
    network: nn.Module, played: Played, rows: Tensor, settings: PpoSettings, entropy_worth: float
) -> tuple[Tensor, dict[str, float]]:
    """PPO's clipped objective, the error of the values and the entropy of the chances, of these steps."""
    logits, values = network(played.states[rows], played.possible[rows])
    chances = logits.log_softmax(1)
    change = chances.gather(1, played.actions[rows, None])[:, 0] - played.chances[rows]
    better = played.advantages[rows]
    better = (better - better.mean()) / (better.std(unbiased=False) + 1e-8)
    kept = change.exp().clamp(1 - settings.clip, 1 + settings.clip)
    policy = -torch.minimum(change.exp() * better, kept * better).mean()
    value = 0.5 * (values - played.returns[rows]).square().mean()
    entropy = -(chances.exp() * chances.masked_fill(~played.possible[rows], 0.0)).sum(1).mean()
    loss = policy + settings.value * value - entropy_worth * entropy
    told = {
        "policy_loss": policy,
        "value_loss": value,
        "entropy": entropy,
        "change": (change.exp() - 1 - change).mean(),
    }
    return loss, {name: float(number.detach()) for name, number in told.items()}


# --- measure, save, and the run ---------------------------------------------------------------------------------------


def measure_starts(
    tree: StartTree, actor_critic: ActorCritic, starts: Sequence[int], rng: np.random.Generator | None = None
) -> dict[str, float]:
    """What a policy makes of these starts, means: each component of the reward over the episode, and ``calls``.

    Components that the policy is not paid for are measured, too. NaN where there are no starts.
    """
    rollouts = play_starts(tree, actor_critic, starts, rng)
    found = {name: [rollout.total(name) for rollout in rollouts] for name in tree.told if name != COST}
    found["calls"] = [float(len(rollout.components)) for rollout in rollouts]
    return {name: float(np.mean(values)) if values else math.nan for name, values in found.items()}


@dataclass(frozen=True)
class TrainedR1:
    """A trained policy, and what it and chance are worth on the starts held out (``measure_starts``)."""

    actor_critic: ActorCritic
    minutes: float
    scores: Mapping[str, float]
    chance: Mapping[str, float]


def train_ppo(
    tree: StartTree,
    actor_critic: ActorCritic,
    weighting: Weighting,
    folder: Path,
    settings: PpoSettings,
    *,
    tensorboard: bool = False,
    identity: Mapping[str, str] | None = None,
    report: Callable[[str], None] = print,
    keep: Callable[[int], None] | None = None,
) -> TrainedR1:
    """Train a fresh policy in place; goes on from ``folder`` where an earlier run with the same settings stopped.

    A run that was interrupted and goes on is the uninterrupted run, to the bit. ``weighting`` says what the components
    of the reward are worth; ``identity`` says what settings do not: photos, tools, perception. ``folder`` gets
    ``checkpoint.pt`` and the curve, and ``keep`` is told the update of each checkpoint. Raises ConservatorError for a
    checkpoint of another identity or of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(tree, actor_critic, weighting, settings, identity or {})
    write = tensorboard_writer(folder) if tensorboard else None
    run.load(folder)
    report(f"{len(tree.training)} starts, {len(tree.held_out)} held out; by chance there: {_said(run.chance)}")
    while run.update < settings.updates:
        told = run.advance()
        if run.update % settings.every == 0 or run.update == settings.updates:
            row = run.save(folder, told)
            if keep is not None:
                keep(run.update)
            if write is not None:
                write(run.update, row)
            report(f"update {run.update}: {_said(row)}; {len(tree)} states are known")
    return TrainedR1(run.actor_critic, run.seconds / 60, run.scores(), run.chance)


def _said(values: Mapping[str, float]) -> str:
    return ", ".join(f"{name} {value:.3g}" for name, value in values.items() if name != "step")


class _Run:
    """The network, its optimizer and the progress of one training."""

    def __init__(
        self,
        tree: StartTree,
        actor_critic: ActorCritic,
        weighting: Weighting,
        settings: PpoSettings,
        identity: Mapping[str, str],
    ) -> None:
        self.tree, self.actor_critic, self.weighting, self.settings = tree, actor_critic, weighting, settings
        self.identity = {name: str(value) for name, value in asdict(settings).items()}
        self.identity |= {"weighting": repr(weighting), "tools": ",".join(actor_critic.tools), **identity}
        self.optimizer = torch.optim.Adam(actor_critic.network.parameters(), lr=settings.rate, eps=1e-5)
        self.update, self.seconds, self.curve = 0, 0.0, list[dict[str, float]]()
        self.chance = self.scores(np.random.default_rng(settings.seed))

    def scores(self, rng: np.random.Generator | None = None) -> dict[str, float]:
        """What the policy is worth on the starts held out."""
        return measure_starts(self.tree, self.actor_critic, self.tree.held_out, rng)

    def advance(self) -> dict[str, float]:
        """One update: play, value, learn. What is drawn depends on the seed and on the update's number alone."""
        settings, begin = self.settings, time.monotonic()
        rng = np.random.default_rng([settings.seed, self.update])
        chosen = [int(i) for i in rng.integers(len(self.tree.training), size=settings.episodes)]
        rollouts = play_starts(self.tree, self.actor_critic, chosen, rng)
        left = settings.left(self.update)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate * left
        worth = settings.least_entropy + (settings.entropy - settings.least_entropy) * left
        steps = put_steps_together(rollouts, self.weighting, settings)
        told = update_network(self.actor_critic.network, self.optimizer, steps, settings, worth, rng)
        self.tree.save()  # they cost the time, and are no part of the run: whatever is drawn, they are the same
        self.update += 1
        self.seconds += time.monotonic() - begin
        return {"reward": float(np.mean([sum(self.weighting(one.components)) for one in rollouts])), **told}

    def save(self, folder: Path, told: Mapping[str, float]) -> dict[str, float]:
        """Measure the policy, and write the states, the checkpoint and the curve; the curve's new row."""
        row = {"step": self.update, "minutes": self.seconds / 60, **self.scores(), **told}
        self.tree.save()
        self.curve.append(row)
        state = {
            "network": self.actor_critic.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "weighting": self.weighting.state_dict(),
            "progress": {"update": self.update, "seconds": self.seconds},
            "chance": self.chance,
            "curve": self.curve,
        }
        save_checkpoint(folder, state, self.identity)
        write_curve(folder, self.curve)
        draw_curve(folder, self.curve, "reward", self.curve[0]["reward"], "")
        return row

    def load(self, folder: Path) -> None:
        """Go on where ``save`` stopped, if it ever did."""
        state = load_checkpoint(folder, self.identity)
        if state is None:
            return
        self.actor_critic.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.weighting.load_state_dict(state["weighting"])
        self.update, self.seconds = state["progress"]["update"], state["progress"]["seconds"]
        self.curve, self.chance = state["curve"], state["chance"]


def begun(tree: StartTree, actor_critic: ActorCritic) -> ActorCritic:
    """The policy, which has learned nothing, told what the features of the starts are like."""
    nodes = tree.visit([(number, ()) for number in tree.training])
    width = actor_critic.width
    actor_critic.network.picture.fit(torch.stack([node.state[:width] for node in nodes]))
    return actor_critic

"""Train the policy r1 by PPO (Schulman et al., 2017). Read from top to bottom: play, value, update, measure, save.

    conservator train r1 --photos FOLDER

Episodes are short (four tools at most), so each is played to its end and nothing is cut off: what follows the last step
is worth nothing, for the steps that are left are part of what the network is told. ``starts.py`` says where episodes
begin, ``episode.py`` what one is, ``rewards.py`` and ``feedback.py`` what a step is paid.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from conservator.errors import ConservatorError
from conservator.evaluation.enumerate import mean_scores
from conservator.image import Image
from conservator.perception.network import TrainedPerception
from conservator.perception.perception import Look
from conservator.policies.actor_critic import MOST_TOOLS, ActorCritic
from conservator.session import Apply, Decision
from conservator.training.rl.episode import Episode, EpisodeRules, Source
from conservator.training.rl.rewards import CONSISTENCY, COST
from conservator.training.rl.starts import StartingPair, Starts
from conservator.training.run import draw_curve, load_checkpoint, save_checkpoint, tensorboard_writer, write_curve


@dataclass(frozen=True)
class PpoSettings:
    """How the policy learns. Where nothing else is said, the values are those that PPO is usually given."""

    updates: int = 60
    """Of the whole run, along which rate and entropy fall: a longer run is another run."""
    episodes: int = 96
    """That are played for an update."""
    rate: float = 1e-3
    """Adam's at first; it falls to nothing in a straight line. Three times the usual, for updates are few."""
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
    every: int = 5
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
    """Of the reward of each step."""


@torch.no_grad()
def play_starts(
    rules: EpisodeRules,
    actor_critic: ActorCritic,
    perception: TrainedPerception,
    starts: Sequence[StartingPair],
    rng: np.random.Generator | None,
) -> tuple[list[Rollout], list[Episode]]:
    """Play an episode from each start, all in step; actions are drawn by their chances, or the likeliest without rng.

    The network sees all live sessions at once. Tools are called session by session, since a pool that remembers knows
    single pictures; ``perception`` is the one that those of the rules ask.
    """
    episodes = [Episode(replace(rules, source=_always(pair)), np.random.default_rng(0)) for pair in starts]
    rollouts = [Rollout() for _ in episodes]
    while live := [i for i, episode in enumerate(episodes) if not episode.ended]:
        seen = [episodes[i].session.observe() for i in live]
        states = torch.stack([actor_critic.state(observation, perception) for observation in seen])
        possible = torch.stack([actor_critic.possible(observation) for observation in seen])
        logits, values = actor_critic.network(states, possible)
        chances = logits.log_softmax(1)
        chosen = chances.argmax(1).tolist() if rng is None else _drawn(chances, rng)
        decisions = [episodes[i].decision(action) for i, action in zip(live, chosen, strict=True)]
        calls = [_call(episodes[i], decision) for i, decision in zip(live, decisions, strict=True)]
        for row, (i, decision, call) in enumerate(zip(live, decisions, calls, strict=True)):
            episodes[i].session.step(decision, call)
            played, outcome = rollouts[i], episodes[i].outcome()
            played.states.append(states[row])
            played.possible.append(possible[row])
            played.actions.append(chosen[row])
            played.chances.append(float(chances[row, chosen[row]]))
            played.values.append(float(values[row]))
            played.components.append(outcome.components)
    return rollouts, episodes


def _always(pair: StartingPair) -> Source:
    return lambda rng: pair


def _drawn(chances: Tensor, rng: np.random.Generator) -> list[int]:
    """An action for each row of logarithms of chances."""
    below = chances.exp().cumsum(1).double()
    draws = torch.from_numpy(rng.random((len(chances), 1))) * below[:, -1:]
    return [int(row) for row in (below <= draws).sum(1)]


def _call(episode: Episode, decision: Decision) -> Future[Image] | None:
    """The call of a decision's tool, before the others wait for theirs."""
    if not isinstance(decision.action, Apply):
        return None
    return episode.session.pool.submit(decision.action.tool, episode.session.trajectory.last.image)


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


def put_steps_together(rollouts: Sequence[Rollout], rules: EpisodeRules, settings: PpoSettings) -> Played:
    """All steps with what they were worth, by the weighting of the rules, which learns from them first."""
    rules.weighting.update([components for rollout in rollouts for components in rollout.components])
    better = list[float]()
    for rollout in rollouts:
        rewards = rules.weighting(rollout.components)
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
    rules: EpisodeRules,
    actor_critic: ActorCritic,
    perception: TrainedPerception,
    starts: Sequence[StartingPair],
    rng: np.random.Generator | None = None,
) -> dict[str, float]:
    """What a policy makes of these starts, means: the main component of the reward, ``calls``, and what was not paid.

    ``quality`` is by how much perception's own estimate rose (dB); with references ``psnr`` (dB) and ``ssim``, too.
    NaN where there are no starts.
    """
    rollouts, episodes = play_starts(rules, actor_critic, perception, starts, rng)
    paid = [sum(_main(one) for one in rollout.components) for rollout in rollouts]
    found = {"reward": paid, "calls": [float(len(e.session.trajectory.toolchain())) for e in episodes]}
    ends = [(episode.session.trajectory.steps[0], episode.session.trajectory.last) for episode in episodes]
    found["quality"] = [last.percept.quality - first.percept.quality for first, last in ends]
    if all(episode.clean is not None for episode in episodes):
        scores = [
            [mean_scores(step.image, episode.clean, ("psnr", "ssim")) for step in (first, last)]
            for episode, (first, last) in zip(episodes, ends, strict=True)
            if episode.clean is not None
        ]
        found |= {name: [after[i] - before[i] for before, after in scores] for i, name in enumerate(("psnr", "ssim"))}
    return {name: float(np.mean(values)) if values else math.nan for name, values in found.items()}


def _main(components: Mapping[str, float]) -> float:
    """What a step gained, without what it cost."""
    return sum(value for name, value in components.items() if name not in (COST, CONSISTENCY))


@dataclass(frozen=True)
class TrainedR1:
    """A trained policy, and what it and chance are worth on the starts held out (``measure_starts``)."""

    actor_critic: ActorCritic
    minutes: float
    scores: Mapping[str, float]
    chance: Mapping[str, float]


def train_ppo(
    rules: EpisodeRules,
    perception: TrainedPerception,
    starts: Starts,
    folder: Path,
    settings: PpoSettings,
    *,
    tensorboard: bool = False,
    identity: Mapping[str, str] | None = None,
    report: Callable[[str], None] = print,
) -> TrainedR1:
    """Train a policy for a toolbox; goes on from ``folder`` where an earlier run with the same settings stopped.

    A run that was interrupted and goes on is the uninterrupted run, to the bit. ``perception`` is what that of the
    rules asks; ``identity`` says what settings do not: photos, tools, reward. ``folder`` gets ``checkpoint.pt`` and the
    curve. Raises ConservatorError for a checkpoint of another identity or of other settings.
    """
    folder.mkdir(parents=True, exist_ok=True)
    run = _Run(rules, perception, starts, settings, identity or {})
    write = tensorboard_writer(folder) if tensorboard else None
    run.load(folder)
    report(
        f"{len(starts.training)} starts, {len(starts.held_out)} held out; by chance the reward is "
        f"{run.chance['reward']:+.2f} with {run.chance['calls']:.1f} tools"
    )
    while run.update < settings.updates:
        told = run.advance()
        if run.update % settings.every == 0 or run.update == settings.updates:
            row = run.save(folder, told)
            if write is not None:
                write(run.update, row)
            report(f"update {run.update}: " + ", ".join(f"{name} {value:.3g}" for name, value in row.items()))
    return TrainedR1(run.actor_critic, run.seconds / 60, run.scores(), run.chance)


class _Run:
    """The network, its optimizer and the progress of one training."""

    def __init__(
        self,
        rules: EpisodeRules,
        perception: TrainedPerception,
        starts: Starts,
        settings: PpoSettings,
        identity: Mapping[str, str],
    ) -> None:
        if rules.longest != MOST_TOOLS:
            raise ConservatorError(f"the policy r1 takes {MOST_TOOLS} steps, and the rules say {rules.longest}")
        self.rules, self.perception, self.starts, self.settings = rules, perception, starts, settings
        self.identity = {name: str(value) for name, value in asdict(settings).items()}
        self.identity |= {"reward": getattr(rules.reward, "__name__", "own"), "weighting": repr(rules.weighting)}
        self.identity |= {"tools": ",".join(rules.toolbox), **identity}
        self.actor_critic = begun(rules, perception, starts, settings.seed)
        self.optimizer = torch.optim.Adam(self.actor_critic.network.parameters(), lr=settings.rate, eps=1e-5)
        self.update, self.seconds, self.curve = 0, 0.0, list[dict[str, float]]()
        self.chance = self.scores(np.random.default_rng(settings.seed))

    def scores(self, rng: np.random.Generator | None = None) -> dict[str, float]:
        """What the policy is worth on the starts held out."""
        return measure_starts(self.rules, self.actor_critic, self.perception, self.starts.held_out, rng)

    def advance(self) -> dict[str, float]:
        """One update: play, value, learn. What is drawn depends on the seed and on the update's number alone."""
        settings, begin = self.settings, time.monotonic()
        rng = np.random.default_rng([settings.seed, self.update])
        chosen = [self.starts(rng) for _ in range(settings.episodes)]
        rollouts, _ = play_starts(self.rules, self.actor_critic, self.perception, chosen, rng)
        left = settings.left(self.update)
        for group in self.optimizer.param_groups:
            group["lr"] = settings.rate * left
        worth = settings.least_entropy + (settings.entropy - settings.least_entropy) * left
        played = put_steps_together(rollouts, self.rules, settings)
        told = update_network(self.actor_critic.network, self.optimizer, played, settings, worth, rng)
        self.update += 1
        self.seconds += time.monotonic() - begin
        paid = [sum(_main(components) for components in rollout.components) for rollout in rollouts]
        return {"played": float(np.mean(paid)), "steps": len(played.actions) / len(rollouts), **told}

    def save(self, folder: Path, told: Mapping[str, float]) -> dict[str, float]:
        """Measure the policy, and write the checkpoint and the curve; the curve's new row."""
        row = {"step": self.update, "minutes": self.seconds / 60, **self.scores(), **told}
        self.curve.append(row)
        state = {
            "network": self.actor_critic.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "weighting": self.rules.weighting.state_dict(),
            "progress": {"update": self.update, "seconds": self.seconds},
            "curve": self.curve,
        }
        save_checkpoint(folder, state, self.identity)
        write_curve(folder, self.curve)
        if self.starts.held_out:
            draw_curve(folder, self.curve, "reward", self.chance["reward"])
        return row

    def load(self, folder: Path) -> None:
        """Go on where ``save`` stopped, if it ever did."""
        state = load_checkpoint(folder, self.identity)
        if state is None:
            return
        self.actor_critic.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.rules.weighting.load_state_dict(state["weighting"])
        self.update, self.seconds = state["progress"]["update"], state["progress"]["seconds"]
        self.curve = state["curve"]


def begun(rules: EpisodeRules, perception: TrainedPerception, starts: Starts, seed: int) -> ActorCritic:
    """A policy for these rules that has learned nothing but what the features of the starts are like."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        fresh = ActorCritic.new(tuple(rules.toolbox), perception.features)
    looks = [Look(damaged, rules.perception.grade(damaged)) for damaged, _ in starts.training]
    fresh.network.picture.fit(torch.stack([perception.measured(look).features for look in looks]))
    return fresh

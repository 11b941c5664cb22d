"""Train RL-Restore's agent by deep Q-learning. One file that reads from top to bottom.

    conservator train dqn --photos FOLDER --toolbox rl-restore

Episodes are short (three tools at most), so the network replays each from its start and no state is stored; the last
step of an episode is not bootstrapped, for its three decisions are part of the problem, and the memory counts them.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from conservator.errors import ConservatorError, name_not_found
from conservator.evaluation.patches import SIDE, Patches
from conservator.evaluation.rl_restore import measure
from conservator.networks.dqn import QNetwork
from conservator.policies import DqnPolicy, RandomPolicy
from conservator.policies.dqn import LONGEST, Agent
from conservator.training.env import Foreseen, Observed, Rules, VectorRestorationEnv
from conservator.training.pretrain import pretrain
from conservator.training.replay import Batch, Played, Replay
from conservator.training.run import (
    draw_curve,
    load_checkpoint,
    refuse_more,
    save_checkpoint,
    tensorboard_writer,
    write_curve,
)


@dataclass(frozen=True)
class Settings:
    """How an agent is trained. The defaults are those of the authors' code."""

    steps: int = 2_000_000
    """Steps of the environment, all sessions together."""
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

    def without(self, *parts: str) -> Settings:
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


def published(steps: int = 2_000_000, seed: int = 0) -> Settings:
    """The authors' settings: schedules as they are, however many steps are played."""
    return Settings(steps=steps, seed=seed)


def fast(steps: int = 20_000, seed: int = 0) -> Settings:
    """A hundredth of the published number of steps; schedules shrink with it.

    ``double`` and ``returns`` are for ``Settings.without("foresight")``: what was foreseen needs neither.
    """
    return Settings(
        steps=steps,
        warmup=steps // 30,
        train_every=2,
        memory=max(3 * 64, steps // 2),  # what was foreseen long ago was valued by a worse network
        rate=1e-3,
        halving=max(1, steps // 4),
        least_rate=5e-5,
        explore=max(1, int(0.3 * steps)),
        least_explore=0.1,
        target_every=max(32, steps // 30),
        double=True,
        duelling=True,
        returns=3,
        priority=0.6,
        contrast=True,
        pretrain=min(4_000, steps // 2),
        foresight=True,
        floor=-5.0,
        turned=True,
        unit=5.0,
        checkpoint_every=max(64, steps // 10),
        seed=seed,
    )


@dataclass(frozen=True)
class Trained:
    """A trained agent, and the mean PSNR (RGB, dB) that it and chance gain on held-out patches."""

    agent: Agent
    steps: int
    minutes: float
    gain: float
    random_gain: float


def train_dqn(
    rules: Rules,
    held_out: Patches,
    folder: Path,
    settings: Settings,
    *,
    start: Agent | None = None,
    device: str = "cpu",
    tensorboard: bool = False,
    identity: Mapping[str, str] | None = None,
    report: Callable[[str], None] = print,
) -> Trained:
    """Train an agent for a toolbox; resumes from ``folder`` where an earlier run with the same settings stopped.

    ``folder`` gets ``checkpoint.pt``, ``replay-STEP.npz``, and the curve as ``curve.csv`` and ``curve.png``. ``start``
    is an agent to go on from. ``identity`` says what settings do not: photos, damage, the weights of the tools. Raises
    ConservatorError for a checkpoint of another one, of other settings, or of more steps.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    run = _Run(rules, settings, device, start, identity or {})
    write = tensorboard_writer(folder) if tensorboard else None
    if not run.load(folder) and start is None and settings.pretrain:
        pretrain(run.network, rules.source, settings.pretrain, settings.seed, report)
        run.target.load_state_dict(run.network.state_dict())
    chance = _gain(RandomPolicy(settings.seed), held_out, rules)
    gain = _gain(run.policy(), held_out, rules)
    report(f"chance gains {chance:+.2f} dB on {len(held_out.clean)} held-out patches, the agent so far {gain:+.2f} dB")
    while run.step < settings.steps:
        begun = time.monotonic()
        seen = run.segment(min(settings.steps, run.step + settings.checkpoint_every))
        run.seconds += time.monotonic() - begun
        gain = _gain(run.policy(), held_out, rules)
        run.curve.append({"step": run.step, "minutes": run.seconds / 60, "gain": gain, "chance": chance, **seen})
        run.save(folder)
        if write is not None:
            write(run.step, {"gain": gain, **seen})
        report(f"step {run.step}: held-out gain {gain:+.2f} dB, " + ", ".join(f"{k} {v:.3g}" for k, v in seen.items()))
    return Trained(run.agent(), run.step, run.seconds / 60, gain, chance)


def _gain(policy: DqnPolicy | RandomPolicy, patches: Patches, rules: Rules) -> float:
    return float(measure(policy.name, policy, patches, rules.toolbox, rules.pool).gains.mean())


class _Run:
    """Networks, optimiser, replay and progress of one training."""

    def __init__(
        self, rules: Rules, settings: Settings, device: str, start: Agent | None, identity: Mapping[str, str]
    ) -> None:
        self.rules, self.settings, self.device = rules, settings, torch.device(device)
        self.tools = tuple(rules.toolbox)
        values = asdict(replace(settings, steps=0))  # a longer run may continue a shorter one
        self.identity = {name: str(value) for name, value in values.items()}
        self.identity |= {"tools": ",".join(self.tools), "started": str(start is not None), **identity}
        self.network = QNetwork(len(self.tools), settings.duelling)
        if settings.contrast:
            self.network.see_contrast()
        if start is not None:
            if start.tools != self.tools or (start.network.state is not None) != settings.duelling:
                raise ConservatorError("the agent to start from has other tools, or another network; train afresh")
            self.network.load_state_dict(start.network.state_dict())
            _scaled(self.network, 1 / settings.unit)
        self.network.requires_grad_(True).train().to(device)
        self.target = copy.deepcopy(self.network).eval().requires_grad_(False)
        self.optimizer = torch.optim.Adam(self.network.parameters(), lr=settings.rate)
        self.replay = Replay(settings.memory // LONGEST, LONGEST, SIDE, len(self.tools) + 1, settings.priority)
        self.step, self.seconds, self.curve = 0, 0.0, list[dict[str, float]]()
        self.random_share = 0.0 if start is None else 1 - settings.least_explore
        """How far exploration is skipped: an agent to go on from knows its way already."""

    def agent(self) -> Agent:
        """The agent as it is now, its values in dB."""
        network = _scaled(copy.deepcopy(self.network), self.settings.unit)
        return Agent(network.cpu().eval().requires_grad_(False), self.tools)

    def policy(self) -> DqnPolicy:
        """The agent as it is now, without chance."""
        return DqnPolicy(self.agent())

    def segment(self, end: int) -> dict[str, float]:
        """Play and learn until step ``end``; what was seen on the way, as means."""
        settings, rng = self.settings, np.random.default_rng([self.settings.seed, self.step])
        env = VectorRestorationEnv(self.rules, settings.sessions)
        observed, _ = env.reset(seed=int(rng.integers(2**31)))
        episodes = [_begin(observed, i) for i in range(env.num_envs)]
        gains, lengths, losses = list[float](), list[int](), list[float]()
        while self.step < end:
            actions = self._choose(episodes, rng)
            if settings.foresight:
                for episode, returns in zip(episodes, self._returns(env.foresee(), episodes), strict=True):
                    episode.returns.append(returns)
            observed, rewards, terminated, truncated, _ = env.step(actions)
            for i, episode in enumerate(episodes):
                episode.actions.append(int(actions[i]))
                episode.rewards.append(float(rewards[i]))
                if terminated[i] or truncated[i]:
                    self.replay.add(episode)
                    gains.append(sum(episode.rewards))
                    lengths.append(len(episode.actions))
                    episodes[i] = _begin(observed, i)
                else:
                    episode.images.append(observed["image"][i])
                    episode.previous.append(int(observed["previous"][i]))
            before, self.step = self.step, self.step + env.num_envs
            if self.step > settings.warmup and len(self.replay) >= settings.batch:
                due = self.step // settings.train_every - before // settings.train_every
                losses += [self._learn(self.replay.sample(settings.batch, rng, settings.turned)) for _ in range(due)]
            if self.step // settings.target_every > before // settings.target_every:
                self.target.load_state_dict(self.network.state_dict())
        means = (np.mean(x) if x else math.nan for x in (gains, lengths, losses))
        return dict(zip(("reward", "length", "loss"), map(float, means), strict=True)) | {"random": self._explore()}

    def _explore(self) -> float:
        """The share of random actions now."""
        s = self.settings
        past = max(0, self.step - s.warmup) / s.explore + self.random_share
        return max(s.least_explore, 1 - (1 - s.least_explore) * past)

    def _choose(self, episodes: list[Played], rng: np.random.Generator) -> NDArray[np.int64]:
        """An action for each session: mostly the best, sometimes any."""
        actions = rng.integers(len(self.tools) + 1, size=len(episodes))
        greedy = np.flatnonzero(rng.random(len(episodes)) >= self._explore())
        for length in range(1, LONGEST + 1):
            chosen = [i for i in greedy if len(episodes[i].images) == length]
            if chosen:
                images = torch.from_numpy(np.stack([np.stack(episodes[i].images) for i in chosen]))
                previous = torch.tensor([episodes[i].previous for i in chosen])
                with torch.inference_mode():
                    values = self.network(images.to(self.device), previous.to(self.device))[:, -1]
                actions[chosen] = values.argmax(1).cpu().numpy()
        return actions

    @torch.inference_mode()
    def _returns(self, foreseen: Foreseen, episodes: list[Played]) -> NDArray[np.float32]:
        """What every action is worth in each session (N, tools + 1), dB; stopping is worth nothing."""
        count, follows = len(self.tools), torch.zeros_like(foreseen.rewards)
        for length in range(1, LONGEST):
            rows = [i for i, episode in enumerate(episodes) if len(episode.images) == length]
            if not rows:
                continue
            images = torch.from_numpy(np.stack([np.stack(episodes[i].images) for i in rows]))
            seen = self.network.features(images.flatten(0, 1).to(self.device)).unflatten(0, (len(rows), length))
            after = self.network.features(foreseen.images[rows].flatten(0, 1).to(self.device))
            seen = torch.cat([seen.repeat_interleave(count, 0), after[:, None]], 1)
            came = torch.tensor([episodes[i].previous for i in rows]).repeat_interleave(count, 0)
            next_ = torch.arange(1, count + 1).repeat(len(rows))[:, None]
            values = self.network.remember(seen, torch.cat([came, next_], 1).to(self.device))[:, -1]
            follows[rows] = values.amax(1).clamp(min=0).view(len(rows), count).cpu() * self.settings.unit
        worth = foreseen.rewards + self.settings.gamma * torch.where(foreseen.ends, 0, follows)
        return torch.cat([worth, torch.zeros(len(worth), 1)], 1).numpy()

    def _learn(self, batch: Batch) -> float:
        """One update of the network; its loss."""
        s = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = max(s.least_rate, s.rate * 0.5 ** (self.step / s.halving))
        images, previous, played = (x.to(self.device) for x in (batch.images, batch.previous, batch.played))
        values = self.network(images, previous)
        if s.foresight:
            errors = values - batch.returns.to(self.device).clamp(min=s.floor) / s.unit
        else:
            errors = self._errors_of_taken(values, batch)[..., None]
        each = F.huber_loss(errors, torch.zeros_like(errors), reduction="none").mean(2) * played
        # an episode counts as one, however long it is
        loss = (batch.weights.to(self.device) * each.sum(1) / played.sum(1)).mean()
        self.optimizer.zero_grad(set_to_none=True)
        loss.backward()
        self.optimizer.step()
        self.replay.settle(batch.indices, (errors.abs().amax(2) * played).amax(1))
        return float(loss.detach())

    def _errors_of_taken(self, values: Tensor, batch: Batch) -> Tensor:
        """By how much the values (B, T, tools + 1) of the actions that were taken are off, (B, T)."""
        s = self.settings
        images, previous, actions, rewards, played = (
            x.to(self.device) for x in (batch.images, batch.previous, batch.actions, batch.rewards, batch.played)
        )
        with torch.no_grad():
            judged = self.target(images, previous)
            best = (values if s.double else judged).argmax(2, keepdim=True)
            greedy = actions == best[..., 0]
            valued = judged.gather(2, best)[..., 0]
            targets = n_step_targets(rewards / s.unit, valued, greedy, played, s.gamma, s.returns)
        return values.gather(2, actions[..., None])[..., 0] - targets.clamp(min=s.floor / s.unit)

    def save(self, folder: Path) -> None:
        """Write the checkpoint and the curve; the checkpoint last, for it vouches for the replay."""
        replay = self._replay(folder)
        self.replay.save(replay)
        state = {
            "network": self.network.state_dict(),
            "target": self.target.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "progress": {"step": self.step, "seconds": self.seconds},
            "curve": self.curve,
        }
        save_checkpoint(folder, state, self.identity)
        for path in folder.glob("replay-*.npz"):
            if path != replay:
                path.unlink()
        write_curve(folder, self.curve)
        draw_curve(folder, self.curve, "gain", self.curve[0]["chance"])

    def load(self, folder: Path) -> bool:
        """Go on where ``save`` stopped; whether it ever did."""
        state = load_checkpoint(folder, self.identity, self.device)
        if state is None:
            return False
        refuse_more(folder, state["progress"]["step"], self.settings.steps)
        self.network.load_state_dict(state["network"])
        self.target.load_state_dict(state["target"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.step, self.seconds = state["progress"]["step"], state["progress"]["seconds"]
        self.curve = state["curve"]
        self.replay.load(self._replay(folder))
        return True

    def _replay(self, folder: Path) -> Path:
        return folder / f"replay-{self.step}.npz"


def n_step_targets(
    rewards: Tensor, values: Tensor, greedy: Tensor, played: Tensor, gamma: float, returns: int
) -> Tensor:
    """What each step (B, T) should be worth: ``returns`` rewards, then the value of where they led, if that was played.

    ``values`` (B, T) are those of the state before each step; ``greedy`` says whether the step's action is the best
    there. Rewards after an action that is not are not counted (Watkins): chance must not make a good tool look bad.
    Beyond the end of an episode there is nothing to gain.
    """
    targets = values
    for counted in range(returns):
        follows = torch.where(greedy, targets, values) if counted else values
        ahead = torch.cat([follows[:, 1:] * played[:, 1:], torch.zeros_like(values[:, :1])], 1)
        targets = rewards * played + gamma * ahead
    return targets


@torch.no_grad()
def _scaled(network: QNetwork, factor: float) -> QNetwork:
    """Multiply the values that a network gives by a factor."""
    for layer in (network.values, network.state):
        for parameter in layer.parameters() if layer is not None else ():
            parameter.mul_(factor)
    return network


def _begin(observed: Observed, i: int) -> Played:
    return Played([observed["image"][i]], [int(observed["previous"][i])], [], [], [])

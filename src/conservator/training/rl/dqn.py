"""Train RL-Restore's agent by deep Q-learning. Read from top to bottom: prepare, play, remember, learn, save.

    conservator train dqn --photos FOLDER --toolbox rl-restore

``dqn_settings.py`` says how, ``dqn_learner.py`` is the network and its update, ``env.py`` what is played. Episodes are
short (three tools at most), so the network replays each from its start and no state is stored; the last step of an
episode is not bootstrapped, for its three decisions are part of the problem, and the memory counts them.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

import numpy as np
import torch

from conservator.degradations.patches import Patches
from conservator.errors import ConservatorError
from conservator.evaluation.rl_restore import measure_patches
from conservator.networks.dqn import Q_PATCH
from conservator.policies import DqnPolicy, RandomPolicy
from conservator.policies.dqn import LONGEST, Agent
from conservator.training.rl.dqn_learner import QLearner
from conservator.training.rl.dqn_settings import DqnSettings
from conservator.training.rl.env import VectorRestorationEnv
from conservator.training.rl.episode import EpisodeRules
from conservator.training.rl.pretrain import TellDamage, amounts, pretrain
from conservator.training.rl.replay import PlayedEpisode, Replay
from conservator.training.run import (
    draw_curve,
    load_checkpoint,
    refuse_more,
    save_checkpoint,
    tensorboard_writer,
    write_curve,
)


@dataclass(frozen=True)
class TrainedDqn:
    """A trained agent, and the mean PSNR (RGB, dB) that it and chance gain on held-out patches."""

    agent: Agent
    steps: int
    minutes: float
    gain: float
    random_gain: float


def train_dqn(
    rules: EpisodeRules,
    held_out: Patches,
    folder: Path,
    settings: DqnSettings,
    *,
    start: Agent | None = None,
    device: str = "cpu",
    tensorboard: bool = False,
    identity: Mapping[str, str] | None = None,
    workers: int = 0,
    tell: TellDamage = amounts,
    report: Callable[[str], None] = print,
) -> TrainedDqn:
    """Train an agent for a toolbox; resumes from ``folder`` where an earlier run with the same settings stopped.

    A longer run continues a shorter one if all settings but ``steps`` are the same, schedules included; it is then the
    uninterrupted run, to the bit, where the shorter one ended at a multiple of ``checkpoint_every``.
    ``folder`` gets ``checkpoint.pt``, ``replay-STEP.npz``, and the curve as ``curve.csv`` and ``curve.png``. ``start``
    is an agent to go on from. ``identity`` says what settings do not: photos, damage, the weights of the tools.
    ``workers`` processes damage the patches of the pretraining, in which the network learns to ``tell`` the damage.
    Raises ConservatorError for a checkpoint of another identity, of other settings, or of more steps, and for rules
    under which the agent cannot play.
    """
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(settings.seed)
    run = _Run(rules, settings, device, start, identity or {})
    write = tensorboard_writer(folder) if tensorboard else None
    if not run.load(folder) and start is None:
        run.pretrain(tell, workers, report)
    chance = _gain(RandomPolicy(settings.seed), held_out, rules)
    gain = _gain(DqnPolicy(run.learner.agent()), held_out, rules)
    report(f"chance gains {chance:+.2f} dB on {len(held_out.clean)} held-out patches, the agent so far {gain:+.2f} dB")
    while run.step < settings.last:
        seen = run.segment(settings.next_checkpoint(run.step))
        gain = _gain(DqnPolicy(run.learner.agent()), held_out, rules)
        run.save(folder, {"gain": gain, "chance": chance, **seen})
        if write is not None:
            write(run.step, {"gain": gain, **seen})
        report(f"step {run.step}: held-out gain {gain:+.2f} dB, " + ", ".join(f"{k} {v:.3g}" for k, v in seen.items()))
    return TrainedDqn(run.learner.agent(), run.step, run.seconds / 60, gain, chance)


def _check_rules(rules: EpisodeRules) -> None:
    if rules.size != (Q_PATCH, Q_PATCH) or rules.longest > LONGEST:
        raise ConservatorError(
            f"the agent sees patches of {Q_PATCH}x{Q_PATCH} pixels and decides {LONGEST} times at most; the rules say "
            f"{_said(rules.size)} and {rules.longest}"
        )


def _said(size: tuple[int, int] | None) -> str:
    return "any size" if size is None else f"{size[1]}x{size[0]}"


def _gain(policy: DqnPolicy | RandomPolicy, patches: Patches, rules: EpisodeRules) -> float:
    return float(measure_patches(policy.name, policy, patches, rules.toolbox, rules.pool).gains.mean())


@dataclass
class _Seen:
    """What was seen on the way from one checkpoint to the next."""

    rewards: list[float] = field(default_factory=list)
    """Of whole episodes."""
    lengths: list[int] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)

    def means(self) -> dict[str, float]:
        return {"reward": _mean(self.rewards), "length": _mean(self.lengths), "loss": _mean(self.losses)}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else math.nan


class _Run:
    """Learner, replay and progress of one training."""

    def __init__(
        self, rules: EpisodeRules, settings: DqnSettings, device: str, start: Agent | None, identity: Mapping[str, str]
    ) -> None:
        _check_rules(rules)
        self.rules, self.settings = rules, settings
        tools = tuple(rules.toolbox)
        values = asdict(replace(settings, steps=0))  # a longer run may continue a shorter one
        self.identity = {name: str(value) for name, value in values.items()}
        self.identity |= {"tools": ",".join(tools), "started": str(start is not None)}
        self.identity |= {"reward": getattr(rules.reward, "__name__", "own"), "weighting": repr(rules.weighting)}
        self.identity |= {"longest": str(rules.longest), "harm_ends": str(rules.harm_ends), **identity}
        self.learner = QLearner(tools, settings, device, start)
        self.replay = Replay(settings.memory // LONGEST, LONGEST, Q_PATCH, len(tools) + 1, settings.priority)
        self.step, self.seconds, self.curve = 0, 0.0, list[dict[str, float]]()
        self.skipped = 0.0 if start is None else 1 - settings.least_explore
        """How far exploration is skipped: an agent to go on from knows its way already."""

    def pretrain(self, tell: TellDamage, workers: int, report: Callable[[str], None]) -> None:
        """Teach the convolutions to see damage, where the settings say so."""
        if self.settings.pretrain:
            batches, seed = self.settings.pretrain, self.settings.seed
            pretrain(self.learner.network, self.rules.source, batches, seed, report, workers, tell)
            self.learner.renew_target()

    def segment(self, end: int) -> dict[str, float]:
        """Play and learn until step ``end``; what was seen on the way, as means."""
        begun = time.monotonic()
        settings, rng, seen = self.settings, np.random.default_rng([self.settings.seed, self.step]), _Seen()
        env = VectorRestorationEnv(self.rules, settings.sessions)
        observed, _ = env.reset(seed=int(rng.integers(2**31)))
        episodes = [PlayedEpisode.begun(observed, i) for i in range(env.num_envs)]
        while self.step < end:
            actions = self.learner.choose(episodes, settings.random_share(self.step, self.skipped), rng)
            if settings.foresight:
                for episode, returns in zip(episodes, self.learner.returns(env.foresee(), episodes), strict=True):
                    episode.returns.append(returns)
            observed, rewards, terminated, truncated, _ = env.step(actions)
            for i, episode in enumerate(episodes):
                episode.acted(int(actions[i]), float(rewards[i]))
                if terminated[i] or truncated[i]:
                    self.replay.add(episode)
                    seen.rewards.append(sum(episode.rewards))
                    seen.lengths.append(len(episode.actions))
                    episodes[i] = PlayedEpisode.begun(observed, i)
                else:
                    episode.arrived(observed, i)
            before, self.step = self.step, self.step + env.num_envs
            seen.losses += self._learn(before, rng)
        self.seconds += time.monotonic() - begun
        return {**seen.means(), "random": settings.random_share(self.step, self.skipped)}

    def _learn(self, before: int, rng: np.random.Generator) -> list[float]:
        """The updates that are due since step ``before``; their losses."""
        settings, losses = self.settings, list[float]()
        if self.step > settings.warmup and len(self.replay) >= settings.batch:
            for _ in range(self.step // settings.train_every - before // settings.train_every):
                batch = self.replay.sample(settings.batch, rng, settings.turned)
                loss, errors = self.learner.learn(batch, self.step)
                self.replay.settle(batch.indices, errors)
                losses.append(loss)
        if self.step // settings.target_every > before // settings.target_every:
            self.learner.renew_target()
        return losses

    def save(self, folder: Path, seen: Mapping[str, float]) -> None:
        """Write the checkpoint, after the replay that it vouches for, and the curve with what was ``seen`` added."""
        self.curve.append({"step": self.step, "minutes": self.seconds / 60, **seen})
        replay = self._replay(folder)
        self.replay.save(replay)
        state = {
            **self.learner.state_dict(),
            "weighting": self.rules.weighting.state_dict(),
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
        state = load_checkpoint(folder, self.identity, self.learner.device)
        if state is None:
            return False
        refuse_more(folder, state["progress"]["step"], self.settings.last)
        self.learner.load_state_dict(state)
        self.rules.weighting.load_state_dict(state["weighting"])
        self.step, self.seconds = state["progress"]["step"], state["progress"]["seconds"]
        self.curve = state["curve"]
        self.replay.load(self._replay(folder))
        return True

    def _replay(self, folder: Path) -> Path:
        return folder / f"replay-{self.step}.npz"

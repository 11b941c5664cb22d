"""What learns in deep Q-learning: the network, its target network, and one update from a batch of episodes."""

from __future__ import annotations

import copy
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.networks.dqn import QNetwork
from conservator.policies.dqn import Agent
from conservator.training.rl.dqn_settings import DqnSettings
from conservator.training.rl.env import Foreseen
from conservator.training.rl.replay import EpisodeBatch, PlayedEpisode


class QLearner:
    """A network that learns what each tool, and stopping, is worth; it computes in units of ``settings.unit`` dB."""

    def __init__(self, tools: Sequence[str], settings: DqnSettings, device: str, start: Agent | None) -> None:
        """``start`` is an agent to go on from; ConservatorError for one of other tools or another network."""
        self.tools, self.settings, self.device = tuple(tools), settings, torch.device(device)
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

    def agent(self) -> Agent:
        """The agent as it is now, its values in dB."""
        network = _scaled(copy.deepcopy(self.network), self.settings.unit)
        return Agent(network.cpu().eval().requires_grad_(False), self.tools)

    def renew_target(self) -> None:
        """Make the target network what the network is now."""
        self.target.load_state_dict(self.network.state_dict())

    def choose(
        self, episodes: Sequence[PlayedEpisode], random_share: float, rng: np.random.Generator
    ) -> NDArray[np.int64]:
        """An action for each session (N,): mostly the best, sometimes any."""
        actions = rng.integers(len(self.tools) + 1, size=len(episodes))
        greedy = np.flatnonzero(rng.random(len(episodes)) >= random_share)
        for rows, images, previous in _by_length(episodes, greedy):
            with torch.inference_mode():
                values = self.network(images.to(self.device), previous.to(self.device))[:, -1]
            actions[rows] = values.argmax(1).cpu().numpy()
        return actions

    @torch.inference_mode()
    def returns(self, foreseen: Foreseen, episodes: Sequence[PlayedEpisode]) -> NDArray[np.float32]:
        """What every action is worth in each session (N, tools + 1), dB; stopping is worth nothing."""
        count, follows = len(self.tools), torch.zeros_like(foreseen.rewards)
        for rows, images, previous in _by_length(episodes, range(len(episodes))):
            if bool(foreseen.ends[rows].all()):
                continue
            seen = self.network.features(images.flatten(0, 1).to(self.device)).unflatten(0, previous.shape)
            after = self.network.features(foreseen.images[rows].flatten(0, 1).to(self.device))
            seen = torch.cat([seen.repeat_interleave(count, 0), after[:, None]], 1)
            tried = torch.arange(1, count + 1).repeat(len(rows))[:, None]
            came = torch.cat([previous.repeat_interleave(count, 0), tried], 1)
            values = self.network.remember(seen, came.to(self.device))[:, -1]
            follows[rows] = values.amax(1).clamp(min=0).view(len(rows), count).cpu() * self.settings.unit
        worth = foreseen.rewards + self.settings.gamma * torch.where(foreseen.ends, 0, follows)
        return torch.cat([worth, torch.zeros(len(worth), 1)], 1).numpy()

    def learn(self, batch: EpisodeBatch, step: int) -> tuple[float, Tensor]:
        """One update of the network at a step of the run; its loss, and the largest error of each episode (B,)."""
        s = self.settings
        for group in self.optimizer.param_groups:
            group["lr"] = s.learning_rate(step)
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
        return float(loss.detach()), (errors.detach().abs().amax(2) * played).amax(1)

    def _errors_of_taken(self, values: Tensor, batch: EpisodeBatch) -> Tensor:
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

    def state_dict(self) -> dict[str, Any]:
        """All that a checkpoint must keep of it."""
        return {name: getattr(self, name).state_dict() for name in ("network", "target", "optimizer")}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on with what ``state_dict`` gave."""
        for name in ("network", "target", "optimizer"):
            getattr(self, name).load_state_dict(state[name])


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


def _by_length(
    episodes: Sequence[PlayedEpisode], among: Sequence[int] | NDArray[np.int64]
) -> Iterator[tuple[list[int], Tensor, Tensor]]:
    """Episodes of one length, shortest first: their numbers, images (N, T, 3, H, W), and the tools before (N, T)."""
    for length in sorted({len(episodes[i].images) for i in among}):
        rows = [int(i) for i in among if len(episodes[i].images) == length]
        images = torch.from_numpy(np.stack([np.stack(episodes[i].images) for i in rows]))
        yield rows, images, torch.tensor([episodes[i].previous for i in rows])


@torch.no_grad()
def _scaled(network: QNetwork, factor: float) -> QNetwork:
    """Multiply the values that a network gives by a factor."""
    for layer in (network.values, network.state):
        for parameter in layer.parameters() if layer is not None else ():
            parameter.mul_(factor)
    return network

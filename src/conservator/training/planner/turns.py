"""The decisions of rollouts as a model learns from them: what it was shown, what it said, what else it could say."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from conservator.policies.reading import Prompt, inputs_of
from conservator.policies.replies import Fork, forks_of
from conservator.policies.tool_calling import ToolCallingPolicy
from conservator.policies.vision_language import VisionLanguageModel
from conservator.session import Observation, Trajectory
from conservator.tools.tool import ToolSpec
from conservator.training.planner.prefix import IGNORED, shared_states


@dataclass(frozen=True)
class Turn:
    """One decision of a rollout, to learn from."""

    prompt: Prompt
    said: tuple[int, ...]
    """The tokens of the reply up to its last fork."""
    way: tuple[Fork, ...]


def turns_of(
    policy: ToolCallingPolicy, trajectory: Trajectory, tools: tuple[ToolSpec, ...], longest: int
) -> list[Turn]:
    """The decisions of a rollout of legal actions, which was offered these tools and ``longest`` decisions at most."""
    found = []
    for i, step in enumerate(trajectory.steps[1:], 1):
        observation = Observation(Trajectory(trajectory.steps[:i]), tools, longest + 1 - i)
        replies = policy.replies(observation)
        assert step.decision is not None
        assert step.decision.action is not None
        said = replies[step.decision.action]
        way = tuple(forks_of(dict.fromkeys(replies.values(), 1.0), said))
        found.append(Turn(policy.prompt(observation), said[: way[-1].place + 1 if way else 0], way))
    return found


def log_chances(model: VisionLanguageModel, turns: Sequence[Turn], temperature: float = 1.0) -> Tensor:
    """The logarithm (N,) of the chance that the model says each reply, among those that it may say."""
    device = next(model.network.parameters()).device
    prompts = [replace(turn.prompt, ids=torch.cat([turn.prompt.ids, torch.tensor(turn.said)])) for turn in turns]
    batch = inputs_of(model, prompts, device)
    batch["labels"] = torch.full_like(batch["input_ids"], IGNORED)
    for row, turn in enumerate(turns):
        begin = len(turn.prompt.ids)
        batch["labels"][row, begin : begin + len(turn.said)] = 0
    if model.network.config.model_type == "qwen3_vl":
        states, shared = shared_states(model.network, batch)
    else:
        states, shared = model.network.model(**{k: v for k, v in batch.items() if k != "labels"}).last_hidden_state, 0
    forks = [
        (row, len(turn.prompt.ids) + fork.place - 1 - shared, fork)
        for row, turn in enumerate(turns)
        for fork in turn.way
    ]
    rows, places = (torch.tensor([item[i] for item in forks], device=device) for i in range(2))
    logits = model.network.lm_head(states[rows, places]).float() / temperature
    each = [logits[i][list(fork.tokens)].log_softmax(0)[fork.chosen] for i, (_, _, fork) in enumerate(forks)]
    return torch.zeros(len(turns), device=device).index_add(0, rows, torch.stack(each))

"""RL-Restore's agent as a policy: a recurrent Q-network that looks at patches and votes (Yu et al., CVPR 2018)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.networks.dqn import Q_PATCH, QNetwork
from conservator.session.session import Observation
from conservator.session.trajectory import Apply, Decision, Stop
from conservator.tools.tool import Toolbox

LONGEST = 3
"""Tools in a toolchain at most, as in the paper."""
BLOCK = 8
"""Pixels of a side of JPEG's blocks."""
_ROWS = 256
"""Patches that the network sees at once; more do not fit into a CPU's caches."""


@dataclass(frozen=True)
class Agent:
    """A trained network and what its actions are called."""

    network: QNetwork
    tools: tuple[str, ...]
    """Names of its tools in the order of its actions; the action after the last one is to stop."""

    def tensors(self) -> dict[str, Tensor]:
        """What to save of it."""
        return {name: value.detach().cpu().contiguous() for name, value in self.network.state_dict().items()}

    def metadata(self) -> dict[str, str]:
        """What else to save of it."""
        return {"tools": ",".join(self.tools)}


def make_agent(tensors: Mapping[str, Tensor], metadata: Mapping[str, str], where: str) -> Agent:
    """Build an agent from what ``Agent.tensors`` and ``Agent.metadata`` gave; ConservatorError names ``where``."""
    tools = tuple(metadata.get("tools", "").split(","))
    network = QNetwork(len(tools), duelling="state.weight" in tensors)
    try:
        network.load_state_dict({name: value.float() for name, value in tensors.items()})
    except RuntimeError as error:
        raise ConservatorError(
            f"{where} holds no agent of {len(tools)} tools; train one with: conservator train dqn"
        ) from error
    return Agent(network.eval().requires_grad_(False), tools)


def load_agent(path: Path) -> Agent:
    """Read an agent that ``conservator train dqn`` wrote. Raises ConservatorError when the file is none."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return make_agent({name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}, str(path))  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConservatorError(f"{path} cannot be read as an agent; expected a .safetensors file") from error


def shipped_agent(name: str = "dqn") -> Agent:
    """An agent that ships; ConservatorError where this installation has none."""
    from conservator.weights import load_weights, manifest

    if name not in manifest():
        raise ConservatorError(
            f"the agent {name} does not ship with this version; train it with: conservator train dqn, and use it with: "
            "--policy dqn:FILE"
        )
    return make_agent(*load_weights(name), where=f"the shipped file of weights {name}")


def published_agent() -> Agent:
    """The authors' agent, once imported; ConservatorError says how to import it."""
    from conservator.tools.rl_restore import rl_restore_specs
    from conservator.tools.user import imported_rl_restore_agent

    tools = ",".join(spec.name for spec in rl_restore_specs())
    return make_agent(imported_rl_restore_agent(), {"tools": tools}, "the import of RL-Restore")


class DqnPolicy:
    """Applies the tool that most patches of 63x63 pixels vote for; stops when they vote to, or after three tools.

    Each patch has its own memory: the network replays the current toolchain on it, so the policy itself has none.
    """

    def __init__(self, agent: Agent, name: str = "dqn", toolbox: Toolbox | None = None) -> None:
        """Raises ConservatorError when the ``toolbox`` that it is to work with lacks one of the agent's tools."""
        self.name, self._agent = name, agent
        if toolbox is not None:
            _check_tools(agent, toolbox)

    def act(self, observation: Observation) -> Decision:
        """Let the patches vote for one of the tools that are offered, or to stop."""
        return self.act_together([observation])[0]

    def act_together(self, observations: Sequence[Observation]) -> list[Decision]:
        """Decide on each of these; the network sees all their patches as one batch."""
        values = self.values(observations)
        return [self._decide(observation, v) for observation, v in zip(observations, values, strict=True)]

    def values(self, observations: Sequence[Observation]) -> list[Tensor]:
        """For each observation the values (patches, tools + 1) of the actions now."""
        device = next(self._agent.network.parameters()).device
        groups: dict[int, list[int]] = defaultdict(list)
        episodes = [self._episode(observation) for observation in observations]
        for i, (_, previous) in enumerate(episodes):
            groups[len(previous)].append(i)
        found: dict[int, Tensor] = {}
        for members in groups.values():
            patches = torch.cat([episodes[i][0] for i in members])
            counts = [len(episodes[i][0]) for i in members]
            before = torch.cat(
                [torch.tensor([episodes[i][1]] * n, dtype=torch.int64) for i, n in zip(members, counts, strict=True)]
            )
            with torch.inference_mode():
                parts = zip(patches.split(_ROWS), before.split(_ROWS), strict=True)
                last = torch.cat([self._agent.network(p.to(device), q.to(device))[:, -1].cpu() for p, q in parts])
            found.update(zip(members, last.split(counts), strict=True))
        return [found[i] for i in range(len(observations))]

    def _episode(self, observation: Observation) -> tuple[Tensor, list[int]]:
        """Patches (P, T, 3, 63, 63) of the current toolchain's images, and the tool before each (T), 0 for none."""
        treatments = observation.trajectory.treatments()
        images = [observation.trajectory.steps[0].image, *(image for _, image in treatments)]
        known = {name: number for number, name in enumerate(self._agent.tools, start=1)}
        previous = [0, *(known.get(tool, 0) for tool, _ in treatments)]
        return torch.stack([tiles(image) for image in images], 1), previous

    def _decide(self, observation: Observation, values: Tensor) -> Decision:
        last = observation.trajectory.last
        if last.error is not None and last.refusal is None:
            return Decision(Stop(), thought=f"the last tool failed: {last.error}")
        if len(observation.trajectory.toolchain()) >= LONGEST:
            return Decision(Stop(), thought=f"{LONGEST} tools are enough")
        offered = {spec.name for spec in observation.tools}
        closed = torch.tensor([name not in offered for name in self._agent.tools] + [False])  # it may always stop
        values = values.masked_fill(closed, float("-inf"))
        votes = values.argmax(1).bincount(minlength=values.shape[1])
        winner = int(votes.argmax())
        share = f"{int(votes[winner])} of {len(values)} patches vote for it"
        if winner == len(self._agent.tools):
            return Decision(Stop(), thought=share)
        return Decision(
            Apply(self._agent.tools[winner]), thought=f"{share}, and expect {values[:, winner].mean():+.1f} dB"
        )


def _check_tools(agent: Agent, toolbox: Toolbox) -> None:
    missing = sorted(set(agent.tools) - set(toolbox))
    if missing:
        raise ConservatorError(
            f"the agent knows tools that this toolbox lacks ({', '.join(missing[:3])}, ...); "
            "use the toolbox that it was trained with, say --toolbox rl-restore"
        )


def tiles(image: Image, side: int = Q_PATCH) -> Image:
    """The whole tiles (P, 3, side, side) of an image, or of the native crops of a study (its overview is left out).

    They begin at multiples of 8 pixels, as JPEG's blocks do: the patches that agents learn from are cut first and
    compressed then, so blocks that lie otherwise are new to them. What is between tiles, and the rest at the right and
    at the bottom, is left out; an image smaller than a tile is repeated at its borders.
    """
    native = image[1:] if len(image) > 1 else image
    below, right = (max(0, side - n) for n in native.shape[-2:])
    if below or right:
        native = F.pad(native, (0, right, 0, below), mode="replicate")
    step = side + -side % BLOCK
    rows = native.unfold(2, side, step).unfold(3, side, step)
    return rows.permute(0, 2, 3, 1, 4, 5).reshape(-1, 3, side, side)

"""Joint training (Yu et al., CVPR 2018, algorithm 1): tools are tuned through the toolchains that the agent picks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.networks.dqn import QNetwork
from conservator.networks.precision import half_precision
from conservator.policies.dqn import LONGEST, Agent
from conservator.tools.rl_restore import rl_restore_specs
from conservator.tools.rl_restore_own import own_network, own_tools, read_tools
from conservator.training.data.crops import ahead
from conservator.training.data.patches import PairSource, PatchBatches
from conservator.training.experts.rl_restore import named
from conservator.training.run import load_checkpoint, save_checkpoint

_EPSILON = 5e-5
"""Mean square error (43 dB) below which an improvement counts no more, in the loss "psnr"."""


@dataclass(frozen=True)
class JointSettings:
    """The paper's run is 200,000 steps of 64 toolchains at a rate of 1e-4 that stays."""

    steps: int = 2000
    """Of the whole run, along which the rate falls: a longer run is another run, and does not continue this one."""
    batch: int = 64
    """Toolchains per step."""
    rate: float = 5e-4
    """Learning rate at first; it falls to zero along a cosine, for ours is a hundredth of the paper's run."""
    loss: str = "psnr"
    """``psnr`` counts each patch by its PSNR, as tables do; ``mse`` is the paper's, to which bad patches are all."""
    checkpoint_every: int = 100
    seed: int = 0

    def __post_init__(self) -> None:
        if self.loss not in ("psnr", "mse"):
            raise ConservatorError(f"the loss is {self.loss!r}, expected psnr or mse")

    def learning_rate(self, step: int) -> float:
        """Adam's at this step."""
        return self.rate * 0.5 * (1 + math.cos(math.pi * step / self.steps))


@dataclass(frozen=True)
class RunChains:
    """Toolchains as they were run."""

    output: Image
    """(B, 3, H, W), with its gradient."""
    uses: Tensor
    """(tools,): how often each tool was used."""
    lengths: Tensor
    """(B,)."""


def run_chains(agent: QNetwork, tools: nn.ModuleList, image: Image) -> RunChains:
    """Let the agent pick a toolchain for each of (B, 3, 63, 63), and keep the gradient through the tools.

    The agent itself gets none. A patch whose agent stops keeps the image that it has.
    """
    live = torch.ones(len(image), dtype=torch.bool, device=image.device)
    uses, seen = torch.zeros(len(tools), dtype=torch.int64), [image]
    lengths = torch.zeros(len(image), dtype=torch.int64, device=image.device)
    previous = torch.zeros(len(image), 1, dtype=torch.int64, device=image.device)
    for _ in range(LONGEST):
        with torch.no_grad():
            chosen = agent(torch.stack(seen, 1).detach(), previous)[:, -1].argmax(1)
        live = live & (chosen < len(tools))
        after = seen[-1].clone()
        for number, tool in enumerate(tools):
            mine = (live & (chosen == number)).nonzero()[:, 0]
            if len(mine):
                after = after.index_copy(0, mine, _restored(tool, seen[-1][mine]))
                uses[number] += len(mine)
        lengths += live
        seen.append(after)
        previous = torch.cat([previous, torch.where(live, chosen + 1, 0)[:, None]], 1)
    return RunChains(seen[-1], uses, lengths)


@dataclass(frozen=True)
class TunedTools:
    """Tools after joint training."""

    tensors: dict[str, Tensor]
    """As a toolbox's file holds them."""
    gain: float
    """PSNR (RGB, dB) that the toolchains of the last batches gained."""


def train_joint(
    agent: Agent,
    tools: nn.ModuleList,
    source: PairSource,
    folder: Path,
    settings: JointSettings,
    report: Callable[[str], None] = print,
    identity: Mapping[str, str] | None = None,
    workers: int = 0,
) -> TunedTools:
    """Tune the tools in place while the agent is frozen.

    Step ``n`` draws its patches from the seed and ``n``, and ``folder`` gets ``checkpoint.pt``: the same command again
    goes on where a run stopped. The gradient of a tool is the sum over its uses in a batch, divided by their number;
    Adam applies it. ``identity`` says what settings do not: agent, tools, photos, damage.
    ``workers`` processes make the patches ahead of their use. Raises ConservatorError for a checkpoint of another
    identity or of other settings, for an agent of other tools, or when the training diverges.
    """
    if len(agent.tools) != len(tools):
        raise ConservatorError(f"the agent knows {len(agent.tools)} tools, {len(tools)} are given")
    folder.mkdir(parents=True, exist_ok=True)
    optimizer = torch.optim.Adam(tools.parameters(), lr=settings.rate)
    identity = {k: str(v) for k, v in asdict(settings).items()} | dict(identity or {})
    first, gained = _load(folder, tools, optimizer, identity)
    begun, gains = time.monotonic(), list[float]()
    tools.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    batches = ahead(PatchBatches(source, settings.batch, settings.seed), range(first, settings.steps), workers)
    for step, (damaged, clean) in enumerate(batches, start=first):
        gains.append(_step(agent.network, tools, optimizer, settings, step, damaged, clean))
        if (step + 1) % settings.checkpoint_every == 0 or step + 1 == settings.steps:
            minutes, gained = (time.monotonic() - begun) / 60, float(np.mean(gains))
            report(f"step {step + 1}: the toolchains gain {gained:+.2f} dB, {minutes:.1f} minutes")
            gains.clear()
            state = {"tools": tools.state_dict(), "optimizer": optimizer.state_dict(), "step": step + 1, "gain": gained}
            save_checkpoint(folder, state, identity)
    shipped = [named(name, tool) for name, tool in zip(agent.tools, tools, strict=True)]
    return TunedTools({name: value for part in shipped for name, value in part.items()}, gained)


def _restored(tool: nn.Module, image: Image) -> Image:
    """What a network makes of (B, 3, H, W), its sides padded to multiples of 8 as the tools of a toolbox do."""
    height, width = image.shape[-2:]
    padded = F.pad(image, (0, -width % 8, 0, -height % 8), mode="reflect")
    with half_precision(image.device):
        restored = cast("Tensor", tool(padded.contiguous(memory_format=torch.channels_last)))
    return restored.float()[..., :height, :width].clamp(0, 1)


def _load(
    folder: Path, tools: nn.ModuleList, optimizer: torch.optim.Optimizer, identity: dict[str, str]
) -> tuple[int, float]:
    """Go on where a run in ``folder`` stopped; the step to begin with, and what was gained before it."""
    state = load_checkpoint(folder, identity)
    if state is None:
        return 0, math.nan
    tools.load_state_dict(state["tools"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"]), float(state["gain"])


def _step(
    agent: QNetwork,
    tools: nn.ModuleList,
    optimizer: torch.optim.Optimizer,
    settings: JointSettings,
    step: int,
    damaged: Image,
    clean: Image,
) -> float:
    """One batch of toolchains; what they gained before the update, dB."""
    for group in optimizer.param_groups:
        group["lr"] = settings.learning_rate(step)
    chains = run_chains(agent, tools, damaged)
    before, errors = ((x - clean).square().mean(dim=(1, 2, 3)) for x in (damaged, chains.output))
    gain = float(10 * ((before + 1e-10).log10() - (errors.detach() + 1e-10).log10()).mean())
    if not math.isfinite(gain):
        raise ConservatorError(f"the joint training diverged at step {step}; lower the rate")
    if not chains.uses.any():
        return gain
    optimizer.zero_grad(set_to_none=True)
    loss = (errors + _EPSILON).log().sum() if settings.loss == "psnr" else errors.sum()
    loss.backward()
    for uses, tool in zip(chains.uses.tolist(), tools, strict=True):
        for parameter in tool.parameters():
            if parameter.grad is not None:
                parameter.grad /= max(1, uses)
    optimizer.step()
    return gain


def trainable_tools(path: Path, agent: Agent) -> tuple[nn.ModuleList, str]:
    """The twelve networks of a toolbox's file in the order of the agent's actions, and their architecture.

    Raises ConservatorError when the file is none, or the agent knows other tools.
    """
    tensors, metadata = read_tools(path)
    architecture = metadata.get("architecture", "")
    if architecture == "plain":
        raise ConservatorError(f"{path} holds one plain network, expected twelve tools; there is nothing to pick")
    own_tools(tensors, metadata)  # complains of what is missing
    if agent.tools != (known := tuple(spec.name for spec in rl_restore_specs())):
        raise ConservatorError(
            f"the agent knows the tools {', '.join(agent.tools[:2])}, ..., {path} holds {', '.join(known[:2])}, ..."
        )
    modules = nn.ModuleList()
    for index, spec in enumerate(rl_restore_specs()):
        network, prefix = own_network(architecture, index)(), f"{spec.name}."
        mine = {k.removeprefix(prefix): v.float() for k, v in tensors.items() if k.startswith(prefix)}
        try:
            network.load_state_dict(mine)
        except RuntimeError as error:
            raise ConservatorError(f"the tensors of {spec.name} in {path} are not those of its network") from error
        modules.append(network)
    return modules, architecture

"""Twelve tools like those of RL-Restore, trained here: in the paper's architecture, or in a compact one of ours.

Beside them a plain network of about the toolbox's size, alone in a toolbox: what a chain of tools has to beat.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Literal, TypeAlias

from torch import Tensor, nn

from conservator.errors import ConservatorError
from conservator.files import sha256
from conservator.kinds import Kind
from conservator.networks.unet import ResidualUNet
from conservator.tools.rl_restore import RlRestoreTool, network_of, rl_restore_specs, strength
from conservator.tools.tool import ToolSpec
from conservator.weights import load_weights, manifest

Architecture: TypeAlias = Literal["paper", "compact", "plain"]
_SOURCE = "trained in the conservator repository (docs/rl-restore.md), after Yu et al., CVPR 2018"
_COMPACT = ((32, 48, 64), (48, 72, 96))
"""Widths for weak and for strong damage: no more multiplications per pixel than the paper's two networks."""
_PLAIN = (32, 56, 80)
"""Widths of the plain network."""


@dataclass(frozen=True)
class Loaded:
    """Tensors that were read already, from the file of this hash, "" where they come from none."""

    values: Mapping[str, Tensor]
    sha256: str = ""

    def tensors(self) -> dict[str, Tensor]:
        """All of them."""
        return dict(self.values)


def own_specs(architecture: str) -> tuple[ToolSpec, ...]:
    """What the tools of an architecture are called and do: twelve in the paper's order, or the plain one."""
    specs = tuple(replace(spec, source=_SOURCE, license="Apache-2.0") for spec in rl_restore_specs())
    if architecture == "compact":
        return tuple(replace(spec, multiple_of=8) for spec in specs)
    if architecture == "plain":
        kinds = frozenset[Kind]().union(*(spec.removes for spec in specs))
        name, does = "rl_plain", "Removes Gaussian blur, noise and JPEG artefacts together."
        return (replace(specs[0], name=name, removes=kinds, description=does, multiple_of=8),)
    return specs


def own_network(architecture: str, index: int) -> Callable[[], nn.Module]:
    """What makes the network of the tool ``index``, 0 to 11; ConservatorError for an unknown architecture."""
    if architecture == "paper":
        return network_of(index)
    if architecture == "compact":
        return partial(ResidualUNet, _COMPACT[strength(index)])
    if architecture == "plain":
        return partial(ResidualUNet, _PLAIN)
    raise ConservatorError(f"the architecture is {architecture!r}, expected paper, compact or plain")


def own_tools(
    tensors: Mapping[str, Tensor], metadata: Mapping[str, str], file_sha256: str = ""
) -> tuple[RlRestoreTool, ...]:
    """The tools of a file of weights, in the paper's order: ``NAME.`` begins the tensors of each."""
    architecture = metadata.get("architecture", "")
    tools = []
    for index, spec in enumerate(own_specs(architecture)):
        prefix = f"{spec.name}."
        mine = {k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)}
        if not mine:
            raise ConservatorError(
                f"the file of weights has no tool {spec.name}; conservator train rl-restore-tools makes all"
            )
        tools.append(RlRestoreTool(spec, own_network(architecture, index), Loaded(mine, file_sha256)))
    return tuple(tools)


def shipped_tools(name: str) -> tuple[RlRestoreTool, ...]:
    """Twelve tools that ship; ConservatorError where this installation has none."""
    if name not in manifest():
        raise ConservatorError(
            f"the tools {name} do not ship with this version; train them with: conservator train rl-restore-tools "
            "--architecture compact, and use them with: --toolbox rl-restore:FILE"
        )
    return own_tools(*load_weights(name), str(manifest()[name]["sha256"]))


def trained_tools(path: Path) -> tuple[RlRestoreTool, ...]:
    """Twelve tools that ``conservator train rl-restore-tools`` wrote; ConservatorError when the file is none."""
    return own_tools(*read_tools(path), sha256(path))


def read_tools(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """The tensors and the metadata of such a file; ConservatorError when it cannot be read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, "pt") as file:
            return {name: file.get_tensor(name) for name in file.keys()}, file.metadata() or {}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ConservatorError(f"{path} cannot be read as tools; expected a .safetensors file") from error

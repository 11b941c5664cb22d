"""The toolbox ``conservator``: small networks trained in this repository. A new expert is one line in ``EXPERTS``."""

from __future__ import annotations

import copy
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.kinds import TAUGHT, Kind, Severity
from conservator.networks.store import NetworkStore
from conservator.tools.records import WeightsFile
from conservator.tools.tool import Tool, Toolbox, ToolSpec
from conservator.weights import load_weights, manifest

_SOURCE = "trained in the conservator repository (docs/experts.md)"


class WeightsSource(Protocol):
    """Where the tensors of a network come from."""

    @property
    def sha256(self) -> str:
        """Hash of the file they lie in, from its manifest or record; "" where there is none."""

    def tensors(self) -> dict[str, Tensor]:
        """Read them, verified."""


@dataclass(frozen=True)
class Shipped:
    """A file of the package."""

    name: str

    @property
    def sha256(self) -> str:
        """As the manifest has it; "" where it lists no such file, which cannot be loaded either."""
        return str(manifest().get(self.name, {}).get("sha256", ""))

    def tensors(self) -> dict[str, Tensor]:
        """Read it; raises ConservatorError when it is not the file of the manifest."""
        return load_weights(self.name)[0]


@dataclass(frozen=True)
class Recorded:
    """A safetensors file in the user's folder of tools."""

    weights: WeightsFile
    folder: Path

    @property
    def sha256(self) -> str:
        """As it was recorded."""
        return self.weights.sha256

    def tensors(self) -> dict[str, Tensor]:
        """Read it; raises ConservatorError when it is gone or has changed."""
        from safetensors.torch import load

        return load(self.weights.read(self.folder))


class Expert(Tool):
    """One trained network; half-precision weights on disk, float32 at work."""

    def __init__(
        self, spec: ToolSpec, network: str, weights: WeightsSource, networks: NetworkStore | None = None
    ) -> None:
        """``networks`` is where it takes its network from; without it, it has one of its own."""
        self.spec, self._network, self._weights, self._networks = spec, network, weights, networks
        self._model: nn.Module | None = None

    @property
    def weights_sha256(self) -> str:
        return self._weights.sha256

    @property
    def network_name(self) -> str:
        """The name of its network in NETWORKS."""
        return self._network

    def sharing(self, networks: NetworkStore) -> Expert:
        """The same expert, not set up, that takes its network from a store."""
        shared = copy.copy(self)
        shared._networks, shared._model = networks, None
        return shared

    def network(self, networks: NetworkStore, device: str) -> nn.Module:
        """Its bare network on a torch device, float32, from a store; it does not clip, and takes sides of multiples."""
        return networks.load(self._network, self.weights_sha256, self._weights.tensors, device)

    def setup(self, device: str) -> None:
        """Load the network."""
        self._model = self.network(self._networks or NetworkStore(), device)

    def restore(self, image: Image) -> Image:
        if self._model is None:
            raise ConservatorError(f"tool {self.spec.name} has no weights yet; call setup(device) first")
        device = next(self._model.parameters()).device
        image = image.to(device, memory_format=torch.channels_last)
        # one by one: the features of a batch do not fit into a CPU's caches, and it takes longer
        restored = torch.cat([self._model(item) for item in image.split(1)])
        return restored.contiguous()


class ExpertRecord(BaseModel):
    """An expert that the user trained."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["expert"] = "expert"
    name: str
    removes: tuple[Kind, ...]
    network: str
    description: str
    weights: WeightsFile

    def tool(self, folder: Path) -> Expert:
        """The tool, its weights beside the record in ``folder``."""
        spec = make_spec(
            self.name, frozenset(self.removes), self.description, self.network, "trained by the user", "own"
        )
        return Expert(spec, self.network, Recorded(self.weights, folder))


def make_spec(
    name: str,
    removes: frozenset[Kind],
    description: str,
    network: str,
    source: str = _SOURCE,
    license: str = "Apache-2.0",
) -> ToolSpec:
    """The spec of an expert: how it is padded and tiled follows from its network."""
    if network.startswith("bilateral"):  # looks at the whole photo; its cost in memory is that of the photo
        return ToolSpec(name, removes, description, source, license, tile=None)
    if network.startswith("upscaler"):
        return ToolSpec(name, removes, description, source, license, scale=int(network[-1]), tile=384, overlap=96)
    return ToolSpec(name, removes, description, source, license, multiple_of=16, tile=1024, overlap=192)


@runtime_checkable
class _Sharing(Protocol):
    def sharing(self, networks: NetworkStore) -> Tool:
        """The same tool, not set up, that takes its networks from a store."""


def sharing(tools: Toolbox, networks: NetworkStore) -> Toolbox:
    """The same tools, those that can taking their networks from a store."""
    return Toolbox(*(tool.sharing(networks) if isinstance(tool, _Sharing) else tool for tool in tools.values()))


_ANY = frozenset(Severity)


def _expert(
    name: str,
    removes: Iterable[Kind],
    description: str,
    network: str = "unet",
    severities: frozenset[Severity] = _ANY,
) -> Expert:
    """One that ships; its network is ``network`` where the manifest does not say another one."""
    network = str(manifest().get(name, {}).get("network", network))
    spec = make_spec(name, frozenset(removes), description, network)
    return Expert(replace(spec, severities=severities), network, Shipped(name))


_MILD, _HARD = frozenset({Severity.LOW, Severity.MEDIUM}), frozenset({Severity.HIGH, Severity.VERY_HIGH})
_MIDDLE = frozenset({Severity.MEDIUM, Severity.HIGH})
EXPERTS: tuple[Expert, ...] = (
    _expert("denoise_light", {Kind.NOISE}, "Removes faint noise, up to sigma 20 of 255.", severities=_MILD),
    _expert("denoise_medium", {Kind.NOISE}, "Removes noise of any kind up to sigma 55 of 255.", severities=_MIDDLE),
    _expert("denoise_heavy", {Kind.NOISE}, "Removes strong noise, sigma 25 to 70 of 255.", severities=_HARD),
    _expert("dejpeg_mild", {Kind.JPEG}, "Removes JPEG traces of quality 35 to 95.", severities=_MILD),
    _expert(
        "dejpeg_severe",
        {Kind.JPEG},
        "Removes JPEG blocks and ringing of quality 5 to 50, also compressed twice.",
        severities=_MIDDLE | _HARD,
    ),
    _expert("derain", {Kind.RAIN}, "Removes streaks of rain of any slope, length and width."),
    _expert(
        "deblur_defocus",
        {Kind.DEFOCUS_BLUR, Kind.GAUSSIAN_BLUR},
        "Sharpens what is out of focus, also where noise or JPEG lies on top.",
    ),
    _expert("upscale_x4", {Kind.LOW_RESOLUTION}, "Enlarges four times.", "upscaler_x4"),
    _expert("upscale_x2", {Kind.LOW_RESOLUTION}, "Enlarges twice.", "upscaler_x2"),
    _expert("dehaze", {Kind.HAZE}, "Removes haze of any thickness and colour, even or uneven.", "bilateral"),
    _expert("brighten_mild", {Kind.LOW_LIGHT}, "Brightens photos that are somewhat too dark.", "bilateral"),
    _expert("brighten_dark", {Kind.LOW_LIGHT}, "Brightens dark photos, night included.", "bilateral"),
    _expert(
        "generalist",
        TAUGHT,
        "One network for every damage but low resolution and snow, each less well than its expert.",
    ),
)
"""Those that beat the classical tools of their kind so far, in the order of a DQN's actions; courses.py has more."""

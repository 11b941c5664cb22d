"""The twelve published tools of RL-Restore (Yu et al., "Crafting a toolchain for image restoration", CVPR 2018)."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.kinds import Kind
from conservator.networks.dqn import QNetwork
from conservator.networks.rl_restore import DeepNet, ShallowNet
from conservator.tools.experts import WeightsSource
from conservator.tools.records import WeightsFile, read_bytes, sha256_of, write_tool
from conservator.tools.tool import Tool, ToolSpec

_SOURCE = "Yu et al., Crafting a toolchain for image restoration, CVPR 2018; github.com/yuke93/RL-Restore"
_TASKS = (  # the DQN's action order: kind, short name, sentence, four bands from weak to strong damage
    (
        Kind.GAUSSIAN_BLUR,
        "blur",
        "Sharpens Gaussian blur of sigma {} pixels.",
        ("0 to 1.25", "1.25 to 2.5", "2.5 to 3.75", "3.75 to 5"),
    ),
    (
        Kind.NOISE,
        "noise",
        "Removes Gaussian noise of sigma {} levels of 255.",
        ("0 to 12.5", "12.5 to 25", "25 to 37.5", "37.5 to 50"),
    ),
    (
        Kind.JPEG,
        "jpeg",
        "Removes JPEG artefacts of quality {}.",
        ("60 to 100", "35 to 60", "20 to 35", "10 to 20"),
    ),
)


class RlRestoreRecord(BaseModel):
    """What was imported, from which file, under which licence."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["rl-restore"] = "rl-restore"
    weights: WeightsFile
    source_sha256: str
    source: str = _SOURCE
    license: str = "MIT"
    copyright: str = "Copyright (c) 2018 Ke Yu"


@dataclass(frozen=True)
class Imported:
    """One network of an import: the tensors of its file whose names begin with ``prefix``."""

    weights: WeightsFile
    folder: Path
    prefix: str

    @property
    def sha256(self) -> str:
        """Of the whole file, as it was recorded."""
        return self.weights.sha256

    def tensors(self) -> dict[str, Tensor]:
        """Read them; raises ConservatorError when the file is gone or has changed."""
        from safetensors.torch import load

        found = load(self.weights.read(self.folder))
        return {k.removeprefix(self.prefix): v for k, v in found.items() if k.startswith(self.prefix)}


class RlRestoreTool(Tool):
    """One of the twelve networks; its weights are read in ``setup``."""

    def __init__(self, spec: ToolSpec, network: Callable[[], nn.Module], weights: WeightsSource) -> None:
        self.spec, self._make, self._weights = spec, network, weights
        self._network: nn.Module | None = None

    @property
    def weights_sha256(self) -> str:
        return self._weights.sha256

    def setup(self, device: str) -> None:
        """Load the weights; raises ConservatorError when their file is missing or has changed."""
        network = self._make()
        network.load_state_dict({name: value.float() for name, value in self._weights.tensors().items()})
        self._network = network.requires_grad_(False).eval().to(device)

    def restore(self, image: Image) -> Image:
        if self._network is None:
            raise ConservatorError(f"tool {self.spec.name} has no weights yet; call setup(device) first")
        image = image.to(next(self._network.parameters()).device)
        # one by one on a CPU: faster there, and a batch gives the same pixels as its items alone
        parts = image.split(1) if image.device.type == "cpu" else (image,)
        return torch.cat([self._network(part) for part in parts])


def rl_restore_specs() -> tuple[ToolSpec, ...]:
    """The specs of the twelve tools in the paper's order, which is the action order of its agent."""
    return tuple(
        ToolSpec(f"rl_{short}_{number}", frozenset({kind}), sentence.format(band), _SOURCE, "MIT")
        for kind, short, sentence, bands in _TASKS
        for number, band in enumerate(bands, start=1)
    )


def rl_restore_tools(record_path: str | Path) -> tuple[RlRestoreTool, ...]:
    """The twelve tools of an import, in the paper's order; ``record_path`` is what ``import_rl_restore`` returned.

    Raises ConservatorError when it is not such a record.
    """
    record_path = Path(record_path)
    record = _record(record_path)
    return tuple(
        RlRestoreTool(spec, network_of(index), Imported(record.weights, record_path.parent, f"{spec.name}."))
        for index, spec in enumerate(rl_restore_specs())
    )


def rl_restore_agent(record_path: str | Path) -> dict[str, Tensor]:
    """The tensors of the authors' agent, for ``networks/dqn.py``; ConservatorError when the import lacks it."""
    record_path = Path(record_path)
    tensors = Imported(_record(record_path).weights, record_path.parent, "agent.").tensors()
    if not tensors:
        raise ConservatorError(f"{record_path} was imported without the agent; import RL-Restore again")
    return tensors


def _record(path: Path) -> RlRestoreRecord:
    try:
        return RlRestoreRecord.model_validate_json(read_bytes(path))
    except ValueError as error:
        raise ConservatorError(f"{path} is not the record of an RL-Restore import; import it again") from error


def import_rl_restore(npz_path: str | Path, destination_dir: str | Path) -> Path:
    """Turn the published weights (an .npz of ``tool01/conv1/weights`` and so on) into a toolbox; return its record.

    The authors' agent comes with it where the file has it (``agent/...``).
    Writes ``rl_restore.safetensors`` and ``rl_restore.json``, an earlier import is replaced. TensorFlow kernels
    (height, width, in, out) become (out, in, height, width) with height and width exchanged, because the networks were
    trained on transposed images. Raises ConservatorError when the file is not the one expected.
    """
    npz_path = Path(npz_path)
    data = read_bytes(npz_path)
    arrays = _read_npz(npz_path, data)
    tensors: dict[str, Tensor] = {}
    for index, spec in enumerate(rl_restore_specs()):
        for name, parameter in network_of(index)().named_parameters():
            layer, what = name.split(".")
            key = f"tool{index + 1:02d}/{layer}/{'weights' if what == 'weight' else 'biases'}"
            tensors[f"{spec.name}.{name}"] = _converted(npz_path, arrays, key, tuple(parameter.shape))
    if any(name.startswith("agent/") for name in arrays):
        tensors |= {f"agent.{name}": value for name, value in _agent(npz_path, arrays).items()}
    from safetensors.torch import save

    converted = save(tensors)
    weights = WeightsFile(name="rl_restore.safetensors", sha256=sha256_of(converted))
    record = RlRestoreRecord(weights=weights, source_sha256=sha256_of(data))
    return write_tool(Path(destination_dir), weights, converted, record)


def strength(index: int) -> int:
    """How strong the damage of the tool ``index`` (from 0) is: 0 in the two weak bands of a kind, 1 in the strong."""
    return index % 4 // 2


def network_of(index: int) -> Callable[[], nn.Module]:
    """What makes the network of the tool ``index``, from 0: the small one for weak damage."""
    return (ShallowNet, DeepNet)[strength(index)]


def _agent(path: Path, arrays: dict[str, NDArray[np.generic]]) -> dict[str, Tensor]:
    """The authors' agent in the names, shapes and order of ``networks/dqn.py``; images are transposed here, too."""
    network = QNetwork()
    shapes = {name: tuple(parameter.shape) for name, parameter in network.named_parameters()}
    tensors = {}
    for layer in range(4):
        for what, key in (("weight", "w"), ("bias", "biases")):
            name = f"convolutions.{layer}.{what}"
            tensors[name] = _converted(path, arrays, f"agent/l{layer + 1}/{key}", shapes[name])
    cell = "agent/prediction_rnn/basic_lstm_cell"
    for name, matrix, bias in (
        ("project", "agent/l7/Matrix", "agent/l7/bias"),
        ("gates", f"{cell}/kernel", f"{cell}/bias"),
        ("values", "agent/q/Matrix", "agent/q/bias"),
    ):
        tensors[f"{name}.weight"] = _converted(path, arrays, matrix, shapes[f"{name}.weight"][::-1]).T.contiguous()
        tensors[f"{name}.bias"] = _converted(path, arrays, bias, shapes[f"{name}.bias"])
    # the authors flatten (row, column, channel) of transposed features, we (channel, row, column)
    inputs = tensors["project.weight"].unflatten(1, (4, 4, 24))
    tensors["project.weight"] = inputs.permute(0, 3, 2, 1).flatten(1).contiguous()
    tensors["gates.bias"][100:150] += 1.0  # their cell adds its forget bias when it runs
    return tensors


def _read_npz(path: Path, data: bytes) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name.startswith(("tool", "agent/"))}
    except (
        ValueError,
        EOFError,
        AttributeError,
        TypeError,
        zipfile.BadZipFile,
    ) as error:  # no archive, or objects in it
        raise ConservatorError(
            f"{path} is not an .npz file of plain arrays; expected RL-Restore's rl_restore.npz"
        ) from error


def _converted(path: Path, arrays: dict[str, NDArray[np.generic]], key: str, shape: tuple[int, ...]) -> Tensor:
    if key not in arrays:
        raise ConservatorError(f"{path} has no array {key!r}; expected RL-Restore's rl_restore.npz")
    array = arrays[key]
    array = array.transpose(3, 2, 1, 0) if array.ndim == 4 else array
    if array.shape != shape or array.dtype != np.float32 or not np.isfinite(array).all():
        raise ConservatorError(
            f"{path}: array {key!r} is {array.dtype} of shape {array.shape}, expected finite float32 of shape {shape}"
        )
    return torch.from_numpy(np.ascontiguousarray(array))

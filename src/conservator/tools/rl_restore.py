"""The twelve published tools of RL-Restore (Yu et al., "Crafting a toolchain for image restoration", CVPR 2018)."""

from __future__ import annotations

import io
import zipfile
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from conservator.degradations.kinds import Kind
from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.networks.rl_restore import DeepNet, ShallowNet
from conservator.tools.records import WeightsFile, read_bytes, sha256, write_tool
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


class RlRestoreTool(Tool):
    """One of the twelve networks; its weights are read in ``setup``."""

    def __init__(self, spec: ToolSpec, index: int, folder: Path, weights: WeightsFile) -> None:
        """``index`` counts from 0 in the order of ``rl_restore_specs``; ``folder`` holds the file of weights."""
        self.spec = spec
        self._index = index
        self._folder = folder
        self._weights = weights
        self._network: nn.Module | None = None

    def setup(self, device: str) -> None:
        """Load the weights; raises ConservatorError when their file is missing or has changed."""
        from safetensors.torch import load

        prefix = f"{self.spec.name}."
        tensors = load(self._weights.read(self._folder))
        network = _empty_network(self._index)
        network.load_state_dict({k.removeprefix(prefix): v for k, v in tensors.items() if k.startswith(prefix)})
        self._network = network.requires_grad_(False).eval().to(device)

    def restore(self, image: Image) -> Image:
        if self._network is None:
            raise ConservatorError(f"tool {self.spec.name} has no weights yet; call setup(device) first")
        restored: Tensor = self._network(image.to(next(self._network.parameters()).device))
        return restored


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
    try:
        record = RlRestoreRecord.model_validate_json(read_bytes(record_path))
    except ValueError as error:
        raise ConservatorError(f"{record_path} is not the record of an RL-Restore import; import it again") from error
    return tuple(
        RlRestoreTool(spec, index, record_path.parent, record.weights) for index, spec in enumerate(rl_restore_specs())
    )


def import_rl_restore(npz_path: str | Path, destination_dir: str | Path) -> Path:
    """Turn the published weights (an .npz of ``tool01/conv1/weights`` and so on) into a toolbox; return its record.

    Writes ``rl_restore.safetensors`` and ``rl_restore.json``, an earlier import is replaced. TensorFlow kernels
    (height, width, in, out) become (out, in, height, width) with height and width exchanged, because the networks were
    trained on transposed images. Raises ConservatorError when the file is not the one expected.
    """
    npz_path = Path(npz_path)
    data = read_bytes(npz_path)
    arrays = _read_npz(npz_path, data)
    tensors: dict[str, Tensor] = {}
    for index, spec in enumerate(rl_restore_specs()):
        for name, parameter in _empty_network(index).named_parameters():
            layer, what = name.split(".")
            key = f"tool{index + 1:02d}/{layer}/{'weights' if what == 'weight' else 'biases'}"
            tensors[f"{spec.name}.{name}"] = _converted(npz_path, arrays, key, tuple(parameter.shape))
    from safetensors.torch import save

    converted = save(tensors)
    weights = WeightsFile(name="rl_restore.safetensors", sha256=sha256(converted))
    record = RlRestoreRecord(weights=weights, source_sha256=sha256(data))
    return write_tool(Path(destination_dir), weights, converted, record)


def _empty_network(index: int) -> nn.Module:
    return ShallowNet() if index % 4 < 2 else DeepNet()  # of four bands, the two of weaker damage use the small net


def _read_npz(path: Path, data: bytes) -> dict[str, NDArray[np.generic]]:
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            return {name: archive[name] for name in archive.files if name.startswith("tool")}
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

"""Other people's networks, loaded through spandrel (an optional extra), which tells the architecture by the weights."""

from __future__ import annotations

import io
import math
import pickle
import re
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Literal

import torch
import torch.nn.functional as F
from pydantic import BaseModel, ConfigDict
from torch import Tensor, nn

from conservator.errors import ConservatorError, MissingExtraError
from conservator.image import Image
from conservator.kinds import Kind
from conservator.networks.store import NetworkStore
from conservator.tools.records import WeightsFile, read_bytes, sha256_of, write_tool
from conservator.tools.shipped import shipped_names
from conservator.tools.tool import Tool, ToolSpec

_SUFFIXES = (".pth", ".pt", ".ckpt", ".safetensors")
_PROBE = 96  # pixels a side of the picture that the reach of a network is measured on


class SpandrelRecord(BaseModel):
    """A checkpoint that was added: what it does, and the file it is."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    type: Literal["spandrel"] = "spandrel"
    name: str
    removes: tuple[Kind, ...]
    architecture: str
    license: str
    channels: Literal[1, 3]
    scale: int
    multiple_of: int
    tile: int
    overlap: int
    weights: WeightsFile
    original: str
    """The name of the file that was added."""

    def spec(self) -> ToolSpec:
        """The tool's spec."""
        kinds = " and ".join(kind.label for kind in self.removes)
        size = f", and enlarges {self.scale} times" if self.scale > 1 else ""
        return ToolSpec(
            name=self.name,
            removes=frozenset(self.removes),
            description=f"Removes {kinds}{size}: a {self.architecture} network that the user added.",
            source=f"{self.original} (sha256 {self.weights.sha256[:12]})",
            license=self.license,
            multiple_of=self.multiple_of,
            scale=self.scale,
            tile=self.tile,
            overlap=self.overlap,
        )


class SpandrelTool(Tool):
    """A network that spandrel can build; its file is verified and read in ``setup``."""

    def __init__(self, record: SpandrelRecord, folder: Path) -> None:
        self.spec = record.spec()
        self._record = record
        self._folder = folder
        self._model: Any = None

    @property
    def weights_sha256(self) -> str:
        return self._record.weights.sha256

    def setup(self, device: str) -> None:
        """Load the network; raises ConservatorError when its file has changed, MissingExtraError without spandrel."""
        self._model = self._load(device)

    def network(self, networks: NetworkStore, device: str) -> nn.Module:
        """Its bare network on a torch device, float32, read anew: not from a store, which knows our own networks."""
        return _Bare(self._load(device)).requires_grad_(False)

    def _load(self, device: str) -> Any:
        path = self._folder / self._record.weights.name
        return _build(path, self._record.weights.read(self._folder)).to(device).float().eval()

    def restore(self, image: Image) -> Image:
        if self._model is None:
            raise ConservatorError(f"tool {self.spec.name} has no weights yet; call setup(device) first")
        return _apply(self._model, image)


class _Bare(nn.Module):
    """The network of a model descriptor, for images of 3 channels."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.inner, self._channels = model.model, model.input_channels

    def forward(self, image: Image) -> Image:
        planes = image if self._channels == 3 else image.reshape(-1, 1, *image.shape[2:])
        made: Image = self.inner(planes)
        return made if self._channels == 3 else made.reshape(-1, 3, *made.shape[2:])


def add_spandrel_tool(
    model_path: str | Path,
    *,
    removes: Iterable[Kind],
    destination: str | Path,
    name: str | None = None,
    license: str = "unknown",
) -> Path:
    """Copy a checkpoint into the folder ``destination`` and record it as a tool; return the record.

    The network must map images to images with 3 channels, or with 1, which then runs on R, G and B each. ``name``
    defaults to the file's own. How far a pixel's influence reaches is measured once, so that tiles leave no seams.
    Raises MissingExtraError without spandrel, ConservatorError with a sentence for a file or a name that will not do.
    """
    model_path, folder, kinds = Path(model_path), Path(destination), tuple(sorted(set(removes)))
    if not kinds:
        raise ConservatorError(f"say what {model_path.name} removes, one kind at least: {', '.join(Kind)}")
    name = _free_name(name or _name_of(model_path), folder)
    data = read_bytes(model_path)
    model = _build(model_path, data)
    tile, overlap = _tiling(model)
    weights = WeightsFile(name=name + model_path.suffix.lower(), sha256=sha256_of(data))
    record = SpandrelRecord(
        name=name,
        removes=kinds,
        architecture=model.architecture.name,
        license=license,
        channels=model.input_channels,
        scale=model.scale,
        multiple_of=max(1, model.size_requirements.multiple_of),
        tile=tile,
        overlap=overlap,
        weights=weights,
        original=model_path.name,
    )
    return write_tool(folder, weights, data, record)


def _name_of(path: Path) -> str:
    name = re.sub(r"[^a-z0-9]+", "_", path.stem.lower()).strip("_")
    return name if name[:1].isalpha() else f"model_{name}"


def _free_name(name: str, folder: Path) -> str:
    if not re.fullmatch(r"[a-z][a-z0-9_]*", name):
        raise ConservatorError(f"a tool cannot be called {name!r}; use small letters, digits and _, a letter first")
    if name in shipped_names() or (folder / f"{name}.json").exists():
        raise ConservatorError(f"there is a tool {name} already; choose another with --name")
    return name


def _build(path: Path, data: bytes) -> Any:
    """The model descriptor of a checkpoint, on the CPU; refuses what is not an image-to-image network."""
    state = _tensors(path, data)
    spandrel = _import_spandrel()
    try:
        model = spandrel.ModelLoader().load_from_state_dict(state)
    except spandrel.UnsupportedModelError as error:
        raise ConservatorError(f"{path.name}: spandrel does not know the network that these weights are of") from error
    except (
        KeyError,
        ValueError,
        RuntimeError,
        AssertionError,
    ) as error:  # it knew the network, the weights did not fit
        raise ConservatorError(
            f"{path.name}: the weights do not fit the network they seem to be of ({error})"
        ) from error
    if not isinstance(model, spandrel.ImageModelDescriptor):
        raise ConservatorError(
            f"{path.name}: {model.architecture.name} needs a mask; only image-to-image networks will do"
        )
    if model.input_channels not in (1, 3) or model.output_channels != model.input_channels:
        raise ConservatorError(
            f"{path.name}: {model.architecture.name} maps {model.input_channels} channels to {model.output_channels}; "
            "expected 3 to 3 or 1 to 1"
        )
    return model.eval()


def _tensors(path: Path, data: bytes) -> Any:
    """The state dict in a file. Nothing but tensors is unpickled (``weights_only``), so the file cannot run code."""
    suffix = path.suffix.lower()
    if suffix not in _SUFFIXES:
        raise ConservatorError(f"{path.name}: expected a checkpoint that ends in {', '.join(_SUFFIXES)}")
    from safetensors import SafetensorError
    from safetensors.torch import load

    try:
        if suffix == ".safetensors":
            return load(data)
        return torch.load(io.BytesIO(data), map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, SafetensorError, RuntimeError, ValueError, EOFError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise ConservatorError(
            f"{path.name} is not a checkpoint of plain tensors ({reason}); ask its author for a .safetensors file"
        ) from error


def _import_spandrel() -> Any:
    try:
        import spandrel
    except ImportError as error:
        raise MissingExtraError(
            f"this tool needs an optional package ({error}); pip install 'conservator[spandrel]'"
        ) from error
    except RuntimeError as error:
        raise MissingExtraError(
            f"spandrel needs a torchvision that pairs with torch {torch.__version__} ({error}); install both from the "
            "same index: pip install --upgrade torch torchvision spandrel"
        ) from error
    return spandrel


def _apply(model: Any, image: Image) -> Image:
    """Run a network of 3 channels, or of 1 with R, G and B as a batch, on images (B, 3, H, W)."""
    image = image.to(model.device)
    if model.input_channels == 3:
        restored: Tensor = model(image)
        return restored
    planes: Tensor = model(image.reshape(-1, 1, *image.shape[2:]))
    return planes.reshape(-1, 3, *planes.shape[2:])


def _tiling(model: Any) -> tuple[int, int]:
    """The side of a tile and the overlap, from how far a changed patch is felt in the output.

    Tiles are seamless where that is a distance. A network that feels it everywhere (attention over channels) is tiled
    all the same, because a whole photo would not fit into memory; a wide blend hides that its tiles differ a little.
    """
    coarse = torch.rand(1, 3, 12, 12, generator=torch.Generator().manual_seed(0))
    picture = F.interpolate(coarse, size=_PROBE, mode="bicubic").clamp(0, 1)
    changed = picture.clone()
    patch = (..., slice(_PROBE // 2 - 4, _PROBE // 2 + 4), slice(_PROBE // 2 - 4, _PROBE // 2 + 4))
    changed[patch] = 1 - picture[patch].round()
    with torch.inference_mode():
        felt = (_apply(model, picture) - _apply(model, changed)).abs().amax(dim=(0, 1)) > 0.5 / 255
    distances = (felt.nonzero() / model.scale - _PROBE / 2).abs()
    reach = math.ceil(float(distances.max())) - 4 if len(distances) else 0
    if reach >= _PROBE // 2 - 5:
        return 512, 128
    overlap = max(32, math.ceil(4 * reach / 16) * 16)  # run_tiled trusts what lies a quarter of it inside a tile
    return max(512, 4 * overlap), overlap

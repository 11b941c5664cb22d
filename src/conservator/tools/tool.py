"""A tool restores; its spec says what the planner needs to know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from conservator.errors import ImageError, ToolFailedError, name_not_found
from conservator.image import Image, check_image
from conservator.kinds import Kind, Severity
from conservator.tools.tiling import not_enough_memory, out_of_memory, pad_to_fit, run_tiled


@dataclass(frozen=True)
class ToolSpec:
    """What the world knows about a tool without loading it."""

    name: str
    """Unique; also its function name for a language model, so [a-z][a-z0-9_]*."""
    removes: frozenset[Kind]
    description: str
    """One sentence, shown to the planner."""
    source: str
    """Paper or repository."""
    license: str
    """SPDX id of code and weights."""
    multiple_of: int = 1
    """Height and width are padded to a multiple of this, in pixels."""
    scale: int = 1
    """Output size over input size."""
    tile: int | None = 512
    """Side of a tile in pixels; None for a tool that must see the whole image (airlight, histograms)."""
    overlap: int = 32
    """Pixels that neighbouring tiles share; at least the tool's receptive radius for seamless results."""
    severities: frozenset[Severity] = frozenset(Severity)
    """How severe the damage is that it is made for; a planner tries these tools first."""
    cost: float = 1.0
    """Work of a call beside that of other tools: 1 for one that runs over the photo once, for one that adapts itself to
    the photo its iterations at most. Policies choose such a tool only where the user allows it."""


def is_specialist(spec: ToolSpec) -> bool:
    """Whether a tool is for one kind of damage, or for two that look alike; else it is a generalist."""
    return len(spec.removes) <= 2


class Tool(ABC):
    """A restoration model: subclasses write ``setup`` and ``restore``; a call checks, pads, tiles, crops and clips.

    One that must measure the whole photo first writes ``fitted``, too.
    """

    spec: ToolSpec

    @property
    def weights_sha256(self) -> str:
        """Content hash (hex) of the file of weights that the tool runs with, known before ``setup``; "" without one."""
        return ""

    @property
    def identity(self) -> str:
        """By what a pool knows the tool again: its class, how it is tiled, its weights. "" where only the object can
        tell, because the tool is nothing but code and what it was made with.
        """
        sha256, spec = self.weights_sha256, self.spec
        if not sha256:
            return ""
        how = f"{spec.scale} {spec.multiple_of} {spec.tile} {spec.overlap}"
        return f"{type(self).__module__}.{type(self).__qualname__} {spec.name} {how} {sha256}"

    def setup(self, device: str) -> None:  # noqa: B027 - optional hook
        """Load weights onto a torch device. Called once in the worker; before it the tool is cheap and picklable."""

    def fitted(self, image: Image) -> Tool:
        """A tool for this one photo: what must be measured on the whole (a blur kernel, a level of noise) is measured.

        ``image`` is the whole photo (1, 3, H, W), padded as for ``restore``; the tool that comes back then restores it
        tile by tile, alike everywhere. It is another object, or this one where there is nothing to measure: a tool is
        shared by many threads, so fitting must not change it. Called after ``setup``, without gradients.
        """
        return self

    @abstractmethod
    def restore(self, image: Image) -> Image:
        """Restore (B, 3, H, W) in [0, 1], sides multiples of ``spec.multiple_of``; return (B, 3, H*scale, W*scale).

        Deterministic; each item of the batch on its own; called by several threads at once, so it must not write to the
        tool; raise ToolFailedError with a sentence where it cannot work.
        """

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Run the tool on one image of any size; the result is float32 in [0, 1], ``scale`` times as large.

        Raises ImageError for a tensor outside the image convention, ToolFailedError where the tool cannot restore it;
        what else its code raises comes through.
        """
        if len(tensors) != 1:
            raise ImageError(f"{self.spec.name} takes one image, got {len(tensors)} tensors")
        image = check_image(tensors[0])
        measures = type(self).fitted is not Tool.fitted
        try:
            parts = [self._run(item) for item in image.split(1)] if measures else [self._run(image)]
        except ImageError as error:  # not of the image that was given
            raise ToolFailedError(f"{self.spec.name} failed: ImageError: {error}") from error
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def _run(self, image: Image) -> Image:
        tool = self._fitted(image)
        with torch.inference_mode():
            return run_tiled(
                tool.restore,
                image,
                multiple_of=tool.spec.multiple_of,
                scale=tool.spec.scale,
                tile=tool.spec.tile,
                overlap=tool.spec.overlap,
            )

    def _fitted(self, image: Image) -> Tool:
        try:
            with torch.no_grad():  # not inference_mode: one that learns from the photo may switch gradients on
                return self.fitted(pad_to_fit(image, self.spec.multiple_of))
        except (MemoryError, RuntimeError) as error:
            if not out_of_memory(error):
                raise
            raise not_enough_memory(image) from error


class Toolbox(Mapping[str, Tool]):
    """An ordered, immutable set of tools. Its order is the action order of a DQN."""

    def __init__(self, *tools: Tool) -> None:
        self._tools = {tool.spec.name: tool for tool in tools}
        if len(self._tools) < len(tools):
            names = [tool.spec.name for tool in tools]
            twice = sorted({n for n in names if names.count(n) > 1})
            raise ValueError(f"tool names must be unique, but given twice: {', '.join(twice)}")

    def __getitem__(self, name: str) -> Tool:
        try:
            return self._tools[name]
        except KeyError:
            raise name_not_found("tool", name, self._tools) from None

    def __iter__(self) -> Iterator[str]:
        return iter(self._tools)

    def __len__(self) -> int:
        return len(self._tools)

    @property
    def specs(self) -> tuple[ToolSpec, ...]:
        """The specs of all tools, in order."""
        return tuple(tool.spec for tool in self._tools.values())

    def removed_by(self, toolchain: Iterable[str]) -> frozenset[Kind]:
        """The kinds of damage that the tools of a toolchain are for, together."""
        return frozenset[Kind]().union(*(self[tool].spec.removes for tool in toolchain))

    def only(self, *names: str) -> Toolbox:
        """A smaller toolbox of these tools, in this order."""
        return Toolbox(*(self[name] for name in names))

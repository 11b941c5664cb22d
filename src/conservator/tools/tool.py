"""A tool restores; its spec says what the planner needs to know."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from conservator.degradations.kinds import Kind, Severity
from conservator.errors import name_not_found
from conservator.image import Image, check_image
from conservator.tools.tiling import run_tiled


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


def is_specialist(spec: ToolSpec) -> bool:
    """Whether a tool is for one kind of damage, or for two that look alike; else it is a generalist."""
    return len(spec.removes) <= 2


class Tool(ABC):
    """A restoration model: subclasses write ``setup`` and ``restore``; a call checks, pads, tiles, crops and clips."""

    spec: ToolSpec

    def setup(self, device: str) -> None:  # noqa: B027 - optional hook
        """Load weights onto a torch device. Called once in the worker; before it the tool is cheap and picklable."""

    @abstractmethod
    def restore(self, image: Image) -> Image:
        """Restore (B, 3, H, W) in [0, 1], sides multiples of ``spec.multiple_of``; return (B, 3, H*scale, W*scale).

        Deterministic; each item of the batch on its own; raise ToolFailedError with a sentence where it cannot work.
        """

    def __call__(self, *tensors: Tensor) -> Tensor:
        """Run the tool on one image of any size; the result is float32 in [0, 1], ``scale`` times as large.

        Raises ImageError for a tensor outside the image convention.
        """
        (image,) = tensors
        check_image(image)
        with torch.inference_mode():
            return run_tiled(
                self.restore,
                image,
                multiple_of=self.spec.multiple_of,
                scale=self.spec.scale,
                tile=self.spec.tile,
                overlap=self.spec.overlap,
            )


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

    def only(self, *names: str) -> Toolbox:
        """A smaller toolbox of these tools, in this order."""
        return Toolbox(*(self[name] for name in names))

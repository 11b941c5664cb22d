"""What fine-tuning a large planner would need, estimated from the shape of the model: memory of a GPU, and its time.

Nothing here was measured. The estimate counts what must be there (weights, gradients, AdamW's moments, the activations
that are kept when layers are computed twice, the logits) and leaves out what a framework takes beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

GIGA = 1e9


@dataclass(frozen=True)
class Shape:
    """The shape of a vision-language model of Qwen3-VL's architecture."""

    width: int
    layers: int
    hidden: int
    """Width of the feed-forward layers."""
    heads: int
    groups: int
    """Heads of keys and values."""
    vision: float
    """Parameters of the vision tower."""
    head: int = 128
    vocabulary: int = 151_936
    tied: bool = True
    """Whether the last layer is the first one's."""

    @property
    def parameters(self) -> float:
        """All of them."""
        words = self.width * self.vocabulary * (1 if self.tied else 2)
        return self.layers * sum(a * b for a, b in self._linear) + words + self.vision

    def adapter(self, rank: int) -> float:
        """Parameters of adapters of a rank on all linear layers; of the vision tower, in proportion to its size."""
        language = self.layers * sum(rank * (a + b) for a, b in self._linear)
        return language * (1 + self.vision / (self.layers * sum(a * b for a, b in self._linear)))

    @property
    def _linear(self) -> tuple[tuple[int, int], ...]:
        """Inputs and outputs of a layer's linear maps: queries, keys, values, output, and three of the feed-forward."""
        own, shared = self.heads * self.head, self.groups * self.head
        attention = ((self.width, own), (self.width, shared), (self.width, shared), (own, self.width))
        return (*attention, *((self.width, self.hidden),) * 2, (self.hidden, self.width))


SHAPES: Mapping[str, Shape] = {
    "2B": Shape(2048, 28, 6144, 16, 8, 0.4e9),
    "4B": Shape(2560, 36, 9728, 32, 8, 0.4e9),
    "8B": Shape(4096, 36, 12288, 32, 8, 0.6e9, tied=False),
}
"""Qwen3-VL's dense models: the language models are Qwen3's of 1.7, 4 and 8 billion (their configurations, arXiv
2505.09388); the vision towers are of about 0.4 and 0.6 billion (SigLIP 2, arXiv 2511.21631)."""


@dataclass(frozen=True)
class Needs:
    """What one fine-tuning needs."""

    weights: float
    """GB of the file, in bfloat16."""
    adapters: float
    """GB of GPU memory to train adapters."""
    whole: float
    """GB of GPU memory to train the whole model with AdamW in float32."""
    hours: float
    """Of one GPU, to train adapters."""


def estimate_needs(
    shape: Shape,
    questions: int = 20_000,
    epochs: float = 3.0,
    batch: int = 4,
    tokens: int = 1200,
    rank: int = 16,
    operations: float = 3.5e14,
) -> Needs:
    """What training a model of a shape would need, as ``conservator train sft`` does it on a GPU.

    ``tokens`` are those of a question: about 600 that list the tools, 300 of the question, and 320 of the five pictures
    of a study. ``batch`` questions are computed at once (more are gathered, --gather). ``operations`` a second are what
    the GPU reaches: 3.5e14 is 35 % of the dense bfloat16 peak of an H100, as is usual in trainings.
    """
    both, count, learned = batch * tokens, shape.parameters, shape.adapter(rank)
    kept = 2 * both * shape.width * shape.layers  # bytes: the input of each layer, in bfloat16
    layer = 2 * both * (8 * shape.width + 3 * shape.hidden)  # of the one layer that is computed again
    logits = both * shape.vocabulary * (2 + 4 + 4)  # in bfloat16, in float32, and their gradients
    passing = kept + layer + logits
    return Needs(
        weights=2 * count / GIGA,
        adapters=(2 * count + 16 * learned + passing) / GIGA,
        whole=(16 * count + passing) / GIGA,
        # forward, again for its activations, and backward to what is not trained: 2 operations a parameter and token
        hours=3 * 2 * count * questions * epochs * tokens / operations / 3600,
    )


def needs_table(names: Iterable[str] = SHAPES) -> list[str]:
    """The estimate of each shape as a Markdown table, for the default settings of ``estimate_needs``."""
    lines = ["| | parameters | weights | adapters: GPU memory | whole model: GPU memory | adapters: one H100 |"]
    lines.append("|---" * 6 + "|")
    for name in names:
        shape, needs = SHAPES[name], estimate_needs(SHAPES[name])
        memory = f"{needs.weights:.0f} GB | {needs.adapters:.0f} GB | {needs.whole:.0f} GB"
        lines.append(f"| {name} | {shape.parameters / GIGA:.1f} billion | {memory} | {needs.hours:.1f} hours |")
    return lines

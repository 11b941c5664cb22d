"""All toolchains of one picture, run as a tree and scored: how good a decision is among all that could be made.

RestoreAgent (NeurIPS 2024) ranks its decisions among all combinations of task order and model; here the combinations
are counted exactly, a prefix is computed once, and pictures live only while a branch still needs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from conservator.degradations import Kind
from conservator.errors import ConservatorError, ToolFailedError
from conservator.image import Image, digest
from conservator.metrics import FullReference, make_metric
from conservator.pool.pool import Pool
from conservator.tools.tool import ToolSpec

Toolchain: TypeAlias = tuple[str, ...]

MEMORY = 2**30
"""Bytes of pictures that an enumeration holds at a time, unless told otherwise."""
OBJECTIVES: Mapping[str, Mapping[str, float]] = {
    "fidelity": {"psnr": 1.0, "ssim": 0.5},
    "balanced": {"psnr": 1.0, "ssim": 1.0, "lpips": 1.0, "dists": 1.0},
    "perceptual": {"psnr": 0.25, "ssim": 0.5, "lpips": 1.0, "dists": 1.0},
}
"""Weights of the z-scores whose sum is the score of a toolchain; metrics where lower is better count negatively."""


class Space(Protocol):
    """Which toolchains there are: a tree of names."""

    def following(self, toolchain: Toolchain) -> tuple[str, ...]:
        """The tools that may come next."""


@dataclass(frozen=True)
class EachKindOnce:
    """Every order of the kinds and every choice of tool per kind, each kind treated at most once."""

    treats: Mapping[str, frozenset[Kind]]
    """Of each tool, the kinds that are present and that it removes."""

    @classmethod
    def of(cls, specs: Sequence[ToolSpec], present: frozenset[Kind]) -> EachKindOnce:
        """The toolchains over the tools of a toolbox that remove something that is there."""
        return cls({spec.name: spec.removes & present for spec in specs if spec.removes & present})

    def following(self, toolchain: Toolchain) -> tuple[str, ...]:
        """The tools for kinds that none of the toolchain is for."""
        treated = frozenset[Kind]().union(*(self.treats[name] for name in toolchain))
        return tuple(name for name, kinds in self.treats.items() if not kinds & treated)

    def count(self) -> int:
        """How many toolchains there are, the empty one too, where every tool is for one of the kinds.

        The sum over j of j! times the j-th elementary symmetric polynomial of the numbers of tools per kind.
        Raises ConservatorError where a tool is for several: then there is no such formula.
        """
        if any(len(kinds) != 1 for kinds in self.treats.values()):
            raise ConservatorError("the formula counts tools for one kind each; some here are for several")
        kinds = [next(iter(kinds)) for kinds in self.treats.values()]
        choices = [1]  # coefficients of the product of (1 + n x) over the kinds
        for number in (kinds.count(kind) for kind in dict.fromkeys(kinds)):
            choices = [a + number * b for a, b in zip([*choices, 0], [0, *choices], strict=True)]
        return sum(math.factorial(j) * choice for j, choice in enumerate(choices))


@dataclass(frozen=True)
class AnyUpTo:
    """Every sequence of these tools up to a length, the wrong ones and repeats included."""

    names: tuple[str, ...]
    length: int

    def following(self, toolchain: Toolchain) -> tuple[str, ...]:
        """All tools, until the length is reached."""
        return self.names if len(toolchain) < self.length else ()

    def count(self) -> int:
        """How many sequences there are, the empty one too."""
        return sum(len(self.names) ** j for j in range(self.length + 1))


@dataclass(frozen=True)
class Enumeration:
    """All toolchains of one picture, the empty one first, and their scores (N, metrics)."""

    toolchains: tuple[Toolchain, ...]
    metrics: tuple[str, ...]
    scores: NDArray[np.float64]
    calls: int
    """Tool calls made; running each toolchain alone takes the sum of their lengths."""

    def column(self, metric: str) -> NDArray[np.float64]:
        """The scores of one metric, (N,)."""
        return self.scores[:, self.metrics.index(metric)]

    def objective(self, name: str) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """The score (N,) of an objective, higher is better, and the metrics that it is made of.

        z-scores over all toolchains of this picture, weighted and added; a metric that was not measured, or is NaN, is
        left out and not named. A failed tool's toolchains are NaN.
        """
        total, used = np.zeros(len(self.toolchains)), []
        for metric, weight in OBJECTIVES[name].items():
            if metric not in self.metrics:
                continue
            column = np.minimum(self.column(metric), 100.0)  # an identical picture's PSNR is infinite
            spread = float(np.nanstd(column))
            if np.isnan(column).all():
                continue
            sign = 1.0 if make_metric(metric).higher_is_better else -1.0
            total += sign * weight * (column - np.nanmean(column)) / max(spread, 1e-9)
            used.append(metric)
        return total, tuple(used)

    def percentile(self, toolchain: Toolchain, values: NDArray[np.float64]) -> float:
        """The share of the other toolchains that a decision beats or equals, 0 to 1. KeyError for one not in it."""
        if toolchain not in self.toolchains:
            raise KeyError(toolchain)
        mine = values[self.toolchains.index(toolchain)]
        valid = values[~np.isnan(values)]
        return float((valid <= mine).sum() - 1) / max(1, len(valid) - 1)


@dataclass(frozen=True)
class _Node:
    toolchain: Toolchain
    image: Image


def enumerate_toolchains(
    image: Image,
    reference: Image,
    space: Space,
    pool: Pool,
    *,
    metrics: Sequence[str] = ("psnr", "ssim"),
    memory: int = MEMORY,
    progress: Callable[[int], None] = lambda done: None,
) -> Enumeration:
    """Run every toolchain of a space on an image (1, 3, H, W) and score it against the undamaged one.

    Depth first over chunks of siblings: the pictures alive at a time stay within ``memory`` bytes (at least one path
    of the tree with its children). Children by one tool of all pictures of a chunk are one batch. Pictures that are
    equal are scored once. ``progress`` is told how many are done.
    """
    chosen = [_full_reference(name) for name in metrics]
    walk = _Walk(reference, space, pool, chosen, memory, progress)
    walk.visit([_Node((), image)], depth=0)
    order = sorted(walk.scores, key=lambda toolchain: (len(toolchain), toolchain))
    rows = np.array([walk.scores[toolchain] for toolchain in order], np.float64)
    return Enumeration(tuple(order), tuple(metrics), rows, walk.calls)


def _full_reference(name: str) -> FullReference:
    metric = make_metric(name)
    if not isinstance(metric, FullReference):
        raise ConservatorError(f"{name} needs no reference; toolchains are ranked by metrics with one")
    return metric


class _Walk:
    """The state of one enumeration."""

    def __init__(
        self,
        reference: Image,
        space: Space,
        pool: Pool,
        metrics: Sequence[FullReference],
        memory: int,
        progress: Callable[[int], None],
    ) -> None:
        self.reference, self.space, self.pool, self.metrics = reference, space, pool, metrics
        self.memory, self.progress = memory, progress
        self.scores: dict[Toolchain, tuple[float, ...]] = {}
        self.calls = 0
        self._known: dict[str, tuple[float, ...]] = {}

    def visit(self, nodes: list[_Node], depth: int) -> None:
        """Score these nodes, then their branches, a chunk at a time."""
        for node in nodes:
            self.scores[node.toolchain] = self._score(node.image)
        self.progress(len(self.scores))
        for chunk in self._chunks(nodes, depth):
            children = self._children(chunk)
            if children:
                self.visit(children, depth + 1)

    def _chunks(self, nodes: list[_Node], depth: int) -> Iterator[list[_Node]]:
        """Parents whose children fit into this depth's share of the memory: half of it, a quarter, and so on."""
        share = self.memory / 2 ** (depth + 1)
        chunk: list[_Node] = []
        size = 0.0
        for node in nodes:
            cost = float(len(self.space.following(node.toolchain)) * node.image.numel() * 4)
            if chunk and size + cost > share:
                yield chunk
                chunk, size = [], 0.0
            chunk.append(node)
            size += cost
        if chunk:
            yield chunk

    def _children(self, parents: list[_Node]) -> list[_Node]:
        """Each tool once on the batch of the parents that it may follow; what fails is scored NaN, with its branch."""
        wanted: dict[tuple[str, tuple[int, ...]], list[_Node]] = {}
        for parent in parents:
            for name in self.space.following(parent.toolchain):
                wanted.setdefault((name, tuple(parent.image.shape)), []).append(parent)
        calls = [
            (name, group, self.pool.submit(name, torch.cat([parent.image for parent in group])))
            for (name, _), group in wanted.items()
        ]  # the pool works on several tools at a time
        children: list[_Node] = []
        for name, group, call in calls:
            self.calls += len(group)
            try:
                images = call.result()
            except ToolFailedError:
                children.extend(self._one_by_one(name, group))
                continue
            children += [_Node((*p.toolchain, name), image[None]) for p, image in zip(group, images, strict=True)]
        return children

    def _one_by_one(self, name: str, group: list[_Node]) -> Iterator[_Node]:
        """A batch in which one picture failed: the others are saved."""
        for parent in group:
            toolchain = (*parent.toolchain, name)
            try:
                yield _Node(toolchain, self.pool.submit(name, parent.image).result())
            except ToolFailedError:
                self._fail(toolchain)

    def _fail(self, toolchain: Toolchain) -> None:
        self.scores[toolchain] = (math.nan,) * len(self.metrics)
        for name in self.space.following(toolchain):
            self._fail((*toolchain, name))

    def _score(self, image: Image) -> tuple[float, ...]:
        """The metrics of a picture; one that was scored before (a tool changed nothing, two commute) is looked up."""
        key = digest(image)
        if key not in self._known:
            self._known[key] = tuple(metric.score(image, self.reference) for metric in self.metrics)
        return self._known[key]

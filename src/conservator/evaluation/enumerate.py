"""All toolchains of one picture, run as a tree and scored: how good a decision is among all that could be made.

RestoreAgent (NeurIPS 2024) ranks its decisions among all combinations of task order and model; here the combinations
are counted exactly, a prefix is computed once, and pictures live only while a branch still needs them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from conservator.errors import ConservatorError, ToolFailedError
from conservator.evaluation.journal import EnumerationJournal, Scored
from conservator.evaluation.spaces import AnyUpTo, EachKindOnce, Space, Toolchain, toolchains_of
from conservator.image import Image, digest
from conservator.kinds import OBJECTIVE_WEIGHTS
from conservator.metrics import FullReference, make_metric
from conservator.pool import Pool
from conservator.resample import bicubic_to

__all__ = [
    "AnyUpTo",
    "EachKindOnce",
    "Enumeration",
    "Space",
    "Toolchain",
    "enumerate_toolchains",
    "mean_scores",
]

MEMORY = 2**30
"""Bytes of pictures that an enumeration holds at a time, unless told otherwise."""
_BATCH = 4
"""Pictures of one call: few fit into a CPU's caches, and while it runs the results of the one before are scored."""


@dataclass(frozen=True)
class Enumeration:
    """All toolchains of one picture, the empty one first, and their scores (N, metrics)."""

    toolchains: tuple[Toolchain, ...]
    metrics: tuple[str, ...]
    scores: NDArray[np.float64]
    calls: int
    """Tool calls that this run made; running each toolchain alone takes the sum of their lengths."""

    def column(self, metric: str) -> NDArray[np.float64]:
        """The scores of one metric, (N,)."""
        return self.scores[:, self.metrics.index(metric)]

    def objective(
        self, name: str, scores: NDArray[np.float64] | None = None
    ) -> tuple[NDArray[np.float64], tuple[str, ...]]:
        """The value (N,) of an objective, higher is better, and the metrics that it is made of.

        z-scores over all toolchains of this picture, weighted and added; a metric that was not measured, or is NaN, is
        left out and not named. A failed tool's toolchains are NaN. ``scores`` (M, metrics) values other pictures by
        the same means and deviations.
        """
        scores = self.scores if scores is None else scores
        total, used = np.zeros(len(scores)), []
        for metric, weight in OBJECTIVE_WEIGHTS[name].items():
            if metric not in self.metrics:
                continue
            known = _full_reference(metric)
            column = np.minimum(self.column(metric), known.at_most)
            if np.isnan(column).all():
                continue
            sign = 1.0 if known.higher_is_better else -1.0
            mine = np.minimum(scores[:, self.metrics.index(metric)], known.at_most)
            total += sign * weight * (mine - np.nanmean(column)) / max(float(np.nanstd(column)), 1e-9)
            used.append(metric)
        return total, tuple(used)

    def percentile(self, toolchain: Toolchain, values: NDArray[np.float64]) -> float:
        """The share of the other toolchains that a decision beats or equals, 0 to 1. KeyError for one not in it."""
        if toolchain not in self.toolchains:
            raise KeyError(toolchain)
        others = np.delete(values, self.toolchains.index(toolchain))
        return share_below(values[self.toolchains.index(toolchain)], others)


def share_below(value: float, others: NDArray[np.float64]) -> float:
    """The share of ``others`` (N,), NaN left out, that a value beats or equals: 0 to 1, 1 where there are none."""
    valid = others[~np.isnan(others)]
    if math.isnan(value):
        return math.nan
    return float((valid <= value).mean()) if len(valid) else 1.0


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
    metrics: Sequence[str | FullReference] = ("psnr", "ssim"),
    memory: int = MEMORY,
    journal: Path | None = None,
    progress: Callable[[int], None] = lambda done: None,
) -> Enumeration:
    """Run every toolchain of a space on an image, or a study (B, 3, H, W), and score it against the undamaged one.

    Depth first over chunks of siblings: the pictures alive at a time stay within ``memory`` bytes (at least one path
    of the tree with its children). Children by one tool of the pictures of a chunk run in batches. A branch that
    starts at a picture which was there before (a tool changed nothing, two commute) is not run again. ``journal`` is a
    file that grows by every score: the same call goes on where a killed one stopped, and a finished one costs nothing.
    ``progress`` is told how many are done. Raises ConservatorError for a metric without a reference, or a journal of
    something else.
    """
    scorers = [_full_reference(name) for name in metrics]
    about = {"image": digest(image), "reference": digest(reference), "metrics": [metric.name for metric in scorers]}
    with EnumerationJournal(journal, about) as kept:
        walk = _Walk(reference, space, pool, scorers, memory, kept, progress)
        walk.start(image)
    order = sorted(toolchains_of(space), key=lambda toolchain: (len(toolchain), toolchain))
    rows = np.array([kept.known[toolchain].scores for toolchain in order], np.float64)
    return Enumeration(tuple(order), tuple(metric.name for metric in scorers), rows, walk.calls)


def mean_scores(image: Image, reference: Image, metrics: Sequence[str | FullReference]) -> tuple[float, ...]:
    """Full-reference scores of an image or a study (B, 3, H, W), means over its items.

    A picture of another size is brought to the reference's by MATLAB's bicubic, as the MiO protocol has it.
    """
    return _scores(image, reference, [_full_reference(name) for name in metrics])


def _scores(image: Image, reference: Image, metrics: Sequence[FullReference]) -> tuple[float, ...]:
    if image.shape != reference.shape:
        image = bicubic_to(image, *reference.shape[-2:])
    pairs = list(zip(image.split(1), reference.split(1), strict=True))
    return tuple(sum(metric.score(*pair) for pair in pairs) / len(pairs) for metric in metrics)


def _full_reference(metric: str | FullReference) -> FullReference:
    """A metric by name, or as it is."""
    found = make_metric(metric) if isinstance(metric, str) else metric
    if not isinstance(found, FullReference):
        raise ConservatorError(f"{found.name} needs no reference; toolchains are ranked by metrics with one")
    return found


class _Walk:
    """The state of one enumeration."""

    def __init__(
        self,
        reference: Image,
        space: Space,
        pool: Pool,
        metrics: Sequence[FullReference],
        memory: int,
        journal: EnumerationJournal,
        progress: Callable[[int], None],
    ) -> None:
        self._reference, self._space, self._pool, self._metrics = reference, space, pool, metrics
        self._memory, self._journal, self._progress = memory, journal, progress
        self.calls = 0
        self._finished = self._finished_branches()
        self._scores = {scored.digest: scored.scores for scored in journal.known.values() if scored.digest}
        self._first = {self._state(t, journal.known[t].digest): t for t in self._finished if journal.known[t].digest}
        self._twins: dict[Toolchain, Toolchain] = {}
        """Of a toolchain that led where another had been: the other, whose branch is its own."""

    def start(self, image: Image) -> None:
        """Score everything that the journal does not hold yet."""
        root = _Node((), image)
        if () not in self._finished and self._arrive(root):
            self._visit([root], depth=0)
        for twin in self._twins:
            for toolchain in toolchains_of(self._space, twin):
                if toolchain not in self._journal.known:
                    self._journal.add(toolchain, self._journal.known[self._original(toolchain)])
        self._progress(len(self._journal.known))

    def _finished_branches(self) -> set[Toolchain]:
        """Toolchains that a run before scored with everything that may follow them."""
        known, finished = self._journal.known, set[Toolchain]()
        for toolchain in sorted(known, key=len, reverse=True):
            if all((*toolchain, name) in finished for name in self._space.following(toolchain)):
                finished.add(toolchain)
        return finished

    def _state(self, toolchain: Toolchain, picture: str) -> tuple[object, ...]:
        return picture, self._space.rest(toolchain)

    def _original(self, toolchain: Toolchain) -> Toolchain:
        """The toolchain that was run instead of this one."""
        while toolchain not in self._journal.known:
            stem = next(n for n in range(len(toolchain), -1, -1) if toolchain[:n] in self._twins)
            toolchain = (*self._twins[toolchain[:stem]], *toolchain[stem:])
        return toolchain

    def _arrive(self, node: _Node) -> bool:
        """Score a picture; whether its branch is to be run: not if one that started equally is or was."""
        picture = digest(node.image)
        if node.toolchain not in self._journal.known:
            if picture not in self._scores:
                self._scores[picture] = _scores(node.image, self._reference, self._metrics)
            self._journal.add(node.toolchain, Scored(picture, self._scores[picture]))
            self._progress(len(self._journal.known))
        first = self._first.setdefault(self._state(node.toolchain, picture), node.toolchain)
        if first != node.toolchain:
            self._twins[node.toolchain] = first
        return first == node.toolchain

    def _visit(self, nodes: list[_Node], depth: int) -> None:
        """Run the branches of these nodes, a chunk at a time."""
        for chunk in self._chunks(nodes, depth):
            children = self._children(chunk)
            if children:
                self._visit(children, depth + 1)

    def _missing(self, toolchain: Toolchain) -> list[str]:
        return [name for name in self._space.following(toolchain) if (*toolchain, name) not in self._finished]

    def _chunks(self, nodes: list[_Node], depth: int) -> Iterator[list[_Node]]:
        """Parents whose children fit into this depth's share of the memory: half of it, a quarter, and so on."""
        share = self._memory / 2 ** (depth + 1)
        chunk: list[_Node] = []
        size = 0.0
        for node in nodes:
            cost = 8.0 * len(self._missing(node.toolchain)) * node.image.numel()  # what goes in and what comes out
            if chunk and size + cost > share:
                yield chunk
                chunk, size = [], 0.0
            chunk.append(node)
            size += cost
        if chunk:
            yield chunk

    def _children(self, parents: list[_Node]) -> list[_Node]:
        """Each tool on the parents that it may follow, scored as they come; those whose branches are to be run."""
        wanted: dict[tuple[str, tuple[int, ...]], list[_Node]] = {}
        for parent in parents:
            for name in self._missing(parent.toolchain):
                wanted.setdefault((name, tuple(parent.image.shape)), []).append(parent)
        batches = [
            (i, name, group[i : i + _BATCH])
            for (name, _), group in wanted.items()
            for i in range(0, len(group), _BATCH)
        ]
        batches.sort(key=lambda batch: batch[0])  # the tools in turn, so that all of them are at work
        calls = [(name, group, self._call(name, group)) for _, name, group in batches]
        children = [node for call in calls for node in self._results(*call)]
        return [node for node in children if self._space.following(node.toolchain)]

    def _call(self, name: str, group: list[_Node]) -> Future[Image]:
        self.calls += len(group)
        return self._pool.submit(name, torch.cat([parent.image for parent in group]))

    def _results(self, name: str, group: list[_Node], call: Future[Image]) -> Iterator[_Node]:
        """The pictures of one batch that start a branch of their own; what fails is scored NaN, with its branch."""
        try:
            images = call.result().split(len(group[0].image))
        except ToolFailedError:
            for parent in group:
                yield from self._alone(name, parent)
            return
        for parent, image in zip(group, images, strict=True):
            node = _Node((*parent.toolchain, name), image)
            if self._arrive(node):
                yield node

    def _alone(self, name: str, parent: _Node) -> Iterator[_Node]:
        """One picture of a batch that failed."""
        toolchain = (*parent.toolchain, name)
        self.calls += 1
        try:
            node = _Node(toolchain, self._pool.submit(name, parent.image).result())
        except ToolFailedError:
            for lost in toolchains_of(self._space, toolchain):
                if lost not in self._journal.known:
                    self._journal.add(lost, Scored("", (math.nan,) * len(self._metrics)))
            return
        if self._arrive(node):
            yield node

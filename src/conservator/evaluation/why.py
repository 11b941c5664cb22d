"""Why agents: RestoreAgent's motivation, measured again with our tools, a panel at a time.

RestoreAgent (NeurIPS 2024) argues that no fixed recipe will do: specialists beat one network over the whole range, an
all-in-one network helps after a single task and not instead of it, wrong orders cost, the same damages in other
patterns want other orders, and no one model is right for a task. Each claim is a panel: a table and strips of pictures
at full size. Damage is drawn by seed onto the middle of each photo; whatever the figures say is what they say.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import permutations
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from conservator.degradations import (
    BY_KIND,
    RESTOREAGENT_COMBINATIONS,
    GaussianNoise,
    JpegCompression,
    degrade,
    mio_recipe,
)
from conservator.degradations.degradation import Degradation, Recipe
from conservator.degradations.protocols import ALL_IN_ONE_COMBINATIONS, Combination
from conservator.errors import ConservatorError, ToolFailedError
from conservator.evaluation.grid import Grid
from conservator.evaluation.intervals import mean_cell
from conservator.image import Image, in_8_bits
from conservator.kinds import TAUGHT, Kind, Severity, kinds_in_words
from conservator.metrics.fidelity import TABLE_CAP, psnr
from conservator.photo import load_photo
from conservator.pool import MemoPool, Pool
from conservator.tools.tool import Toolbox, is_specialist

SIDE = 256
"""Pixels of the middle of a photo that is damaged, each side at most: what a study shows at full size."""
_SHOWN = 160
"""Pixels of a picture in a strip, at full size."""
_SIGMAS = (5, 15, 25, 40, 60)
_QUALITIES = (80, 50, 30, 20, 10)
_ALL = "generalist"
_ALONE = 1000
"""Begins the seeds of single damages; the numbers of combinations are smaller."""


@dataclass(frozen=True)
class Strip:
    """Pictures beside each other, with what each is."""

    title: str
    pictures: tuple[tuple[str, Image], ...]
    """Captions and pictures (1, 3, h, w) at full size."""


@dataclass(frozen=True)
class PanelFound:
    """What a panel shows."""

    grids: tuple[Grid, ...]
    strips: tuple[Strip, ...]


class Bench:
    """The photos' middles, damaged by seed, and the tools; every call is made once."""

    def __init__(self, photos: Sequence[Path], toolbox: Toolbox, pool: Pool, seed: int = 0) -> None:
        """Raises ConservatorError where the toolbox has no generalist, or there are no photos."""
        if _ALL not in toolbox:
            raise ConservatorError(f"there is no tool '{_ALL}' in the toolbox; choose one that has it, say conservator")
        if not photos:
            raise ConservatorError("there are no photos; give a folder that holds some")
        self.names = [path.name for path in photos]
        self.clean = [in_8_bits(_middle(load_photo(path).image, SIDE)) for path in photos]
        self.toolbox, self._pool, self._seed = toolbox, MemoPool(pool), seed
        self._usual: dict[Kind, str] = {}

    def damaged(self, place: int, recipe: Recipe) -> Image:
        """A photo's middle with a damage."""
        return in_8_bits(degrade(self.clean[place], recipe))

    def rng(self, *numbers: int) -> np.random.Generator:
        """Chance that belongs to a case."""
        return np.random.default_rng([self._seed, *numbers])

    def treated(self, image: Image, toolchain: Sequence[str]) -> Image:
        """What a toolchain makes of an image; a tool that fails leaves it as it is."""
        for tool in toolchain:
            try:
                image = self._pool.submit(tool, image).result()
            except ToolFailedError:
                continue
        return image

    def gain(self, place: int, damaged: Image, toolchain: Sequence[str]) -> float:
        """PSNR (RGB, dB) that a toolchain gains on a photo's middle."""
        clean = self.clean[place]
        return psnr(self.treated(damaged, toolchain), clean, TABLE_CAP) - psnr(damaged, clean, TABLE_CAP)

    def cell(self, gains: Sequence[float]) -> str:
        """Their mean, with the interval by photo: the gains are the photos', in their order, once or several times."""
        return mean_cell(np.array(gains), [self.names[i % len(self.names)] for i in range(len(gains))])

    def for_kind(self, kind: Kind) -> list[str]:
        """The tools for one kind of damage, which keep the size."""
        specs = self.toolbox.specs
        return [s.name for s in specs if kind in s.removes and is_specialist(s) and s.scale == 1 and s.cost <= 1]

    def usual(self, kind: Kind) -> str:
        """The tool for a kind of damage that gains most in the mean where that is all the damage (MiO's ranges)."""
        if kind not in self._usual:
            cases = [self.damaged(i, mio_recipe((kind,), self.rng(_ALONE, i))) for i in range(len(self.names))]
            means = {
                tool: sum(self.gain(i, image, (tool,)) for i, image in enumerate(cases)) for tool in self.for_kind(kind)
            }
            self._usual[kind] = max(means, key=lambda tool: means[tool])
        return self._usual[kind]


def levels(bench: Bench) -> PanelFound:
    """Specialists by level against one network over the range: gain of each tool at each strength of a damage."""
    grids, strips = [], []
    sweeps: Mapping[Kind, Mapping[str, Degradation]] = {
        Kind.NOISE: {f"sigma {sigma}": GaussianNoise(sigma=sigma / 255, seed=1) for sigma in _SIGMAS},
        Kind.JPEG: {f"quality {quality}": JpegCompression(quality=quality) for quality in _QUALITIES},
    }
    for kind, sweep in sweeps.items():
        tools = [*bench.for_kind(kind), _ALL]
        damaged = {level: [bench.damaged(i, (one,)) for i in _all(bench)] for level, one in sweep.items()}
        lines = [
            (
                tool,
                *(
                    bench.cell([bench.gain(i, image, (tool,)) for i, image in enumerate(images)])
                    for images in damaged.values()
                ),
            )
            for tool in tools
        ]
        grids.append(Grid(f"{kind.label}: gain in dB of each tool by strength", ("tool", *sweep), tuple(lines)))
        chains = {tool: (tool,) for tool in tools}
        strips += [
            _strip(bench, f"{kind.label}, {level}", damaged[level][0], chains)
            for level in (next(iter(sweep)), list(sweep)[-1])
        ]
    return PanelFound(tuple(grids), tuple(strips))


def all_in_one(bench: Bench) -> PanelFound:
    """A single-task tool against an all-in-one network, and one after the other, on RestoreAgent's four sets."""
    lines, strips = [], []
    for c, combination in enumerate(ALL_IN_ONE_COMBINATIONS):
        cases = [bench.damaged(i, mio_recipe(combination, bench.rng(c, i))) for i in _all(bench)]
        usual = tuple(bench.usual(kind) for kind in reversed(combination))
        chains = {
            "one single-task tool": usual[:1],
            "all-in-one": (_ALL,),
            "single task, then all-in-one": (usual[0], _ALL),
            "all-in-one, then single task": (_ALL, usual[0]),
            "a single-task tool for each": usual,
        }
        cells = (
            bench.cell([bench.gain(i, image, chain) for i, image in enumerate(cases)]) for chain in chains.values()
        )
        lines.append((kinds_in_words(combination), *cells))
        strips.append(_strip(bench, kinds_in_words(combination), cases[0], chains))
    return PanelFound(
        (Grid("Gain in dB, the last damage treated first", ("damages", *chains), tuple(lines)),), tuple(strips)
    )


def orders(bench: Bench) -> PanelFound:
    """Wrong orders: the best, the mean and the worst order of one tool for each damage."""
    lines, strips = [], []
    for c, combination in enumerate(RESTOREAGENT_COMBINATIONS):
        chains, gains = _in_every_order(bench, c, combination)
        best, worst = gains.max(1), gains.min(1)
        usual = int(gains.mean(0).argmax())
        cells = (bench.cell(list(part)) for part in (best, gains[:, usual], gains.mean(1), worst, best - worst))
        lines.append((kinds_in_words(combination), str(len(chains)), *cells))
        if len(chains) > 1:
            image = bench.damaged(0, mio_recipe(combination, bench.rng(c, 0)))
            shown = {"best order": chains[int(gains[0].argmax())], "worst order": chains[int(gains[0].argmin())]}
            strips.append(_strip(bench, kinds_in_words(combination), image, shown))
    head = (
        "damages",
        "orders",
        "best for each",
        "one order for all",
        "mean of all",
        "worst for each",
        "best less worst",
    )
    return PanelFound((Grid("Gain in dB by order", head, tuple(lines)),), tuple(strips))


def patterns(bench: Bench) -> PanelFound:
    """The same damages in other patterns: how often which order is best, and what the most frequent one loses."""
    lines, strips = [], []
    for c, combination in enumerate(RESTOREAGENT_COMBINATIONS):
        chains, gains = _in_every_order(bench, c, combination)
        first = gains.argmax(1)
        counts = np.bincount(first, minlength=len(chains))
        usual = int(counts.argmax())
        lines.append(
            (
                kinds_in_words(combination),
                f"{int((counts > 0).sum())} of {len(chains)}",
                f"{counts[usual]} of {len(first)}",
                " → ".join(chains[usual]),
                bench.cell(list(gains.max(1) - gains[:, usual])),
            )
        )
        different = [i for i in _all(bench) if first[i] != first[0]][:1]
        shown = {f"best for {bench.names[i]}": chains[first[i]] for i in (0, *different)}
        for i in (0, *different) if different else ():
            image = bench.damaged(i, mio_recipe(combination, bench.rng(c, i)))
            strips.append(_strip(bench, f"{kinds_in_words(combination)}: {bench.names[i]}", image, shown, i))
    head = ("damages", "orders that are best somewhere", "the most frequent is best", "which", "what it loses, dB")
    return PanelFound((Grid("Which order is best", head, tuple(lines)),), tuple(strips))


def one_model(bench: Bench) -> PanelFound:
    """One fixed model for a task: the tool that is best in the mean against the best of each picture."""
    lines, strips = [], []
    for k, kind in enumerate(TAUGHT):
        tools = bench.for_kind(kind)
        if len(tools) < 2:
            continue
        cases = [
            (i, bench.damaged(i, (_of_kind(kind, severity, bench.rng(k, i, severity)),)))
            for severity in list(Severity)[1:]
            for i in _all(bench)
        ]
        gains = np.array([[bench.gain(i, image, (tool,)) for tool in tools] for i, image in cases])
        usual = int(gains.mean(0).argmax())
        best = gains.max(1)
        lines.append(
            (
                kind.label,
                tools[usual],
                *(bench.cell(list(part)) for part in (gains[:, usual], best, best - gains[:, usual])),
                f"{int((gains.argmax(1) != usual).sum())} of {len(cases)}",
            )
        )
        place = int((best - gains[:, usual]).argmax())
        i, image = cases[place]
        shown = {f"always: {tools[usual]}": (tools[usual],), "best here": (tools[int(gains[place].argmax())],)}
        strips.append(_strip(bench, kind.label, image, shown, i))
    head = ("damage", "best in the mean", "always that one", "the best for each", "difference, dB", "another is better")
    return PanelFound((Grid("One fixed tool for a damage: gain in dB", head, tuple(lines)),), tuple(strips))


PANELS: Mapping[str, Callable[[Bench], PanelFound]] = {
    "levels": levels,
    "all-in-one": all_in_one,
    "orders": orders,
    "patterns": patterns,
    "one-model": one_model,
}
"""The panels of docs/why.md, by the names that ``conservator bench why`` takes."""


def _in_every_order(
    bench: Bench, number: int, combination: Combination
) -> tuple[list[tuple[str, ...]], NDArray[np.float64]]:
    """All orders of the usual tool for each damage, and their gains (photos, orders)."""
    chains = list(permutations(bench.usual(kind) for kind in reversed(combination)))
    cases = [bench.damaged(i, mio_recipe(combination, bench.rng(number, i))) for i in _all(bench)]
    return chains, np.array([[bench.gain(i, image, chain) for chain in chains] for i, image in enumerate(cases)])


def _of_kind(kind: Kind, severity: Severity, rng: np.random.Generator) -> Degradation:
    return BY_KIND[kind][0].sample(severity, rng)


def _strip(bench: Bench, title: str, damaged: Image, chains: Mapping[str, Sequence[str]], place: int = 0) -> Strip:
    """The damaged picture, what each toolchain makes of it with its gain, the undamaged picture."""
    pictures = [("damaged", damaged)]
    for name, chain in chains.items():
        pictures.append((f"{name} {bench.gain(place, damaged, chain):+.1f} dB", bench.treated(damaged, chain)))
    pictures.append(("undamaged", bench.clean[place]))
    return Strip(title, tuple((caption, _middle(image, _SHOWN)) for caption, image in pictures))


def _middle(image: Image, side: int) -> Image:
    """The middle of an image, at most ``side`` pixels each way; it begins where a JPEG's blocks do."""
    top, left = (max(0, n - side) // 2 // 16 * 16 for n in image.shape[-2:])
    return image[..., top : top + side, left : left + side].contiguous()


def _all(bench: Bench) -> range:
    return range(len(bench.names))

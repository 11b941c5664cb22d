"""How well perception tells the better of two states without a reference, beside the usual no-reference metrics."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.stats import spearmanr

from conservator.degradations import Kind, degrade, mio_recipe
from conservator.errors import ConservatorError, ToolFailedError
from conservator.evaluation.perception import COMBINATIONS
from conservator.image import Image, in_8_bits
from conservator.metrics import DEFAULT_NO_REFERENCE, METRICS, NoReference
from conservator.metrics.fidelity import TABLE_CAP, psnr, ssim
from conservator.perception.perception import Look, Perception
from conservator.perception.study import study
from conservator.photo import load_photo
from conservator.tools.tool import Toolbox, ToolSpec, is_specialist

_STATES = 8
_BINS = ((0.5, "half a deviation"), (2.0, "two deviations"))


@dataclass(frozen=True)
class Assessed:
    """The states of one photo: their true balanced scores (S,), and what each measure says of them."""

    truth: NDArray[np.float64]
    said: Mapping[str, NDArray[np.float64]]


def _mean(score: Callable[[Image, Image], float], image: Image, reference: Image) -> float:
    pairs = zip(image.split(1), reference.split(1), strict=True)
    return float(np.mean([np.minimum(score(*pair), TABLE_CAP) for pair in pairs]))


def balanced(psnrs: Sequence[float], ssims: Sequence[float]) -> NDArray[np.float64]:
    """z(psnr) + z(ssim) over the states of a photo, in deviations of that sum, (S,)."""
    total = sum(((x - x.mean()) / max(float(x.std()), 1e-9) for x in (np.array(psnrs), np.array(ssims))), np.zeros(1))
    return total / max(float(total.std()), 1e-9)


def _assess(states: Sequence[tuple[Image, frozenset[Kind]]], reference: Image, perception: Perception) -> Assessed:
    looks = [Look(image, perception.grade(image)) for image, _ in states]
    gains = [perception.weigh(looks[0], look, kinds) for look, (_, kinds) in zip(looks, states, strict=True)]
    said = {
        "perception, beside the input": [gain.cautious("balanced") for gain in gains],
        "perception, alone": [look.percept.quality for look in looks],
    }
    for name in DEFAULT_NO_REFERENCE:
        metric = METRICS[name]
        assert isinstance(metric, NoReference)
        sign = 1 if metric.higher_is_better else -1
        said[name] = [sign * float(np.mean([metric.score(x) for x in image.split(1)])) for image, _ in states]
    images = [image for image, _ in states]
    truth = balanced([_mean(psnr, x, reference) for x in images], [_mean(ssim, x, reference) for x in images])
    return Assessed(truth, {name: np.array(values) for name, values in said.items()})


def treated_states(
    start: Image, kinds: frozenset[Kind], toolbox: Toolbox, rng: np.random.Generator, count: int = _STATES
) -> list[tuple[Image, frozenset[Kind]]]:
    """The input and what random toolchains, mostly for ``kinds``, leave of it; equal pictures once.

    ``count`` pictures at most, each with what was treated in it. The tools must be set up.
    """
    specs = [spec for spec in toolbox.specs if spec.scale == 1 and is_specialist(spec)]
    states = [(start, frozenset[Kind]())]
    for _ in range(4 * count):
        if len(states) >= count:
            break
        image, treated = states[int(rng.integers(len(states)))]
        fitting = [spec for spec in specs if spec.removes & kinds]
        choices = fitting if fitting and rng.random() < 0.8 else specs
        spec: ToolSpec = choices[int(rng.integers(len(choices)))]
        try:
            after = toolbox[spec.name](image)
        except ToolFailedError:
            continue
        if not any(torch.equal(after, old) for old, _ in states):
            states.append((after, treated | spec.removes))
    return states


def assessed(
    perception: Perception, photos: Sequence[Path], toolbox: Toolbox, seed: int, every: int
) -> Iterator[tuple[Assessed, bool]]:
    """The states of every ``every``-th combination of each photo, and of the clean photo (True)."""
    for p, path in enumerate(photos):
        clean = load_photo(path).image
        rng = np.random.default_rng([seed, p, 5])
        yield _assess(treated_states(study(clean), frozenset(), toolbox, rng), study(clean), perception), True
        for c in range(p % every, len(COMBINATIONS), every):
            recipe = mio_recipe(COMBINATIONS[c], np.random.default_rng([seed, c, p]))
            if Kind.LOW_RESOLUTION in COMBINATIONS[c]:
                continue
            damaged = in_8_bits(degrade(clean, recipe))
            states = treated_states(study(damaged), frozenset(COMBINATIONS[c]), toolbox, rng)
            if len(states) > 2:
                yield _assess(states, study(clean, like=damaged), perception), False


def quality_table(found: Sequence[tuple[Assessed, bool]]) -> list[str]:
    """Share of pairs told rightly, Spearman within a photo, and clean photos above all that tools made of them."""
    damaged, clean = [x for x, is_clean in found if not is_clean], [x for x, is_clean in found if is_clean]
    heads = [f"better of two, over {label} apart" for _, label in _BINS]
    lines = [f"| measure | {' | '.join(heads)} | Spearman | clean above each treatment |", "|---|---|---|---|---|"]
    for name in damaged[0].said:
        shares = [f"{_pairs(damaged, name, apart):.1%}" for apart, _ in _BINS]
        rank = np.nanmean([rank_correlation(x.truth, x.said[name]) for x in damaged])
        above = np.mean([value for x in clean for value in x.said[name][0] > x.said[name][1:]])
        lines.append(f"| {name} | {' | '.join(shares)} | {rank:.2f} | {above:.1%} |")
    return lines


def _pairs(found: Sequence[Assessed], name: str, apart: float) -> float:
    right = []
    for x in found:
        a, b = np.triu_indices(len(x.truth), 1)
        said = x.said[name][a] - x.said[name][b]
        far = (np.abs(x.truth[a] - x.truth[b]) > apart) & ~np.isnan(said)
        agreed = np.sign(said) * np.sign(x.truth[a] - x.truth[b])
        right.extend((0.5 + agreed[far] / 2).tolist())  # what says the same of both is right by half
    return float(np.mean(right)) if right else float("nan")


def rank_correlation(truth: NDArray[np.float64], said: NDArray[np.float64]) -> float:
    """Spearman's correlation of truth and measure, by ranks, ties sharing theirs: 0 for one that says the same of all.

    What either could not say is left out; NaN where too little is left to compare.
    """
    known = ~np.isnan(truth) & ~np.isnan(said)
    if known.sum() < 2 or np.ptp(truth[known]) == 0:
        return float("nan")
    return 0.0 if np.ptp(said[known]) == 0 else float(spearmanr(truth[known], said[known]).statistic)


def bench_quality(
    perception: Perception,
    photos: Sequence[Path],
    toolbox: Toolbox,
    report: Callable[[str], None],
    seed: int,
    every: int = 3,
) -> list[str]:
    """Assess the states that random toolchains leave of photos; the lines of a Markdown report."""
    if not photos:
        raise ConservatorError("there are no photos; give a folder of clean photos")
    for tool in toolbox.values():
        tool.setup("cpu")
    lines = quality_table(list(assessed(perception, photos, toolbox, seed, every)))
    for line in lines:
        report(line)
    return lines

"""How well what rates pictures without references agrees with metrics that have them: by ranks, by photo.

Damaged and treated states of photos are rated. *Within a photo* the states of one damaged photo are ranked: that is
what a policy is paid for. *Across photos* all states of all photos are ranked together, which is how rating is usually
measured, and is harder: a photo of grass is not a photo of fog.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from conservator.degradations import HELD_OUT, Degradation, Recipe, degrade, mio_recipe
from conservator.errors import ConservatorError
from conservator.evaluation.intervals import mean_cell, statistic_interval
from conservator.evaluation.perception import COMBINATIONS
from conservator.evaluation.quality import rank_correlation, treated_states
from conservator.image import Image, in_8_bits
from conservator.kinds import NATURE, Kind, Severity
from conservator.metrics import FullReference
from conservator.perception.study import study
from conservator.photo import load_photo
from conservator.tools.tool import Toolbox

Rater: TypeAlias = Callable[[Image], float]
"""What a study (B, 3, H, W) is worth to what rates it; more is better, NaN where it cannot tell."""
MAKES_OF_STATES = ("protocol", "held out")
"""The makes of damage: those of the protocols, and those that no training has met; each has a table of its own."""


@dataclass(frozen=True)
class StateScores:
    """A damaged photo, its states: what metrics and raters say of each, (S,); of all more is better."""

    photo: str
    makes: str
    truth: Mapping[str, NDArray[np.float64]]
    said: Mapping[str, NDArray[np.float64]]


def score_states(
    photos: Mapping[str, Path],
    toolbox: Toolbox,
    raters: Mapping[str, Rater],
    metrics: Sequence[FullReference],
    seed: int,
    count: int = 8,
) -> Iterator[StateScores]:
    """Damage each photo twice, by makes of a protocol and by makes held out, and score up to ``count`` states of each.

    What random toolchains leave of it are its states. A metric's score is the mean over the study's parts.
    """
    for tool in toolbox.values():
        tool.setup("cpu")
    for number, (name, path) in enumerate(photos.items()):
        clean = load_photo(path).image
        for makes, draw in zip(MAKES_OF_STATES, (_protocol, _held_out), strict=True):
            rng = np.random.default_rng([seed, number, 71, MAKES_OF_STATES.index(makes)])
            recipe = draw(rng)
            damaged = in_8_bits(degrade(clean, recipe))
            kinds, reference = frozenset(damage.kind for damage in recipe), study(clean, like=damaged)
            images = [image for image, _ in treated_states(study(damaged), kinds, toolbox, rng, count)]
            truth = {one.name: np.array([_score(one, image, reference) for image in images]) for one in metrics}
            said = {rater: np.array([rate(image) for image in images]) for rater, rate in raters.items()}
            yield StateScores(name, makes, truth, said)


def _protocol(rng: np.random.Generator) -> Recipe:
    fitting = [combination for combination in COMBINATIONS if Kind.LOW_RESOLUTION not in combination]
    return mio_recipe(fitting[int(rng.integers(len(fitting)))], rng)


def _held_out(rng: np.random.Generator) -> Recipe:
    """Two damages of different kinds that no training has met, in the order of nature."""
    makes = [make for make in HELD_OUT if make.kind is not Kind.LOW_RESOLUTION]
    first, second = (makes[i] for i in rng.permutation(len(makes))[:2])
    if first.kind is second.kind:
        return _held_out(rng)
    drawn: list[Degradation] = [make.sample(Severity(int(rng.integers(1, 5))), rng) for make in (first, second)]
    return tuple(sorted(drawn, key=lambda damage: NATURE.index(damage.kind)))


def _score(metric: FullReference, image: Image, reference: Image) -> float:
    pairs = zip(image.split(1), reference.split(1), strict=True)
    found = float(np.mean([min(metric.score(*pair), metric.at_most) for pair in pairs]))
    return found if metric.higher_is_better else -found


def agreement_table(found: Sequence[StateScores]) -> list[str]:
    """Rank correlations of each rater with each metric, with 95 % intervals by photo; Markdown, a table for the makes.

    Raises ConservatorError where nothing was scored.
    """
    if not found:
        raise ConservatorError("there are no photos; give a folder of clean photos")
    metrics, lines = list(found[0].truth), list[str]()
    heads = [f"{metric}, {where}" for metric in metrics for where in ("within a photo", "across photos")]
    for makes in MAKES_OF_STATES:
        part = [one for one in found if one.makes == makes]
        states = sum(len(next(iter(one.truth.values()))) for one in part)
        lines += [f"## Makes of damage: {makes}", "", f"{len(part)} photos, {states} states.", ""]
        lines += [f"| feedback | {' | '.join(heads)} |", f"|---|{'---|' * len(heads)}"]
        for rater in found[0].said:
            cells = [cell(part, metric, rater) for metric in metrics for cell in (_within, _across)]
            lines.append(f"| {rater} | {' | '.join(cells)} |")
        lines.append("")
    return lines


def _within(found: Sequence[StateScores], metric: str, rater: str) -> str:
    values = [rank_correlation(one.truth[metric], one.said[rater]) for one in found]
    return mean_cell(np.array(values), [one.photo for one in found])


def _across(found: Sequence[StateScores], metric: str, rater: str) -> str:
    truth, said = np.concatenate([o.truth[metric] for o in found]), np.concatenate([o.said[rater] for o in found])
    origins = [one.photo for one in found for _ in one.truth[metric]]
    mean = rank_correlation(truth, said)
    low, high = statistic_interval(lambda rows: rank_correlation(truth[rows], said[rows]), origins)
    if np.isnan(mean):
        return ""
    return f"{mean:+.2f}" if np.isnan(low) else f"{mean:+.2f} ({low:+.2f}, {high:+.2f})"

"""What users wish beside the objective, as questions: wishes that change the right answer about a photo.

A wish that changes nothing teaches nothing, so only those are asked about under which the best plan of a photo is none
of its best plans without the wish. All of them are valued on the one enumeration of the photo.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from itertools import combinations, islice, zip_longest

import numpy as np
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor

from conservator.evaluation.enumerate import Enumeration
from conservator.image import Image, luma
from conservator.kinds import Kind, Wish
from conservator.metrics import FullReference
from conservator.session.scope import Scope
from conservator.tools.tool import ToolSpec
from conservator.training.planner.situations import Outlook

PREFERRED = 2.0
"""How many deviations of a score a deviation of what is preferred counts: as much as PSNR and SSIM do together in the
objective "balanced". It is a choice, not a finding: a wish for sharpness that changes no answer would be none."""


def _detail(image: Image) -> Tensor:
    """The magnitude of what is finer than about 5 pixels in the luma, (1, 1, H, W)."""
    light = luma(image)
    return (light - F.avg_pool2d(F.pad(light, (2, 2, 2, 2), mode="reflect"), 5, 1)).abs()


def _lost_detail(image: Image, reference: Image) -> float:
    return float((_detail(reference) - _detail(image)).clamp(min=0).mean())


def _left_grain(image: Image, reference: Image) -> float:
    return float((_detail(image) - _detail(reference)).clamp(min=0).mean())


LOST_DETAIL = FullReference("lost_detail", higher_is_better=False, score=_lost_detail)
"""How much fine detail of the undamaged photo is gone, mean over pixels, 0 to 1."""
LEFT_GRAIN = FullReference("left_grain", higher_is_better=False, score=_left_grain)
"""How much fine structure there is that the undamaged photo has not, mean over pixels, 0 to 1."""
_SHUNNED = {"sharp": LOST_DETAIL, "smooth": LEFT_GRAIN}


def wished(
    found: Enumeration, scores: NDArray[np.float64], wish: Wish, tools: Iterable[ToolSpec]
) -> tuple[Enumeration, NDArray[np.float64]]:
    """The toolchains that a wish allows, and their scores (M,): those (N,) of an objective, and what is preferred.

    The enumeration holds LOST_DETAIL and LEFT_GRAIN where there may be a preference.
    """
    if wish.prefer in _SHUNNED:
        column = found.column(_SHUNNED[wish.prefer].name)
        scores = scores - PREFERRED * (column - np.nanmean(column)) / max(float(np.nanstd(column)), 1e-9)
    scope = Scope(only=frozenset(Kind) if wish.only is None else wish.only, never=wish.never)
    offered = {spec.name for spec in tools if scope.offers(spec)}
    allowed = [place for place, chain in enumerate(found.toolchains) if offered.issuperset(chain)]
    chains = tuple(found.toolchains[place] for place in allowed)
    return replace(found, toolchains=chains, scores=found.scores[allowed]), scores[allowed]


def changes_the_answer(found: Enumeration, scores: NDArray[np.float64], wish: Wish, tools: Sequence[ToolSpec]) -> bool:
    """Whether the best plan under a wish is none of the best ones without it."""
    usual = Outlook(found, scores).completions(())
    return Outlook(*wished(found, scores, wish, tools)).completions(())[0] not in usual


def draw_wishes(
    found: Enumeration,
    scores: NDArray[np.float64],
    tools: Sequence[ToolSpec],
    kinds: frozenset[Kind],
    count: int,
    rng: np.random.Generator,
) -> list[Wish]:
    """At most ``count`` wishes about these kinds of damage that change the right answer; fewer where few do.

    What to treat, what to leave alone and what to prefer take turns, in an order by chance.
    """
    sets = [frozenset(some) for size in (1, 2) for some in combinations(sorted(kinds), size)]
    sorts = [
        [Wish(only=some) for some in sets],
        [Wish(never=some) for some in sets],
        [Wish(prefer="sharp"), Wish(prefer="smooth")],
    ]
    shuffled = [[sorts[i][j] for j in rng.permutation(len(sorts[i]))] for i in rng.permutation(len(sorts))]
    possible = (wish for turn in zip_longest(*shuffled) for wish in turn if wish is not None)
    return list(islice((wish for wish in possible if changes_the_answer(found, scores, wish, tools)), count))

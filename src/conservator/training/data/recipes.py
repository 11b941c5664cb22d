"""The drawer of recipes: all damage that training photos get, but for the experts' (training/experts/courses.py).

Everything is drawn from a generator that the caller passes in: equal numbers, equal recipes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TypeAlias

import numpy as np

from conservator.degradations import (
    BY_KIND,
    MIO_GROUPS,
    RESTORE_R1_SETTINGS,
    RESTOREAGENT_COMBINATIONS,
    Degradation,
    GaussianBlur,
    GaussianNoise,
    JpegCompression,
    Recipe,
    mio_recipe,
)
from conservator.degradations.noise import draw_seed
from conservator.degradations.patches import DAMAGE_BANDS, PATCH_LEVELS, DrawRecipe, single
from conservator.errors import name_not_found
from conservator.kinds import NATURE, TAUGHT, Kind, Severity

_MIO = tuple(combination for group in MIO_GROUPS.values() for combination in group)
Make: TypeAlias = Callable[[Severity, np.random.Generator], Degradation]
"""Draws one damage of a severity, as ``sample`` of every degradation does."""
UNDAMAGED_SHARE = 0.12
"""Of all recipes: what needs nothing must be known, too."""
_FEW = 3
"""Kinds at once that a recipe with given kinds has at most."""


def random_recipe(rng: np.random.Generator) -> Recipe:
    """Nothing, a combination of a public protocol, or up to four damages of any severity in the order of nature.

    For what perception, planners and their vision learn from.
    """
    share = rng.random()
    if share < UNDAMAGED_SHARE:
        return ()
    if share < 0.45:
        return mio_recipe(_MIO[int(rng.integers(len(_MIO)))], rng)
    if share < 0.62:
        return mio_recipe(RESTOREAGENT_COMBINATIONS[int(rng.integers(len(RESTOREAGENT_COMBINATIONS)))], rng)
    return any_mixture({kind: [cls.sample for cls in BY_KIND[kind]] for kind in TAUGHT}, rng)


def any_mixture(makes: Mapping[Kind, Sequence[Make]], rng: np.random.Generator) -> Recipe:
    """One to four of these kinds of damage, in the order given, each of any of its makes and of any severity."""
    kinds = list(makes)
    count = int(rng.choice([1, 2, 3, 4], p=[0.4, 0.3, 0.2, 0.1]))
    recipe = []
    for i in sorted(rng.choice(len(kinds), count, replace=False).tolist()):
        makers = makes[kinds[i]]
        severity = Severity(int(rng.choice([1, 2, 3, 4], p=[0.16, 0.28, 0.28, 0.28])))
        recipe.append(makers[int(rng.integers(len(makers)))](severity, rng))
    return tuple(recipe)


def setting_recipe(setting: str) -> DrawRecipe:
    """Draws the damage of one of Restore-R1's settings, of all of them ("all"), or what is drawn else ("random").

    Nothing of it makes a picture smaller. Raises NameNotFoundError for an unknown setting.
    """
    if setting == "random":
        return lambda rng: without_resizing(random_recipe(rng))
    known = {**RESTORE_R1_SETTINGS, "all": sum(RESTORE_R1_SETTINGS.values(), ())}
    if setting not in known:
        raise name_not_found("setting", setting, ["random", *known])
    combinations = known[setting]
    return lambda rng: mio_recipe(combinations[int(rng.integers(len(combinations)))], rng)


def without_resizing(recipe: Recipe) -> Recipe:
    """The recipe less what makes a picture smaller: toolchains of pictures of two sizes cannot be compared."""
    return tuple(degradation for degradation in recipe if degradation.kind is not Kind.LOW_RESOLUTION)


def with_kinds(kinds: frozenset[Kind], recipe: Recipe, rng: np.random.Generator) -> Recipe:
    """The recipe with damages of these kinds in their places; others are left out where they would be too many."""
    if not kinds:
        return recipe
    kept = [degradation for degradation in recipe if degradation.kind not in kinds][: max(0, _FEW - len(kinds))]
    added = [BY_KIND[kind][0].sample(Severity(int(rng.integers(1, 5))), rng) for kind in sorted(kinds)]
    return tuple(sorted([*kept, *added], key=lambda degradation: NATURE.index(degradation.kind)))


def severities(recipe: Recipe) -> dict[Kind, Severity]:
    """The severity of each kind in a recipe, the worst where one comes twice."""
    found: dict[Kind, Severity] = {}
    for degradation in recipe:
        found[degradation.kind] = max(degradation.severity, found.get(degradation.kind, Severity.NONE))
    return found


SHARES: Mapping[str, Mapping[str, float]] = {
    "paper": {"moderate": 0.5, "single": 0.5},
    "mixed": {"mild": 0.3, "moderate": 0.4, "severe": 0.3},
    "all": {"mild": 0.16, "moderate": 0.22, "severe": 0.16, "single": 0.26, "clean": 0.2},
}
"""What share of the patches of an agent of RL-Restore's kind is which: the paper's (its author, in the repository's
issue 6: as many of single damages as of moderate mixtures; mild and severe ones stay unseen), mixtures of damage alone,
and ours, in which some need nothing."""
ANY_KIND = "any"
"""The mixture of all kinds of damage, for agents of other toolboxes: what planners learn from (random_recipe)."""


def mixture(name: str) -> DrawRecipe:
    """Draws the damage of one patch by SHARES, or that of any kind; raises NameNotFoundError for an unknown mixture."""
    if name == ANY_KIND:
        return setting_recipe("random")
    if name not in SHARES:
        raise name_not_found("mixture", name, [*SHARES, ANY_KIND])
    parts, shares = list(SHARES[name]), list(SHARES[name].values())

    def draw(rng: np.random.Generator) -> Recipe:
        part = parts[int(rng.choice(len(parts), p=shares))]
        return _single(rng) if part == "single" else PATCH_LEVELS[part](rng)

    return draw


def _single(rng: np.random.Generator) -> Recipe:
    kinds = list(DAMAGE_BANDS)
    return single(kinds[int(rng.integers(len(kinds)))], int(rng.integers(4)))(rng)


_SLIGHT_NOISE, _SLIGHT_JPEG = 5.0, 80
"""Added to all data of RL-Restore's tools, for in a toolchain no tool meets its damage alone: sigma up to this (of
255), quality from this on. The paper does not say how slight; these are a reimplementer's."""


def band_damage(kind: str, band: int, others: float = 1.0) -> DrawRecipe:
    """The damage of one tool's patches: its own, from its range, with slight noise and JPEG besides.

    ``kind`` is a key of DAMAGE_BANDS, ``band`` 0 to 3. Blur, then noise, then JPEG, as in the agent's patches.
    """
    low, high = DAMAGE_BANDS[kind][band]
    worst = max(10, round(100 - others * (100 - _SLIGHT_JPEG)))

    def draw(rng: np.random.Generator) -> Recipe:
        amount = float(rng.uniform(low, high))
        noise = amount if kind == "noise" else float(rng.uniform(0, others * _SLIGHT_NOISE))
        quality = round(amount) if kind == "jpeg" else int(rng.integers(worst, 100, endpoint=True))
        blur: list[Degradation] = [GaussianBlur(amount)] if kind == "blur" else []
        return (*blur, GaussianNoise(noise / 255, draw_seed(rng)), JpegCompression(quality))

    return draw

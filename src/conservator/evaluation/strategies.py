"""Everything that a benchmark can compare, by name: the policies that ship, and strategies that only it can have.

==================== ===================================================================================================
``random_order:P``   what policy P decides, in random order (RestoreAgent's "random order, predicted model")
``random_tools:P``   what policy P decides, each tool replaced by a random one for the same damage
``random_both``      random order and tools for the damages that are seen (policies/strategies.py)
``predefined``       one order of damages and one tool for each (policies/strategies.py)
``rules``            the human expert
``oracle``           greedy search with the reference in hand
``best``             the best of all toolchains, by enumeration
``generalist``       the one network for every damage, and nothing else
``alone:TOOL``       one tool of the toolbox, and nothing else: an all-in-one network that was trained or imported
``none``             the untouched input
==================== ===================================================================================================

The simple strategies, the oracles and the generalist are carried out as they are; only of a policy that ships does
perception take back on the whole photo what did harm there, for that is how it works for a user.
"""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches

from conservator.degradations import Kind
from conservator.errors import ConservatorError, name_not_found
from conservator.evaluation.cases import Case
from conservator.image import Image
from conservator.perception.perception import Gain, Look, Percept, Perception
from conservator.policies import POLICIES, is_policy
from conservator.policies.strategies import photo_rng, random_order, random_tools
from conservator.tools.tool import Toolbox

DERIVED = ("random_order", "random_tools")
"""Made from what another policy decides."""
ALONE = "alone:"
"""Begins the name of a strategy that is one tool."""
ONLY_HERE = ("best", "generalist")
"""Strategies that are no policies of the catalog."""
_AS_THEY_ARE = ("oracle", "random", "random_both", "predefined", *ONLY_HERE)


class Trusting(Perception):
    """Sees what another perception sees, but takes nothing back."""

    def __init__(self, perception: Perception) -> None:
        self._perception = perception

    def grade(self, image: Image) -> Percept:
        """Grade an image or a study."""
        return self._perception.grade(image)

    def weigh(self, before: Look, after: Look, treated: frozenset[Kind]) -> Gain:
        """No gain and no harm, whatever was done."""
        return Gain.sure(0.0)


def perception_for(name: str, perception: Perception) -> Perception:
    """The perception that guards the whole photo from what a policy or strategy decided."""
    as_it_is = name in _AS_THEY_ARE or is_derived(name) or name.startswith(ALONE)
    return Trusting(perception) if as_it_is else perception


def is_derived(name: str) -> bool:
    """Whether a strategy is derived from a policy, which its name ends with."""
    return name.partition(":")[0] in DERIVED


def is_baseline(name: str) -> bool:
    """Whether a name is of something to compare policies with: chance, one fixed order, the truth, the untouched."""
    return name == "none" or name in _AS_THEY_ARE or is_derived(name) or name.startswith(ALONE)


def derive(name: str, toolchain: tuple[str, ...], toolbox: Toolbox, picture: Image, seed: int) -> tuple[str, ...]:
    """The toolchain of a derived strategy from what its policy decided on a picture (B, 3, H, W)."""
    rng = photo_rng(picture, seed)
    if name.startswith("random_order:"):
        return random_order(toolchain, rng)
    return random_tools(toolchain, toolbox.specs, rng)


def check_names(names: Sequence[str], cases: Sequence[Case], toolbox: Toolbox, ranked: bool) -> None:
    """Raise before any work for what cannot be compared: NameNotFoundError or ConservatorError with a sentence."""
    for name in names:
        kind, colon, inner = name.partition(":")
        asked = inner if kind in DERIVED else name
        if name.startswith(ALONE):
            if inner not in toolbox:
                raise name_not_found("tool", inner, list(toolbox))
            continue
        if asked == "oracle" and not all(case.referenced for case in cases):
            raise ConservatorError("the oracle compares with undamaged photos, and there are none; leave it out")
        if asked == "chat":
            raise ConservatorError("chat asks an endpoint, and a benchmark knows none; leave it out")
        if kind in DERIVED:
            if not colon:
                raise ConservatorError(f"{kind} says nothing without a policy to derive it from; say {kind}:greedy")
            kind = inner
        elif colon and get_close_matches(kind, DERIVED):  # it would be taken for a policy of that module
            raise name_not_found("strategy", kind, DERIVED)
        elif is_policy(name):
            continue
        elif colon:
            raise name_not_found("strategy", kind, DERIVED)
        if not is_policy(kind) and (colon or kind not in ONLY_HERE):
            raise name_not_found("policy", kind, [*POLICIES, *DERIVED, *ONLY_HERE])
        if kind == "generalist" and kind not in toolbox:
            raise ConservatorError("there is no tool 'generalist' in the toolbox; choose a toolbox that has one")
        if kind == "best" and not ranked:
            raise ConservatorError("best is known by enumeration; give --rank, too")
    if ranked and any(case.kinds is None for case in cases):
        raise ConservatorError(
            "toolchains are ranked among those for the damages that are present, and of these "
            "photos nobody knows them; leave out --rank"
        )

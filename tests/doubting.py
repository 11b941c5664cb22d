"""An estimate of harm for tests: sure of one kind of damage, in doubt about the others."""

from __future__ import annotations

from conservator.kinds import Kind
from conservator.perception.perception import Look
from conservator.perception.risk import Admission


class Doubting:
    """Says the same chance of harm of every treatment of some kinds, and none of the others."""

    def __init__(self, chance: float, *kinds: Kind) -> None:
        """Without ``kinds`` it is in doubt about all treatments."""
        self._chance, self._kinds = chance, frozenset(kinds)

    def chance(self, before: Look, after: Look, treated: frozenset[Kind]) -> float:
        """The chance that was given, where one of the kinds was treated."""
        return self._chance if not self._kinds or treated & self._kinds else 0.0


def doubting(chance: float = 0.41, *kinds: Kind, threshold: float = 0.06) -> Admission:
    """An admission that lets no treatment of these kinds pass."""
    return Admission(Doubting(chance, *kinds), threshold)

"""The natural mixture: the photos that the promise of risk control is about, one case of each photograph.

It is stated, not found: nobody knows what a collection is like. The real pairs of a part come on top (cases.py).

============ ===========================================================================================================
undamaged    half of the photos, as they are; a tenth of them in black and white or sepia
single       a quarter, with one damage
mixed        a quarter, with two or three damages in the order in which nature does them
============ ===========================================================================================================

All kinds of damage that perception has learned come equally often, of each kind all makes that ship, those held out
from trainings too, in all severities equally often. What befalls a photo is drawn from the seed and from the name of
its file: a photo more changes no other. Low resolution is left out: a small photo is not a damaged photo.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from conservator.degradations import MAKES, Degradation, Recipe, degrade
from conservator.evaluation.parts import name_digest
from conservator.evaluation.undamaged import TONES
from conservator.image import Image, in_8_bits
from conservator.kinds import TAUGHT, Kind, Severity

UNDAMAGED, SINGLE, MIXED = "undamaged", "single", "mixed"
"""The strata of photos that are damaged by seed, or not at all."""
_SHARES = {UNDAMAGED: 0.5, SINGLE: 0.25, MIXED: 0.25}
"""How much of the mixture each is; by the issue that asked for risk control, as what a collection may be like."""
_TONED = 0.1
"""The share of undamaged photos that are in black and white or sepia."""


@dataclass(frozen=True)
class Fate:
    """What befalls one photo."""

    stratum: str
    recipe: Recipe = ()
    tone: str = ""
    """Of undamaged.TONES; "" for a photo that keeps its colours."""

    @property
    def kinds(self) -> frozenset[Kind]:
        """What is then wrong with it."""
        return frozenset(degradation.kind for degradation in self.recipe)

    def of(self, photo: Image) -> tuple[Image, Image]:
        """The damaged photo and the undamaged one, both in 8 bits."""
        clean = in_8_bits(TONES[self.tone](photo) if self.tone else photo)
        return (in_8_bits(degrade(clean, self.recipe)) if self.recipe else clean), clean


def fate_of(name: str, seed: int) -> Fate:
    """What befalls the photo with this file name: the same in every run, whatever other photos there are."""
    rng = np.random.default_rng([seed, int.from_bytes(name_digest(name)[16:24], "big")])
    stratum = str(rng.choice(list(_SHARES), p=list(_SHARES.values())))
    if stratum == UNDAMAGED:
        toned = rng.random() < _TONED
        return Fate(stratum, tone=str(rng.choice(sorted(TONES))) if toned else "")
    count = 1 if stratum == SINGLE else int(rng.integers(2, 4))
    chosen = sorted(rng.choice(len(TAUGHT), count, replace=False).tolist())  # TAUGHT is in the order of nature
    return Fate(stratum, tuple(_drawn(TAUGHT[place], rng) for place in chosen))


def _drawn(kind: Kind, rng: np.random.Generator) -> Degradation:
    makes = MAKES[kind]
    return makes[int(rng.integers(len(makes)))].sample(Severity(int(rng.integers(1, 5))), rng)

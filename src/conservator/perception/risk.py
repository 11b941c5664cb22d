"""Risk control: a treatment is done only where it is doubted no more than a user's risk allows.

One number orders all treatments: the chance of harm that a network estimates from a picture before and after (harm.py),
for each dB that is expected of the treatment, less what harm costs. Where much is to be gained more may be risked, and
a bound on the number of harmed photos is then spent where it buys most.
What doubt may be admitted is not chosen by hand: it follows from what happened to the calibration photos at each
threshold, by conformal risk control (Angelopoulos et al., "Conformal Risk Control", ICLR 2024, arXiv 2208.02814,
equation 4). docs/risk.md says what is promised, and what is not.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from conservator.errors import ConservatorError
from conservator.kinds import TONAL, Kind, Objective
from conservator.perception.perception import Look, Perception

HARM = 0.1
"""dB of PSNR that a photo may lose before it counts as harmed: a difference that no viewer sees."""

LEAST_GAIN = 0.05
"""dB; a smaller gain counts as this much: half of what is called harm."""
_COST, _TONAL_COST = 1.5, 8.0
"""dB that a harmful treatment costs, one of light or haze the second. On development photos they lost 1.5 dB (damaged
ones, the mean of 14) and 13 dB (24); 8 and 20 were tried for the latter (benchmarks/forms_of_doubt.py)."""
DOUBT = f"3: {LEAST_GAIN}, {_COST}, {_TONAL_COST}"
"""What a doubt is (Verdict.doubt): the number of its formula, and its constants. 1 was the chance of harm, 2 the chance
for each dB of gain."""


class HarmEstimate(Protocol):
    """Estimates how likely a treatment did harm, without any reference."""

    def chance(self, before: Look, after: Look, treated: frozenset[Kind]) -> float:
        """The chance, 0 to 1, that ``after`` is worse than ``before`` by more than HARM; ``treated`` was meant to go.

        Both pictures are images or studies of one size, at the same places.
        """


@dataclass(frozen=True)
class Verdict:
    """Whether a treatment is admitted, and the evidence."""

    chance: float
    """Of harm, 0 to 1; of several pictures that were compared, that of the greatest doubt."""
    threshold: float
    """The doubt that may be admitted."""
    where: str = ""
    """What showed that chance, in words: "beside the photo as it came", say."""
    gain: float | None = None
    """What perception expects where no harm is done, dB of PSNR; None where nobody was asked."""
    cost: float = 0.0
    """What harm would cost, dB."""

    @property
    def doubt(self) -> float:
        """The chance of harm for each dB that is expected, 0 to 1: what is compared with the threshold.

        That is the gain, unless harm is done, which costs; the chance itself where no gain is known.
        """
        if self.gain is None:
            return self.chance
        expected = (1 - self.chance) * self.gain - self.chance * self.cost
        return min(1.0, self.chance / max(LEAST_GAIN, expected))

    @property
    def admitted(self) -> bool:
        """Whether the treatment may be done."""
        return self.doubt <= self.threshold

    @property
    def words(self) -> str:
        """The verdict as part of a sentence."""
        where = f" {self.where}" if self.where else ""
        said = f"the chance that it harms is put at {self.chance:.1%}{where}"
        return said if self.chance == 1 else f"{said}; at most {self._most:.1%} is admitted{self._why}"

    @property
    def _most(self) -> float:
        """The largest chance that is admitted, at a threshold below 1, which admits all."""
        if self.gain is None:
            return self.threshold
        if self.gain <= LEAST_GAIN:
            return self.threshold * LEAST_GAIN
        fair = self.threshold * self.gain / (1 + self.threshold * (self.gain + self.cost))
        return max(self.threshold * LEAST_GAIN, fair)

    @property
    def _why(self) -> str:
        if self.gain is None:
            return ""
        return f" for a gain of {self.gain:.1f} dB" if self.gain >= LEAST_GAIN else " where no gain is expected"


@dataclass(frozen=True)
class Admission:
    """Risk control at one threshold: what a session, its policy and the treatment of the whole photo are held to."""

    estimate: HarmEstimate
    threshold: float
    """The largest doubt that is admitted, 0 to 1."""
    errors: tuple[float, float] | None = None
    """Between which bounds the true gain less the estimated one lay, dB of PSNR, for nine in ten of the calibration
    photos that were treated; None where they were too few to tell."""
    weighing: Perception | None = None
    """What tells the gain; None: the chance of harm is the doubt."""

    def interval(self, gain: float) -> tuple[float, float] | None:
        """Between which bounds the true gain of a treated photo lies, dB of PSNR, in nine of ten; None if unknown."""
        return None if self.errors is None else (gain + self.errors[0], gain + self.errors[1])

    def judge(
        self,
        start: Look,
        before: Look,
        after: Look,
        treated: frozenset[Kind],
        since_start: frozenset[Kind],
        part: bool = False,
    ) -> Verdict:
        """Judge a treatment of ``treated`` that made ``after`` of ``before``; ``start`` is the photo as it came.

        Both the treatment and all that was done since the start, which treated ``since_start``, must be admitted: a
        photo that gained much must not lose it again, and what comes out must be no worse than what went in. Pictures
        of two sizes cannot be compared; such a treatment, which the user asked for, has no chance of harm. A chance
        or a gain that is no finite number counts as certain harm, and so does any treatment of a photo that is strange
        to perception; with ``part`` the pictures are a part of one, which tells nothing of that.
        """
        if start.percept.strange and not part and not torch.equal(start.image, after.image):
            return Verdict(1.0, self.threshold, "because the picture is strange")
        verdict = self._verdict(before, after, treated)
        if before.image is not start.image:
            whole = self._verdict(start, after, since_start)
            if whole.doubt > verdict.doubt:
                return replace(whole, where="beside the photo as it came")
        return verdict

    def _verdict(self, before: Look, after: Look, treated: frozenset[Kind]) -> Verdict:
        if before.image.shape != after.image.shape or torch.equal(before.image, after.image):
            return Verdict(0.0, self.threshold)
        chance = self.estimate.chance(before, after, treated)
        gain = None if self.weighing is None else self.weighing.weigh(before, after, treated).mean["fidelity"]
        if not math.isfinite(chance) or not math.isfinite(gain or 0.0):
            return Verdict(1.0, self.threshold)
        cost = _TONAL_COST if treated & TONAL else _COST
        return Verdict(min(1.0, max(0.0, chance)), self.threshold, gain=gain, cost=cost)


@dataclass(frozen=True)
class RiskCurve:
    """What became of the calibration photos at each threshold: what every risk is certified by."""

    photos: int
    """How many photos there were; each counts once."""
    thresholds: tuple[float, ...]
    """Doubts, ascending; with 0 nothing is admitted."""
    harmed: tuple[float, ...]
    """How many photos came out worse at that threshold or a lower one: it never falls."""
    errors: tuple[tuple[float, float] | None, ...] = ()
    """For each threshold, the bounds between which the true gain less the estimated one (dB of PSNR) lies for nine in
    ten treated photos like these; None where too few were treated. Empty where they are known of no threshold."""

    def errors_at(self, threshold: float) -> tuple[float, float] | None:
        """The bounds of ``errors`` at one of the thresholds; None where they are not known."""
        return dict(zip(self.thresholds, self.errors, strict=False)).get(threshold)

    def threshold(self, risk: float) -> float:
        """The largest threshold at which the share of harmed photos is below ``risk`` for one more photo like these.

        That is where (harmed + 1) / (photos + 1) <= risk. 0, which admits nothing, where no threshold is low enough.
        Raises ConservatorError, which names the least that can be certified, for a risk below 1 / (photos + 1).
        """
        if risk * (self.photos + 1) < 1:
            raise ConservatorError(
                f"a risk of {risk:g} cannot be certified by {self.photos} calibration photos; the least that can is "
                f"{self.least:g} (risk 1 switches risk control off)"
            )
        fits = [
            t for t, harmed in zip(self.thresholds, self.harmed, strict=True) if harmed + 1 <= risk * (self.photos + 1)
        ]
        return max(fits, default=0.0)

    @property
    def least(self) -> float:
        """The least risk that these photos certify, rounded up to four digits."""
        return math.ceil(1e4 / (self.photos + 1)) / 1e4


@dataclass(frozen=True)
class RiskControl:
    """Thresholds for every objective and risk, and what they were made with."""

    curves: Mapping[Objective, RiskCurve]
    policy: str
    """The policy whose restorations were counted."""
    toolbox: str
    """The toolbox that it had, as asked for."""
    made_with: Mapping[str, str]
    """Hashes of the weights that the thresholds are of, by name."""
    name: str = "risk"
    """Where it comes from: a name of the package's weights, or a file."""

    def admission(self, estimate: HarmEstimate, weighing: Perception, objective: Objective, risk: float) -> Admission:
        """Risk control at the threshold of a risk; errors as in ``RiskCurve.threshold``.

        Raises ConservatorError, too, where nothing was calibrated for the objective.
        """
        if objective not in self.curves:
            raise ConservatorError(
                f"the risk thresholds {self.name} are for {', '.join(self.curves)}, and not for {objective}; choose "
                "another objective, or risk 1"
            )
        curve = self.curves[objective]
        threshold = curve.threshold(risk)
        return Admission(estimate, threshold, curve.errors_at(threshold), weighing)

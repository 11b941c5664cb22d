"""What thresholds of risk control are best held against: forms of doubt, compared on development photos.

python benchmarks/forms_of_doubt.py DATA [LIMIT]

DATA holds train/research and val. Each of LIMIT photos (default: all) is damaged three times by the natural mixture,
and the real pairs come on top. The whole program is run at every threshold for every form; tools, perception and the
chances of harm are computed once. Half of the photos then set a threshold for a risk, and the other half tell what it
gains and harms: means over 200 such halves. Takes 25 minutes of two cores. docs/results/risk.md has the table.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import numpy as np
import torch

from conservator.evaluation.calibration import at, curve_of, gain, loss
from conservator.evaluation.cases import Case, make_cases
from conservator.evaluation.descent import OFF, CaseOutcome, Memory, Recording, Trial
from conservator.evaluation.mixture import UNDAMAGED
from conservator.evaluation.outcomes import CurveSettings
from conservator.kinds import TONAL, Kind
from conservator.perception.perception import Look
from conservator.perception.risk import LEAST_GAIN, Admission, Verdict

Form = Callable[[float, float, bool], float]
"""(chance of harm, expected gain in dB, whether light or haze is treated) -> doubt, before it is bounded by 1."""
RISKS = (0.01, 0.02, 0.05, 0.1)
SEEDS = (11, 12, 13)
HALVES = 100
"""Divisions of the photos; each is used both ways."""


def less_harm(tonal_cost: float) -> Form:
    """The chance for each dB of the gain, less what harm costs."""
    return lambda p, g, tonal: p / max(LEAST_GAIN, (1 - p) * g - p * (tonal_cost if tonal else 1.5))


FORMS: dict[str, Form] = {
    "p": lambda p, g, tonal: p,
    "p / sqrt(g)": lambda p, g, tonal: p / max(LEAST_GAIN, g) ** 0.5,
    "p / g": lambda p, g, tonal: p / max(LEAST_GAIN, g),
    "p / g, 3 times for light and haze": lambda p, g, tonal: (3 if tonal else 1) * p / max(LEAST_GAIN, g),
    "p / g, p for light and haze": lambda p, g, tonal: p if tonal and g > LEAST_GAIN else p / max(LEAST_GAIN, g),
    "less harm, 8 dB for light and haze": less_harm(8),
    "less harm, 20 dB for light and haze": less_harm(20),
}


@dataclass(frozen=True)
class FormedVerdict(Verdict):
    """A verdict by another form of doubt."""

    form: str = "p"
    tonal: bool = False

    @property
    def doubt(self) -> float:
        """What is compared with the threshold, 0 to 1."""
        return self.chance if self.gain is None else min(1.0, FORMS[self.form](self.chance, self.gain, self.tonal))


@dataclass(frozen=True)
class FormedAdmission(Recording):
    """Risk control by another form of doubt."""

    form: str = "p"

    def _verdict(self, before: Look, after: Look, treated: frozenset[Kind]) -> Verdict:
        verdict = super()._verdict(before, after, treated)
        return FormedVerdict(**vars(verdict), form=self.form, tonal=bool(treated & TONAL))


@dataclass(frozen=True)
class FormedTrial(Trial):
    """Restores cases at every threshold of another form."""

    form: str = "p"

    def admission(self, memory: Memory, threshold: float) -> Admission:
        """What restorations are held to."""
        return FormedAdmission(memory, threshold, weighing=memory.perception, met=memory.met, form=self.form)


def cases_of(data: Path, limit: int | None) -> list[Case]:
    """The cases, each with a name of its own; the scene is the photo that it was made of."""
    return [
        replace(case, photo=f"{seed} {case.photo}", scene="")
        for seed in SEEDS
        for case in make_cases("mixture", data, seed, limit, "development")
        if case.group == "mixture" or seed == SEEDS[0]
    ]


@cache
def trial() -> Trial:
    """What restores the cases in this process."""
    torch.set_num_threads(1)
    return CurveSettings("mixture", "data", "development", objectives=("balanced",)).trial()


def tried(data: Path, limit: int | None, place: int) -> dict[str, list[CaseOutcome]]:
    """What becomes of one case by every form."""
    one, case = trial(), cases_of(data, limit)[place]
    photo, memory = one.begun(case)
    return {form: FormedTrial(**vars(one), form=form).outcomes_of(case, photo, memory) for form in FORMS}


def halves(photos: Sequence[str]) -> list[tuple[frozenset[str], frozenset[str]]]:
    """Random halves of the photos, to set a threshold and to look at what it does."""
    rng, known, found = random.Random(0), sorted(set(photos)), []
    for _ in range(HALVES):
        one = frozenset(rng.sample(known, len(known) // 2))
        found += [(one, frozenset(known) - one), (frozenset(known) - one, one)]
    return found


def measured(outcomes: Sequence[CaseOutcome], risk: float) -> tuple[float, float, float]:
    """Mean gain of the damaged photos and of all in dB, and the share that came out worse, over all halves."""
    found = []
    for setting, looking in halves([photo_of(outcome) for outcome in outcomes]):
        curve = curve_of([one for one in outcomes if photo_of(one) in setting], "balanced")
        threshold = curve.threshold(max(risk, curve.least))
        seen = at([one for one in outcomes if photo_of(one) in looking and one.high < OFF], threshold)
        gains = np.array([gain(one) for one in seen])
        damaged = np.array([one.stratum != UNDAMAGED for one in seen])
        found.append((gains[damaged].mean(), gains.mean(), np.mean([loss(one) for one in seen])))
    return tuple(np.mean(found, axis=0).tolist())  # type: ignore[return-value]


def photo_of(outcome: CaseOutcome) -> str:
    """The photo that a case was made of."""
    return outcome.photo.partition(" ")[2]


if __name__ == "__main__":
    data, limit = Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else None
    count = len(cases_of(data, limit))
    by_form: dict[str, list[CaseOutcome]] = {form: [] for form in FORMS}
    with ProcessPoolExecutor(2) as processes:
        for number, one in enumerate(processes.map(tried, [data] * count, [limit] * count, range(count)), 1):
            for form, outcomes in one.items():
                by_form[form] += outcomes
            print(f"{number} of {count} cases", end="\r", flush=True)
    print(f"\n| doubt | {' | '.join(f'R = {risk:g}: damaged, dB | all, dB | harmed' for risk in RISKS)} |")
    print(f"|---|{'---|---|---|' * len(RISKS)}")
    for form, outcomes in by_form.items():
        cells = [f"{a:+.2f} | {b:+.2f} | {100 * c:.1f} %" for a, b, c in (measured(outcomes, risk) for risk in RISKS)]
        print(f"| {form} | {' | '.join(cells)} |")

"""A photo that was treated, at any strength: what its tools made of it is blended with the photo as it came."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch

from conservator.image import Image
from conservator.kinds import Objective
from conservator.perception.perception import Look, Percept, Perception
from conservator.perception.risk import Admission
from conservator.photo import Photo
from conservator.restoration import Plan, Restored, Treatment, blend, study_like, suggestions
from conservator.tools.tool import Toolbox


@dataclass(frozen=True)
class Treated:
    """What the treatment of a whole photo led to, before a strength is chosen; choosing one treats nothing again."""

    photo: Photo
    image: Image = field(repr=False)
    """The photo as its tools were given it."""
    result: Image = field(repr=False)
    """What all tools that were kept made of it."""
    plan: Plan
    treatments: tuple[Treatment, ...]
    asked_for: bool
    """Whether its tools were asked for by name."""
    seconds: float
    """Wall-clock seconds that treating took."""
    perception: Perception = field(repr=False)
    toolbox: Toolbox = field(repr=False)
    objective: Objective
    calibrated: Admission | None = field(default=None, repr=False)
    """What says how far the estimate of a gain errs; None where that was not measured."""
    notes: tuple[str, ...] = ()
    """What a reader of its record must know, as sentences."""

    def blended(self, strength: float) -> Photo:
        """The photo at a strength from 0 to 1, as it would be saved."""
        if strength == 0 or not any(treatment.kept for treatment in self.treatments):
            return self.photo
        return self.photo.with_working_image(blend(self.image, self.result, strength))

    def at(self, strength: float) -> Restored:
        """The restoration at a strength from 0 to 1, looked at again: what ``Restorer`` gives whose request has it."""
        start = time.perf_counter()
        plan = self.plan
        treatments = self.treatments if strength > 0 else ()
        kept = [treatment for treatment in treatments if treatment.kept]
        photo, after, gain, interval = self.photo, plan.before, 0.0, None
        if kept:
            photo, after, gain = self._looked_at(strength, kept)
            if self.calibrated is not None and photo.image.shape == self.image.shape and strength == 1:
                interval = self.calibrated.interval(gain)
        seconds = plan.seconds | {"treating": self.seconds + time.perf_counter() - start}
        refused = (*plan.trajectory.refusals, *(t.refusal for t in treatments if t.refusal is not None))
        suggested = suggestions(refused, [treatment.tool for treatment in kept], self.toolbox)
        return Restored(
            photo, plan, after, self.asked_for, treatments, gain, seconds, suggested, self.notes, interval, strength
        )

    def _looked_at(self, strength: float, kept: Sequence[Treatment]) -> tuple[Photo, Percept, float]:
        """The photo at a strength, what is seen in it, and what it is estimated to have gained."""
        photo, before = self.blended(strength), self.plan.trajectory.steps[0].look
        shown = photo.working_image()  # a gray photo was made gray again
        small = study_like(shown, self.image)
        looked_at = strength == 1 and torch.equal(shown, self.result)
        after = (kept[-1].percept if looked_at else None) or self.perception.grade(small)
        if shown.shape != self.image.shape:  # studies of two sizes show different places: there is nothing to compare
            return photo, after, sum(treatment.gain for treatment in kept)
        treated = self.toolbox.removed_by([treatment.tool for treatment in kept])
        return photo, after, self.perception.weigh(before, Look(small, after), treated).cautious(self.objective)

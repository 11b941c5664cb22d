"""Restore one photo: study it, decide on a toolchain, treat the whole once, look again, keep the better picture."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import takewhile

import torch
import torch.nn.functional as F

from conservator.errors import ConservatorError, ToolFailedError
from conservator.image import Image
from conservator.perception.perception import Look, Objective, Percept, Perception
from conservator.perception.study import study
from conservator.photo import Photo
from conservator.pool.pool import Pool
from conservator.session.scope import Scope
from conservator.session.session import Policy, Session, run
from conservator.session.trajectory import Stop, Trajectory
from conservator.tools.tool import Toolbox

_ERROR_OF_THE_EYE = 0.3  # dB; the whole photo may look this much worse than its previous state before it is taken back


@dataclass(frozen=True)
class Treatment:
    """One tool applied to the whole photo."""

    tool: str
    seconds: float
    percept: Percept | None
    """What the eye says of the whole afterwards; None when the tool failed."""
    kept: bool
    """Whether its effect is in the result."""
    note: str = ""
    gain: float = 0.0
    """What the eye estimates that it gained on the whole, dB."""


@dataclass(frozen=True)
class Restored:
    """A restored photo and everything that led to it."""

    photo: Photo
    trajectory: Trajectory = field(repr=False)
    before: Percept = field(repr=False)
    after: Percept = field(repr=False)
    treatments: tuple[Treatment, ...]
    seconds: dict[str, float]
    """Wall-clock seconds ``examining``, ``deciding``, ``treating``."""

    @property
    def toolchain(self) -> tuple[str, ...]:
        """The tools whose effect is in the result."""
        return tuple(t.tool for t in self.treatments if t.kept)

    @property
    def untouched(self) -> bool:
        """Whether the pixels are those of the input."""
        return not self.toolchain

    @property
    def failed(self) -> tuple[Treatment, ...]:
        """What was decided, and a tool could not do on the whole photo."""
        return tuple(t for t in self.treatments if t.percept is None)

    @property
    def gave_up(self) -> str:
        """Why the model that was asked decided no further, in words; "" when the policy came to an end of its own."""
        decisions = [step.decision for step in reversed(self.trajectory.steps) if step.decision is not None]
        if decisions and decisions[0].action == Stop() and not decisions[0].reply:
            del decisions[0]  # the policy's stop, not the model's
        unusable = takewhile(lambda decision: decision.action is None, decisions)
        return next((decision.thought for decision in unusable if decision.usage.calls), "")


def restore(
    photo: Photo,
    policy: Policy,
    toolbox: Toolbox,
    pool: Pool,
    perception: Perception,
    *,
    objective: Objective = "balanced",
    scope: Scope = Scope(),  # noqa: B008 - frozen
    max_steps: int = 12,
    strength: float = 1.0,
    progress: Callable[[str], None] = lambda stage: None,
) -> Restored:
    """Restore a photo.

    ``scope`` is what the policy may do; ``objective`` is what counts as harm. ``strength`` from 0 to 1 blends the result with the input; 0 leaves it as it is. ``progress`` is told the stage
    ("examining", "deciding", a tool's name). The result never looks worse to the eye than the input: a treatment after
    which the whole photo looks worse than before is taken back, and said so. Raises ConservatorError for a strength
    outside 0 to 1.
    """
    if not 0 <= strength <= 1:
        raise ConservatorError(f"strength is {strength}, expected a number from 0 to 1")
    progress("examining")
    start = time.perf_counter()
    image = photo.working_image()
    session = Session(study(image), toolbox, pool, perception, max_steps, scope)
    examined = time.perf_counter()
    progress("deciding")
    trajectory = run(policy, session)
    decided = time.perf_counter()
    before = trajectory.steps[0].percept
    chain = trajectory.toolchain() if strength > 0 else ()
    result, treatments = _treat(image, chain, toolbox, pool, perception, objective, before, progress)
    kept = [t for t in treatments if t.kept]
    if kept:
        photo = photo.with_working_image(_blend(image, result, strength))
    seconds = {
        "examining": examined - start,
        "deciding": decided - examined,
        "treating": time.perf_counter() - decided,
    }
    after = before
    if kept:
        after = kept[-1].percept or before
        if strength < 1:
            after = perception.grade(_study_like(_blend(image, result, strength), image))
    return Restored(photo, trajectory, before, after, treatments, seconds)


def treat(photo: Photo, toolchain: tuple[str, ...], pool: Pool, strength: float = 1.0) -> Photo:
    """Apply a toolchain to a photo without any decision: how a record is replayed."""
    if not toolchain:
        return photo
    image = result = photo.working_image()
    for tool in toolchain:
        result = pool.submit(tool, result).result()
    return photo.with_working_image(_blend(image, result, strength))


def _treat(
    image: Image,
    toolchain: tuple[str, ...],
    toolbox: Toolbox,
    pool: Pool,
    perception: Perception,
    objective: Objective,
    before: Percept,
    progress: Callable[[str], None],
) -> tuple[Image, tuple[Treatment, ...]]:
    """Apply the toolchain to the whole; a tool after which the whole looks worse than before it is left out."""
    treatments: list[Treatment] = []
    current, seen = image, Look(study(image), before)
    for tool in toolchain:
        progress(tool)
        start = time.perf_counter()
        try:
            treated = pool.submit(tool, current).result()
        except ToolFailedError as error:
            treatments.append(Treatment(tool, time.perf_counter() - start, None, False, str(error)))
            continue
        seconds = time.perf_counter() - start
        if torch.equal(treated, current):
            treatments.append(Treatment(tool, seconds, seen.percept, False, "it changed nothing on the whole photo"))
            continue
        small = _study_like(treated, image)
        looked = Look(small, perception.grade(small))
        gain = perception.weigh(seen, looked, toolbox[tool].spec.removes).cautious(objective)
        if gain < -_ERROR_OF_THE_EYE:
            note = f"taken back: on the whole photo it did harm ({gain:+.1f} dB)"
            treatments.append(Treatment(tool, seconds, looked.percept, False, note))
            continue
        treatments.append(Treatment(tool, seconds, looked.percept, True, gain=gain))
        current, seen = treated, looked
    return current, tuple(treatments)


def _study_like(image: Image, original: Image) -> Image:
    return study(image, like=original) if image.shape == original.shape else study(image)


def _blend(image: Image, result: Image, strength: float) -> Image:
    if strength == 1:
        return result
    if result.shape != image.shape:
        image = F.interpolate(image, result.shape[-2:], mode="bicubic").clamp(0, 1)
    return torch.lerp(image, result, strength)

"""The restoration of one photo, in steps: study it, decide on a toolchain, treat the whole once, look again."""

from __future__ import annotations

import math
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import takewhile
from pathlib import Path

import torch
import torch.nn.functional as F

from conservator.errors import ConservatorError
from conservator.image import Image
from conservator.kinds import Kind
from conservator.perception.perception import Gain, Percept
from conservator.perception.study import study
from conservator.photo import Photo, copy_photo, save_photo
from conservator.session.session import Policy, Session, run
from conservator.session.trajectory import Refusal, Stop, Trajectory
from conservator.tools.tiling import out_of_memory
from conservator.tools.tool import Toolbox

_SUGGESTIONS = 3
"""Suggestions at most: what is told beyond these is not read."""


@dataclass(frozen=True)
class Suggestion:
    """A treatment that the policy wanted, and that risk control did not admit: the user may ask for it by name."""

    tool: str
    treats: frozenset[Kind]
    """The kinds of damage that it is for."""
    toolchain: tuple[str, ...]
    """What ``Restorer.apply`` would be given: the tools that were kept, and this one after them."""
    chance: float
    """The chance that it harms, 0 to 1, by estimate."""
    gain: float
    """What it is estimated to gain, dB; NaN where nobody estimated it."""
    before: Image = field(repr=False, compare=False)
    """The study of the photo (or the photo, where it is small) that it would have treated."""
    after: Image = field(repr=False, compare=False)
    """What it made of it."""


def suggestions(refusals: Iterable[Refusal], kept: Sequence[str], toolbox: Toolbox) -> tuple[Suggestion, ...]:
    """What to suggest of that which was refused, beside the tools that were kept: the most promising first.

    Left out is what a kept tool treated in another way, and of two tools for the same damages the one that promises
    less.
    """
    treated = toolbox.removed_by(kept)
    enlarging = [tool for tool in kept if toolbox[tool].spec.scale > 1]  # what follows it would be no treatment of this
    first = [tool for tool in kept if tool not in enlarging]
    found: dict[frozenset[Kind], Suggestion] = {}
    for refusal in sorted(refusals, key=lambda refusal: math.inf if math.isnan(refusal.gain) else -refusal.gain):
        if not refusal.treats & treated and refusal.treats not in found:
            toolchain = (*first, refusal.tool, *enlarging)
            chance, looks = refusal.verdict.chance, (refusal.before, refusal.after)
            found[refusal.treats] = Suggestion(refusal.tool, refusal.treats, toolchain, chance, refusal.gain, *looks)
    return tuple(found.values())[:_SUGGESTIONS]


@dataclass(frozen=True)
class Plan:
    """What a policy decided on the study of a photo."""

    trajectory: Trajectory = field(repr=False)
    gain: Gain = field(repr=False)
    """What the toolchain is estimated to gain on the study, dB by objective."""
    seconds: dict[str, float] = field(repr=False, compare=False)
    """Wall-clock seconds ``loading`` (where models were loaded for it), ``examining`` and ``deciding``."""
    suggestions: tuple[Suggestion, ...] = ()
    """What the policy wanted to do and risk control did not admit, the most promising first."""

    @property
    def toolchain(self) -> tuple[str, ...]:
        """The tools to apply to the whole photo, in order."""
        return self.trajectory.toolchain()

    @property
    def before(self) -> Percept:
        """What was seen in the photo as it came."""
        return self.trajectory.steps[0].percept

    @property
    def gave_up(self) -> str:
        """Why nothing more was decided, in words; "" when the policy came to an end of its own.

        A model that was asked gave no answers, or the steps ran out on a decision that could not be carried out.
        """
        if error := self.trajectory.last.error:
            return f"no step was left after the last one failed: {error}"
        decisions = [step.decision for step in reversed(self.trajectory.steps) if step.decision is not None]
        if decisions and decisions[0].action == Stop() and not decisions[0].reply:
            del decisions[0]  # the policy's stop, not the model's
        unusable = takewhile(lambda decision: decision.action is None, decisions)
        return next((decision.thought for decision in unusable if decision.usage.calls), "")


@dataclass(frozen=True)
class Treatment:
    """One tool applied to the whole photo."""

    tool: str
    seconds: float
    percept: Percept | None
    """What perception says of the whole afterwards; None when the tool failed."""
    kept: bool
    """Whether its effect is in the result."""
    note: str = ""
    gain: float = 0.0
    """What perception estimates that it gained on the whole, dB."""
    numbers: Mapping[str, float] = field(default_factory=dict, compare=False)
    """What the tool told of its work: a tool that adapts itself, how long it did and how far it came."""
    refusal: Refusal | None = field(default=None, repr=False, compare=False)
    """Why it was taken back, where risk control did not admit it on the whole photo."""

    @property
    def told(self) -> str:
        """What became of it, in words."""
        return f"{self.tool} {'failed: ' if self.percept is None else ''}{self.note or 'was kept'}"


@dataclass(frozen=True)
class Restored:
    """A restored photo and everything that led to it."""

    photo: Photo
    plan: Plan
    after: Percept = field(repr=False)
    """What is seen in the result."""
    asked_for: bool
    """Whether its tools were asked for by name, whatever is seen in the photo."""
    treatments: tuple[Treatment, ...]
    gain: float
    """What all treatments together are estimated to have gained on the whole photo, dB, with caution: the one estimate
    that is shown. 0 for an untouched photo."""
    seconds: dict[str, float]
    """Wall-clock seconds ``loading`` (where models were loaded for it), ``examining``, ``deciding``, ``treating``."""
    suggestions: tuple[Suggestion, ...] = ()
    """What the policy wanted to do and risk control did not admit, on the study or on the whole photo; the most
    promising first."""
    notes: tuple[str, ...] = ()
    """What else a reader of its record must know, as sentences."""
    interval: tuple[float, float] | None = None
    """Between which gains (PSNR, dB) nine in ten of the calibration photos lay that were treated and had this estimate;
    None where nothing was treated, or where that was not measured for this policy and toolbox, or for a part of the
    strength."""
    strength: float = 1.0
    """How far it goes from the photo as it came (0) to what the tools made of it (1)."""

    @property
    def before(self) -> Percept:
        """What was seen in the photo as it came."""
        return self.plan.before

    @property
    def trajectory(self) -> Trajectory:
        """The decisions on the study, with their reasons."""
        return self.plan.trajectory

    @property
    def toolchain(self) -> tuple[str, ...]:
        """The tools whose effect is in the result."""
        return tuple(t.tool for t in self.treatments if t.kept)

    @property
    def untouched(self) -> bool:
        """Whether the pixels are those of the input."""
        return not self.toolchain

    @property
    def enlarged(self) -> bool:
        """Whether the photo is larger than it came; then what was gained cannot be estimated."""
        first, last = self.trajectory.steps[0], self.trajectory.last
        return not self.untouched and first.image.shape != last.image.shape

    @property
    def failed(self) -> tuple[Treatment, ...]:
        """What was decided, and a tool could not do on the whole photo."""
        return tuple(t for t in self.treatments if t.percept is None)

    @property
    def gave_up(self) -> str:
        """Why the model that was asked decided no further, in words; "" when the policy came to an end of its own."""
        return self.plan.gave_up

    def save(self, path: str | Path, *, overwrite: bool = False, in_place: bool = False) -> tuple[str, ...]:
        """Write the result; a photo that was left untouched is copied byte for byte where its format stays.

        Returns what had to change on the way out, in words. Raises PhotoError where the file cannot be written, where
        there is one already and ``overwrite`` is not given, or where it takes the place of the photo's own file, here
        or afterwards (``in_place``), and something that this holds would be lost.
        """
        if self.untouched:
            return copy_photo(self.photo, Path(path), overwrite=overwrite)
        return save_photo(self.photo, Path(path), overwrite=overwrite, in_place=in_place)

    def __repr__(self) -> str:
        height, width = self.photo.image.shape[-2:]
        name = self.photo.path.name if self.photo.path is not None else "photo"
        done = f"treated with {', then '.join(self.toolchain)}" if self.toolchain else "left untouched"
        gained = f"estimated gain {self.gain:+.1f} dB"
        return f"<Restored {name}, {width}x{height}: {done}; {gained}; {sum(self.seconds.values()):.1f} s>"


class Follower:
    """Is told what happens to a photo while it happens. Hand one to a restorer as its ``progress``.

    All are called in the thread that restores, but for the stages of tools that tell how far they are.
    """

    def __call__(self, stage: str) -> None:
        """A stage begins: "examining", "deciding", a tool's name."""

    def planned(self, plan: Plan) -> None:
        """What was decided, before the first tool treats the whole photo."""

    def treated(self, treatment: Treatment) -> None:
        """What became of one tool on the whole photo; it may still be decided otherwise after a later one."""


class Deciding:
    """Who decides on the study of a photo, and how far that is: it can be taken up again when the whole is treated."""

    def __init__(self, policy: Policy, session: Session, seconds: dict[str, float]) -> None:
        """Decide on a first toolchain; ``seconds`` are those of the stages before."""
        self._policy, self._session = policy, session
        self.seconds = seconds | {"deciding": 0.0}
        """Wall-clock seconds by stage."""
        self._run()

    def _run(self) -> None:
        start = time.perf_counter()
        try:
            run(self._policy, self._session)
        except Exception as error:  # perhaps of somebody else's code
            if isinstance(error, ConservatorError | OSError) or out_of_memory(error):
                raise
            what = f"{type(error).__name__}: {error}"
            raise ConservatorError(f"the policy {self._policy.name} failed ({what})") from error
        self.seconds["deciding"] += time.perf_counter() - start

    @property
    def trajectory(self) -> Trajectory:
        """All decisions so far."""
        return self._session.trajectory

    @property
    def toolchain(self) -> tuple[str, ...]:
        """The tools to apply, in order."""
        return self.trajectory.toolchain()

    @property
    def before(self) -> Percept:
        """What was seen in the photo as it came."""
        return self.trajectory.steps[0].percept

    def again(self, place: int, why: str) -> bool:
        """Decide once more from before the tool at ``place`` of the toolchain, without it; False with no step left."""
        if self._session.steps_left < 2:
            return False
        self._session.withdraw(place, why)
        self._run()
        return True


def study_like(image: Image, original: Image) -> Image:
    """The study of a picture, at the places of the original where they are of one size."""
    return study(image, like=original) if image.shape == original.shape else study(image)


def blend(image: Image, result: Image, strength: float) -> Image:
    """The result at a strength from 0 (the image, enlarged like the result where that is larger) to 1."""
    if strength == 1:
        return result
    if result.shape != image.shape:
        image = F.interpolate(image, result.shape[-2:], mode="bicubic").clamp(0, 1)
    return torch.lerp(image, result, strength)

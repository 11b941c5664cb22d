"""The restoration of one photo, in steps: study it, decide on a toolchain, treat the whole once, look again."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import takewhile
from pathlib import Path

import torch
import torch.nn.functional as F

from conservator.errors import ConservatorError, ToolFailedError
from conservator.image import Image
from conservator.kinds import Objective
from conservator.perception.perception import ENLARGED_GAIN, Gain, Look, Percept, Perception
from conservator.perception.study import study
from conservator.photo import Photo, copy_photo, save_photo
from conservator.pool import Pool, listen, numbers_of
from conservator.session.session import Policy, Session, run
from conservator.session.trajectory import Stop, Trajectory
from conservator.tools.tiling import out_of_memory
from conservator.tools.tool import Toolbox

_ERROR_OF_PERCEPTION = 0.3
"""dB; the whole photo may look this much worse than its previous state before a treatment is taken back. Set by
judgement when the core was built, and never measured: a calibrated check of the result is to replace it."""


@dataclass(frozen=True)
class Plan:
    """What a policy decided on the study of a photo."""

    trajectory: Trajectory = field(repr=False)
    gain: Gain = field(repr=False)
    """What the toolchain is estimated to gain on the study, dB by objective."""
    seconds: dict[str, float] = field(repr=False, compare=False)
    """Wall-clock seconds ``loading`` (where models were loaded for it), ``examining`` and ``deciding``."""

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


_OTHERWISE = "another toolchain was decided on afterwards"


@dataclass(frozen=True)
class Treater:
    """Applies toolchains to whole photos."""

    toolbox: Toolbox
    pool: Pool
    perception: Perception
    objective: Objective

    def treat(
        self,
        image: Image,
        deciding: Deciding,
        progress: Callable[[str], None],
        listed: Sequence[str] | None = None,
    ) -> tuple[Image, tuple[Treatment, ...]]:
        """Apply a toolchain to an image; where a tool of it does not hold on the whole, it is decided again from there.

        That is a tool that fails, that changes nothing, or after which the whole looks clearly worse than before. With
        tools that are ``listed``, those are applied, none is taken back, and nothing is decided again. ``progress`` is
        told each tool's name, and a ``Follower`` what became of it.
        """
        treatments: list[Treatment] = []
        start = state = _State(image, image, Look(study(image), deciding.before))
        done, ahead = list[str](), list(deciding.toolchain if listed is None else listed)
        while ahead:
            progress(ahead[0])
            treatment, state = self._apply(ahead.pop(0), state, progress, take_back=listed is None)
            treatments.append(treatment)
            if isinstance(progress, Follower):
                progress.treated(treatment)
            if treatment.kept:
                done.append(treatment.tool)
            elif listed is None and deciding.again(len(done), treatment.told):
                chain = list(deciding.toolchain)
                if chain[: len(done)] != done:
                    treatments = [replace(t, kept=False, note=t.note or _OTHERWISE) for t in treatments]
                    state, done = start, []
                ahead = chain[len(done) :]
        return state.image, tuple(treatments)

    def _apply(
        self, tool: str, state: _State, progress: Callable[[str], None], take_back: bool
    ) -> tuple[Treatment, _State]:
        """Treat the whole, and look at it again."""
        start = time.perf_counter()
        call = self.pool.submit(tool, state.image)
        listen(call, lambda numbers: progress(_stage(tool, numbers)))
        try:
            treated = call.result()
        except ToolFailedError as error:
            return Treatment(tool, time.perf_counter() - start, None, False, str(error)), state
        treatment, state = self._looked_at(tool, time.perf_counter() - start, state, treated, take_back)
        return replace(treatment, numbers=numbers_of(call)), state

    def _looked_at(
        self, tool: str, seconds: float, state: _State, treated: Image, take_back: bool
    ) -> tuple[Treatment, _State]:
        """Whether a tool's picture is kept, and the state after it."""
        if torch.equal(treated, state.image):
            percept = state.look.percept
            return Treatment(tool, seconds, percept, False, "changed nothing on the whole photo"), state
        enlarged = treated.shape != state.image.shape
        places = treated if enlarged else state.places
        small = study(treated, like=places)
        look = Look(small, self.perception.grade(small))
        if enlarged:  # studies of two sizes show different places: there is nothing to compare
            gain = ENLARGED_GAIN
        else:
            weighed = self.perception.weigh(state.look, look, self.toolbox[tool].spec.removes)
            gain = weighed.cautious(self.objective)
        if gain < -_ERROR_OF_PERCEPTION and take_back:
            note = f"was taken back: on the whole photo it did harm ({gain:+.1f} dB by estimate)"
            return Treatment(tool, seconds, look.percept, False, note), state
        return Treatment(tool, seconds, look.percept, True, gain=gain), _State(treated, places, look)


@dataclass(frozen=True)
class _State:
    """A whole picture on its way."""

    image: Image
    places: Image
    """The picture of the same size on which the places of the study were picked."""
    look: Look
    """Its study, and what was seen in it."""


def _stage(tool: str, numbers: Mapping[str, float]) -> str:
    """A tool at work, with how far it is where it tells that."""
    return f"{tool}, {numbers['iteration']:.0f} of {numbers['of']:.0f}" if {"iteration", "of"} <= {*numbers} else tool


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

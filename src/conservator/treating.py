"""The treatment of a whole photo: a toolchain that was decided on its study runs once, and each result is looked at."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace

import torch

from conservator.errors import ToolFailedError
from conservator.image import Image
from conservator.kinds import Kind, Objective
from conservator.perception.perception import ENLARGED_GAIN, Look, Perception
from conservator.perception.risk import Admission, Verdict
from conservator.perception.study import most_changed, study
from conservator.pool import Pool, listen, numbers_of
from conservator.restoration import Deciding, Follower, Treatment
from conservator.session.trajectory import Refusal
from conservator.tools.tool import Toolbox

_ERROR_OF_PERCEPTION = 0.3
"""dB; the whole photo may look this much worse than its previous state before a treatment is taken back, at any risk.
Set by judgement when the core was built, and never measured: it catches tools that spoil a whole photo whose study they
treated well."""
_PART = 256
"""Side in pixels of the part of the whole photo that is judged beside its study: as large as the study's crops."""
_OTHERWISE = "another toolchain was decided on afterwards"


@dataclass(frozen=True)
class Treater:
    """Applies toolchains to whole photos."""

    toolbox: Toolbox
    pool: Pool
    perception: Perception
    objective: Objective
    admission: Admission | None = None
    """What each whole picture is held to, beside the photo as it came and the state before; None: to nothing."""

    def treat(
        self,
        image: Image,
        deciding: Deciding,
        progress: Callable[[str], None],
        listed: Sequence[str] | None = None,
    ) -> tuple[Image, tuple[Treatment, ...]]:
        """Apply a toolchain to an image; where a tool of it does not hold on the whole, it is decided again from there.

        That is a tool that fails, that changes nothing, or after which the whole is not admitted by risk control, or
        looks clearly worse than before. With tools that are ``listed``, those are applied, none is taken back, and
        nothing is decided again. ``progress`` is told each tool's name, and a ``Follower`` what became of it.
        """
        treatments: list[Treatment] = []
        start = state = _State(image, image, Look(study(image), deciding.before))
        done, ahead = list[str](), list(deciding.toolchain if listed is None else listed)
        while ahead:
            progress(ahead[0])
            treatment, state = self._apply(ahead.pop(0), start, state, progress, take_back=listed is None)
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
        self, tool: str, start: _State, state: _State, progress: Callable[[str], None], take_back: bool
    ) -> tuple[Treatment, _State]:
        """Treat the whole, and look at it again."""
        begun = time.perf_counter()
        call = self.pool.submit(tool, state.image)
        listen(call, lambda numbers: progress(stage_in_words(tool, numbers)))
        try:
            treated = call.result()
        except ToolFailedError as error:
            return Treatment(tool, time.perf_counter() - begun, None, False, str(error)), state
        seconds = time.perf_counter() - begun
        treatment, state = self._looked_at(tool, seconds, start, state, treated, take_back)
        return replace(treatment, numbers=numbers_of(call)), state

    def _looked_at(
        self, tool: str, seconds: float, start: _State, state: _State, treated: Image, take_back: bool
    ) -> tuple[Treatment, _State]:
        """Whether a tool's picture is kept, and the state after it."""
        if torch.equal(treated, state.image):
            percept = state.look.percept
            return Treatment(tool, seconds, percept, False, "changed nothing on the whole photo"), state
        spec, enlarged = self.toolbox[tool].spec, treated.shape != state.image.shape
        places = treated if enlarged else state.places
        look = self._look(study(treated, like=places))
        after = _State(treated, places, look, state.treated | spec.removes)
        if enlarged:  # studies of two sizes show different places: there is nothing to compare
            gain = ENLARGED_GAIN
        else:
            gain = self.perception.weigh(state.look, look, spec.removes).cautious(self.objective)
        refusal = self._refusal(tool, start, state, after, gain) if take_back else None
        note = "" if refusal is None else f"was taken back: {refusal.verdict.words}"
        if take_back and not note and gain < -_ERROR_OF_PERCEPTION:
            note = f"was taken back: on the whole photo it did harm ({gain:+.1f} dB by estimate)"
        if note:
            return Treatment(tool, seconds, look.percept, False, note, refusal=refusal), state
        return Treatment(tool, seconds, look.percept, True, gain=gain), after

    def _refusal(self, tool: str, start: _State, before: _State, after: _State, gain: float) -> Refusal | None:
        """The refusal of a treatment of the whole; None where it is admitted."""
        if self.admission is None:
            return None
        treats = self.toolbox[tool].spec.removes
        verdict = self._verdict(self.admission, start, before, after, treats)
        if verdict.admitted:
            return None
        return Refusal(tool, treats, verdict, gain, before.look.image, after.look.image)

    def _verdict(
        self, admission: Admission, start: _State, before: _State, after: _State, treated: frozenset[Kind]
    ) -> Verdict:
        """Judge a whole picture on its study, and on the part that changed most: what shows the greater doubt counts.

        A photo that is its own study has no other part, and one that was enlarged cannot be compared.
        """
        verdict = admission.judge(start.look, before.look, after.look, treated, after.treated)
        if start.look.image is start.image or start.image.shape != after.image.shape:
            return verdict
        top, left = most_changed(start.image, after.image, _PART)
        first = self._look(_part(start.image, top, left))
        was = first if before is start else self._look(_part(before.image, top, left))
        now = self._look(_part(after.image, top, left))
        there = admission.judge(first, was, now, treated, after.treated, part=True)
        return verdict if there.doubt <= verdict.doubt else replace(there, where="on the part that changed most")

    def _look(self, image: Image) -> Look:
        return Look(image, self.perception.grade(image))


@dataclass(frozen=True)
class _State:
    """A whole picture on its way."""

    image: Image
    places: Image
    """The picture of the same size on which the places of the study were picked."""
    look: Look
    """Its study, and what was seen in it."""
    treated: frozenset[Kind] = frozenset()
    """The kinds of damage that were treated so far."""


def _part(image: Image, top: int, left: int) -> Image:
    return image[..., top : top + _PART, left : left + _PART]


def stage_in_words(tool: str, numbers: Mapping[str, float]) -> str:
    """A tool at work, with how far it is where it tells that."""
    return f"{tool}, {numbers['iteration']:.0f} of {numbers['of']:.0f}" if {"iteration", "of"} <= {*numbers} else tool

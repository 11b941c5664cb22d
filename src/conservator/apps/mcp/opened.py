"""A photo that an assistant works on, step by step: a session whose steps are studies of the whole treated photo."""

from __future__ import annotations

import secrets
import threading
from collections import OrderedDict, deque
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from functools import partial
from pathlib import Path

from conservator.errors import ConservatorError, InvalidActionError, ToolFailedError
from conservator.files import sha256
from conservator.image import Image
from conservator.kinds import Kind
from conservator.perception import study
from conservator.perception.perception import Look
from conservator.pool import listen
from conservator.restoration import blend, study_like
from conservator.restorer import Progress, Restorer
from conservator.session import ANYTHING, Apply, Decision, Rollback, Session, Step, Stop
from conservator.treating import stage_in_words

MOST_STEPS = 40
"""Steps of one photo. A toolchain has a few; each step keeps a study of 4 MB."""

MOST_OPEN = 8
"""Photos that are open at the same time; an assistant works on one or two."""

MOST_BYTES = 2 * 2**30
"""Of the pixels of all open photos together: fourteen of 12 megapixels."""


class OpenPhoto:
    """One photo, its steps so far, and its pixels at each of them. Safe to call from many threads, one after another.

    The steps' pictures are studies; the whole photo at a step is made from the tools that led to it. The restorer
    remembers what it made lately (``keep_bytes``), and makes it again to the byte where it does not.
    """

    def __init__(self, path: Path, restorer: Restorer, progress: Progress) -> None:
        """Read a photo and examine it. Raises PhotoError where it cannot be read."""
        self.handle = f"photo_{secrets.token_hex(6)}"  # nobody guesses the photo of another client
        progress("reading")
        self.photo, self._restorer = restorer.load(path), restorer
        self._read = sha256(path)
        progress("examining")
        start = study(self._whole)
        self.session = Session(
            start, restorer.toolbox, restorer.pool, restorer.perception, max_steps=MOST_STEPS, scope=ANYTHING
        )
        self._lock = threading.RLock()

    @property
    def path(self) -> Path:
        """Where the photo was read."""
        return self.photo.path or Path()

    @property
    def bytes(self) -> int:
        """Of its pixels in memory."""
        return self.photo.image.nbytes + (0 if self.photo.alpha is None else self.photo.alpha.nbytes)

    @property
    def _whole(self) -> Image:
        return self.photo.working_image()

    def step(self, number: int | None = None) -> Step:
        """A step by its number; the current state for None. Raises ConservatorError where there is no such step."""
        steps = self.session.trajectory.steps
        if number is not None and not 0 <= number < len(steps):
            raise ConservatorError(f"{self.handle} has no step {number}; its steps are 0 to {len(steps) - 1}")
        return steps[-1 if number is None else number]

    def toolchain(self, step: Step | None = None) -> tuple[str, ...]:
        """The tools that made the photo at a step, the current one by default."""
        return self.session.trajectory.toolchain(step)

    def picture(self, step: Step, progress: Progress) -> Image:
        """The whole photo (1, 3, H, W) at a step, as a result would be saved."""
        with self._lock:
            return self._result(self.toolchain(step), progress)

    def gain(self, before: Step, after: Step) -> float | None:
        """What the photo is estimated to have gained between two steps, dB, cautiously; None where it was enlarged."""
        if before.image.shape != after.image.shape:
            return None
        gain = self._restorer.perception.weigh(
            Look(before.image, before.percept), Look(after.image, after.percept), self._treated_between(before, after)
        )
        return gain.cautious(self._restorer.request.objective)

    def apply(self, tool: str, reason: str, progress: Progress) -> Step:
        """Treat the whole photo with a tool, look at the result, and append that as a step.

        Raises ConservatorError where the tool cannot be applied; the attempt is a step, too, and the photo stays as it
        was. Nothing is appended where ``progress`` raises.
        """
        with self._lock:
            self._check_goes_on()
            call: Future[Image] | None = None
            try:
                self.session.check_action(Apply(tool))
                call = self._look_at((*self.toolchain(), tool), progress)
            except InvalidActionError:
                pass  # the session says so itself
            return self._decided(Decision(Apply(tool), thought=reason), call)

    def rollback(self, to: int, reason: str) -> Step:
        """Go back to an earlier step; raises ConservatorError where there is none."""
        with self._lock:
            self._check_goes_on()
            return self._decided(Decision(Rollback(to), thought=reason), None)

    def stop(self) -> None:
        """End the session: the current state is the answer."""
        with self._lock:
            if not self.session.over:
                self.session.step(Decision(Stop(), thought="saved"))

    def check_unchanged(self) -> None:
        """Raise ConservatorError where the file is not what was opened."""
        try:
            same = sha256(self.path) == self._read
        except OSError:
            same = False
        if not same:
            raise ConservatorError(f"{self.path} was changed or moved since it was opened; inspect it again")

    def _check_goes_on(self) -> None:
        if self.session.stopped:
            raise ConservatorError(f"{self.handle} was saved, which ended its steps; inspect {self.path} again")
        if self.session.exhausted:
            raise ConservatorError(
                f"{self.handle} has had {MOST_STEPS} steps, which is the limit; save it, or inspect {self.path} again"
            )

    def _decided(self, decision: Decision, call: Future[Image] | None) -> Step:
        step = self.session.step(decision, call)
        if step.error is not None:
            raise ConservatorError(f"step {step.id} changed nothing: {step.error}")
        return step

    def _look_at(self, toolchain: Sequence[str], progress: Progress) -> Future[Image]:
        """The study of the whole photo after a toolchain, or what a tool could not do, as the session takes it."""
        call = Future[Image]()
        self._restorer.check_size(self.photo, toolchain)
        try:
            result = self._result(toolchain, progress)
        except ToolFailedError as error:
            call.set_exception(error)
        else:
            call.set_result(study_like(result, self._whole))
        progress("examining")
        return call

    def _result(self, toolchain: Sequence[str], progress: Progress) -> Image:
        """The whole photo after a toolchain, as it would be saved: at the strength asked for, gray if it was."""
        image = self._whole
        if not toolchain:
            return image
        for tool in toolchain:
            progress(tool)
            call = self._restorer.models.submit(tool, image)
            listen(call, partial(_tell, tool, progress))
            image = call.result()
        blended = blend(self._whole, image, self._restorer.request.strength)
        return self.photo.with_working_image(blended).working_image()

    def _treated_between(self, before: Step, after: Step) -> frozenset[Kind]:
        """The damages for which the tools are that only one of two steps has had."""
        one, other = self.toolchain(before), self.toolchain(after)
        same = next((place for place, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), None)
        same = min(len(one), len(other)) if same is None else same
        tools = (*one[same:], *other[same:])
        return self._restorer.toolbox.removed_by(tools)


def _tell(tool: str, progress: Progress, numbers: Mapping[str, float]) -> None:
    progress(stage_in_words(tool, numbers))


class OpenPhotos:
    """The photos that are open, by handle. The one that was not used for longest is closed when there are too many."""

    def __init__(self) -> None:
        self._open: OrderedDict[str, OpenPhoto] = OrderedDict()
        self._closed: deque[tuple[str, Path]] = deque(maxlen=1000)  # what is said of them costs next to nothing
        self._lock = threading.Lock()

    def add(self, photo: OpenPhoto) -> None:
        """Keep a photo; the oldest ones are closed until MOST_OPEN and MOST_BYTES are kept."""
        with self._lock:
            self._open[photo.handle] = photo
            while len(self._open) > 1 and not self._fits():
                handle, oldest = self._open.popitem(last=False)
                self._closed.append((handle, oldest.path))

    def _fits(self) -> bool:
        return len(self._open) <= MOST_OPEN and sum(photo.bytes for photo in self._open.values()) <= MOST_BYTES

    def __getitem__(self, handle: str) -> OpenPhoto:
        """Raises ConservatorError for a photo that was closed, or that never was open here."""
        with self._lock:
            if handle in self._open:
                self._open.move_to_end(handle)
                return self._open[handle]
            path = dict(self._closed).get(handle)
        if path is not None:
            raise ConservatorError(f"{handle} was closed, because others were opened since; inspect {path} again")
        raise ConservatorError(f"{handle} is not open here; inspect the photo by its path to open it")

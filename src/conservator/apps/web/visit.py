"""What one open page works on: a photo, the plan for it, and what became of it. Files lie in a folder of its own."""

from __future__ import annotations

import secrets
import shutil
import threading
from dataclasses import dataclass, replace
from pathlib import Path

from conservator.apps.restorers import Restorers
from conservator.apps.web.following import Steps
from conservator.apps.web.planning import Row, rows_of
from conservator.batch import FileRestorer, Job, Outcome, Task
from conservator.batch.tasks import name_of_result
from conservator.errors import ConservatorError
from conservator.files import sha256
from conservator.image import Image
from conservator.photo import Photo
from conservator.record import Record, load_record
from conservator.request import Request
from conservator.resample import bicubic_to
from conservator.restoration import Plan, Restored, Suggestion
from conservator.strength import Treated


@dataclass(frozen=True)
class Opened:
    """A photo that was read and examined."""

    file: Path
    photo: Photo
    sha256: str
    request: Request
    """What was asked for when it was planned."""
    plan: Plan


@dataclass(frozen=True)
class Finished:
    """A result as it can be downloaded."""

    task: Task
    outcome: Outcome
    record: Record
    restored: Restored


class Visit:
    """One open page. Nothing here is for two threads at a time, but for ``abandoned``."""

    def __init__(self, folder: Path, restorers: Restorers) -> None:
        self._folder, self._restorers = folder, restorers
        self.abandoned = threading.Event()
        """Set to stop what is in work."""
        self.opened: Opened | None = None
        self.rows: list[Row] = []
        """The plan as the visitor left it."""
        self.treated: Treated | None = None
        self.suggestions: tuple[Suggestion, ...] = ()
        """What is suggested now."""
        self.strength = 1.0
        self.place = (0.5, 0.5)
        """The middle of the part that is shown at 100 %, from 0 to 1: down, across."""
        self._shown: tuple[float, Image] | None = None

    def open(self, uploaded: Path, request: Request, steps: Steps) -> Opened:
        """Read, examine and plan for a photo; only then is the one before forgotten. Raises ConservatorError."""
        folder = self._folder / secrets.token_urlsafe(12)  # no other visitor can guess it
        folder.mkdir(mode=0o700, parents=True)
        file = folder / uploaded.name
        uploaded.replace(file)
        try:
            steps("reading")
            with self._restorers.lend(request) as restorer:
                photo = restorer.load(file)
                plan = restorer.plan(photo, steps)
            steps.planned(plan)
        except BaseException as error:
            shutil.rmtree(folder, ignore_errors=True)
            if isinstance(error, ConservatorError):  # whoever looks knows the photo by its name alone
                raise ConservatorError(str(error).replace(str(file), file.name)) from error
            raise
        self.close_photo()
        self.strength, self.place = 1.0, (0.5, 0.5)
        return self._set(Opened(file, photo, sha256(file), request, plan))

    def plan_again(self, request: Request, steps: Steps) -> Opened:
        """Plan anew for the open photo, by another request."""
        opened = self.checked()
        with self._restorers.lend(request) as restorer:
            plan = restorer.plan(opened.photo, steps)
        steps.planned(plan)
        return self._set(replace(opened, request=request, plan=plan))

    def _set(self, opened: Opened) -> Opened:
        self.opened, self.treated, self._shown = opened, None, None
        self.rows, self.suggestions = rows_of(opened.plan.toolchain), opened.plan.suggestions
        return opened

    def checked(self) -> Opened:
        """The open photo; raises ConservatorError where there is none."""
        if self.opened is None:
            raise ConservatorError("no photo is open; drop one here")
        return self.opened

    @property
    def chosen(self) -> tuple[str, ...] | None:
        """The tools that the visitor asks for; None where the plan is as the program made it."""
        ticked = tuple(row.tool for row in self.rows if row.ticked)
        return None if self.opened is not None and ticked == self.opened.plan.toolchain else ticked

    def restore(self, steps: Steps) -> Treated:
        """Carry out the plan. Raises ConservatorError where nothing of it is ticked, though something was planned."""
        opened, chosen = self.checked(), self.chosen
        if chosen == ():
            raise ConservatorError("nothing of the plan is ticked; tick a treatment, or add one from the toolbox")
        request = opened.request if chosen is None else replace(opened.request, policy="none")
        with self._restorers.lend(request) as restorer:
            treated = restorer.treat(opened.photo, chosen, steps)
        self.treated, self._shown = treated, None
        return treated

    def write(self, strength: float) -> Finished:
        """Write the result at a strength, its record and its page, as the command line does."""
        opened, treated = self.checked(), self.treated
        if treated is None:
            raise ConservatorError("the photo is not restored yet; press Restore")
        request = replace(opened.request, policy="none") if treated.asked_for else opened.request
        name = name_of_result(opened.file, None)
        named = f"{Path(name).stem}_restored{Path(name).suffix}"
        told = Task(Path(opened.file.name), Path(named))  # no record says where this program keeps its files
        task = Task(opened.file, self._new_folder() / named)
        with self._restorers.lend(request) as restorer:
            files = FileRestorer(restorer, report=True)
            restored = treated.at(strength)
            outcome = files.carry_out(
                Job(task), lambda folder: files.write(told, folder, opened.photo, restored, opened.sha256)
            )
        if not task.record.is_file():
            raise ConservatorError(outcome.message)
        self.suggestions = restored.suggestions
        return Finished(task, outcome, load_record(task.record), restored)

    def pair(self, strength: float) -> tuple[Image, Image]:
        """The photo before and after, of one size (1, 3, H, W), at a strength; twice the same while nothing is done."""
        opened = self.checked()
        before = opened.photo.working_image()
        if self.treated is None:
            return before, before
        if self._shown is None or self._shown[0] != strength:
            self._shown = strength, self.treated.blended(strength).working_image()
        after = self._shown[1]
        return (before if before.shape == after.shape else bicubic_to(before, *after.shape[-2:])), after

    def new_file(self, suffix: str) -> Path:
        """A new path of a file that is shown."""
        return self._new_folder() / f"view{suffix}"

    def close_photo(self) -> None:
        """Forget the photo, and delete its files."""
        opened, self.opened = self.opened, None
        self.treated = self._shown = None
        self.rows, self.suggestions = [], ()
        if opened is not None:
            shutil.rmtree(opened.file.parent, ignore_errors=True)

    def close(self) -> None:
        """End the visit; what is in work is abandoned."""
        self.abandoned.set()
        self.close_photo()
        shutil.rmtree(self._folder, ignore_errors=True)

    def _new_folder(self) -> Path:
        """A new folder among the files of the photo, or beside where one would be."""
        place = self._folder if self.opened is None else self.opened.file.parent
        folder = place / secrets.token_urlsafe(12)
        folder.mkdir(mode=0o700, parents=True)
        return folder


class Visits:
    """The open pages, by the name that Gradio gives to each."""

    def __init__(self, folder: Path, restorers: Restorers) -> None:
        self._folder, self._restorers = folder, restorers
        self._open: dict[str, Visit] = {}
        self._lock = threading.Lock()

    def of(self, session: str | None) -> Visit:
        """The visit of a page; a new one where it has none."""
        with self._lock:
            if session not in self._open:
                self._open[session or ""] = Visit(self._folder / secrets.token_urlsafe(12), self._restorers)
            return self._open[session or ""]

    def end(self, session: str | None) -> None:
        """Forget a page that was closed, and delete its files."""
        with self._lock:
            visit = self._open.pop(session or "", None)
        if visit is not None:
            visit.close()

    def close(self) -> None:
        """End all visits."""
        for session in list(self._open):
            self.end(session)

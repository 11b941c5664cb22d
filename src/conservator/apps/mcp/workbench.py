"""What an assistant can have done: each method is one tool, and answers in words, data and small pictures.

It is a thin caller of the restorer, of sessions and of the batch engine, and knows nothing of the protocol.
"""

from __future__ import annotations

import math
import threading
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from conservator.apps.mcp.jobs import Jobs, ToldJob, in_tool_words
from conservator.apps.mcp.opened import OpenPhoto, OpenPhotos
from conservator.apps.mcp.pictures import check_region, cropped, preview_jpeg
from conservator.apps.mcp.telling import (
    described_percept,
    described_photo,
    described_steps,
    described_tools,
    in_db,
    listed_folder,
)
from conservator.apps.restorers import KEPT_BYTES, Restorers
from conservator.apps.roots import Roots
from conservator.batch import JOURNAL, FileRestorer, Journal, Outcome, Task, find_tasks, run_batch
from conservator.batch.preview import seen_in_words
from conservator.batch.words import photos as photos_in_words
from conservator.errors import ConservatorError
from conservator.files import printable
from conservator.image import Image
from conservator.kinds import Kind, Objective, Preference
from conservator.metrics import FullReference, make_metric
from conservator.photo import load_photo
from conservator.record import load_record, why_untouched
from conservator.request import Request
from conservator.resample import bicubic_to
from conservator.restorer import Progress, Restorer
from conservator.suggesting import records_of

MOST_SECONDS = 50.0
"""That one question after a batch may wait: hosts give up a call after about a minute."""


@dataclass(frozen=True)
class Told:
    """What a tool answers."""

    sentence: str
    data: Mapping[str, Any]
    pictures: tuple[bytes, ...] = ()
    """JPEGs, each of PREVIEW_BYTES at most."""
    files: tuple[Path, ...] = ()
    """Files that were written."""


@dataclass(frozen=True)
class Choices:
    """What an assistant may ask of a restoration, beyond what the user set when the program was started."""

    policy: str | None = None
    objective: Objective | None = None
    strength: float | None = None
    only: frozenset[Kind] | None = None
    never: frozenset[Kind] = field(default=frozenset())
    prefer: Preference | None = None
    upscale: bool | None = None

    def on(self, request: Request) -> Request:
        """The user's request with these choices; what the user excluded stays excluded."""
        given = {name: getattr(self, name) for name in ("policy", "objective", "strength", "prefer", "upscale")}
        chosen = {name: value for name, value in given.items() if value is not None}
        if self.only is None and not self.never:
            return replace(request, **chosen)
        allowed = frozenset(Kind) if request.only is None else request.only
        left = (allowed if self.only is None else allowed & self.only) - request.never - self.never
        if not left:
            raise ConservatorError("no kind of damage is left to treat; name others in only, or fewer in never")
        return replace(request, **chosen, only=left, never=frozenset())


class Workbench:
    """All that the tools work with. Safe to call from many threads; close it at the end."""

    def __init__(self, folders: Sequence[Path], request: Request) -> None:
        """Open ``folders`` to assistants; ``request`` is what the user wants unless a call says otherwise.

        Raises ConservatorError for folders that are not there, and for a request that cannot be met.
        """
        self.roots, self._request = Roots(folders), request
        self._restorers, self._photos, self._jobs = Restorers(), OpenPhotos(), Jobs()
        self._idle, self._at_work, self._leaving = threading.Condition(), 0, False
        with self._restorers.lend(request):
            pass  # what cannot be met is said now
        # as the command apply asks, so that results and records are the same
        self._hand = Restorer(replace(request, policy="none"), keep_bytes=KEPT_BYTES)

    @contextmanager
    def working(self) -> Iterator[None]:
        """A call in work; closing waits for it."""
        with self._idle:
            self._at_work += 1
        try:
            yield
        finally:
            with self._idle:
                self._at_work -= 1
                self._idle.notify_all()

    def close(self, seconds: float) -> bool:
        """Stop everything at its next stage; whether all had stopped within so many seconds."""
        self._leaving = True
        self._jobs.abort()
        with self._idle:
            idle = self._idle.wait_for(lambda: not self._at_work and not self._jobs.running, seconds)
        if idle:
            self._restorers.close()
            self._hand.close()
        return idle

    def inspect(self, photo: str, region: Sequence[int] | None, progress: Progress) -> Told:
        """Open a photo, or look at an open one, or list the photos of a folder."""
        if not _is_handle(photo) and (path := self.roots.real(photo)).is_dir():
            data = listed_folder(path, self.roots)
            return Told(f"{path} holds {photos_in_words(data['count'])}", data)
        opened = self._opened(photo, progress)
        data = described_photo(opened)
        if not _is_handle(photo):
            data["tools"] = described_tools(self._hand.toolbox.specs, opened.step().percept)
        pictures = self._shown(opened, region, progress)
        return Told(f"{opened.path.name}: {seen_in_words(opened.step().percept)}", data, pictures)

    def plan(self, photo: str, choices: Choices, progress: Progress) -> Told:
        """Say what the program would do; nothing is treated."""
        opened = self._opened(photo, progress)
        request = choices.on(self._request)
        with self._restorers.lend(request) as restorer:
            plan = restorer.plan(opened.photo, progress)
        gain = plan.gain.cautious(request.objective) if plan.toolchain else 0.0
        why = "" if plan.toolchain else plan.gave_up or why_untouched(plan.trajectory)
        data = {
            "photo": opened.handle,
            "toolchain": list(plan.toolchain),
            "estimated_gain_db": in_db(gain),
            "seen": described_percept(plan.before),
            "decisions": described_steps(plan.trajectory),
            "suggestions": [suggestion.model_dump(mode="json") for suggestion in records_of(plan.suggestions)],
            **({"why_nothing": why} if why else {}),
        }
        would = f"would be treated with {', then '.join(plan.toolchain)}; estimated gain {gain:+.1f} dB"
        return Told(would if plan.toolchain else f"would be left untouched: {why}", data)

    def apply(self, photo: str, tool: str, reason: str, region: Sequence[int] | None, progress: Progress) -> Told:
        """Treat an open photo with one tool, and look at it."""
        opened = self._opened(photo, progress)
        if tool in self._hand.toolbox:  # a region that does not fit costs no treatment
            height, width = self._hand.size_after(opened.photo, (*opened.toolchain(), tool))
            check_region(region, height, width)
        before = opened.step()
        step = opened.apply(tool, reason, progress)
        gain = opened.gain(before, step)
        data = described_photo(opened) | {"step_gain_db": in_db(gain)}
        pictures = self._shown(opened, region, progress)
        told = "no estimate, since it enlarged" if gain is None else f"estimated gain of this step {gain:+.1f} dB"
        return Told(f"step {step.id}: {tool}; {told}; {seen_in_words(step.percept)}", data, pictures)

    def rollback(self, photo: str, step: int, reason: str, region: Sequence[int] | None, progress: Progress) -> Told:
        """Go back to an earlier step of an open photo."""
        opened = self._photos[photo]
        appended = opened.rollback(step, reason)
        pictures = self._shown(opened, region, progress)
        return Told(f"step {appended.id}: back at step {step}", described_photo(opened), pictures)

    def save(self, photo: str, output: str | None, progress: Progress) -> Told:
        """Write what the applied tools make of the photo, with its record: what ``conservator apply`` would write."""
        opened = self._photos[photo]
        toolchain = opened.toolchain()
        if not toolchain:
            raise ConservatorError(f"no tool is applied to {photo}; apply one, or let the program decide with restore")
        opened.check_unchanged()
        answer = self._written(opened.path, output, FileRestorer(self._hand, tools=toolchain), progress)
        opened.stop()
        return replace(answer, data={**answer.data, "photo": photo, "steps": described_photo(opened)["steps"]})

    def restore(self, photo: str, output: str | None, choices: Choices, progress: Progress) -> Told:
        """Let the program plan, treat and verify; the result and its record are written."""
        path = self._photos[photo].path if _is_handle(photo) else self.roots.real(photo)
        if path.is_dir():
            raise ConservatorError(f"{path} is a folder; use batch_start for its photos, or give one photo")
        with self._restorers.lend(choices.on(self._request)) as restorer:
            return self._written(path, output, FileRestorer(restorer), progress)

    def compare(self, photo: str, to: int | str, region: Sequence[int] | None, progress: Progress) -> Told:
        """Show an open photo as it is now beside an earlier step, or beside another photo, with measures."""
        opened, gain = self._opened(photo, progress), None
        now = opened.step()
        image = opened.picture(now, progress)
        if isinstance(to, int):
            before = opened.step(to)
            other, gain = opened.picture(before, progress), opened.gain(before, now)
        else:
            other = self._hand.load(self.roots.real(to)).working_image()
        part = cropped(image, region)
        if region is not None and other.shape != image.shape:
            other = bicubic_to(other, *image.shape[-2:])
        data = {
            "photo": opened.handle,
            "step": now.id,
            "to": to,
            "toolchain": list(opened.toolchain(now)),
            "estimated_gain_db": in_db(gain),
            **_measured(image, other),
        }
        pictures = (preview_jpeg(cropped(other, region), opened.photo.icc), preview_jpeg(part, opened.photo.icc))
        named = f"step {to}" if isinstance(to, int) else to
        return Told(f"first picture: {named}; second picture: {opened.handle} as it is now", data, pictures)

    def batch_start(
        self,
        photos: Sequence[str],
        output: str | None,
        tools: Sequence[str] | None,
        at_once: int,
        choices: Choices,
    ) -> Told:
        """Restore photos and folders while the assistant does other things; what an earlier run finished is skipped."""
        paths = [self.roots.real(photo) for photo in photos]
        if not paths:
            raise ConservatorError("no photo is named; give paths of photos or of folders")
        for tool in tools or ():
            _ = self._hand.toolbox[tool]  # a name that does not exist costs no photo
        request = choices.on(self._request)
        found, refused = self.roots.within(find_tasks(paths, self._output(output)))
        if not found.tasks:
            raise ConservatorError("all photos that were found, or their results, lie outside the open folders")
        job = ToldJob(found, refused, Journal(self._checked(found.folder / JOURNAL)))
        if self._leaving:
            raise ConservatorError("the program is ending; start it again")
        self._jobs.add(job)
        job.start(self._lent_files(request, tuple(tools or ())), at_once)
        return Told(f"{job.handle}: {photos_in_words(len(found.tasks))}; ask for it with job_status", job.told())

    def job_status(self, job: str, wait_seconds: float, progress: Progress) -> Told:
        """How far a batch is; waits until it has ended, for a while."""
        known = self._jobs[job]
        for second in range(math.ceil(min(wait_seconds, MOST_SECONDS))):
            if known.ended.wait(min(1.0, wait_seconds - second)):
                break
            progress(f"{known.told()['done']} of {len(known.found.tasks)} photos")
        told = known.told()
        return Told(f"{job} {told['state']}: {told['done']} of {photos_in_words(told['photos'])} done", told)

    def job_cancel(self, job: str) -> Told:
        """Let a batch begin no further photo."""
        known = self._jobs[job]
        known.cancel()
        told = known.told()
        return Told(f"{job} {told['state']}: photos in work are finished, no other is begun", told)

    @contextmanager
    def _lent_files(self, request: Request, tools: tuple[str, ...]) -> Iterator[FileRestorer]:
        if tools:
            yield FileRestorer(self._hand, tools=tools)
        else:
            with self._restorers.lend(request) as restorer:
                yield FileRestorer(restorer)

    def _opened(self, photo: str, progress: Progress) -> OpenPhoto:
        """An open photo by its handle, or the photo of a path, which is opened."""
        if _is_handle(photo):
            return self._photos[photo]
        opened = OpenPhoto(self.roots.real(photo), self._hand, progress)
        self._photos.add(opened)
        return opened

    def _shown(self, opened: OpenPhoto, region: Sequence[int] | None, progress: Progress) -> tuple[bytes, ...]:
        image = opened.picture(opened.step(), progress)
        return (preview_jpeg(cropped(image, region), opened.photo.icc),)

    def _output(self, output: str | None) -> Path | None:
        return None if output is None else self.roots.real(output)

    def _checked(self, path: Path) -> Path:
        """A path that is written or read; raises ConservatorError where a link leads it out of the open folders."""
        if not self.roots.contain(path):
            raise ConservatorError(f"{path}: this leads out of the folders that are open here; choose another output")
        return path

    def _written(self, path: Path, output: str | None, files: FileRestorer, progress: Progress) -> Told:
        """Restore one file as the command line does, and tell of the result."""
        found = find_tasks([path], self._output(output))
        task = found.tasks[0]
        for place in (task.source, task.target, task.record, found.folder / JOURNAL):
            self._checked(place)
        if task.in_place:
            raise ConservatorError(f"{task.target} is the photo itself, which is never replaced; choose another output")
        if task.target.exists():
            raise ConservatorError(f"{task.target} exists already, and nothing is replaced; choose another output")
        summary = run_batch([task], files, Journal(found.folder / JOURNAL), on_start=lambda _: progress)
        return _told(task, summary.outcomes[0], summary.trouble)


def _told(task: Task, outcome: Outcome, trouble: str) -> Told:
    """What became of one file, with a preview of the result; raises ConservatorError where nothing was written."""
    if outcome.status not in ("restored", "untouched", "incomplete"):
        raise ConservatorError(in_tool_words(outcome.message))
    record, result = load_record(task.record), load_photo(task.target)
    data = {
        "status": outcome.status,
        "verdict": record.verdict,
        "toolchain": record.toolchain,
        "estimated_gain_db": in_db(record.estimated_gain),
        "result": printable(task.target),
        "record": printable(task.record),
        "sha256": outcome.output_sha256,
        "width": record.output.width,
        "height": record.output.height,
        "suggestions": [suggestion.model_dump(mode="json") for suggestion in record.suggestions],
        "notes": record.notes,
        **({"journal_lacks_lines": trouble} if trouble else {}),
    }
    picture = preview_jpeg(result.working_image(), result.icc)
    return Told(f"{task.target}: {record.verdict}", data, (picture,), (task.target, task.record))


def _measured(image: Image, other: Image) -> dict[str, Any]:
    """How near two pictures are; nothing where their sizes differ."""
    if image.shape != other.shape:
        return {}
    found = {}
    for name in ("psnr", "ssim"):
        metric = make_metric(name)
        assert isinstance(metric, FullReference)
        found[name] = in_db(metric.score(image, other))
    return {"identical": torch.equal(image, other), **found}


def _is_handle(photo: str) -> bool:
    return photo.startswith("photo_") and "/" not in photo and "." not in photo

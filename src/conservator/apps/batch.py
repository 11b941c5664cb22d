"""Restore many files: find them, restore each on its own, keep a manifest, resume, never let one bad file stop all."""

from __future__ import annotations

import json
import os
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Literal, TypeAlias

from conservator.errors import ConservatorError
from conservator.files import PART_SUFFIX, sha256
from conservator.perception.perception import Perception
from conservator.photo import PHOTO_SUFFIXES, Photo, copy_photo, load_photo, save_photo
from conservator.policies.catalog import PolicyContext, make_policy
from conservator.pool import LocalPool, MemoPool
from conservator.record import Record, Settings, load_record, make_record, save_record
from conservator.restoration import Restored, restore
from conservator.tools.tiling import out_of_memory
from conservator.tools.tool import Toolbox

MANIFEST = "conservator.manifest.jsonl"
RECORD_SUFFIX = ".conservator.json"
REPORT_SUFFIX = ".conservator.html"


@dataclass(frozen=True)
class Task:
    """One file to restore and where its result goes."""

    source: Path
    target: Path

    @property
    def record(self) -> Path:
        """Where the record goes: photo.conservator.json beside photo.png."""
        return self.target.with_name(self.target.stem + RECORD_SUFFIX)

    @property
    def report(self) -> Path:
        """Where the HTML page goes."""
        return self.target.with_name(self.target.stem + REPORT_SUFFIX)


Status: TypeAlias = Literal["started", "restored", "untouched", "incomplete", "skipped", "failed"]
"""What became of a photo; incomplete: written, but a tool failed or the model that was asked gave no answers."""


@dataclass(frozen=True)
class Outcome:
    """What became of one task: a line of the manifest."""

    source: str
    target: str
    status: Status
    message: str
    input_sha256: str = ""
    output_sha256: str = ""
    stages: dict[str, float] = field(default_factory=dict)
    """Seconds ``examining``, ``deciding`` and ``treating``."""
    quality_before: float | None = None
    quality_after: float | None = None
    notes: tuple[str, ...] = ()
    """What had to change on the way in and out."""


def split(stages: Mapping[str, float]) -> str:
    """How the seconds of one photo were spent, "2.1 s: examining 0.2, deciding 0.7, treating 1.2"."""
    parts = ", ".join(f"{stage} {seconds:.1f}" for stage, seconds in stages.items())
    return f"{sum(stages.values()):.1f} s: {parts}"


@dataclass
class Summary:
    """Counts of a batch."""

    outcomes: list[Outcome] = field(default_factory=list)

    def count(self, status: Status) -> int:
        """How many ended so."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def exit_code(self) -> int:
        """0 all done, 1 some failed or are incomplete, 2 nothing done."""
        failed = self.count("failed")
        if not self.outcomes or failed == len(self.outcomes):
            return 2
        return 1 if failed or self.count("incomplete") else 0


def find_tasks(paths: Sequence[Path], output: Path | None, suffix: str | None = None) -> list[Task]:
    """List the photos in files and folders (recursively) with their targets.

    ``output`` is a folder, or a file name for a single photo; without it results go to a folder ``restored`` beside
    each input. Folders keep their tree below the output. Formats that cannot be written become PNG; ``suffix`` (".png")
    asks for one format. Two inputs with one target get the input's suffix into their names.
    Raises ConservatorError when a path does not exist, when no photo is found, or when a format cannot be written.
    """
    _check_format(suffix, output)
    tasks: list[Task] = []
    single = len(paths) == 1 and paths[0].is_file() and output is not None and _is_file_name(output)
    for path in paths:
        if path.is_dir():
            base = output or path / "restored"
            files = [p for p in _walk(path) if not _is_result(p, path, base)]
            tasks += [Task(p, base / _name(p, suffix, p.relative_to(path).parent)) for p in files]
        elif path.exists():
            if single and output is not None:
                tasks.append(Task(path, output))
            else:
                tasks.append(Task(path, (output or path.parent / "restored") / _name(path, suffix, Path())))
        else:
            raise ConservatorError(f"{path}: there is no such file or folder")
    if not tasks:
        raise ConservatorError(f"no photos found in {', '.join(map(str, paths))}")
    return _distinct(tasks)


def _check_format(suffix: str | None, output: Path | None) -> None:
    formats = " ".join(sorted(PHOTO_SUFFIXES))
    if suffix is not None and suffix.lower() not in PHOTO_SUFFIXES:
        raise ConservatorError(f"photos cannot be written as {suffix}; take one of {formats}")
    if output is not None and output.suffix.lower() in _UNWRITABLE and not output.is_dir():
        raise ConservatorError(f"{output}: photos cannot be written as {output.suffix}; take one of {formats}")
    if output is not None and output.suffix.lower() not in PHOTO_SUFFIXES and output.exists() and not output.is_dir():
        raise ConservatorError(f"{output} is a file, expected a folder or the name of a photo; choose another --output")


_UNWRITABLE = frozenset({".heic", ".heif", ".jxl", ".jp2", ".jfif", ".dng", ".psd", ".pdf", ".tga", ".svg", ".raw"})
"""Suffixes that somebody who asks for a file may give; a folder of such a name is hardly meant."""


def _is_result(path: Path, folder: Path, output: Path) -> bool:
    """Whether a photo lies in the output folder, where that is one of the input's subfolders."""
    inside, output = folder.resolve(), output.resolve()
    return (
        output != inside
        and output.is_relative_to(inside)
        and (inside / path.relative_to(folder)).is_relative_to(output)
    )


def _is_file_name(path: Path) -> bool:
    return path.suffix.lower() in PHOTO_SUFFIXES and not path.is_dir()


def _walk(folder: Path) -> Iterator[Path]:
    for path in sorted(folder.rglob("*")):
        if path.suffix.lower() in PHOTO_SUFFIXES and path.is_file() and not path.name.startswith("."):
            yield path


def _name(path: Path, suffix: str | None, parent: Path) -> Path:
    # a GIF holds too few colours for a restored photo, and an MPO is written as the JPEG that it is
    own = path.suffix if path.suffix.lower() in PHOTO_SUFFIXES else ".png"
    wanted = suffix or {".gif": ".png", ".mpo": ".jpg"}.get(path.suffix.lower(), own)
    return parent / (path.stem + wanted)


def _distinct(tasks: Sequence[Task]) -> list[Task]:
    """Results and records must not collide: a.jpg and a.png would share a.conservator.json."""
    stems = [task.target.with_suffix("") for task in tasks]
    seen: set[Path] = set()
    distinct = []
    for task, stem in zip(tasks, stems, strict=True):
        target = task.target
        if stems.count(stem) > 1:
            target = target.with_name(f"{target.stem}_{task.source.suffix.lstrip('.').lower()}{target.suffix}")
        number = 2
        while target.with_suffix("") in seen:
            target = task.target.with_name(f"{task.target.stem}_{number}{task.target.suffix}")
            number += 1
        seen.add(target.with_suffix(""))
        distinct.append(Task(task.source, target))
    return distinct


class Manifest:
    """The append-only list of outcomes in the output folder; a torn last line (kill -9) is ignored."""

    def __init__(self, path: Path) -> None:
        self.path, self._lock = path, threading.Lock()

    def read(self) -> dict[tuple[str, str], Outcome]:
        """The latest outcome of each (source, target)."""
        found: dict[tuple[str, str], Outcome] = {}
        if self.path.exists():
            for line in self.path.read_text("utf-8", errors="replace").splitlines():
                try:
                    outcome = Outcome(**json.loads(line))
                except (ValueError, TypeError):
                    continue
                found[outcome.source, outcome.target] = outcome
        return found

    def append(self, outcome: Outcome) -> None:
        """Add one line and flush it to the disk."""
        with self._lock:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with self.path.open("ab+") as file:
                torn = False
                if file.tell():
                    file.seek(-1, os.SEEK_END)
                    torn = file.read(1) != b"\n"
                # ASCII, since a name may hold bytes that are no UTF-8
                file.write(b"\n" * torn + json.dumps(asdict(outcome)).encode("ascii") + b"\n")
                file.flush()
                os.fsync(file.fileno())


@dataclass(frozen=True)
class Restorer:
    """Restores one task after another with the same settings; safe to call from several threads."""

    settings: Settings
    toolbox: Toolbox
    perception: Perception
    report: bool = False

    def fits(self, task: Task, record: Record) -> bool:
        """Whether a finished result is what is asked for now."""
        return record.settings.choices() == self.settings.choices() and (not self.report or task.report.is_file())

    def __call__(self, task: Task, progress: Callable[[str], None], overwrite: bool) -> Outcome:
        """Restore one file; what goes wrong with the photo becomes a failed outcome, never an exception."""
        settings, written = self.settings, ""
        try:
            progress("reading")
            photo = load_photo(task.source, max_pixels=settings.max_pixels, allow_truncated=settings.allow_truncated)
            taken = sha256(task.source)  # now: the result may take its place
            restored = self._restore(photo, progress)
            progress("writing")
            task.target.parent.mkdir(parents=True, exist_ok=True)
            write = copy_photo if restored.untouched else save_photo
            notes = write(restored.photo, task.target, overwrite=overwrite)
            written = sha256(task.target)
            if written != taken:  # what had to change on the way in did change
                notes = (*restored.photo.notes, *notes)
            record = make_record(restored, photo, task.target, settings, self.toolbox, notes, taken)
            if self.report:
                from conservator.apps.report import save_report

                save_report(task.report, record, photo, restored)
            save_record(record, task.record)
        except (ConservatorError, OSError, MemoryError, RuntimeError) as error:
            if isinstance(error, RuntimeError) and not out_of_memory(error):
                raise
            message = "not enough memory" if out_of_memory(error) else str(error) or type(error).__name__
            return Outcome(str(task.source), str(task.target), "failed", message, output_sha256=written)
        incomplete = restored.gave_up or restored.failed
        return Outcome(
            str(task.source),
            str(task.target),
            "incomplete" if incomplete else "untouched" if restored.untouched else "restored",
            record.verdict,
            taken,
            written,
            {stage: round(seconds, 3) for stage, seconds in restored.seconds.items()},
            round(restored.before.quality, 2),
            round(restored.after.quality, 2),
            tuple(record.notes),
        )

    def _restore(self, photo: Photo, progress: Callable[[str], None]) -> Restored:
        settings = self.settings
        with MemoPool(LocalPool(self.toolbox, settings.device, max_batch=1)) as pool:
            context = PolicyContext(
                pool,
                self.perception,
                settings.objective,
                settings.seed,
                settings.upscale,
                device=settings.device,
                chat=settings.chat,
            )
            return restore(
                photo,
                make_policy(settings.policy, context),
                self.toolbox,
                pool,
                self.perception,
                max_steps=settings.max_steps,
                strength=settings.strength,
                progress=progress,
            )


def run_batch(
    tasks: Sequence[Task],
    restorer: Callable[[Task, Callable[[str], None], bool], Outcome],
    manifest: Manifest,
    *,
    jobs: int = 1,
    resume: bool = False,
    overwrite: bool = False,
    fits: Callable[[Task, Record], bool] = lambda task, record: True,
    on_start: Callable[[Task], Callable[[str], None]] = lambda task: lambda stage: None,
    on_end: Callable[[Task, Outcome], None] = lambda task, outcome: None,
) -> Summary:
    """Restore all tasks, ``jobs`` at a time; with ``resume`` skip those whose result stands as the manifest says.

    A result is skipped only if input and output still have the hashes of the manifest, and the record is of that output
    and ``fits``. An existing target or record is replaced only with ``overwrite``, or with ``resume`` when the manifest
    says that it is ours.
    """
    done = manifest.read() if resume else {}
    if resume:
        remove_leftovers({task.target.parent for task in tasks})

    def work(task: Task) -> Outcome:
        progress = on_start(task)
        earlier = done.get((str(task.source), str(task.target)))
        ours = overwrite or (earlier is not None and _is_ours(task, earlier))
        stands = [] if ours else _in_the_way(task)
        if earlier is not None and _still_stands(task, earlier, fits):
            outcome = replace(earlier, status="skipped", message="done before", stages={}, notes=())
        elif stands:  # not for the manifest: it would hide what an earlier run did
            message = f"{stands[0]} exists already; give --overwrite to replace it, or another --output"
            outcome = Outcome(str(task.source), str(task.target), "failed", message)
        else:
            manifest.append(Outcome(str(task.source), str(task.target), "started", ""))
            outcome = restorer(task, progress, ours)
            if earlier is not None and outcome.status == "failed" and not outcome.output_sha256:
                outcome = replace(outcome, output_sha256=earlier.output_sha256)  # which still lies there
            manifest.append(outcome)
        on_end(task, outcome)
        return outcome

    with ThreadPoolExecutor(jobs) as threads:
        return Summary(list(threads.map(work, tasks)))


def remove_leftovers(folders: set[Path]) -> None:
    """Delete the temporary files that a killed run left in output folders."""
    for folder in folders:
        for path in folder.glob(f".*{PART_SUFFIX}"):
            path.unlink(missing_ok=True)


def _in_the_way(task: Task) -> list[Path]:
    """What must not be replaced: a file at the target, and the record of another result that is still there."""
    found = [path for path in (task.target, task.record) if path.exists()]
    if found == [task.record]:
        try:
            documented = Path(load_record(task.record).output.path).name
        except ConservatorError:
            return found  # whatever it is, it is somebody's
        return found if task.record.with_name(documented).exists() else []
    return found


def _is_ours(task: Task, earlier: Outcome) -> bool:
    """Whether what lies at the target is an earlier run's: one that failed may have written it before."""
    if earlier.status != "failed":
        return True
    return bool(earlier.output_sha256) and task.target.is_file() and sha256(task.target) == earlier.output_sha256


def _still_stands(task: Task, earlier: Outcome, fits: Callable[[Task, Record], bool]) -> bool:
    if earlier.status not in ("restored", "untouched") or not (task.target.is_file() and task.record.is_file()):
        return False
    if sha256(task.target) != earlier.output_sha256 or sha256(task.source) != earlier.input_sha256:
        return False
    try:
        record = load_record(task.record)
    except ConservatorError:
        return False
    return record.output.sha256 == earlier.output_sha256 and fits(task, record)

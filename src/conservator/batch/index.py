"""The page of a folder: a contact sheet of all its results, made from the journal and the records that lie there."""

from __future__ import annotations

import json
import math
import os
from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path
from typing import Any
from urllib.parse import quote

from conservator.batch.journal import Journal, Outcome
from conservator.batch.results import documented
from conservator.batch.summary import Summary
from conservator.batch.tasks import Task
from conservator.commands import shell_word
from conservator.errors import ConservatorError
from conservator.files import as_seen_from, printable, write_text
from conservator.kinds import Kind, Severity
from conservator.pages import make_page, our_page
from conservator.record import Record, load_record
from conservator.report import thumbnail_of

_PAGE = "folder"
_SAID = {"started": "unfinished", "kept": "not replaced"}
"""How a person reads the outcomes whose names mean something else to a program."""
_FIRST = ("failed", "unfinished", "not replaced", "skipped", "incomplete")


def save_index(folder: Path, journal: Journal, summary: Summary) -> Path | None:
    """Write the page of all photos that the journal of a folder of results tells of; None where it is one photo alone.

    What ``summary`` adds is what the journal does not hold: refusals of this run. The page is ``index.html``, or, where
    that is somebody else's, ``conservator.html``; an earlier page of ours is replaced, whole or not at all.
    Raises OSError where the folder cannot be written.
    """
    rows = sorted(_rows(folder, journal, summary), key=lambda row: (row[0], row[1]["name"]))
    if len(rows) < 2:
        return None
    path = next(path for path in _names(folder) if not os.path.lexists(path) or our_page(path, _PAGE))
    photos = [photo for _, photo in rows]
    write_text(
        path,
        make_page(
            _PAGE,
            printable(Path(folder.resolve().name)) or "Results",
            scripts=["folder"],
            files_beside=True,
            counts=escape(_counted(photos)),
            photos=json.dumps(photos, separators=(",", ":")).replace("<", "\\u003c"),
        ),
    )
    return path


def _names(folder: Path) -> Iterator[Path]:
    yield folder / "index.html"
    yield folder / "conservator.html"
    number = 2
    while True:
        yield folder / f"conservator-{number}.html"
        number += 1


def _counted(photos: list[dict[str, Any]]) -> str:
    statuses = [photo["status"] for photo in photos]
    counts = ", ".join(f"{statuses.count(status):,} {status}" for status in dict.fromkeys(sorted(statuses)))
    return f"{len(photos):,} photos: {counts}."


def _rows(folder: Path, journal: Journal, summary: Summary) -> Iterable[tuple[tuple[float, ...], dict[str, Any]]]:
    """Of each photo, where it stands among the others, worst first, and what the page shows of it."""
    latest: dict[Path, Outcome] = {}
    for outcome in [*summary.outcomes, *journal.read().values()]:  # what the journal says is what lies there
        latest[_place(folder, Path(outcome.target))] = outcome
    for place, outcome in latest.items():
        yield _row(folder, place, outcome)


def card_of(folder: Path, outcome: Outcome) -> tuple[tuple[float, ...], dict[str, Any]]:
    """Where a photo stands among the others, worst first, and what the page of a folder shows of it."""
    return _row(folder, _place(folder, Path(outcome.target)), outcome)


def _place(folder: Path, target: Path) -> Path:
    """Where a result lies, relative to the folder; it may have been named from another working folder, or moved along.

    A path that leads out of the folder keeps its last part alone: the page links to nothing elsewhere.
    """
    inside = as_seen_from(folder, target)
    if not inside.is_absolute() and os.pardir not in inside.parts:
        return inside
    parts = [part for part in target.parts if part not in (os.pardir, target.anchor)]
    found = (Path(*parts[i:]) for i in range(len(parts)) if (folder / Path(*parts[i:])).is_file())
    return next(found, Path(target.name))


def _row(folder: Path, place: Path, outcome: Outcome) -> tuple[tuple[float, ...], dict[str, Any]]:
    status = _SAID.get(outcome.status, outcome.status)
    task = documented(Task(Path(outcome.source), folder / place))
    there = task.target.is_file() and status not in ("failed", "unfinished")
    record = _record(task, outcome) if there else None
    photo: dict[str, Any] = {
        "id": f"{printable(place)} {outcome.output_sha256[:12]}",
        "name": printable(place),
        "status": status,
        "told": _told(status, outcome.message, record),
        "seen": _labels(record.before.at_least(Severity.LOW)) if record else [],
        "left": _labels(record.after.severe) if record else [],
        "suggested": _suggested(record) if record else [],
        "offers": "; ".join(suggestion.short for suggestion in record.suggestions) if record else "",
        "gain": None if record is None or record.estimated_gain is None else round(record.estimated_gain, 1),
        "url": _link(folder, task.target) if there else "",
        "page": _link(folder, task.report) if there else "",
        "record": _link(folder, task.record) if record else "",
        "thumbnail": _link(folder, thumbnail_of(task.report)) if there else "",
        "ratio": round(record.output.width / record.output.height, 3) if record else 1.5,
    }
    first = _FIRST.index(status) if status in _FIRST else len(_FIRST)
    gain = math.inf if status == "untouched" or photo["gain"] is None else photo["gain"]
    damage = _damage(record) if record else 0.0
    ours = there and outcome.status != "kept"  # what lies there may be somebody's: no command touches it
    return (first, -damage, gain), photo | (_shell(folder, place, task) if ours else {})


def _record(task: Task, outcome: Outcome) -> Record | None:
    """The record of this very result; None where it was removed, or changed by hand: the journal still tells."""
    try:
        record = load_record(task.record)
    except ConservatorError:
        return None
    return record if outcome.output_sha256 in ("", record.output.sha256) else None


def _told(status: str, message: str, record: Record | None) -> str:
    """What a card says besides its status: why, or what was done."""
    if status in ("untouched", "unfinished"):
        return ""
    if status == "restored" and record is not None:
        message = f"treated with {', then '.join(record.toolchain)}"
    return message[:1].upper() + message[1:] + "." * (not message.endswith("."))


def _labels(kinds: Iterable[Kind]) -> list[str]:
    return [kind.label for kind in kinds]


def _suggested(record: Record) -> list[str]:
    """What damage a photo's suggestions are for, each once."""
    return list(dict.fromkeys(label for s in record.suggestions for label in _labels(s.treats)))


def _damage(record: Record) -> float:
    """How much of the damage that a report warns of is left: each kind's severity by how sure perception is of it."""
    severities = {severity.label: int(severity) for severity in Severity}
    left = record.after
    return sum(severities[left.severities[kind]] * left.confidences.get(kind, 1.0) for kind in left.severe)


def _link(folder: Path, path: Path) -> str:
    """The address of a file below the page, "" where there is none; "./" keeps a name from being read as a scheme."""
    return "./" + quote(os.fsencode(path.relative_to(folder).as_posix())) if path.is_file() else ""


def _shell(folder: Path, place: Path, task: Task) -> dict[str, Any]:
    """The words of which the page makes commands; no source where the result has taken its place."""
    own = not task.source.exists() or not task.source.samefile(task.target)
    stem = place.with_suffix("").as_posix()
    return {
        "source": shell_word(as_seen_from(folder, task.source)) if own else "",
        "shell": {
            "stem": shell_word(f"./{stem}"),
            "suffix": shell_word(place.suffix),
            "original": shell_word(task.source.suffix),
        },
        "plain": shell_word(place),
    }

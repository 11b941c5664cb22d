"""The list of jobs, in SQLite: what was asked for, how far it is, what came of it, and every event on the way.

One process writes it, from one thread. Written is what a client has been told: after ``kill -9`` the list is as it was.
(A power cut may cost the last moments, since the disk is not waited for at every line.)
"""

from __future__ import annotations

import contextlib
import json
import secrets
import shutil
import sqlite3
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, TypeAlias

from conservator.errors import ConservatorError

JobKind: TypeAlias = Literal["restoration", "examination", "plan"]
JobState: TypeAlias = Literal["queued", "working", "done", "failed", "cancelled"]
ENDED: frozenset[JobState] = frozenset({"done", "failed", "cancelled"})
"""The states that do not change any more."""

_VERSION = 1
"""Of the tables below; the file of another version is refused."""
_CRASHES = 2
"""A job whose worker process ended this often has failed: it is not retried for ever. Once may be chance, say a machine
that was short of memory for a moment; that the second time is the job's own fault is a judgement, not a measurement."""
_STARTS = 5
"""So often a job is begun at most. Whoever kills the whole process of the API says nothing against the jobs in work, so
that counts for less than a worker's end; but a job that takes down all of it, by way of the machine's memory, must end
as well. Set by judgement."""
_RECENT = 20
"""Ended jobs whose time says how long another will take."""
_TABLES = """
CREATE TABLE IF NOT EXISTS jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT UNIQUE NOT NULL, kind TEXT NOT NULL, state TEXT NOT NULL,
    made REAL NOT NULL, begun REAL, ended REAL, starts INTEGER NOT NULL DEFAULT 0, crashes INTEGER NOT NULL DEFAULT 0,
    photo TEXT NOT NULL, request TEXT NOT NULL, tools TEXT NOT NULL, format TEXT, report INTEGER NOT NULL,
    plan TEXT, answer TEXT, error TEXT NOT NULL DEFAULT '');
CREATE INDEX IF NOT EXISTS by_state ON jobs (state, kind, number);
CREATE TABLE IF NOT EXISTS events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, job TEXT NOT NULL REFERENCES jobs (id) ON DELETE CASCADE,
    at REAL NOT NULL, name TEXT NOT NULL, data TEXT NOT NULL);
CREATE INDEX IF NOT EXISTS by_job ON events (job, id);
"""


@dataclass(frozen=True)
class JobOrder:
    """What a client asks for."""

    kind: JobKind
    photo: str
    """The name of the photo in the job's folder: the API's own."""
    request: dict[str, Any]
    """The fields of a ``Request`` that the client may set, as JSON holds them."""
    tools: tuple[str, ...] = ()
    """Tools that the photo is treated with, whatever is seen in it."""
    format: str | None = None
    """The format of the result; None for the photo's own."""
    report: bool = True
    """Whether a page is written beside the result."""


@dataclass(frozen=True)
class JobRow:
    """A job as it stands in the list."""

    id: str
    """Made by the API, of 128 random bits: who does not know it does not find the job."""
    order: JobOrder
    state: JobState
    made: float
    """Seconds since 1970; so are ``begun`` and ``ended``."""
    begun: float | None
    ended: float | None
    starts: int
    crashes: int
    plan: dict[str, Any] | None
    answer: dict[str, Any] | None
    """What a worker found out: of a restoration its outcome, else the answer itself."""
    error: str


@dataclass(frozen=True)
class Event:
    """One line of what happened to a job; ``id`` grows from event to event, over all jobs."""

    id: int
    at: float
    name: str
    data: dict[str, Any] = field(default_factory=dict)


class JobStore:
    """Jobs, their events and their folders below ``data``. For one thread of one process."""

    def __init__(self, data: Path) -> None:
        """Open the list, and forget what was half made when an earlier process ended; raises ConservatorError."""
        self._folders = data / "jobs"
        try:
            self._folders.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._list = sqlite3.connect(data / "jobs.sqlite", isolation_level=None)
            self._list.row_factory = sqlite3.Row
            version = self._list.execute("PRAGMA user_version").fetchone()[0]
            if version not in (0, _VERSION):
                raise ConservatorError(
                    f"{data} holds jobs of version {version}, expected {_VERSION}; give another --data"
                )
            for pragma in ("journal_mode = WAL", "synchronous = NORMAL", "foreign_keys = ON"):
                self._list.execute(f"PRAGMA {pragma}")
            self._list.executescript(_TABLES)
            self._list.execute(f"PRAGMA user_version = {_VERSION}")
        except (OSError, sqlite3.Error) as error:
            raise ConservatorError(f"{data} cannot hold the jobs ({error}); give another --data") from error
        self._clear_up()

    def _clear_up(self) -> None:
        """Queue again what was in work, and remove what nobody waits for any more."""
        for row in self._rows("state = 'working'"):
            self.again(row.id, "the API was ended while it was in work")
        for row in self._rows("kind != 'restoration'"):
            self.remove(row.id)  # the connection that waited for the answer is gone
        known = {row["id"] for row in self._list.execute("SELECT id FROM jobs")}
        for folder in self._folders.iterdir():
            if folder.name not in known:
                shutil.rmtree(folder, ignore_errors=True)

    def close(self) -> None:
        """Close the list."""
        self._list.close()

    def folder(self, job: str) -> Path:
        """Where the files of a job lie."""
        return self._folders / job

    def new_folder(self) -> str:
        """Make the folder of a job that is to be added; returns the job's id."""
        job = secrets.token_hex(16)
        self.folder(job).mkdir(mode=0o700)
        return job

    def add(self, job: str, order: JobOrder) -> JobRow:
        """Queue a job whose photo lies in its folder."""
        with self._list:
            self._list.execute("BEGIN IMMEDIATE")
            self._list.execute(
                "INSERT INTO jobs (id, kind, state, made, photo, request, tools, format, report) "
                "VALUES (?, ?, 'queued', ?, ?, ?, ?, ?, ?)",
                (
                    *(job, order.kind, time.time(), order.photo, json.dumps(order.request)),
                    *(json.dumps(order.tools), order.format, order.report),
                ),
            )
            self._tell(job, "queued", {})
        return self.get(job)

    def get(self, job: str) -> JobRow:
        """A job; raises KeyError where there is none."""
        found = self._rows("id = ?", job)
        if not found:
            raise KeyError(job)
        return found[0]

    def waiting(self) -> int:
        """How many jobs are queued."""
        return int(self._list.execute("SELECT count(*) FROM jobs WHERE state = 'queued'").fetchone()[0])

    def ahead(self, job: JobRow) -> int:
        """How many queued jobs are begun before this one."""
        sooner = [row.id for row in self._rows("state = 'queued'")]
        return sooner.index(job.id) if job.id in sooner else 0

    def usual_seconds(self) -> float | None:
        """The median of what the latest jobs took in a worker; None before the first."""
        rows = self._list.execute(
            "SELECT ended - begun AS took FROM jobs WHERE state = 'done' AND kind = 'restoration' "
            "ORDER BY ended DESC LIMIT ?",
            (_RECENT,),
        )
        took = sorted(row["took"] for row in rows)
        return took[len(took) // 2] if took else None

    def begin(self) -> JobRow | None:
        """Take the next job into work: examinations and plans first, for somebody waits for them; None without any."""
        found = self._rows("state = 'queued' LIMIT 1")
        if not found:
            return None
        job = found[0].id
        with self._list:
            self._list.execute("BEGIN IMMEDIATE")
            self._list.execute(
                "UPDATE jobs SET state = 'working', begun = ?, starts = starts + 1 WHERE id = ?", (time.time(), job)
            )
            self._tell(job, "working", {})
        return self.get(job)

    def tell(self, job: str, name: str, data: dict[str, Any]) -> None:
        """Note an event of a job in work; its plan becomes the job's."""
        with self._list:
            self._list.execute("BEGIN IMMEDIATE")
            if name == "plan":
                self._list.execute("UPDATE jobs SET plan = ? WHERE id = ?", (json.dumps(data), job))
            self._tell(job, name, data)

    def end(self, job: str, state: JobState, answer: dict[str, Any] | None = None, error: str = "") -> None:
        """Note how a job ended; of one that was cancelled all files go at once."""
        told = {"error": error} if error else (answer or {}) if self.get(job).order.kind == "restoration" else {}
        with self._list:
            self._list.execute("BEGIN IMMEDIATE")
            self._list.execute(
                "UPDATE jobs SET state = ?, ended = ?, answer = ?, error = ? WHERE id = ?",
                (state, time.time(), json.dumps(answer) if answer is not None else None, error, job),
            )
            self._tell(job, state, told)
        if state == "cancelled":
            shutil.rmtree(self.folder(job), ignore_errors=True)

    def again(self, job: str, why: str, *, crashed: bool = False, counts: bool = True) -> None:
        """Queue a job in work once more, or let it fail where that was often enough.

        ``crashed``: its worker process ended. A start that was ended in good order does not ``count``.
        """
        self._list.execute(
            "UPDATE jobs SET crashes = crashes + ?, starts = starts - ? WHERE id = ?", (crashed, not counts, job)
        )
        row = self.get(job)
        if row.crashes >= _CRASHES or row.starts >= _STARTS:
            self.end(job, "failed", error=f"{why}, for the {_times(row.crashes if crashed else row.starts)} time")
            return
        with self._list:
            self._list.execute("BEGIN IMMEDIATE")
            self._list.execute("UPDATE jobs SET state = 'queued', begun = NULL, plan = NULL WHERE id = ?", (job,))
            self._tell(job, "queued", {"again": why})

    def remove(self, job: str) -> None:
        """Forget a job: its line, its events and its files."""
        self._list.execute("DELETE FROM jobs WHERE id = ?", (job,))
        with contextlib.suppress(OSError):
            shutil.rmtree(self.folder(job))

    def remove_older(self, seconds: float) -> None:
        """Forget the jobs that ended longer ago than this."""
        for row in self._rows("ended < ?", time.time() - seconds):
            self.remove(row.id)

    def events(self, job: str, after: int) -> list[Event]:
        """The events of a job with a greater id, in order."""
        rows = self._list.execute("SELECT * FROM events WHERE job = ? AND id > ? ORDER BY id", (job, after))
        return [Event(row["id"], row["at"], row["name"], json.loads(row["data"])) for row in rows]

    def _tell(self, job: str, name: str, data: dict[str, Any]) -> None:
        self._list.execute(
            "INSERT INTO events (job, at, name, data) VALUES (?, ?, ?, ?)", (job, time.time(), name, json.dumps(data))
        )

    def _rows(self, condition: str, *values: object) -> list[JobRow]:
        """The jobs of a condition, in the order in which they are begun."""
        where, _, limit = condition.partition(" LIMIT ")
        order = "ORDER BY kind = 'restoration', number" + (f" LIMIT {limit}" if limit else "")
        return [_row(row) for row in self._list.execute(f"SELECT * FROM jobs WHERE {where} {order}", values)]


def _times(count: int) -> str:
    return {1: "first", 2: "second", 3: "third"}.get(count, f"{count}th")


def _row(row: sqlite3.Row) -> JobRow:
    order = JobOrder(
        row["kind"], row["photo"], json.loads(row["request"]), tuple(json.loads(row["tools"])), row["format"],
        bool(row["report"]),
    )  # fmt: skip
    plan, answer = (json.loads(row[name]) if row[name] is not None else None for name in ("plan", "answer"))
    return JobRow(
        row["id"], order, row["state"], row["made"], row["begun"], row["ended"], row["starts"], row["crashes"],
        plan, answer, row["error"],
    )  # fmt: skip

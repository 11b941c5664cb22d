"""Where orders arrive: an upload becomes a job, with names that are the API's own."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Callable
from pathlib import Path, PureWindowsPath
from typing import Any, BinaryIO

from starlette.datastructures import UploadFile

from conservator.apps.http.crew import Crew
from conservator.apps.http.jobs import JobKind, JobOrder, JobRow, JobStore
from conservator.apps.http.limits import too_many
from conservator.apps.http.settings import ServeOptions
from conservator.apps.http.wanted import Offers, read_wanted
from conservator.errors import name_not_found

_SOON = 5.0
"""Seconds after which a client may ask again before any job has told how long one takes."""
_AT_MOST = 60.0
"""Seconds after which a client may ask again whatever the queue looks like."""


class Desk:
    """Takes orders, and knows how long they will take."""

    def __init__(self, options: ServeOptions, store: JobStore, crew: Crew, offers: Offers) -> None:
        self.options, self.store, self.crew, self.offers = options, store, crew, offers
        self.closing: Callable[[], bool] = lambda: False
        """Whether the API is about to end, and streams are to be closed."""

    def room(self, arriving: int) -> float | None:
        """None where a further job may be queued beside those that are arriving; else in how many seconds to ask."""
        if self.store.waiting() + arriving < self.options.max_queue:
            return None
        usual = self.store.usual_seconds()
        return _SOON if usual is None else min(_AT_MOST, usual / self.options.jobs)

    def estimate(self, job: JobRow) -> dict[str, Any]:
        """How many jobs come first, and when this one will have ended."""
        ahead, usual = self.store.ahead(job) if job.state == "queued" else 0, self.store.usual_seconds()
        rounds = ahead // self.options.jobs + 1
        return {"ahead": ahead, "seconds": None if usual is None else round(rounds * usual, 1)}

    async def take(
        self,
        kind: JobKind,
        photo: UploadFile,
        request: str,
        *,
        tools: str = "",
        format: str | None = None,
        report: bool = False,
    ) -> JobRow:
        """Queue what a client asks for; raises ConservatorError for what cannot be asked for, HTTPException for 429."""
        wanted = read_wanted(request, self.offers)
        chosen = tuple(filter(None, (name.strip() for name in tools.split(","))))
        known = self.offers.tools_of(wanted["toolbox"])
        for tool in chosen:
            if tool not in known:
                raise name_not_found("tool", tool[:80], known)
        if chosen:
            wanted["policy"] = "none"  # as ``conservator apply`` says in its records
        form = format.lower().lstrip(".") if format else None
        if form is not None and form not in self.offers.formats:
            raise name_not_found("format", form[:80], self.offers.formats)
        job = self.store.new_folder()
        folder = self.store.folder(job)
        try:
            name = "photo" + self._suffix(photo.filename or "")
            await asyncio.to_thread(_keep, photo.file, folder / name)
            if (wait := self.room(0)) is not None:  # others came first while this one arrived
                raise too_many(wait)
            row = self.store.add(job, JobOrder(kind, name, wanted, chosen, form, report))
        except BaseException:
            shutil.rmtree(folder, ignore_errors=True)
            raise
        self.crew.bell.ring()
        return row

    def _suffix(self, name: str) -> str:
        """The one thing that is taken from a client's name, and only where it is a photo's suffix."""
        suffix = PureWindowsPath(name).suffix.lower()
        return suffix if suffix in self.offers.suffixes else ""


def _keep(upload: BinaryIO, path: Path) -> None:
    upload.seek(0)
    with path.open("xb") as file:
        shutil.copyfileobj(upload, file)

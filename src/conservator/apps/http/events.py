"""The events of a job as server-sent events, one for each step; who lost the connection goes on after the last one."""

from __future__ import annotations

import json
import time
from collections.abc import AsyncIterator

from conservator.apps.http.desk import Desk
from conservator.apps.http.jobs import ENDED, Event

_BEAT = 15.0
"""Seconds of silence after which a comment is sent, so that no proxy takes the connection for dead."""


async def event_stream(desk: Desk, job: str, after: int) -> AsyncIterator[str]:
    """The events of a job with a greater id, as they happen, until it has ended or is removed."""
    yield "retry: 1000\n\n"
    spoke = time.monotonic()
    while not desk.closing():
        try:
            state = desk.store.get(job).state
        except KeyError:
            return
        for event in desk.store.events(job, after):
            yield in_sse(event)
            after, spoke = event.id, time.monotonic()
        if state in ENDED:
            return
        if time.monotonic() - spoke > _BEAT:
            yield ": still here\n\n"
            spoke = time.monotonic()
        await desk.crew.bell.heard(1.0)


def in_sse(event: Event) -> str:
    """An event as it is sent.

    >>> print(in_sse(Event(7, 0.0, "stage", {"stage": "examining"})).strip())
    id: 7
    event: stage
    data: {"at": 0.0, "stage": "examining"}
    """
    data = json.dumps({"at": round(event.at, 3)} | event.data)
    return f"id: {event.id}\nevent: {event.name}\ndata: {data}\n\n"

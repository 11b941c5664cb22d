"""The endpoints. Nothing here opens a photo or computes: bytes are stored, workers do the rest."""

from __future__ import annotations

import mimetypes
import sqlite3
from collections.abc import Callable
from typing import Annotated, Any

from fastapi import FastAPI, File, Form, Header, HTTPException, Query, Request, UploadFile
from fastapi import Path as InPath
from fastapi.exceptions import RequestValidationError
from fastapi.responses import FileResponse, JSONResponse, Response, StreamingResponse

from conservator import __version__
from conservator.apps.http.answers import job_in_json
from conservator.apps.http.describing import ABOUT, TAGS, add_routes, complete
from conservator.apps.http.desk import Desk
from conservator.apps.http.events import event_stream
from conservator.apps.http.jobs import ENDED, JobKind, JobRow
from conservator.errors import ConservatorError

_PRIVATE = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"}
_SANDBOX = {"Content-Security-Policy": "sandbox allow-scripts"}
"""A page that was made of a stranger's photo runs in no origin: not in the one that holds other clients' results."""

PhotoField = Annotated[UploadFile, File(description="The photo's file. Of its name only a photo's suffix is used.")]
WishField = Annotated[
    str,
    Form(
        alias="request", description="What you want, as JSON: a RestorationRequest.", examples=['{"never": ["haze"]}']
    ),
]
JobId = Annotated[str, InPath(description="The job's id, as the API gave it.", pattern="^[0-9a-f]{32}$")]


class Api:
    """What the endpoints do. ``desk`` is there once the workers are."""

    desk: Desk

    async def restore(
        self,
        photo: PhotoField,
        request: WishField = "{}",
        tools: Annotated[
            str, Form(description="Tools to treat the photo with, joined by commas, whatever is seen in it.")
        ] = "",
        format: Annotated[str | None, Form(description="Write the result as png, jpg, tif, webp ...")] = None,
        report: Annotated[bool, Form(description="Write the page of the restoration, too.")] = True,
    ) -> Response:
        """Queue a photo to be restored.

        The answer says where to look; so does its header Location.
        """
        job = await self.desk.take("restoration", photo, request, tools=tools, format=format, report=report)
        answer = job_in_json(job, self.desk.estimate(job))
        return JSONResponse(answer, 202, {"Location": answer["links"]["self"], **_PRIVATE})

    async def state(self, id: JobId) -> Response:
        """Say how far a restoration is.

        Its state, its plan as soon as it is decided, when it will have ended, and what came of it.
        """
        job = self._job(id)
        return JSONResponse(job_in_json(job, self.desk.estimate(job)), headers=_PRIVATE)

    async def cancel(self, id: JobId) -> Response:
        """End a restoration, or forget one that has ended.

        One that waits is cancelled at once (200), one in work between two stages or within seconds (202). One that has
        ended is removed with its photo and its result (204).
        """
        job = self._job(id)
        if job.state in ENDED:
            self.desk.store.remove(id)
            return Response(status_code=204)
        self._end(job)
        job = self._job(id)
        code = 200 if job.state == "cancelled" else 202
        return JSONResponse(job_in_json(job, self.desk.estimate(job)), code, _PRIVATE)

    async def result(self, id: JobId) -> Response:
        """Get the restored photo.

        It has the format that came or that was asked for; untouched, it has the bytes that came.
        """
        job = self._done(id)
        name = str((job.answer or {})["file"])
        kind = mimetypes.guess_type(name)[0] or "application/octet-stream"
        return self._file(id, name, kind, download=True)

    async def record(self, id: JobId) -> Response:
        """Get the record.

        What was seen, decided and done, with versions and hashes: enough to do it again.
        """
        self._done(id)
        return self._file(id, "restored.conservator.json", "application/json")

    async def report(self, id: JobId) -> Response:
        """Get the page of the restoration, for people.

        Before and after, what was seen, and each decision with its reason. Show it to nobody who may not see the photo.
        """
        if not self._done(id).order.report:
            raise HTTPException(404, "this job was to have no report; send report=true with the photo")
        return self._file(id, "restored.conservator.html", "text/html", _SANDBOX)

    async def events(
        self,
        id: JobId,
        last_event_id: Annotated[
            str | None, Header(description="Go on after this event.", pattern="^[0-9]{1,15}$")
        ] = None,
    ) -> Response:
        """Follow a restoration step by step.

        The events are queued, working, stage, plan, treatment, and at the end done, failed or cancelled.

        Server-sent events; each has an id, and data as JSON with the time ``at`` (seconds since 1970). The stream ends
        with the job. After a lost connection send the last id as Last-Event-ID; 204 says that nothing is left to tell.
        """
        job, after = self._job(id), int(last_event_id or 0)
        if job.state in ENDED and not self.desk.store.events(id, after):
            return Response(status_code=204)
        headers = _PRIVATE | {"X-Accel-Buffering": "no"}  # nginx would hold events back
        return StreamingResponse(event_stream(self.desk, id, after), media_type="text/event-stream", headers=headers)

    async def examine(self, http: Request, photo: PhotoField, request: WishField = "{}") -> Response:
        """Say what is wrong with a photo.

        Nothing is kept. The answer comes when a worker has looked at the photo.
        """
        return await self._answered(http, "examination", photo, request)

    async def plan(self, http: Request, photo: PhotoField, request: WishField = "{}") -> Response:
        """Say what would be done to a photo, and why.

        Nothing is treated, and nothing is kept. The answer comes when it is decided.
        """
        return await self._answered(http, "plan", photo, request)

    async def tools(
        self, toolbox: Annotated[str, Query(description="Toolboxes, joined by +.")] = "conservator+user"
    ) -> Response:
        """List the tools, and the names that a request may hold."""
        offers = self.desk.offers
        found = [offers.tools[name] for name in offers.tools_of(toolbox)]
        names = {"toolboxes": list(offers.toolboxes), "policies": offers.policies, "formats": offers.formats}
        return JSONResponse({"toolbox": toolbox, "tools": found} | names)

    async def health(self) -> Response:
        """Say whether jobs are worked on.

        It needs no token.
        """
        alive = self.desk.crew.alive
        return JSONResponse({"status": "ok" if alive else "no worker is ready"}, 200 if alive else 503)

    async def _answered(self, http: Request, kind: JobKind, photo: UploadFile, request: str) -> Response:
        """Wait for what a worker finds out; who hangs up ends it."""
        job = await self.desk.take(kind, photo, request)
        try:
            while (job := self._job(job.id)).state not in ENDED:
                await self.desk.crew.bell.heard(1.0)
                if await http.is_disconnected() or self.desk.closing():
                    self._end(job)
                    return Response(status_code=503)
        finally:
            if self._job(job.id).state in ENDED:
                self.desk.store.remove(job.id)
        if job.state != "done":
            raise HTTPException(500 if job.crashes else 422, job.error)
        return JSONResponse(job.answer, headers=_PRIVATE)

    def _end(self, job: JobRow) -> None:
        if job.state == "queued":
            self.desk.store.end(job.id, "cancelled")
        else:
            self.desk.crew.cancel(job.id)
        self.desk.crew.bell.ring()

    def _job(self, id: str) -> JobRow:
        try:
            return self.desk.store.get(id)
        except KeyError:
            raise HTTPException(404, "there is no such job; perhaps its time was over and it was removed") from None

    def _done(self, id: str) -> JobRow:
        job = self._job(id)
        if job.order.kind != "restoration":
            raise HTTPException(404, "there is no such job")
        if job.state == "done":
            return job
        if job.state in ENDED:
            raise HTTPException(
                409, f"there is no result: the job {'failed: ' + job.error if job.error else 'was cancelled'}"
            )
        wait = self.desk.estimate(job)["seconds"] or 1
        raise HTTPException(409, f"the job is {job.state}; ask again later", {"Retry-After": f"{max(1, round(wait))}"})

    def _file(
        self, id: str, name: str, kind: str, headers: dict[str, str] | None = None, download: bool = False
    ) -> Response:
        path = self.desk.store.folder(id) / name
        if not path.is_file():
            raise HTTPException(404, "the file is not there any more")
        shown = f"{id[:8]}-{name}" if download else None
        return FileResponse(path, media_type=kind, headers=_PRIVATE | (headers or {}), filename=shown)


def make_app(api: Api, token: bool) -> FastAPI:
    """The application: endpoints, their description, and one sentence for every error."""
    app = FastAPI(
        title="Conservator",
        version=__version__,
        description=ABOUT,
        openapi_tags=TAGS,
        docs_url=None,  # its page would load scripts from other people's machines
        redoc_url=None,
    )
    add_routes(app, api)
    app.add_exception_handler(ConservatorError, _sentence(422, str))
    app.add_exception_handler(Exception, _sentence(500, lambda error: "the program failed on it; please report that"))
    app.add_exception_handler(RequestValidationError, _sentence(422, _first))
    app.add_exception_handler(
        OSError, _sentence(507, lambda error: "the job cannot be stored: the disk is full or fails")
    )
    app.add_exception_handler(sqlite3.Error, _sentence(507, lambda error: "the job cannot be noted; ask again later"))
    made = app.openapi
    described: list[dict[str, Any]] = []

    def openapi() -> dict[str, Any]:
        if not described:
            described.append(complete(made(), token))
        return described[0]

    app.openapi = openapi  # type: ignore[method-assign]
    return app


def _sentence(code: int, words: Callable[[Exception], str]) -> Callable[[Request, Exception], Response]:
    def answer(request: Request, error: Exception) -> Response:
        return JSONResponse({"detail": words(error)}, code)

    return answer


def _first(error: Exception) -> str:
    """The first of the things that are wrong with a form, in words."""
    assert isinstance(error, RequestValidationError)
    wrong = error.errors()[0]
    return f"{'.'.join(map(str, wrong['loc'][1:]))}: {wrong['msg']}"

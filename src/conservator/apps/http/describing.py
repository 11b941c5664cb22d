"""Which path leads to which endpoint, and how that is described in OpenAPI."""

from __future__ import annotations

import inspect
import json
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from pydantic import BaseModel

from conservator.apps.http.answers import (
    JOB_ANSWER,
    ErrorAnswer,
    ExaminationAnswer,
    HealthAnswer,
    PlanAnswer,
    ToolsAnswer,
)
from conservator.apps.http.limits import OPEN
from conservator.apps.http.wanted import WANTED

if TYPE_CHECKING:
    from conservator.apps.http.app import Api

ABOUT = """
Restores damaged photographs by itself: it examines the photo, plans, treats it, looks again, takes back what did harm,
and documents what it did.

**In short:** send a photo to `POST /v1/restorations`; follow `links.events`, or ask `links.self` until its state is
`done`; get `links.result`, and with it `links.record`. A photo that needs nothing comes back byte for byte.

Every error is JSON, `{"detail": "one sentence"}`. Jobs survive a restart of the API. Ended jobs are removed with their
photos after some hours, or at once by `DELETE`.
"""
TAGS = [
    {"name": "restorations", "description": "Jobs: a photo in, a restored photo and its documents out."},
    {"name": "looking", "description": "What is wrong with a photo, and what would be done. Nothing is kept."},
    {"name": "about", "description": "What this API has to offer, and whether it works."},
]
_UPLOAD = {
    408: "The upload took too long.",
    413: "The upload is too large.",
    422: "The photo or the request will not do; the sentence says why.",
    429: "The queue is full; the header Retry-After says when to ask again.",
    507: "The disk is full.",
}
_UNKNOWN = {404: "There is no such job; perhaps it was removed."}
_TOO_SOON = _UNKNOWN | {409: "The job has not ended (Retry-After says when to ask), or it has no result."}


def _errors(told: dict[int, str]) -> dict[int | str, dict[str, Any]]:
    return {code: {"model": ErrorAnswer, "description": words} for code, words in told.items()}


def _bytes(kind: str) -> dict[int | str, dict[str, Any]]:
    schema = {"type": "string"} if kind.startswith("text/") else {"type": "string", "format": "binary"}
    return {200: {"content": {kind: {"schema": schema}}}}


def add_routes(app: FastAPI, api: Api) -> None:
    """Let every path lead to its endpoint."""

    def add(
        method: str,
        path: str,
        endpoint: Any,
        model: type[BaseModel] | None,
        errors: dict[int, str],
        says: str,
        told: dict[int | str, dict[str, Any]] | None = None,
        code: int = 200,
    ) -> None:
        summary, _, more = inspect.cleandoc(endpoint.__doc__).partition("\n")
        app.add_api_route(
            path,
            endpoint,
            methods=[method],
            response_model=model,
            response_description=says,
            status_code=code,
            responses=_errors(errors) | (told or {}),
            tags=["restorations" if "restorations" in path else "looking" if method == "POST" else "about"],
            summary=summary.rstrip("."),
            description=more.strip() or summary,
            operation_id=endpoint.__name__,
        )

    jobs, one = "/v1/restorations", "/v1/restorations/{id}"
    add("POST", jobs, api.restore, JOB_ANSWER, _UPLOAD, "It is queued.", code=202)
    add("GET", one, api.state, JOB_ANSWER, _UNKNOWN, "The job as it stands.")
    add("GET", f"{one}/result", api.result, None, _TOO_SOON, "The restored photo.", _bytes("image/*"))
    add("GET", f"{one}/record", api.record, None, _TOO_SOON, "The record.", _bytes("application/json"))
    add("GET", f"{one}/report", api.report, None, _TOO_SOON, "The page.", _bytes("text/html"))
    add("GET", f"{one}/events", api.events, None, _UNKNOWN, "The events.", _bytes("text/event-stream") | _LEFT)
    add("DELETE", one, api.cancel, JOB_ANSWER, _UNKNOWN, "It waited, and is cancelled.", _CANCELLED)
    add("POST", "/v1/examinations", api.examine, ExaminationAnswer, _UPLOAD, "What is seen.")
    add("POST", "/v1/plans", api.plan, PlanAnswer, _UPLOAD, "What would be done.")
    add("GET", "/v1/tools", api.tools, ToolsAnswer, {422: "There is no such toolbox."}, "The tools and the names.")
    add("GET", "/healthz", api.health, HealthAnswer, {}, "Jobs are worked on.", _DOWN)


_DOWN: dict[int | str, dict[str, Any]] = {503: {"model": HealthAnswer, "description": "No worker is ready."}}
_LEFT: dict[int | str, dict[str, Any]] = {204: {"description": "The job has ended, and nothing is left to tell."}}
_CANCELLED: dict[int | str, dict[str, Any]] = {
    202: {"model": JOB_ANSWER, "description": "It is in work, and ends soon."},
    204: {"description": "It had ended, and is removed."},
}


_ERROR = {"$ref": f"#/components/schemas/{ErrorAnswer.__name__}"}
_NAMED = {
    "Body_restore": "RestorationForm",
    "Body_examine": "ExaminationForm",
    "Body_plan": "PlanForm",
    "HTTPValidationError": "ErrorAnswer",  # errors are one sentence here, those too
}
"""What FastAPI calls things, and how they are called for readers."""


def complete(description: dict[str, Any], token: bool) -> dict[str, Any]:
    """The OpenAPI description with what cannot be read from the endpoints: the JSON in the form, and the token."""
    schemas = description["components"]["schemas"]
    for name in ("HTTPValidationError", "ValidationError"):
        schemas.pop(name, None)
    wanted = {"contentSchema": {"$ref": f"#/components/schemas/{WANTED.__name__}"}}
    for schema in schemas.values():
        if schema.get("properties", {}).get("photo"):
            schema["properties"]["request"] |= {"contentMediaType": "application/json"} | wanted
    text = json.dumps(description)
    for old, new in _NAMED.items():
        text = text.replace(f'"{old}"', f'"{new}"').replace(f'/{old}"', f'/{new}"')
    found: dict[str, Any] = json.loads(text)
    if token:
        found["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        refused = {"description": "The token is missing or wrong.", "content": {"application/json": {"schema": _ERROR}}}
        for path, methods in found["paths"].items():
            for operation in methods.values() if path not in OPEN else ():
                operation["security"] = [{"token": []}]
                operation["responses"]["401"] = refused
    return found

"""What the API answers, as its OpenAPI description shows it."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, create_model

from conservator.apps.http.jobs import ENDED, JobRow, JobState
from conservator.apps.http.wanted import WANTED

_ID = "3f0c9a52b7e84d1f9a6c2e5d8b7a4c10"
_SEEN = {"quality": 21.3, "severities": {"noise": "high", "jpeg": "none"}, "confidences": {"noise": 0.98, "jpeg": 0.07}}
_STEP = {
    "id": 1,
    "parent": 0,
    "action": "apply",
    "argument": "denoise_heavy",
    "reason": "noise is high; estimated +6.0 dB",
}
_SUGGESTION = {
    "tool": "brighten_mild",
    "treats": ["low_light"],
    "toolchain": ["denoise_heavy", "brighten_mild"],
    "chance": 0.41,
    "gain": 1.6,
}
_PLAN = {
    "toolchain": ["denoise_heavy"],
    "estimated_gain": 5.9,
    "seen": _SEEN,
    "steps": [_STEP],
    "suggestions": [_SUGGESTION],
}
_OUTCOME = {
    "outcome": "restored",
    "verdict": "treated with denoise_heavy",
    "toolchain": ["denoise_heavy"],
    "estimated_gain": 6.0,
    "width": 640,
    "height": 480,
    "sha256": "9b74c9897bac770ffc029102a200c5de4d7e2f6a1c8b3f0e5d6a7c8b9e0f1a2b",
    "suggestions": [_SUGGESTION],
    "notes": [],
}
_PHOTO = {"width": 640, "height": 480, "format": "JPEG", "bit_depth": 8}


class _Answer(BaseModel):
    model_config = ConfigDict(extra="forbid")


def _shown(example: dict[str, Any]) -> ConfigDict:
    return ConfigDict(extra="forbid", json_schema_extra={"examples": [example]})


class ErrorAnswer(_Answer):
    """Why something was not done."""

    model_config = _shown({"detail": "no policy 'gredy'; did you mean greedy?"})
    detail: str = Field(description="One sentence for people.")


class SeenAnswer(_Answer):
    """What is wrong with a photo."""

    model_config = _shown(_SEEN)
    quality: float | None = Field(description="Estimated PSNR to the undamaged photo, dB.")
    severities: dict[str, str] = Field(description="By kind of damage: none, low, medium, high, very high.")
    confidences: dict[str, float] = Field(description="By kind of damage: the probability, 0 to 1, that it is there.")
    measures: dict[str, float] = Field({}, description="The statistics behind that; of examinations alone.")


class StepAnswer(_Answer):
    """One decision on a small study of the photo."""

    model_config = _shown(_STEP)
    id: int
    parent: int | None = Field(description="The step that it goes on from.")
    action: str = Field(description="apply, rollback, stop, or unusable: a reply that could not be understood.")
    argument: str | int | None = Field(None, description="The tool applied, or the step rolled back to.")
    reason: str = ""
    plan: list[str] = Field([], description="What was meant to be done afterwards.")
    seconds: float = 0.0
    error: str | None = None
    usage: dict[str, int] | None = None


class SuggestionAnswer(_Answer):
    """A treatment that was wanted, and that might harm: its user decides."""

    model_config = _shown(_SUGGESTION)
    tool: str
    treats: list[str] = Field(description="The kinds of damage that it is for.")
    toolchain: list[str] = Field(description="The tools to ask for by name to have it, in order.")
    chance: float = Field(description="How likely it was thought to do harm, 0 to 1.")
    gain: float | None = Field(description="What it was estimated to gain, dB.")


class PlanInJson(_Answer):
    """What was decided on a study of the photo."""

    model_config = _shown(_PLAN)
    toolchain: list[str] = Field(description="The tools to apply, in order; empty where nothing is to be done.")
    estimated_gain: float | None = Field(description="What they are estimated to gain, dB; null without any.")
    seen: SeenAnswer
    steps: list[StepAnswer]
    suggestions: list[SuggestionAnswer] = Field(description="What was not done for its risk.")


class PhotoAnswer(_Answer):
    """The photo that was sent."""

    width: int
    height: int
    format: str
    bit_depth: int


class ExaminationAnswer(PhotoAnswer):
    """What is wrong with a photo."""

    model_config = _shown(_PHOTO | {"seen": _SEEN})
    seen: SeenAnswer


class PlanAnswer(PhotoAnswer, PlanInJson):
    """What would be done to a photo, and why."""

    model_config = _shown(_PHOTO | {"intention": "would be treated with denoise_heavy; estimated gain +5.9 dB"} | _PLAN)
    intention: str = Field(description="The plan in words.")


class OutcomeAnswer(_Answer):
    """What became of a photo; its record has it in full."""

    model_config = _shown(_OUTCOME)
    outcome: str = Field(description="restored; untouched: byte for byte as it came; incomplete: a tool failed.")
    verdict: str
    toolchain: list[str] = Field(description="The tools whose effect is in the result.")
    estimated_gain: float | None = Field(description="dB; null where nothing was treated or nothing can be compared.")
    width: int
    height: int
    sha256: str = Field(description="Of the result's file.")
    suggestions: list[SuggestionAnswer] = Field(description="What was not done for its risk.")
    notes: list[str] = Field(description="What had to change on the way in and out.")


class EstimateAnswer(_Answer):
    """When a job will have ended."""

    model_config = _shown({"ahead": 3, "seconds": 12.5})
    ahead: int = Field(description="Jobs that are begun before it.")
    seconds: float | None = Field(description="From now, by the time that the latest jobs took; null before the first.")


class _JobAnswer(_Answer):
    id: str
    state: JobState = Field(description="queued, working, done, failed or cancelled; the last three do not change.")
    made: datetime
    begun: datetime | None
    ended: datetime | None
    estimate: EstimateAnswer | None = Field(None, description="null once it has ended.")
    tools: list[str] = Field(description="What the photo is treated with by name; empty where the policy decides.")
    plan: PlanInJson | None = Field(description="null until it is decided.")
    outcome: OutcomeAnswer | None = Field(description="null until it is done.")
    error: str = Field(description='Why it failed, in a sentence; "" where it did not.')
    links: dict[str, str] = Field(description="Where the rest is found, as paths of this API.")


def _links(job: str) -> dict[str, str]:
    here = f"/v1/restorations/{job}"
    return {"self": here, **{name: f"{here}/{name}" for name in ("events", "result", "record", "report")}}


_EXAMPLE: dict[str, Any] = {
    "id": _ID,
    "state": "done",
    "made": "2026-11-29T09:30:00Z",
    "begun": "2026-11-29T09:30:00Z",
    "ended": "2026-11-29T09:30:04Z",
    "estimate": None,
    "request": {"objective": "fidelity", "never": ["haze"]},
    "tools": [],
    "plan": _PLAN,
    "outcome": _OUTCOME,
    "error": "",
    "links": _links(_ID),
}
JOB_ANSWER: type[BaseModel] = create_model(
    "RestorationJob",
    __base__=_JobAnswer,
    __doc__="A restoration: what was asked for, how far it is, and what came of it.",
    request=(WANTED, Field(description="What was asked for.")),
)
JOB_ANSWER.model_config["json_schema_extra"] = {"examples": [_EXAMPLE]}
JOB_ANSWER.model_rebuild(force=True)


class ToolAnswer(_Answer):
    """A tool that restores."""

    name: str
    removes: list[str] = Field(description="The kinds of damage that it is for.")
    description: str
    source: str = Field(description="Paper or repository.")
    license: str = Field(description="SPDX id of code and weights.")
    scale: int = Field(description="Size of its result over that of the photo.")


class ToolsAnswer(_Answer):
    """What this API has to offer."""

    toolbox: str
    tools: list[ToolAnswer]
    toolboxes: list[str] = Field(description="Names for a request's toolbox; several are joined by +.")
    policies: list[str] = Field(description="Names for a request's policy.")
    formats: list[str] = Field(description="Formats that results can be written in.")


class HealthAnswer(_Answer):
    """Whether jobs are worked on."""

    model_config = _shown({"status": "ok"})
    status: str


def job_in_json(job: JobRow, estimate: dict[str, Any] | None) -> dict[str, Any]:
    """A job as ``JOB_ANSWER`` describes it."""
    outcome = {name: value for name, value in job.answer.items() if name != "file"} if job.answer is not None else None
    return {
        "id": job.id,
        "state": job.state,
        "made": _time(job.made),
        "begun": _time(job.begun),
        "ended": _time(job.ended),
        "estimate": None if job.state in ENDED else estimate,
        "request": job.order.request,
        "tools": list(job.order.tools),
        "plan": job.plan,
        "outcome": outcome,
        "error": job.error,
        "links": _links(job.id),
    }


def _time(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds")

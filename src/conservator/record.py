"""The record of a restoration, a JSON file beside the result: what was seen, decided, done; enough to replay it."""

from __future__ import annotations

import math
import platform
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AliasChoices, BaseModel, ConfigDict, Field, PlainSerializer, ValidationError, model_validator

import conservator
from conservator.errors import ConservatorError
from conservator.files import printable, sha256, write_text
from conservator.kinds import Kind, Severity
from conservator.perception.perception import Percept
from conservator.photo import Photo
from conservator.photo.write import WRITABLE
from conservator.request import Request
from conservator.restoration import Restored
from conservator.session.trajectory import Action, Apply, Rollback, Step, Stop, Trajectory, Usage
from conservator.suggesting import SuggestionRecord, not_done, records_of
from conservator.tools.tool import Toolbox


class _Model(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class SeenRecord(_Model):
    """What perception said of one picture."""

    quality: float | None
    """Estimated PSNR to the undamaged photo, dB."""
    severities: dict[str, str]
    confidences: dict[str, float]
    measures: dict[str, float] = Field(default_factory=dict)

    def at_least(self, severity: Severity) -> list[Kind]:
        """The kinds that were seen this severe or worse."""
        labels = {grade.label for grade in Severity if grade >= severity}
        return [kind for kind in Kind if self.severities.get(kind) in labels]

    @property
    def severe(self) -> list[Kind]:
        """The kinds that were seen to be high or very high, and that are more likely there than not.

        A small size is none of them: a small photo is not a damaged photo.
        """
        worst = [kind for kind in self.at_least(Severity.HIGH) if kind is not Kind.LOW_RESOLUTION]
        return [kind for kind in worst if self.confidences.get(kind, 1.0) >= _LIKELY]


_LIKELY = 0.5
"""Confidence from which a report warns of damage that is left: more likely there than not. No set chose it."""


class StepRecord(_Model):
    """One decision on the study."""

    id: int
    parent: int | None
    action: Literal["start", "apply", "rollback", "stop", "unusable"]
    argument: str | int | None = None
    """The tool applied, or the step rolled back to."""
    reason: str = ""
    plan: list[str] = Field(default_factory=list)
    seconds: float
    seen: SeenRecord
    error: str | None = None
    usage: Usage | None = None
    """What it cost to ask a model, where one was asked."""


class TreatmentRecord(_Model):
    """One tool applied to the whole photo."""

    tool: str
    source: str
    license: str
    weights: str = ""
    """Hash of the weights that it ran with; "" for a tool that is code alone, and in records of version 1."""
    removes: list[Kind] = Field(default_factory=list)
    """The kinds of damage that the tool is for; empty in records that were made before this was noted."""
    seconds: float
    kept: bool
    gain: float | None
    """What it is estimated to have gained, dB; None where perception gave no number."""
    note: str = ""
    numbers: dict[str, float] = Field(default_factory=dict)
    """What the tool told of its work, where it tells anything."""
    seen: SeenRecord | None


class FileRecord(_Model):
    """A file as it was read or written."""

    path: str
    sha256: str
    width: int
    height: int
    format: str
    bit_depth: int


def _plain(request: Request) -> dict[str, Any]:
    """A request as JSON, its sets in order: the same request, the same bytes."""
    return {k: sorted(v) if isinstance(v, frozenset) else v for k, v in asdict(request).items()}


def choices(request: Request) -> dict[str, Any]:
    """What a result depends on: all but the limits within which a photo is read and a model asked."""
    found = {name: value for name, value in asdict(request).items() if name not in _READING_LIMITS}
    return found | {"chat": {k: v for k, v in (found["chat"] or {}).items() if k not in _ASKING_LIMITS} or None}


_READING_LIMITS = ("max_pixels", "allow_truncated")
_ASKING_LIMITS = ("allow_upload", "max_calls", "timeout", "retries", "backoff")


class Record(_Model):
    """The whole record; ``format_version`` changes when a reader would misread."""

    format_version: Literal[1, 2, 3]
    made: str
    versions: dict[str, str]
    request: Annotated[Request, Field(validation_alias=AliasChoices("request", "settings")), PlainSerializer(_plain)]
    """What the user asked for; records of version 1 call it settings."""
    input: FileRecord
    output: FileRecord
    verdict: str
    """One sentence: what was done, or that nothing was."""
    toolchain: list[str]
    before: SeenRecord
    after: SeenRecord
    steps: list[StepRecord]
    treatments: list[TreatmentRecord]
    suggestions: list[SuggestionRecord] = Field(default_factory=list)
    """What was not done for its risk, the most promising first; none in records of versions 1 and 2."""
    gain: float | None = None
    """What all treatments together are estimated to have gained on the whole photo, dB; None in earlier records."""
    interval: tuple[float, float] | None = None
    """Between which gains (PSNR, dB) nine in ten photos lie that have this estimate; None where it is not known."""
    seconds: dict[str, float]
    notes: list[str]

    @model_validator(mode="before")
    @classmethod
    def _before_risk_control(cls, values: Any) -> Any:
        """Before version 3 there was no risk control; version 2 had a rule on haze and low light in its place.

        Such a record has risk 1 and names no thresholds, so that its result is nobody's who asks for risk 1 today.
        """
        if not isinstance(values, dict) or values.get("format_version") not in (1, 2):
            return values
        name = "request" if "request" in values else "settings"
        if not isinstance(values.get(name), dict):
            return values
        kept = {field: value for field, value in values[name].items() if field != "tonal_confidence"}
        return {**values, name: {**kept, "risk": 1, "thresholds": ""}}

    @property
    def estimated_gain(self) -> float | None:
        """The gain that is shown, dB; None where there is no estimate.

        That is where nothing was treated, where the photo was enlarged, which leaves nothing to compare, and in earlier
        records.
        """
        enlarged = (self.output.width, self.output.height) != (self.input.width, self.input.height)
        return None if enlarged or not self.toolchain else self.gain

    def other_weights(self, toolbox: Toolbox) -> list[str]:
        """The tools of the toolchain whose weights are not those of the record, as far as it tells."""
        ran = {treatment.tool: treatment.weights for treatment in self.treatments if treatment.kept}
        return [name for name, weights in ran.items() if weights and weights != toolbox[name].weights_sha256]


def make_record(
    restored: Restored,
    source: Photo,
    output: Path,
    request: Request,
    toolbox: Toolbox,
    notes: tuple[str, ...],
    input_sha256: str,
) -> Record:
    """Document a restoration whose input came from ``source.path`` and whose result lies at ``output``.

    ``notes`` say what had to change on the way in and out; ``input_sha256`` is that of the input when it was read: the
    result may have taken its place.
    """
    if source.path is None:
        raise ConservatorError("a record needs a photo that came from a file; load it with load_photo")
    digest, written = sha256(output), WRITABLE.get(output.suffix.lower())
    form, depth = source.format, source.bit_depth
    if digest != input_sha256 and written is not None:  # a copy stays what it is, whatever its name says
        form, depth = written.name, min(restored.photo.bit_depth, written.depth)
    return Record(
        format_version=3,
        made=datetime.now(UTC).isoformat(timespec="seconds"),
        versions=versions(),
        request=request,
        input=_file(source, source.path, source.format, source.bit_depth, input_sha256),
        output=_file(restored.photo, output, form, depth, digest),
        verdict=verdict(restored),
        toolchain=list(restored.toolchain),
        before=seen_record(restored.before, measures=True),
        after=seen_record(restored.after, measures=True),
        steps=[step_record(step) for step in restored.trajectory.steps],
        treatments=[
            TreatmentRecord(
                tool=t.tool,
                source=toolbox[t.tool].spec.source,
                license=toolbox[t.tool].spec.license,
                weights=toolbox[t.tool].weights_sha256,
                removes=sorted(toolbox[t.tool].spec.removes),
                seconds=round(t.seconds, 4),
                kept=t.kept,
                gain=_number(t.gain),
                note=t.note,
                numbers={name: round(value, 5) for name, value in t.numbers.items()},
                seen=None if t.percept is None else seen_record(t.percept),
            )
            for t in restored.treatments
        ],
        suggestions=records_of(restored.suggestions),
        gain=_number(restored.gain),
        interval=None
        if restored.interval is None
        else (round(restored.interval[0], 3), round(restored.interval[1], 3)),
        seconds={stage: round(seconds, 4) for stage, seconds in restored.seconds.items()},
        notes=list(dict.fromkeys((*notes, *restored.notes))),
    )


def verdict(restored: Restored) -> str:
    """One sentence that says what was done, whether more was meant to be, and what was not done for its risk."""
    return "; ".join(filter(None, (_done(restored), not_done(restored.suggestions))))


def _done(restored: Restored) -> str:
    done = f"treated with {', then '.join(restored.toolchain)}" if restored.toolchain else "left untouched"
    if restored.asked_for and restored.toolchain:
        done += ", as asked" if restored.enlarged else ", as asked; " + estimate_in_words(restored.gain)
    if restored.gave_up:
        return f"{done}, then the policy gave up: {restored.gave_up}"
    if restored.failed:
        return "; ".join([done, *(t.told for t in restored.failed)])
    if restored.toolchain or restored.suggestions:
        return done
    if restored.asked_for and restored.treatments:
        return f"left as it was: {'; '.join(t.told for t in restored.treatments)}"
    if restored.treatments:
        return "left untouched: on the whole photo no treatment helped"
    return f"left untouched: {why_untouched(restored.trajectory)}"


def why_untouched(trajectory: Trajectory) -> str:
    """Why a policy chose no treatment, in words; what was not admitted is told of as suggestions are."""
    thought = trajectory.last.decision.thought if trajectory.last.decision else ""
    return thought or "no treatment was chosen"


def estimate_in_words(gain: float) -> str:
    """What perception says of a result that nobody but the user decided on."""
    if gain < 0:
        return f"by estimate the photo is the worse for it ({gain:+.1f} dB)"
    return f"by estimate it gained {gain:+.1f} dB"


def versions() -> dict[str, str]:
    """The versions that a result depends on."""
    from importlib.metadata import version

    names = ("torch", "numpy", "scipy", "scikit-image", "pillow")
    return {
        "conservator": conservator.__version__,
        "python": platform.python_version(),
        **{name: version(name) for name in names},
    }


def save_record(record: Record, path: Path) -> None:
    """Write the record as JSON, atomically."""
    write_text(path, record.model_dump_json(indent=2) + "\n")


def load_record(path: str | Path) -> Record:
    """Read a record; raises ConservatorError with one sentence when the file is not one."""
    try:
        return Record.model_validate_json(Path(path).read_bytes())
    except OSError as error:
        raise ConservatorError(f"{path}: cannot be read ({error.strerror or error})") from error
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ConservatorError(f"{path}: not a record of conservator ({where}: {first['msg']})") from error


def _file(photo: Photo, path: Path, form: str, depth: int, digest: str) -> FileRecord:
    height, width = photo.image.shape[-2:]
    return FileRecord(path=printable(path), sha256=digest, width=width, height=height, format=form, bit_depth=depth)


def seen_record(percept: Percept, measures: bool = False) -> SeenRecord:
    """What was seen of one picture, as records and other programs read it."""
    return SeenRecord(
        quality=_number(percept.quality),
        severities={str(kind): severity.label for kind, severity in percept.severities.items()},
        confidences={str(kind): round(value, 4) for kind, value in percept.confidences.items()},
        measures={name: round(value, 5) for name, value in percept.measures.items()} if measures else {},
    )


def _number(value: float) -> float | None:
    return round(value, 3) if math.isfinite(value) else None


def step_record(step: Step) -> StepRecord:
    """One decision, likewise."""
    decision = step.decision
    action, argument = _action(decision.action if decision else None, decision is None)
    return StepRecord(
        id=step.id,
        parent=step.parent,
        action=action,
        argument=argument,
        reason=decision.thought if decision else "",
        plan=list(decision.plan) if decision else [],
        seconds=round(step.seconds, 4),
        seen=seen_record(step.percept),
        error=step.error,
        usage=decision.usage if decision and decision.usage.calls else None,
    )


def _action(action: Action | None, start: bool) -> tuple[Any, str | int | None]:
    match action:
        case Apply(tool):
            return "apply", tool
        case Rollback(to):
            return "rollback", to
        case Stop():
            return "stop", None
        case None:
            return "start" if start else "unusable", None

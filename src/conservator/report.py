"""One self-contained HTML page about a restoration: before/after slider, severities, steps, particulars."""

from __future__ import annotations

import base64
import io
from html import escape
from importlib.resources import files
from pathlib import Path
from string import Template

import numpy as np
import torch.nn.functional as F
from PIL import Image as PillowImage

from conservator.files import write_text
from conservator.image import Image, to_array
from conservator.kinds import Kind, Severity
from conservator.photo import Photo
from conservator.record import Record, SeenRecord, StepRecord
from conservator.restoration import Restored
from conservator.session.trajectory import Usage

_LONG_SIDE = 1600  # pixels of the two pictures of the slider
_THUMBNAIL = 256


def save_report(path: Path, record: Record, photo: Photo, restored: Restored) -> None:
    """Write the page, atomically. Every text in it is escaped: file names are a stranger's words."""
    height, width = restored.photo.image.shape[-2:]
    scale = min(1.0, _LONG_SIDE / max(height, width))
    size = (max(1, round(height * scale)), max(1, round(width * scale)))
    steps = restored.trajectory.steps
    kept = _kept_steps(record)
    page = Template((files(__package__) / "report.html").read_text("utf-8")).substitute(
        title=escape(Path(record.input.path).name),
        verdict=escape(_sentence(record)),
        before=picture_uri(photo.working_image(), size),
        after=picture_uri(restored.photo.working_image(), size),
        severities="\n".join(_severity_row(kind, record) for kind in Kind),
        treatments=_treatment_rows(record),
        steps="\n".join(_step(s, steps[s.id].image, s.id in kept, width / height) for s in record.steps),
        particulars="\n".join(_particulars(record)),
    )
    write_text(path, page)


def _sentence(record: Record) -> str:
    text = record.verdict[0].upper() + record.verdict[1:] + "."
    if record.toolchain:
        gain = sum(t.gain or 0.0 for t in record.treatments if t.kept)
        text += f" Estimated gain {gain:+.1f} dB" + (" at full strength." if record.request.strength < 1 else ".")
    return text


def picture_uri(image: Image, size: tuple[int, int]) -> str:
    """The image as a data URI, JPEG."""
    if tuple(image.shape[-2:]) != size:
        shrinking = size[0] < image.shape[-2]
        image = F.interpolate(image, size, mode="bilinear", antialias=shrinking).clamp(0, 1)
    buffer = io.BytesIO()
    PillowImage.fromarray(to_array(image, np.uint8)).save(buffer, "JPEG", quality=90, subsampling=0)
    return "data:image/jpeg;base64," + base64.b64encode(buffer.getvalue()).decode()


def _severity_row(kind: Kind, record: Record) -> str:
    cells = "".join(f"<td>{_meter(seen, kind)}</td>" for seen in (record.before, record.after))
    return f"<tr><td>{escape(kind.label)}</td>{cells}</tr>"


def _meter(seen: SeenRecord, kind: Kind) -> str:
    label = seen.severities.get(kind, "not looked at")
    levels = {severity.label: int(severity) for severity in Severity}
    confidence = seen.confidences.get(kind)
    sure = "" if confidence is None else f' <span class="soft">{confidence:.0%}</span>'
    return f'<span class="meter"><i style="width:{levels.get(label, 0) * 25}%"></i></span>{escape(label)}{sure}'


def _treatment_rows(record: Record) -> str:
    if not record.treatments:
        return '<tr><td colspan="4">None. The picture is the one that came in.</td></tr>'
    rows = []
    for t in record.treatments:
        gain = f"{t.gain:+.1f} dB" if t.kept and t.gain is not None else ""
        fate = "kept" if t.kept else (t.note or "not kept")
        source = f'<br><span class="soft">{escape(t.source)}, {escape(t.license)}</span>'
        rows.append(
            f'<tr><td>{escape(t.tool)}{source}</td><td class="number">{gain}</td>'
            f'<td class="number">{t.seconds:.2f}</td><td>{escape(fate)}</td></tr>'
        )
    return "\n".join(rows)


def _kept_steps(record: Record) -> set[int]:
    """Ids on the way from the last step to the start: the others were rolled back."""
    kept, step = set(), record.steps[-1]
    while True:
        kept.add(step.id)
        if step.parent is None:
            return kept
        step = record.steps[step.parent]


def _step(step: StepRecord, image: Image, kept: bool, aspect: float) -> str:
    """One figure; the overview is square whatever the photo's ``aspect`` (width over height), which it gets back."""
    size = (max(1, round(_THUMBNAIL / max(1, aspect))), max(1, round(_THUMBNAIL * min(1, aspect))))
    picture = "" if step.action in ("stop", "unusable") else f'<img src="{picture_uri(image[:1], size)}" alt="">'
    title = {"start": "the photo", "stop": "stop", "unusable": "no decision"}.get(
        step.action, f"{step.action} {step.argument}"
    )
    quality = "" if step.seen.quality is None else f" · {step.seen.quality:.1f} dB"
    error = f"<br>failed: {escape(step.error)}" if step.error and step.error != step.reason else ""
    usage = f'<br><span class="soft">{_cost(step.usage)}</span>' if step.usage else ""
    return (
        f'<figure class="{"kept" if kept else "undone"}">{picture}<b>{step.id}. {escape(title)}</b>'
        f'<span class="soft">{quality}</span><br>{escape(step.reason)}{error}{usage}</figure>'
    )


def _cost(usage: Usage) -> str:
    """What it cost to ask a model: 2 calls, 4,210 + 96 tokens."""
    calls = f"{usage.calls} call{'s' if usage.calls > 1 else ''}"
    return f"{calls}, {usage.prompt_tokens:,} + {usage.completion_tokens:,} tokens"


def _asked(record: Record) -> dict[str, str]:
    """What the user asked for, in words."""
    found = {}
    for name, value in vars(record.request).items():
        if isinstance(value, frozenset):
            value = ", ".join(sorted(value))
        if value not in (None, ""):
            found[name] = str(value)
    return found


def _particulars(record: Record) -> list[str]:
    file = record.input
    rows = {
        "Input": f"{file.path} ({file.width}×{file.height}, {file.format}, {file.bit_depth} bit)",
        "Input sha256": file.sha256,
        "Output": f"{record.output.path} ({record.output.width}×{record.output.height})",
        "Output sha256": record.output.sha256,
        "Request": ", ".join(f"{name} {value}" for name, value in _asked(record).items()),
        "Time": ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in record.seconds.items()),
        "Made": record.made + ", " + ", ".join(f"{name} {version}" for name, version in record.versions.items()),
        "Notes": "; ".join(record.notes) or "none",
    }
    asked = [step.usage for step in record.steps if step.usage]
    if asked:
        rows["Model asked"] = f"{_cost(sum(asked, Usage()))} (read + written)"
    return [f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in rows.items()]

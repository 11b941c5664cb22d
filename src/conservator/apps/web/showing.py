"""What the page says, as HTML. Every text in it is escaped: file names are a stranger's words."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from pathlib import Path
from urllib.parse import quote

from conservator.apps.web.views import Detail
from conservator.apps.web.visit import Finished
from conservator.batch.preview import seen_in_words
from conservator.kinds import Severity, kinds_in_words, purpose_in_words
from conservator.pages import jpeg_within, picture_uri, sized
from conservator.perception.perception import STRANGE, Percept
from conservator.photo import Photo
from conservator.restoration import Plan, Suggestion
from conservator.suggesting import SuggestionRecord, percent

_PREVIEW, _PREVIEW_BYTES = 320, 30_000
"""Pixels of the long side of a suggestion's pictures, and bytes of each."""


def photo_in_words(name: str, photo: Photo, picture: str = "") -> str:
    """The open photo: its name, size and format, what had to change on the way in, and its ``picture``, if any."""
    height, width = photo.image.shape[-2:]
    notes = "".join(f"<li>{escape(note)}</li>" for note in photo.notes)
    shown = f'<img class="whole" src="{served(picture)}" alt="The photo">' if picture else ""
    return (
        f'<h2 class="name" dir="auto">{escape(name)}</h2><p class="soft">{width} × {height} pixels, '
        f"{escape(photo.format)}, {photo.bit_depth} bit</p>{f'<ul class=soft>{notes}</ul>' if notes else ''}"
        f"{shown}"
    )


def seen_in_html(percept: Percept, title: str = "What is wrong with it") -> str:
    """The damage that is seen, worst first, severity and confidence as bars and in words."""
    rows = "".join(
        f'<tr><th scope="row">{escape(kind.label)}</th>'
        f"<td>{_bar(int(percept.severities[kind]) / 4)}{escape(percept.severities[kind].label)}</td>"
        f"<td>{_bar(percept.confidences.get(kind, 0.0))}{round(100 * percept.confidences.get(kind, 0.0))} % sure</td>"
        "</tr>"
        for kind in percept.present
    )
    missing = kinds_in_words(kind for kind, severity in percept.severities.items() if severity == Severity.NONE)
    head = '<tr><th scope="col">Damage</th><th scope="col">Severity</th><th scope="col">Confidence</th></tr>'
    table = f'<table class="seen">{head}{rows}</table>' if rows else "<p>No damage is seen.</p>"
    rest = f'<p class="soft">Looked for and not seen: {escape(missing)}.</p>' if missing else ""
    strange = f"<p>{STRANGE}</p>" if percept.strange else ""
    return f"<h2>{title}</h2>{table}{rest}{strange}"


def _bar(share: float) -> str:
    return f'<span class="bar" aria-hidden="true"><i style="width: {100 * share:.0f}%"></i></span>'


def intention(plan: Plan, gain: float) -> str:
    """What would be done, in a sentence; the list follows below."""
    if plan.gave_up:
        return f"The model that was asked gave no plan: {escape(plan.gave_up)}."
    if plan.toolchain:
        return f"Estimated gain: <b>{gain:+.1f} dB</b> nearer to the undamaged photo."
    if plan.suggestions:
        return "Nothing is to be done unasked. What is suggested below might help, and might harm."
    return "Nothing needs doing: no treatment promises to make the photo better."


def changed_in_words(chosen: tuple[str, ...] | None) -> str:
    """What a visitor must know of a plan that was changed by hand."""
    if chosen is None:
        return ""
    return (
        '<p class="note" role="status">You changed the plan: it is carried out as it stands, and not checked for harm. '
        "What the program thinks of the result is said below.</p>"
    )


def steps_in_html(steps: Sequence[tuple[str, str]], going_on: bool) -> str:
    """What happened so far, the last step going on or not."""
    if not steps:
        return ""
    items = "".join(
        f"<li{' class=now' if going_on and number == len(steps) else ''}><b>{escape(words)}</b> {escape(outcome)}</li>"
        for number, (words, outcome) in enumerate(steps, 1)
    )
    return f'<div aria-live="polite"><ol class="steps">{items}</ol></div>'


def result_in_html(done: Finished) -> str:
    """What became of the photo."""
    restored = done.restored
    told = done.record.verdict[:1].upper() + done.record.verdict[1:] + "."
    gain = ""
    if not restored.untouched and not restored.enlarged and not restored.asked_for:
        gain = f" Estimated gain <b>{restored.gain:+.1f} dB</b>"
        if restored.interval is not None:
            low, high = restored.interval
            gain += f", in nine of ten cases between {low:+.1f} and {high:+.1f} dB"
        gain += "."
    left = f"Still seen: {seen_in_words(restored.after)}." if restored.after.damages else "No damage is seen any more."
    seen = "" if restored.untouched else f"<p>{escape(left)}</p>"
    items = "".join(f"<li>{escape(note)}</li>" for note in done.record.notes)
    notes = f'<ul class="soft">{items}</ul>' if items else ""
    return f"<h2>The result</h2><p>{escape(told)}{gain}</p>{seen}{notes}"


def problem_in_html(sentence: str) -> str:
    """What failed, and why."""
    return f'<p class="problem" role="alert"><b>That did not work.</b> {escape(sentence)}</p>'


def compared_in_html(name: str) -> str:
    """Which photo of a folder is compared below."""
    return f'<h2 dir="auto">{escape(name)}: before and after</h2>'


def suggestions_in_html(suggestions: Sequence[Suggestion], photo: Photo) -> str:
    """What was not done for its risk, each with small pictures and a button."""
    if not suggestions:
        return ""
    items = "".join(_suggestion(number, one, photo) for number, one in enumerate(suggestions))
    return (
        "<h2>Not done, but suggested</h2><p>This might help, and it might harm: the program was not sure enough to "
        f'do it unasked. You can see what the photo is meant to look like.</p><ul class="suggestions">{items}</ul>'
    )


def _suggestion(number: int, suggestion: Suggestion, photo: Photo) -> str:
    told = SuggestionRecord.of(suggestion)
    gain = f", estimated gain {told.gain:+.1f} dB" if told.gain is not None else ""
    height, width = photo.image.shape[-2:]
    scale = _PREVIEW / max(height, width)
    size = max(1, round(scale * height)), max(1, round(scale * width))
    pictures = "".join(
        f'<figure><img alt="{words}" width="{size[1]}" height="{size[0]}" '
        f'src="{picture_uri(jpeg_within(sized(image[:1], size), _PREVIEW_BYTES, photo.icc))}">'
        f"<figcaption>{words}</figcaption></figure>"
        for image, words in ((suggestion.before, "without"), (suggestion.after, "with"))
    )
    purpose = escape(purpose_in_words(told.treats))
    name = escape(suggestion.tool)
    return (
        f'<li><div class="two">{pictures}</div><p><b>{name}</b>{f", for {purpose}" if purpose else ""}: chance of harm '
        f'{percent(told.chance)}{gain}</p><button type="button" class="primary" data-action="do" '
        f'data-place="{number}">Do it: {name}</button></li>'
    )


def map_in_html(picture: str, part: Detail, size: tuple[int, int]) -> str:
    """The whole photo, small, with a frame around the part that is shown at 100 %; a click chooses another part."""
    height, width = size
    frame = (
        f"left: {100 * part.left / width:.2f}%; top: {100 * part.top / height:.2f}%; "
        f"width: {100 * part.width / width:.2f}%; height: {100 * part.height / height:.2f}%"
    )
    natural = f"<style>:root {{ --natural: {part.width}px; }}</style>"  # how wide the page shows the part
    return (
        f'{natural}<div class="map" tabindex="0" role="group" aria-label="The part that is shown; arrow keys move it">'
        f'<img src="{served(picture)}" alt="The whole photo; a click chooses the part that is shown">'
        f'<i style="{frame}"></i></div>'
    )


def served(path: str | Path) -> str:
    """The address of a file of a visit."""
    return f"/gradio_api/file={quote(str(path))}"

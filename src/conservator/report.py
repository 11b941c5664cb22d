"""One self-contained HTML page about a restoration: what was seen, what was done, before and after.

What a person needs stands open: one sentence, one estimate, warnings, the pictures. What a researcher needs, every
decision with its figures, waits in closed parts of the page.
"""

from __future__ import annotations

import re
from html import escape
from pathlib import Path

from conservator.files import as_seen_from, replacing, write_text
from conservator.image import Image
from conservator.kinds import Kind, Severity, kinds_in_words, purpose_in_words
from conservator.pages import (
    compared,
    jpeg_bytes,
    jpeg_within,
    make_page,
    one_picture,
    picture_uri,
    scrolled,
    sized,
    thumbnail,
)
from conservator.photo import Photo
from conservator.record import Record, SeenRecord, StepRecord, TreatmentRecord
from conservator.restoration import Restored, Suggestion
from conservator.session.trajectory import Usage
from conservator.suggesting import SuggestionRecord, apply_command, percent

_OVERVIEW = 256  # pixels of the long side of a step's picture
_PREVIEW = 320  # of a suggestion's, two of which fit on a phone
_PREVIEW_BYTES = 21_000
"""Bytes of JPEG of each: as text, a third more, two of them have 56 kB."""


def save_report(path: Path, record: Record, photo: Photo, restored: Restored, target: Path) -> None:
    """Write the page, atomically. Every text in it is escaped: file names are a stranger's words.

    ``target`` is where the result will lie, and the page beside it: commands on the page are for that folder.
    """
    before, after = photo.working_image(), restored.photo.working_image()
    steps = restored.trajectory.steps
    kept = _kept_steps(record)
    aspect = after.shape[-1] / after.shape[-2]
    page = make_page(
        "report",
        Path(record.input.path).name,
        scripts=["compare"],
        verdict=escape(_verdict(record, restored)),
        gain=_gain(record),
        warnings="\n".join(_warnings(record, restored)),
        pictures=one_picture(after, photo.icc) if restored.untouched else compared(before, after, photo.icc),
        seen=_seen(record),
        treatments=_treatments(record),
        suggestions=_suggestions(record, photo, restored, target, aspect),
        notes=_notes(record),
        steps="\n".join(_step(s, steps[s.id].image, s.id in kept, aspect) for s in record.steps),
        treated=_treated_table(record),
        particulars="\n".join(_particulars(record)),
    )
    write_text(path, page)


def save_thumbnail(path: Path, photo: Photo, restored: Restored) -> None:
    """Write the picture that a page of many photos shows, atomically: before and after, small, side by side."""
    with replacing(path) as file:
        file.write(thumbnail(photo.working_image(), restored.photo.working_image(), photo.icc))


def thumbnail_of(report: Path) -> Path:
    """Where the thumbnail of a photo lies, given its page: in a hidden folder, which no search for photos enters."""
    return report.parent / ".conservator-thumbnails" / f"{report.stem}.jpg"


# The sentences at the top


def _verdict(record: Record, restored: Restored) -> str:
    """What became of the photo, in words."""
    kept = [treatment for treatment in record.treatments if treatment.kept]
    if not kept:
        return _why_untouched(record, restored)
    asked = ", as asked" if restored.asked_for else ""
    more = f" {_offer(record)}" if record.suggestions else ""
    purposes = list(dict.fromkeys(purpose_in_words(treatment.removes) for treatment in kept))
    if "" in purposes:
        return f"Treated with {', then '.join(record.toolchain)}{asked}.{more}"
    return f"Treated for {', then for '.join(purposes)}{asked}.{more}"


def _offer(record: Record) -> str:
    """That something is suggested, in a sentence."""
    kinds = kinds_in_words(dict.fromkeys(kind for suggestion in record.suggestions for kind in suggestion.treats))
    return f"More is suggested below{f', for {kinds}' if kinds else ''}: it might harm, so it is left to you."


def _why_untouched(record: Record, restored: Restored) -> str:
    request = record.request
    if restored.gave_up or restored.failed:
        return "Left as it was: the restoration could not be finished."
    if request.strength == 0:
        return "Left as it was: a strength of 0 was asked for."
    if request.policy == "none":
        return "Left as it was: the policy none was asked for, which treats nothing."
    if record.suggestions:
        return f"Left as it was. {_offer(record).replace('More', 'Something')}"
    if record.treatments:
        return "Left as it was. What was tried on the whole photo did not help, and is not in the result."
    if record.after.severe:
        return "Left as it was. Damage is seen, but no treatment promised to make the photo better."
    if seen := record.before.at_least(Severity.LOW):
        return f"Nothing needed doing. Some {kinds_in_words(seen)} is seen, but no treatment promised to help."
    return "Nothing needed doing. No damage was seen."


def _gain(record: Record) -> str:
    """The one number of the page, and what to think of it."""
    if not record.toolchain:
        return ""
    if record.estimated_gain is None:
        return '<p class="gain"><b>Estimated gain</b> none can be given: there is nothing to compare with.</p>'
    told = "How much nearer the result is thought to be to the undamaged photo: an estimate by the program."
    if record.interval is not None:
        low, high = record.interval
        told += f" In nine of ten cases it lies between {low:+.1f} and {high:+.1f} dB, as calibration photos tell."
    number = f"<strong>{record.estimated_gain:+.1f} dB</strong>"
    return f'<p class="gain"><b>Estimated gain</b> {number}. <small>{told}</small></p>'


def _warnings(record: Record, restored: Restored) -> list[str]:
    """What was left in the photo, and what could not be done: boxes that nobody overlooks."""
    told = [f"{treatment.tool} could not be carried out: {treatment.note}" for treatment in restored.failed]
    if restored.gave_up:
        told.append(f"The model that was asked decided no further: {restored.gave_up}")
    told += [_left(kind, record) for kind in record.after.severe]
    return [f'<p class="warning" role="note"><b>Look closely.</b> {escape(text)}</p>' for text in told]


def _left(kind: Kind, record: Record) -> str:
    confidence = record.after.confidences.get(kind)
    sure = "" if confidence is None else f": {confidence:.0%} sure".replace("%", " %")
    name = kind.label[0].upper() + kind.label[1:]
    tried = [treatment for treatment in record.treatments if kind in treatment.removes]
    only = record.request.only
    if kind in record.request.never or (only is not None and kind not in only):
        fate = "You asked to leave it alone."
    elif any(kind in suggestion.treats for suggestion in record.suggestions):
        fate = "What might remove it might also harm; it is suggested below."
    elif any(treatment.kept for treatment in tried):
        fate = "What was done did not remove all of it."
    elif tried:
        fate = "What was tried did not help, and is not in the result."
    else:
        fate = "No tool at hand removed it."
    return f"{name} is still seen{sure}. {fate}"


# What was seen and done


def _seen(record: Record) -> str:
    """A row for each damage that was seen, before or after; in a sentence, what was looked for and not found."""
    looked = [kind for kind in Kind if kind in record.before.severities or kind in record.after.severities]
    found = [kind for kind in looked if any(kind in s.at_least(Severity.LOW) for s in (record.before, record.after))]
    if not looked:
        return "<p>Nothing was looked for.</p>"
    missing = kinds_in_words(kind for kind in looked if kind not in found)
    rest = f'<p class="soft">Looked for and not seen: {escape(missing)}.</p>' if missing else ""
    if not found:
        return rest
    told = [record.before, record.after] if record.toolchain else [record.before]
    head = "".join(f'<th scope="col">{name}</th>' for name in ("Damage", "Before", "After")[: 1 + len(told)])
    rows = "".join(
        f'<tr><th scope="row">{escape(kind.label)}</th>{"".join(f"<td>{_meter(s, kind)}</td>" for s in told)}</tr>'
        for kind in found
    )
    return scrolled("Damage seen", f'<table class="seen"><tr>{head}</tr>{rows}</table>') + rest


def _meter(seen: SeenRecord, kind: Kind) -> str:
    label = seen.severities.get(kind, "")
    severity = next((int(grade) for grade in Severity if grade.label == label), 0)
    confidence = seen.confidences.get(kind)
    sure = "" if confidence is None or not severity else f' <span class="soft">{confidence * 100:.0f} % sure</span>'
    bar = f'<span class="meter" aria-hidden="true"><i style="width: {severity * 25}%"></i></span>'
    return f"{bar}{escape(label) if severity else 'not seen'}{sure}"


def _treatments(record: Record) -> str:
    """What was tried on the whole photo, in order, in words."""
    if not record.treatments:
        return "<p>Nothing. The picture is the one that came in.</p>"
    items = "".join(f'<li class="{"kept" if t.kept else "undone"}">{_treatment(t)}</li>' for t in record.treatments)
    return f'<ol class="done">{items}</ol>'


def _treatment(treatment: TreatmentRecord) -> str:
    purpose = purpose_in_words(treatment.removes)
    told = f"<b>{escape(treatment.tool)}</b>{f', for {escape(purpose)}' if purpose else ''}"
    if treatment.kept:
        return f"{told}."
    note = re.sub(r" \([-+][\d.]+ dB[^)]*\)", "", treatment.note)  # the figure stands with those of the decisions
    if treatment.seen is None:
        note = f"it failed: {note}"
    elif note.startswith(("was ", "changed ")):
        note = f"it {note}"
    return f"{told}: not in the result; {escape(note) or 'it was left out'}."


def _suggestions(record: Record, photo: Photo, restored: Restored, target: Path, aspect: float) -> str:
    """What was not done for its risk: small, before and after, what is thought of it, and the command that does it."""
    if not record.suggestions:
        return ""
    items = []
    for told, suggestion in zip(record.suggestions, restored.suggestions, strict=True):
        known = told.gain is not None
        gain = f'Estimated gain: <span class="whole">{told.gain:+.1f} dB</span>.' if known else "No gain is estimated."
        items.append(
            f'<li class="suggestion">{_previews(suggestion, aspect, photo.icc)}<div><h3>{escape(told.named)}</h3>'
            f"<p>Chance of harm: <b>{percent(told.chance)}</b>. {gain}</p>"
            f"{_how(told, record, photo, target)}</div></li>"
        )
    return f'<h2>Not done, but suggested</h2><p>{_HOW_TO_DECIDE}</p><ul class="suggestions">{"".join(items)}</ul>'


def _how(told: SuggestionRecord, record: Record, photo: Photo, target: Path) -> str:
    """The command that does it, in the folder of the page; its options are not broken at their hyphens."""
    command = ""
    if photo.path is not None:
        source, in_place = as_seen_from(target.parent, photo.path), target.exists() and target.samefile(photo.path)
        command = apply_command(told, source, record.request, Path(target.name), in_place)
    if not command:
        return f"<p>The tools of that result: {escape(', then '.join(told.toolchain))}.</p>"
    return f'<pre class="copied">{re.sub(r" (--[a-z-]+)", _WHOLE, escape(command))}</pre>'


_WHOLE = r' <span class="whole">\1</span>'
_HOW_TO_DECIDE = (
    "The program would have done this, had it been surer that it does no harm. It cannot know what the photo is meant "
    "to look like. If you like what you see, run the command in the folder of this page, in a shell such as bash or "
    "zsh: it makes a second result beside this one. A small picture shows no fine detail, so look at that result, too."
)


def _previews(suggestion: Suggestion, aspect: float, profile: bytes | None) -> str:
    """Two small pictures side by side; an overview is square whatever the photo's ``aspect``, which it gets back."""
    size = _small(_PREVIEW, aspect)
    shape = f'width="{size[1]}" height="{size[0]}"'
    figures = "".join(
        f'<figure><img src="{picture_uri(jpeg_within(sized(image[:1], size), _PREVIEW_BYTES, profile))}" {shape} '
        f'alt="{escape(words[0].upper() + words[1:])}"><figcaption>{escape(words)}</figcaption></figure>'
        for image, words in ((suggestion.before, "as it is"), (suggestion.after, f"with {suggestion.tool}"))
    )
    return f'<div class="two">{figures}</div>'


def _small(long_side: int, aspect: float) -> tuple[int, int]:
    """Height and width of a picture of a long side, whose width is ``aspect`` times its height."""
    return max(1, round(long_side / max(1, aspect))), max(1, round(long_side * min(1, aspect)))


def _notes(record: Record) -> str:
    items = "".join(f"<li>{escape(note)}</li>" for note in record.notes)
    return f"<h2>Notes on the file</h2><ul>{items}</ul>" if items else ""


# For researchers


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
    size = _small(_OVERVIEW, aspect)
    uri = "" if step.action in ("stop", "unusable") else picture_uri(jpeg_bytes(sized(image[:1], size), small=True))
    picture = f'<img src="{uri}" alt="" width="{size[1]}" height="{size[0]}">' if uri else ""
    title = {"start": "the photo", "stop": "stop", "unusable": "no decision"}.get(
        step.action, f"{step.action} {step.argument}"
    )
    told = [step.reason]
    if step.error and step.error != step.reason:
        told.append(f"failed: {step.error}")
    if step.seen.quality is not None:
        told.append(f"estimated quality {step.seen.quality:.1f} dB")
    if step.usage:
        told.append(_cost(step.usage))
    lines = "".join(f"<br>{escape(line)}" for line in told if line)
    return (
        f'<figure class="{"kept" if kept else "undone"}">{picture}<figcaption><b>{step.id}. {escape(title)}</b>'
        f"{'' if kept else ' (taken back)'}{lines}</figcaption></figure>"
    )


def _treated_table(record: Record) -> str:
    """Each treatment of the whole photo with its figures."""
    if not record.treatments:
        return ""
    told_any = any(t.numbers for t in record.treatments)
    rows = "".join(
        f'<tr><th scope="row">{escape(t.tool)}</th><td>{f"{t.gain:+.2f}" if t.kept and t.gain is not None else ""}</td>'
        f"<td>{t.seconds:.2f}</td><td>{'kept' if t.kept else escape(t.note) or 'not kept'}</td>"
        f"<td>{escape(t.source)}, {escape(t.license)}</td>{f'<td>{_numbers(t)}</td>' if told_any else ''}</tr>"
        for t in record.treatments
    )
    names = ["Treatment", "Estimated gain, dB", "Seconds", "Fate", "Source", *(["The tool says"] if told_any else [])]
    head = "".join(f'<th scope="col">{name}</th>' for name in names)
    told = (
        '<p class="soft">The treatments of the whole photo, each beside the one before it. Together they need not gain '
        "what they gain one by one: the estimated gain above is that of the result beside the photo as it came.</p>"
    )
    return told + scrolled("Treatments of the whole photo", f"<table><tr>{head}</tr>{rows}</table>")


def _numbers(treatment: TreatmentRecord) -> str:
    """What the tool told of its work: blur 0.62, iteration 33 (docs/lway.md)."""
    return escape(", ".join(f"{name.replace('_', ' ')} {value:g}" for name, value in treatment.numbers.items()))


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
        "Outcome": record.verdict,
        "Request": ", ".join(f"{name} {value}" for name, value in _asked(record).items()),
        "Time": ", ".join(f"{stage} {seconds:.2f} s" for stage, seconds in record.seconds.items()),
        "Made": record.made + ", " + ", ".join(f"{name} {version}" for name, version in record.versions.items()),
    }
    asked = [step.usage for step in record.steps if step.usage]
    if asked:
        rows["Model asked"] = f"{_cost(sum(asked, Usage()))} (read + written)"
    return [f"<dt>{key}</dt><dd>{escape(value)}</dd>" for key, value in rows.items()]

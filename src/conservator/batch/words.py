"""What a batch says at its end, in sentences; whoever shows them only prints them."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from conservator.batch.journal import JOURNAL, Outcome, Status
from conservator.batch.summary import Summary
from conservator.files import printable
from conservator.photo.optional import EXTRA_OF, missing_extra

if TYPE_CHECKING:
    from conservator.batch.find import Findings
    from conservator.suggesting import SuggestionRecord

_LISTED = 10  # photos that failed, by name; the journal has all
_COUNTED: dict[Status, str] = {
    "restored": "restored",
    "untouched": "left untouched",
    "incomplete": "incomplete",
    "skipped": "skipped",
    "kept": "not replaced",
    "failed": "failed",
}
_FORMATS = {"heif": "HEIC", "raw": "camera RAW"}


def stopping(in_work: int) -> str:
    """What is said at once when a batch is to stop."""
    first = f"finishing {photos(in_work)} in work" if in_work else "stopping"
    return f"{first}; Ctrl-C again stops at once; --resume goes on"


def ending(summary: Summary, found: Findings, page: Path | None = None) -> list[str]:
    """All that is said at the end of a batch of several photos, a sentence or a list's entry each.

    ``page`` is that of the folder, where one was written.
    """
    counts = [f"{summary.count(status)} {words}" for status, words in _COUNTED.items() if summary.count(status)]
    told = ", ".join(counts) or "nothing done"
    lines = [f"{photos(len(summary.outcomes))} in {duration(summary.seconds)}: {told}"]
    if summary.left:
        lines.append(f"{photos(summary.left)} not begun; the same command with --resume goes on")
    lines += _not_done(summary.outcomes, found.folder)
    lines += noted(summary.outcomes)
    count = sum(bool(outcome.suggestions) for outcome in summary.outcomes)
    lines += with_suggestions(count, "see their pages" if page else "see their records, or give --report")
    lines += passed_over(found)
    if summary.trouble:
        lines.append(f"the journal {found.folder / JOURNAL} lacks lines ({summary.trouble})")
    written = [outcome for outcome in summary.outcomes if outcome.status not in ("failed", "kept")]
    if written:
        lines.append(f"results in {_places(found)}")
    if page is not None:
        lines.append(f"look at them in {printable(page)}")
        if page.name != "index.html":
            lines.append("the index.html there is not Conservator's, and was left alone")
    return lines


def noted(outcomes: Sequence[Outcome]) -> list[str]:
    """What had to change on the way in and out of photos, counted; each photo's record has its own."""
    notes = Counter(note for outcome in outcomes for note in outcome.notes if note not in _NOT_WORTH_A_WORD)
    lines = [f"  {photos(count)}: {note}" for note, count in notes.most_common(_LISTED)]
    if len(notes) > _LISTED:
        lines.append(f"  and {len(notes) - _LISTED} more kinds of notes, in the records")
    return ["noted:", *lines] if lines else []


_NOT_WORTH_A_WORD = ("the file was copied, byte for byte",)


def with_suggestions(count: int, where: str) -> list[str]:
    """How many photos have suggestions, and ``where`` more is said of them; nothing where none has."""
    have = f"{photos(count)} {'has' if count == 1 else 'have'} suggestions"
    return [f"{have}, treatments that were not done for their risk: {where}"] if count else []


def suggested(suggestion: SuggestionRecord, command: str) -> tuple[str, str]:
    """What is said of a suggestion, and, on a line of its own, so that it can be copied, how it is done."""
    if not command:
        return f"suggestion: {suggestion.words}", f"  the tools would be {', then '.join(suggestion.toolchain)}"
    return f"suggestion: {suggestion.words}; this does it:", f"  {command}"


def one_line(text: str) -> str:
    """The text without line breaks and other control characters, which names may hold: those become ``\\x0a``."""
    return "".join(c if c.isprintable() or c == " " else c.encode("unicode_escape").decode() for c in text)


def passed_over(found: Findings) -> list[str]:
    """What was found and is not restored, and why."""
    lines = []
    if found.results:
        lines.append(
            f"{_number(len(found.results), 'result')} of earlier runs passed over; name one itself to treat it again"
        )
    if found.inside:
        lines.append(f"{_number(len(found.inside), 'picture')} in the folder of the results passed over")
    if found.repeated:
        lines.append(f"{_number(len(found.repeated), 'photo')} met again, by another path or a link: restored once")
    lines += unread(found.unread)
    lines += [f"{folder}: this folder may not be looked into" for folder in found.closed[:_LISTED]]
    if len(found.closed) > _LISTED:
        lines.append(f"and {len(found.closed) - _LISTED} more such folders")
    return lines


def unread(paths: Sequence[Path]) -> list[str]:
    """Which pictures are not read here, counted by format, and what would read them."""
    extras = Counter(missing_extra(path) for path in paths)
    lines = []
    for extra, count in sorted((extra, count) for extra, count in extras.items() if extra is not None):
        files, them = _number(count, f"{_FORMATS[extra]} file"), "it" if count == 1 else "them"
        lines.append(f"{files} not read; pip install 'conservator[{extra}]' reads {them}")
    others = Counter(path.suffix.lstrip(".").upper() for path in paths if path.suffix.lower() not in EXTRA_OF)
    if others:
        lines.append("not read: " + ", ".join(f"{count} {suffix}" for suffix, count in sorted(others.items())))
    return lines


def duration(seconds: float) -> str:
    """As one says it: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if round(seconds, 1) < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60} min"


def photos(count: int) -> str:
    """So many photos."""
    return _number(count, "photo")


def _number(count: int, word: str) -> str:
    return f"{count} {word}" if count == 1 else f"{count} {word}s"


def _not_done(outcomes: Sequence[Outcome], folder: Path) -> list[str]:
    """The photos that failed or were not replaced, again, by name: the lines above them are far away by now."""
    lines = []
    for status in ("failed", "kept"):
        some = [outcome.source for outcome in outcomes if outcome.status == status]
        if some:
            lines += [f"{_COUNTED[status]}:", *(f"  {source}" for source in some[:_LISTED])]
        if len(some) > _LISTED:
            lines.append(f"  and {len(some) - _LISTED} more")
    return lines


def _places(found: Findings) -> str:
    """Where the results are."""
    everywhere = {task.target.parent for task in found.tasks}
    if all(place.is_relative_to(found.folder) for place in everywhere):
        return str(found.folder)
    first = sorted(everywhere)[: _LISTED // 3]
    more = f" and {len(everywhere) - len(first)} more folders" if len(everywhere) > len(first) else ""
    return ", ".join(map(str, first)) + more

"""The live display of a batch: one bar for all with an estimate, one line per photo in work, a summary at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console, RenderableType
from rich.markup import escape
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    SpinnerColumn,
    TaskID,
    TextColumn,
    TimeRemainingColumn,
)
from rich.progress import Task as Line
from rich.table import Table
from rich.text import Text

from conservator.apps.display import print_suggestions, wrapped
from conservator.batch import Findings, Outcome, Preview, Status, Summary, Task
from conservator.batch.preview import preview_in_words
from conservator.batch.summary import split
from conservator.batch.words import ending, one_line, passed_over, stopping, suggested, with_suggestions
from conservator.record import load_record
from conservator.request import Request
from conservator.suggesting import apply_command

_MARKS: dict[Status, str] = {
    "restored": "[green]✓[/]",
    "untouched": "[cyan]=[/]",
    "incomplete": "[yellow]![/]",
    "skipped": "[dim]–[/]",
    "kept": "[yellow]–[/]",
    "failed": "[red]✗[/]",
}


class _OfAll(ProgressColumn):
    """A column of the line of all photos; the lines of those in work tell their stage alone."""

    def __init__(self, column: ProgressColumn) -> None:
        super().__init__()
        self._column = column

    def render(self, task: Line) -> RenderableType:
        return "" if task.total is None else self._column.render(task)


class BatchDisplay:
    """Shows a batch on the terminal; a plain line per photo where there is no terminal."""

    def __init__(self, total: int) -> None:
        self._console = Console(soft_wrap=True, highlight=False)
        self._total, self._lock = total, threading.Lock()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            *map(_OfAll, (BarColumn(), MofNCompleteColumn(), TimeRemainingColumn())),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._all = self._progress.add_task("photos", total=total, visible=total > 1)
        self._lines: dict[Task, TaskID] = {}

    def __enter__(self) -> Self:
        self._progress.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back."""
        self._progress.stop()

    def start(self, task: Task) -> Callable[[str], None]:
        """Show that a photo is in work; the result takes the name of its current step."""
        name = escape(task.source.name)
        line = self._progress.add_task(name, total=None)
        with self._lock:
            self._lines[task] = line
        return lambda stage: self._progress.update(line, description=f"{name} [dim]{escape(stage)}[/]")

    def end(self, task: Task, outcome: Outcome) -> None:
        """Print the photo's line."""
        named = outcome.status == "failed" and outcome.source in outcome.message
        text = outcome.message if named else f"{outcome.source}: {outcome.message}"
        notes = outcome.notes if self._total == 1 else ()  # of many photos, the records tell
        seconds = split(outcome.stages) if self._total == 1 else f"{sum(outcome.stages.values()):.1f} s"
        self._end(task, _MARKS[outcome.status], text, seconds if outcome.stages else "", notes)

    def preview(self, task: Task, preview: Preview) -> None:
        """Print the line of a photo that was looked at."""
        status: Status = "failed" if preview.error else "kept" if preview.standing else "untouched"
        self._end(task, _MARKS["restored" if preview.treated else status], str(preview))

    def _end(self, task: Task, mark: str, text: str, seconds: str = "", notes: Sequence[str] = ()) -> None:
        with self._lock:
            if task in self._lines:
                self._progress.remove_task(self._lines.pop(task))
            self._progress.advance(self._all)
            shown = Text(one_line(text))
            if seconds:
                shown.append(f" ({seconds})", "dim")
            for note in notes:
                shown.append(f"\n{one_line(note)}", "dim")
            if self._console.is_terminal:  # wrapped at words, under its own beginning
                line = Table.grid(padding=(0, 1, 0, 0))
                line.add_row(mark, shown)
                self._console.print(line)
            else:
                self._console.print(Text.assemble(Text.from_markup(mark), " ", shown))

    def stopping(self) -> None:
        """Say at once that the photos in work are finished, and no other is begun."""
        with self._lock:
            in_work = len(self._lines)
        self._console.print(f"[yellow]{stopping(in_work)}[/]")

    def summary(self, summary: Summary, found: Findings, report: bool, page: Path | None = None) -> None:
        """Print how the batch ended, what was passed over, what is suggested and where the results are."""
        if self._total != 1:
            self._say(ending(summary, found, page))
            return
        task = found.tasks[0]
        if any(outcome.suggestions for outcome in summary.outcomes):
            record = load_record(task.record)
            asked = record.request, task.target, task.in_place
            print_suggestions(
                self._console, (suggested(s, apply_command(s, task.source, *asked)) for s in record.suggestions)
            )
        ended = [] if summary.exit_code == 2 else [str(task.target)]
        ended += [str(task.report)] if report and ended else []
        self._say([*passed_over(found), *ended])

    def preview_summary(self, previews: Sequence[Preview], found: Findings, seconds: float, request: Request) -> None:
        """Print how many photos would be treated, what would be passed over, and what is suggested."""
        count = sum(bool(preview.suggestions) for preview in previews)
        more = with_suggestions(count, "named above") if self._total > 1 else []
        self._say([preview_in_words(previews, seconds), *more, *passed_over(found)])
        if self._total == 1:
            told = (suggested(s, apply_command(s, one.path, request)) for one in previews for s in one.suggestions)
            print_suggestions(self._console, told)

    def _say(self, lines: Sequence[str]) -> None:
        for line in lines:
            self._console.print(wrapped(line))

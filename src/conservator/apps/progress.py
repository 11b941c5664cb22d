"""The live display of a batch: one bar for all with an estimate, one line per photo in work, a summary at the end."""

from __future__ import annotations

import textwrap
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from conservator.batch import Findings, Outcome, Status, Summary, Task
from conservator.batch.summary import split
from conservator.batch.words import ending, passed_over, stopping

_MARKS: dict[Status, str] = {
    "restored": "[green]✓[/]",
    "untouched": "[cyan]=[/]",
    "incomplete": "[yellow]![/]",
    "skipped": "[dim]–[/]",
    "kept": "[yellow]–[/]",
    "failed": "[red]✗[/]",
}


class BatchDisplay:
    """Shows a batch on the terminal; a plain line per photo where there is no terminal."""

    def __init__(self, total: int) -> None:
        self._console = Console(soft_wrap=True, highlight=False)
        self._total, self._lock = total, threading.Lock()
        self._progress = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TimeRemainingColumn(),
            console=self._console,
            transient=True,
            disable=not self._console.is_terminal,
        )
        self._all = self._progress.add_task("photos", total=total, visible=total > 1)
        self._lines: dict[Task, int] = {}

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
        with self._lock:
            self._progress.remove_task(self._lines.pop(task))  # type: ignore[arg-type]
            self._progress.advance(self._all)
            seconds = f" [dim]({split(outcome.stages)})[/]" if outcome.stages else ""
            named = outcome.status == "failed" and outcome.source in outcome.message
            text = outcome.message if named else f"{outcome.source}: {outcome.message}"
            self._console.print(f"{_MARKS[outcome.status]} {escape(text)}{seconds}")
            for note in outcome.notes if self._total == 1 else ():  # of many photos, the records tell
                self._console.print(f"  [dim]{escape(note)}[/]")

    def stopping(self) -> None:
        """Say at once that the photos in work are finished, and no other is begun."""
        with self._lock:
            in_work = len(self._lines)
        self._console.print(f"[yellow]{stopping(in_work)}[/]")

    def summary(self, summary: Summary, found: Findings, report: bool) -> None:
        """Print how the batch ended, what was passed over and where the results are."""
        if self._total == 1:
            ended = [] if summary.exit_code == 2 else [str(found.tasks[0].target)]
            ended += [str(found.tasks[0].report)] if report and ended else []
            lines = [*passed_over(found), *ended]
        else:
            lines = ending(summary, found, report=report)
        for line in lines:
            indent = len(line) - len(line.lstrip()) + 2
            wrapped = textwrap.wrap(
                line, 80, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False
            )
            self._console.print(escape("\n".join(wrapped)))

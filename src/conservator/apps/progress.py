"""The live display of a batch: one bar for all with an estimate, one line per photo in work, a summary at the end."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, MofNCompleteColumn, Progress, SpinnerColumn, TextColumn, TimeRemainingColumn

from conservator.batch import Outcome, Status, Summary, Task
from conservator.batch.journal import split

_MARKS: dict[Status, str] = {
    "restored": "[green]✓[/]",
    "untouched": "[cyan]=[/]",
    "incomplete": "[yellow]![/]",
    "skipped": "[dim]–[/]",
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

    def summary(self, summary: Summary, folder: Path) -> None:
        """Print how the batch ended and where the results are."""
        if self._total > 1:
            counts = [f"{summary.count(status)} {status}" for status in _MARKS if summary.count(status)]
            self._console.print(f"{len(summary.outcomes)} photos: {', '.join(counts)}")
        if summary.exit_code < 2:
            result = summary.outcomes[0].target if self._total == 1 else f"results in {folder}"
            self._console.print(escape(result))

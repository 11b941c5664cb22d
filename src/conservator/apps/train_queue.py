"""``conservator train queue``: every expert, one after the other, in the background."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conservator.apps.train import Output, PhotosOption, train_app

queue_app = typer.Typer(help="Train every expert in the background; pause, and go on later.", no_args_is_help=True)
train_app.add_typer(queue_app, name="queue")

Threads = Annotated[int, typer.Option(min=1, help="Threads of the training; one process more damages photos.")]
Changed = Annotated[bool, typer.Option("--changed", help="Go on although a course draws other damage now.")]
_OUTPUT = Path("out/train")


@queue_app.command("start")
def start_queue(photos: PhotosOption, output: Output = _OUTPUT, threads: Threads = 1, changed: Changed = False) -> None:
    """Begin, or go on where the last run stopped, in a process of its own at the lowest priority."""
    from conservator.training.queue import start

    typer.echo(f"process {start(photos, output, threads=threads, changed=changed)} works; see queue status")


@queue_app.command("pause")
def pause_queue(output: Output = _OUTPUT) -> None:
    """Let the process write its checkpoint and end."""
    from conservator.training.queue import pause

    typer.echo("paused" if pause(output) else "nothing runs")


@queue_app.command("status")
def show_queue(output: Output = _OUTPUT) -> None:
    """What is trained, what runs, what waits."""
    from conservator.training.checkpoint import read_curve
    from conservator.training.courses import COURSES
    from conservator.training.queue import worker

    number = worker(output)
    typer.echo("nothing runs" if number is None else f"process {number} works")
    for name, course in COURSES.items():
        curve = read_curve(output / name)
        steps, minutes, psnr = (curve[-1][key] for key in ("step", "minutes", "psnr_out")) if curve else (0, 0, None)
        found = "" if psnr is None else f"{minutes:8.1f} min  {60 * minutes / max(1, steps):.3f} s/step  {psnr:.2f} dB"
        typer.echo(f"{name:16} {steps:7.0f} of {course.steps:7} steps  {found}")


@queue_app.command("work", hidden=True)
def work_queue(photos: PhotosOption, output: Output = _OUTPUT, threads: Threads = 1, changed: Changed = False) -> None:
    """What ``start`` lets a process of its own do."""
    from conservator.training.queue import work

    work(photos, output, threads=threads, changed=changed, report=lambda line: print(line, flush=True))  # noqa: T201

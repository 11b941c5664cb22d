"""``conservator train queue``: every expert and RL-Restore's toolboxes, in the background."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from conservator.apps.cli.train import Output, PhotosOption, train_app
from conservator.errors import ConservatorError

queue_app = typer.Typer(
    help="Train every expert and RL-Restore's toolboxes in the background; pause, and go on later.",
    no_args_is_help=True,
)
train_app.add_typer(queue_app, name="queue")

_Threads = Annotated[int, typer.Option(min=1, help="Threads of each training; more than 1 only on an idle machine.")]
Processes = Annotated[int, typer.Option(min=1, help="Trainings at a time, each with a process that damages photos.")]
Nice = Annotated[int, typer.Option(min=0, max=19, help="How far to stand back for others; 19 takes what is idle.")]
Changed = Annotated[bool, typer.Option("--changed", help="Go on although a course draws other damage now.")]
_OUTPUT = Path("out/train")


@queue_app.command("start")
def start_queue(
    photos: PhotosOption,
    output: Output = _OUTPUT,
    processes: Processes = 2,
    threads: _Threads = 1,
    nice: Nice = 19,
    changed: Changed = False,
) -> None:
    """Begin, or go on where the last run stopped, in processes of their own that stand back for others."""
    from conservator.training.experts.queue import start

    begun = start(photos, output, processes=processes, threads=threads, nice=nice, changed=changed)
    typer.echo(f"began {begun}" if begun else "all run already")


@queue_app.command("pause")
def pause_queue(output: Output = _OUTPUT) -> None:
    """Let the processes write their checkpoints and end."""
    from conservator.training.experts.queue import pause

    paused = pause(output)
    typer.echo(f"paused {paused}" if paused else "nothing runs")


@queue_app.command("status")
def show_queue(output: Output = _OUTPUT) -> None:
    """What is trained, what runs, what waits."""
    from conservator.training.experts.courses import COURSES
    from conservator.training.experts.queue import QUEUED_TOOLBOXES, done, toolbox_order, working
    from conservator.training.experts.rl_restore import networks_of
    from conservator.training.run import read_curve

    running = working(output)
    typer.echo(f"processes {running} work" if running else "nothing runs")
    for name, course in COURSES.items():
        line = f"{name:16} {0:7} of {course.steps:7} steps"
        if curve := read_curve(output / name):
            steps, minutes, psnr = (curve[-1][key] for key in ("step", "minutes", "psnr_out"))
            line = f"{name:16} {steps:7.0f} of {course.steps:7} steps"
            line += f"  {minutes:8.1f} min  {60 * minutes / max(1, steps):.3f} s/step  {psnr:.2f} dB"
        typer.echo(line)
    for architecture in QUEUED_TOOLBOXES:
        order = toolbox_order(architecture, Path(), output)
        networks = networks_of(order)
        steps = sum(min(done(order.output, name), wanted) for name, wanted in networks.items())
        typer.echo(f"{order.output.name:16} {steps:7} of {sum(networks.values()):7} steps  {len(networks)} networks")


@queue_app.command("work", hidden=True)
def work_queue(
    photos: PhotosOption,
    output: Output = _OUTPUT,
    number: Annotated[int, typer.Option(min=0, help="Which of the processes this one is.")] = 0,
    threads: _Threads = 1,
    nice: Nice = 19,
    changed: Changed = False,
) -> None:
    """What ``start`` lets a process of its own do."""
    from conservator.training.experts.queue import as_background, place, work

    def report(line: str) -> None:
        typer.echo(line)  # which flushes: the log is read while this runs

    with place(output, number):
        failed = work(photos, output, changed=changed, report=report, asked=as_background(threads, nice))
    if failed:
        raise ConservatorError(f"not trained: {', '.join(failed)}; what was wrong is said above")

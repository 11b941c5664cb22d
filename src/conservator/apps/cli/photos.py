"""Commands for photos: restore, examine, degrade, compare, replay, demo."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from conservator.apps.cli.common import MaxPixelsOption, SeedOption, TruncatedOption
from conservator.apps.cli.options import with_options
from conservator.errors import ConservatorError, PhotoError
from conservator.files import printable
from conservator.request import ChatOptions, Request

_CHAT = "With --policy chat (the key is taken from OPENAI_API_KEY)"


@with_options(Request, "request", leave_out=("chat",))
@with_options(
    ChatOptions,
    "chat",
    leave_out=("retries", "backoff", "request"),
    flags={"replan": "--replan/--plan-once"},
    panel=_CHAT,
)
def restore(
    paths: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos (with their subfolders).")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for the results (default: 'restored' beside the input), or a file."
        ),
    ] = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Photos treated at the same time.")] = 1,
    to: Annotated[str | None, typer.Option("--format", help="Write all results as png, jpg, tif, webp ...")] = None,
    report: Annotated[bool, typer.Option("--report", help="Write a page beside each result, and one of all.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip what a run with these settings finished.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    added: Annotated[
        str,
        typer.Option("--request", rich_help_panel=_CHAT, help="JSON added to each request; null leaves a field out."),
    ] = "{}",
    *,
    request: Request,
    chat: ChatOptions,
) -> None:
    """Restore photos. A photo that needs nothing comes back untouched.

    Beside each result lies NAME.conservator.json: what was seen, decided and done.
    """
    if request.policy == "chat":
        from conservator.policies.endpoint import read_request

        request = replace(request, chat=replace(chat, request=read_request(added)))
    suffix = None if to is None else "." + to.lower().lstrip(".")
    raise typer.Exit(_restore(paths, output, request, suffix, jobs, report, resume, overwrite))


def _restore(
    paths: list[Path],
    output: Path | None,
    request: Request,
    suffix: str | None,
    jobs: int,
    report: bool,
    resume: bool,
    overwrite: bool,
) -> int:
    from conservator.apps.interrupt import STOPPED, interruptible
    from conservator.apps.progress import BatchDisplay
    from conservator.batch import JOURNAL, FileRestorer, Journal, Threads, find_tasks, run_batch, save_index
    from conservator.restorer import Restorer

    with Restorer(request) as restorer:
        found = find_tasks(paths, output, suffix)
        with (
            BatchDisplay(len(found.tasks)) as display,
            interruptible(display.stopping, display.close) as stopped,
        ):
            summary = run_batch(
                found.tasks,
                FileRestorer(restorer, report),
                journal := Journal(found.folder / JOURNAL),
                executor=Threads(jobs),
                resume=resume,
                overwrite=overwrite,
                on_start=display.start,
                on_end=display.end,
                stopped=stopped,
            )
            stopped_early = stopped()
    display.summary(summary, found, report)
    if report and (page := save_index(found.folder, journal, summary)):
        typer.echo(f"look at them in {printable(page)}")
        if page.name != "index.html":
            typer.echo("the index.html there is not Conservator's, and was left alone")
    return STOPPED if stopped_early else summary.exit_code


def examine(
    paths: Annotated[list[Path], typer.Argument(help="Photos to look at.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every measure.")] = False,
    max_pixels: MaxPixelsOption = 200_000_000,
    allow_truncated: TruncatedOption = False,
) -> None:
    """Say what is wrong with photos, without changing anything."""
    from conservator.apps.display import print_percept, print_percept_json
    from conservator.restorer import Restorer

    unread = []
    with Restorer(Request(max_pixels=max_pixels, allow_truncated=allow_truncated)) as restorer:
        for path in paths:
            try:
                photo = restorer.load(path)
            except PhotoError as error:
                unread.append(error)
                if len(paths) > 1:
                    typer.echo(f"conservator: {error}", err=True)
                continue
            (print_percept_json if as_json else print_percept)(path, photo, restorer.examine(photo))
    if len(unread) == len(paths):
        raise unread[0] if len(paths) == 1 else typer.Exit(2)
    if unread:
        raise typer.Exit(1)


def degrade_photo(
    photo: Annotated[Path, typer.Argument(help="A clean photo.")],
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="Kinds in order, say rain,noise:high,jpeg, or a recipe's JSON file.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The damaged photo; its recipe goes beside it.")],
    seed: SeedOption = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Damage a photo by a recorded recipe, for tests and training."""
    from conservator.degradations import degrade, load_recipe, parse_recipe, save_recipe
    from conservator.photo import load_photo, save_photo

    written = output.with_suffix(".recipe.json")
    if written.exists() and not overwrite:
        raise ConservatorError(f"{written} exists already; give --overwrite to replace it, or another --output")
    steps = load_recipe(Path(recipe)) if recipe.endswith(".json") else parse_recipe(recipe, seed)
    source = load_photo(photo)
    save_photo(source.with_image(degrade(source.image, steps)), output, overwrite=overwrite)
    save_recipe(steps, written)
    typer.echo(f"{output}\n{written}")


def compare(
    image: Annotated[Path, typer.Argument(help="The photo to assess.")],
    reference: Annotated[Path, typer.Argument(help="The undamaged photo.")],
    metrics: Annotated[
        str, typer.Option(help="Metric names joined by commas; 'all' adds those of installed extras.")
    ] = "",
) -> None:
    """Print the quality of a photo against a reference, and what no-reference metrics say of both."""
    from conservator.apps.display import print_comparison
    from conservator.photo import load_photo

    print_comparison(load_photo(image).image, load_photo(reference).image, metrics)


def replay(
    record: Annotated[Path, typer.Argument(help="NAME.conservator.json of an earlier restoration.")],
    photo: Annotated[Path | None, typer.Option("--photo", help="The input, when it has moved.")] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Write the result here too.")] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Repeat a restoration from its record and say whether the result is the same to the byte."""
    from conservator.apps.replay import replay_record

    same, message = replay_record(record, photo, output, overwrite)
    typer.echo(message)
    raise typer.Exit(0 if same else 1)


def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path("out"),
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="Damage to do to it.")] = "rain,noise,jpeg:low",
    seed: SeedOption = 5,
) -> None:
    """Damage a sample photo, restore it, and print the gain."""
    from conservator.apps.demo import run_demo

    run_demo(output, recipe, seed)

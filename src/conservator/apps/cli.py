"""The command line. Heavy imports happen inside the commands, so ``--help`` answers at once."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from conservator import __version__
from conservator.apps import bench_rl_restore, train_mllm, train_queue, train_rl_restore  # noqa: F401 - they add their commands
from conservator.apps.bench import bench_app
from conservator.apps.data import data_app
from conservator.apps.train import train_app
from conservator.errors import ConservatorError, PhotoError

if TYPE_CHECKING:
    from conservator.record import Settings

app = typer.Typer(
    name="conservator",
    help="Restores damaged photographs by itself: it examines the photo, plans, treats it, looks again, "
    "takes back what did harm, and documents what it did.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
    add_completion=False,
    pretty_exceptions_enable=False,
)
tools_app = typer.Typer(help="List the tools, import published ones, add your own.", no_args_is_help=True)
app.add_typer(tools_app, name="tools")
app.add_typer(train_app, name="train")
app.add_typer(bench_app, name="bench")
app.add_typer(data_app, name="data")

Device = Annotated[str, typer.Option(help="Torch device: cpu, cuda, mps.")]
MaxPixels = Annotated[int, typer.Option(min=1, help="Refuse photos with more pixels than this.")]
Truncated = Annotated[bool, typer.Option("--allow-truncated", help="Read what is there of a truncated file.")]
_CHAT = "With --policy chat (the key is taken from OPENAI_API_KEY)"
Seed = Annotated[int, typer.Option(min=0, help="Seed of everything random.")]


def main() -> None:
    """Entry point: errors made on purpose become one sentence and exit code 2."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # a name or a mark that the terminal cannot show must stop nothing
    try:
        app()
    except ConservatorError as error:
        from rich.console import Console
        from rich.text import Text

        Console(stderr=True, soft_wrap=True).print(Text(f"conservator: {error}", style="red"))
        sys.exit(2)
    except BrokenPipeError:
        sys.exit(1)


def _version(value: bool) -> None:
    if value:
        typer.echo(f"conservator {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


@app.command()
def restore(
    paths: Annotated[list[Path], typer.Argument(help="Photos, or folders of photos (with their subfolders).")],
    output: Annotated[
        Path | None,
        typer.Option(
            "--output", "-o", help="Folder for the results (default: 'restored' beside the input), or a file."
        ),
    ] = None,
    policy: Annotated[
        str, typer.Option(help="Who decides: greedy, search, rules, beam, reflect, dqn, mllm, chat, none.")
    ] = "greedy",
    toolbox: Annotated[
        str,
        typer.Option(help="Toolboxes, joined by +: conservator, classical, user, rl-restore."),
    ] = "conservator+user",
    objective: Annotated[
        Literal["fidelity", "balanced", "perceptual"],
        typer.Option(help="What counts: closeness to the original, a balance, or a pleasing look."),
    ] = "balanced",
    strength: Annotated[float, typer.Option(min=0, max=1, help="1: full treatment; 0.5: half-way to the input.")] = 1.0,
    upscale: Annotated[bool, typer.Option("--upscale", help="Enlarge photos of less than 300 pixels.")] = False,
    max_steps: Annotated[int, typer.Option(min=1, help="Decisions per photo at most.")] = 12,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Photos treated at the same time.")] = 1,
    device: Device = "cpu",
    seed: Seed = 0,
    to: Annotated[str | None, typer.Option("--format", help="Write all results as png, jpg, tif, webp ...")] = None,
    report: Annotated[bool, typer.Option("--report", help="Write an HTML page beside each result.")] = False,
    resume: Annotated[bool, typer.Option("--resume", help="Skip what a run with these settings finished.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace existing files.")] = False,
    max_pixels: MaxPixels = 200_000_000,
    allow_truncated: Truncated = False,
    endpoint: Annotated[
        str,
        typer.Option(
            envvar="OPENAI_BASE_URL", rich_help_panel=_CHAT, help="OpenAI-compatible, say http://localhost:11434/v1."
        ),
    ] = "",
    model: Annotated[str, typer.Option(rich_help_panel=_CHAT, help="The model, as the endpoint calls it.")] = "",
    allow_upload: Annotated[
        bool, typer.Option("--allow-upload", rich_help_panel=_CHAT, help="Let pictures of the photos go there.")
    ] = False,
    max_calls: Annotated[int, typer.Option(min=1, rich_help_panel=_CHAT, help="Requests per photo at most.")] = 8,
    timeout: Annotated[float, typer.Option(min=0.1, rich_help_panel=_CHAT, help="Seconds for an answer.")] = 120,
    views: Annotated[int, typer.Option(min=1, rich_help_panel=_CHAT, help="Pictures per request at most.")] = 5,
    plan_once: Annotated[
        bool, typer.Option("--plan-once", rich_help_panel=_CHAT, help="Ask once per photo, not after each tool.")
    ] = False,
    request: Annotated[
        str, typer.Option(rich_help_panel=_CHAT, help="JSON added to each request; null leaves a field out.")
    ] = "{}",
) -> None:
    """Restore photos. A photo that needs nothing comes back untouched.

    Beside each result lies NAME.conservator.json: what was seen, decided and done.
    """
    from conservator.policies.endpoint import ChatOptions, read_request
    from conservator.record import Settings

    chat = ChatOptions(
        endpoint,
        model,
        allow_upload,
        max_calls=max_calls,
        timeout=timeout,
        views=views,
        replan=not plan_once,
        request=read_request(request),
    )
    settings = Settings(
        policy=policy,
        toolbox=toolbox,
        objective=objective,
        strength=strength,
        max_steps=max_steps,
        seed=seed,
        upscale=upscale,
        device=device,
        max_pixels=max_pixels,
        allow_truncated=allow_truncated,
        chat=chat if policy == "chat" else None,
    )
    suffix = None if to is None else "." + to.lower().lstrip(".")
    raise typer.Exit(_restore(paths, output, settings, suffix, jobs, report, resume, overwrite))


def _restore(
    paths: list[Path],
    output: Path | None,
    settings: Settings,
    suffix: str | None,
    jobs: int,
    report: bool,
    resume: bool,
    overwrite: bool,
) -> int:
    from conservator.apps.batch import MANIFEST, Manifest, Restorer, find_tasks, run_batch
    from conservator.apps.progress import BatchDisplay
    from conservator.perception import NetworkPerception
    from conservator.policies.catalog import check_policy_name
    from conservator.pool.pool import check_device
    from conservator.tools.catalog import make_toolbox

    check_policy_name(settings.policy, reference=False, chat=settings.chat)
    check_device(settings.device)
    restorer = Restorer(settings, make_toolbox(settings.toolbox), NetworkPerception(), report)
    tasks = find_tasks(paths, output, suffix)
    folder = tasks[0].target.parent
    if output is not None and not (len(tasks) == 1 and tasks[0].target == output):
        folder = output
    elif len(paths) == 1 and paths[0].is_dir():
        folder = paths[0] / "restored"
    with BatchDisplay(len(tasks)) as display:
        summary = run_batch(
            tasks,
            restorer,
            Manifest(folder / MANIFEST),
            jobs=jobs,
            resume=resume,
            overwrite=overwrite,
            fits=restorer.fits,
            on_start=display.start,
            on_end=display.end,
        )
    display.summary(summary, folder)
    return summary.exit_code


@app.command()
def examine(
    paths: Annotated[list[Path], typer.Argument(help="Photos to look at.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON, with every measure.")] = False,
    max_pixels: MaxPixels = 200_000_000,
    allow_truncated: Truncated = False,
) -> None:
    """Say what is wrong with photos, without changing anything."""
    from conservator.apps.display import print_percept, print_percept_json
    from conservator.perception import NetworkPerception, study
    from conservator.photo import load_photo

    unread = []
    for path in paths:
        try:
            photo = load_photo(path, max_pixels=max_pixels, allow_truncated=allow_truncated)
        except PhotoError as error:
            unread.append(error)
            if len(paths) > 1:
                typer.echo(f"conservator: {error}", err=True)
            continue
        percept = NetworkPerception().perceive(study(photo.working_image()))
        (print_percept_json if as_json else print_percept)(path, photo, percept)
    if len(unread) == len(paths):
        raise unread[0] if len(paths) == 1 else typer.Exit(2)
    if unread:
        raise typer.Exit(1)


@app.command()
def degrade(
    photo: Annotated[Path, typer.Argument(help="A clean photo.")],
    recipe: Annotated[
        str, typer.Option("--recipe", "-r", help="Kinds in order, say rain,noise:high,jpeg, or a recipe's JSON file.")
    ],
    output: Annotated[Path, typer.Option("--output", "-o", help="The damaged photo; its recipe goes beside it.")],
    seed: Seed = 0,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an existing file.")] = False,
) -> None:
    """Damage a photo by a recorded recipe, for tests and training."""
    from conservator.degradations import degrade as apply_recipe
    from conservator.degradations import load_recipe, parse_recipe, save_recipe
    from conservator.photo import load_photo, save_photo

    written = output.with_suffix(".recipe.json")
    if written.exists() and not overwrite:
        raise ConservatorError(f"{written} exists already; give --overwrite to replace it, or another --output")
    steps = load_recipe(Path(recipe)) if recipe.endswith(".json") else parse_recipe(recipe, seed)
    source = load_photo(photo)
    save_photo(source.with_image(apply_recipe(source.image, steps)), output, overwrite=overwrite)
    save_recipe(steps, written)
    typer.echo(f"{output}\n{written}")


@app.command()
def compare(
    image: Annotated[Path, typer.Argument(help="The photo to judge.")],
    reference: Annotated[Path, typer.Argument(help="The undamaged photo.")],
    metrics: Annotated[
        str, typer.Option(help="Metric names joined by commas; 'all' adds those of installed extras.")
    ] = "",
) -> None:
    """Print the quality of a photo against a reference, and what no-reference metrics say of both."""
    from conservator.apps.display import print_comparison
    from conservator.photo import load_photo

    print_comparison(load_photo(image).image, load_photo(reference).image, metrics)


@app.command()
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


@app.command()
def demo(
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the files.")] = Path("out"),
    recipe: Annotated[str, typer.Option("--recipe", "-r", help="Damage to do to it.")] = "rain,noise,jpeg:low",
    seed: Seed = 5,
) -> None:
    """Damage a sample photo, restore it, and print the gain."""
    from conservator.apps.demo import run_demo

    run_demo(output, recipe, seed)


@tools_app.command("list")
def tools_list(
    toolbox: Annotated[str, typer.Option(help="Toolboxes, joined by +.")] = "conservator+user",
    speed: Annotated[bool, typer.Option(help="Measure seconds per megapixel on this machine.")] = True,
    device: Device = "cpu",
) -> None:
    """Show the tools: what each removes, its source, licence and speed."""
    from conservator.apps.display import print_tools
    from conservator.tools import make_toolbox

    print_tools(make_toolbox(toolbox), device if speed else None)


@tools_app.command("import")
def tools_import(
    name: Annotated[Literal["rl-restore"], typer.Argument(help="Which published toolbox.")],
    path: Annotated[Path, typer.Argument(help="Its weights: rl_restore.npz.")],
) -> None:
    """Turn published weights into a toolbox of yours."""
    from conservator.tools.rl_restore import import_rl_restore
    from conservator.tools.user import user_tool_dir

    typer.echo(
        f"{import_rl_restore(path, user_tool_dir())}\nuse it with: conservator restore --toolbox {name}:published PHOTO"
    )


@tools_app.command("add")
def tools_add(
    model: Annotated[Path, typer.Argument(help="A checkpoint that spandrel knows (.pth, .safetensors).")],
    removes: Annotated[str, typer.Option(help="What it removes, kinds joined by commas: noise,jpeg.")],
    name: Annotated[str | None, typer.Option(help="The tool's name (default: the file's).")] = None,
    license_: Annotated[str, typer.Option("--license", help="SPDX id of its licence.")] = "unknown",
) -> None:
    """Add a network of somebody else's (needs the extra: pip install 'conservator[spandrel]')."""
    from conservator.tools.spandrel import add_spandrel_tool
    from conservator.tools.user import parse_kinds, user_tool_dir

    record = add_spandrel_tool(
        model, removes=parse_kinds(removes), name=name, license=license_, destination=user_tool_dir()
    )
    typer.echo(f"{record}\nit is now in the toolbox 'user'")

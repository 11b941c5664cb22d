"""Commands for many photos at a time: restore, apply, examine."""

from __future__ import annotations

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from conservator.apps.cli.options import with_options
from conservator.errors import ConservatorError
from conservator.files import reason
from conservator.request import ChatOptions, Request

if TYPE_CHECKING:
    from conservator.batch import Executor
    from conservator.restorer import Restorer

_CHAT = "With --policy chat (the key is taken from OPENAI_API_KEY)"

PathsArgument = Annotated[
    list[Path], typer.Argument(help="Photos, or folders of photos (with their subfolders).", show_default=False)
]


@dataclass(frozen=True)
class BatchOptions:
    """Where results go, and what may be replaced."""

    output: Path | None = None
    """Folder for the results (default: 'restored' beside the input), or a file."""
    format: str | None = None
    """Write all results as png, jpg, tif, webp ..."""
    jobs: int | None = None
    """Photos treated at the same time (default: 1; with --engine ray, as many as the cluster has cores)."""
    report: bool = False
    """Write a page beside each result, and one of the whole folder."""
    resume: bool = False
    """Skip what a run with these settings finished."""
    overwrite: bool = False
    """Replace existing files."""
    engine: str = "threads"
    """Where photos are treated: threads of this process; ray, a cluster that runs here or is started; ray:HOST:PORT."""
    ship: bool = False
    """Send photos and results to the cluster and back: its machines share no disk."""
    gpu_share: float = 1.0
    """With --engine ray and --device cuda, the share of a GPU for each photo at work."""

    def __post_init__(self) -> None:
        if self.jobs is not None and self.jobs < 1:
            raise ConservatorError(f"jobs is {self.jobs}, expected 1 or more")
        name, colon, address = self.engine.partition(":")
        if name not in ("threads", "ray") or (colon and (name != "ray" or not address)):
            raise ConservatorError(f"the engine is {self.engine!r}, expected threads, ray, or ray:HOST:PORT")
        if name == "threads" and (self.ship or self.gpu_share != 1):
            raise ConservatorError("--ship and --gpu-share are for clusters; give --engine ray, or leave them out")

    @property
    def elsewhere(self) -> bool:
        """Whether photos are treated in other processes."""
        return self.engine != "threads"

    def executor(self) -> Executor:
        """What treats the photos."""
        from conservator.batch import Threads

        if not self.elsewhere:
            return Threads(self.jobs or 1)
        from conservator.batch.ray import Cluster

        address = self.engine.partition(":")[2]
        return Cluster(address, self.ship, self.jobs, gpus=self.gpu_share)

    @property
    def suffix(self) -> str | None:
        """The suffix of the format that is asked for."""
        return None if self.format is None else "." + self.format.lower().lstrip(".")


_DECIDING = (
    "policy",
    "objective",
    "only",
    "never",
    "prefer",
    "upscale",
    "risk",
    "thresholds",
    "max_steps",
    "seed",
    "chat",
)
"""What a request says to who decides."""
_OUTPUT_FLAGS = {"output": "--output -o", "jobs": "--jobs -j", "report": "--report"}


@with_options(Request, "request", leave_out=("chat",))
@with_options(
    ChatOptions,
    "chat",
    leave_out=("retries", "backoff", "request"),
    flags={"replan": "--replan/--plan-once"},
    panel=_CHAT,
)
@with_options(BatchOptions, "where", flags=_OUTPUT_FLAGS)
def restore(
    paths: PathsArgument,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Say in a line for each photo what would be done; write nothing.")
    ] = False,
    added: Annotated[
        str,
        typer.Option("--request", rich_help_panel=_CHAT, help="JSON added to each request; null leaves a field out."),
    ] = "{}",
    *,
    where: BatchOptions,
    request: Request,
    chat: ChatOptions,
) -> None:
    """Restore photos. A photo that needs nothing comes back untouched.

    Beside each result lies NAME.conservator.json: what was seen, decided and done.
    """
    from conservator.restorer import Restorer

    if request.policy == "chat":
        from conservator.policies.endpoint import read_request

        request = replace(request, chat=replace(chat, request=read_request(added)))
    if request.adapt_steps is not None and not request.upscale:
        raise ConservatorError("--adapt-steps is for tools that enlarge; allow them by --upscale, or leave it out")
    if dry_run and where.elsewhere:
        raise ConservatorError("--dry-run looks at photos on this machine; leave out --engine")
    with Restorer(request, here=not where.elsewhere) as restorer:
        raise typer.Exit(_previewed(paths, restorer, where, True) if dry_run else _restored(paths, restorer, where))


@with_options(Request, "request", leave_out=_DECIDING)
@with_options(BatchOptions, "where", flags=_OUTPUT_FLAGS)
def apply(
    paths: PathsArgument,
    tools: Annotated[str, typer.Option("--tools", "-t", help="Tools in order, joined by commas; see tools list.")],
    *,
    where: BatchOptions,
    request: Request,
) -> None:
    """Treat photos with tools that you name. It is done whatever is seen, and what is thought of the result is said."""
    from conservator.restorer import Restorer
    from conservator.tools.lway import adapting

    chosen = tuple(filter(None, (name.strip() for name in tools.split(","))))
    if not chosen:
        raise ConservatorError("no tool is named; give --tools denoise_medium, say (conservator tools list shows all)")
    with Restorer(replace(request, policy="none"), here=not where.elsewhere) as restorer:
        for tool in chosen:
            _ = restorer.toolbox[tool]  # a name that does not exist costs no photo
        if request.adapt_steps is not None and not set(chosen) & set(adapting(restorer.toolbox)):
            raise ConservatorError(
                "--adapt-steps is for tools that adapt themselves; name one, say upscale_x2_adapted, or leave it out"
            )
        raise typer.Exit(_restored(paths, restorer, where, chosen))


def _restored(paths: list[Path], restorer: Restorer, where: BatchOptions, tools: tuple[str, ...] = ()) -> int:
    """Restore a batch, show it, and return the exit code."""
    from conservator.apps.interrupt import STOPPED, interruptible
    from conservator.apps.progress import BatchDisplay
    from conservator.batch import JOURNAL, FileRestorer, Journal, find_tasks, run_batch, save_index

    found = find_tasks(paths, where.output, where.suffix)
    if not where.elsewhere:
        _share_cores(where.jobs or 1, len(found.tasks))
    journal = Journal(found.folder / JOURNAL)
    with BatchDisplay(len(found.tasks)) as display, interruptible(display.stopping, display.close) as stopped:
        summary = run_batch(
            found.tasks,
            FileRestorer(restorer, where.report, tools),
            journal,
            executor=where.executor(),
            resume=where.resume,
            overwrite=where.overwrite,
            on_start=display.start,
            on_end=display.end,
            stopped=stopped,
        )
        stopped_early = stopped()
    page, trouble = None, ""
    try:
        page = save_index(found.folder, journal, summary) if where.report else None
    except OSError as error:
        trouble = f"the page of the folder could not be written: {reason(error)}"
    display.summary(summary, found, where.report, page)
    if trouble:
        typer.echo(trouble, err=True)
    return STOPPED if stopped_early else max(summary.exit_code, bool(trouble))


def _share_cores(jobs: int, photos: int) -> None:
    """Let each computation of this process take its share of the cores, for so many photos at a time.

    Threads of one computation wait for each other in loops. Where there are more of them than cores, they keep each
    other from working: on two cores two photos at a time took 1.4 times as long. What computes already keeps its own.
    """
    import torch

    torch.set_num_threads(max(1, torch.get_num_threads() // max(1, min(jobs, photos))))


def _previewed(paths: list[Path], restorer: Restorer, where: BatchOptions, standing: bool) -> int:
    """Say what would be done to a batch, and return the exit code; ``standing``: mind the results that are there."""
    from conservator.apps.interrupt import STOPPED, interruptible
    from conservator.apps.progress import BatchDisplay
    from conservator.batch import JOURNAL, FileRestorer, Journal, find_tasks, preview_batch

    begun = time.monotonic()
    found = find_tasks(paths, where.output, where.suffix)
    _share_cores(where.jobs or 1, len(found.tasks))
    with BatchDisplay(len(found.tasks)) as display, interruptible(display.stopping, display.close) as stopped:
        previews = preview_batch(
            found.tasks,
            FileRestorer(restorer, where.report),
            Journal(found.folder / JOURNAL) if standing else None,
            jobs=where.jobs or 1,
            resume=where.resume,
            overwrite=where.overwrite,
            on_start=display.start,
            on_end=display.preview,
            stopped=stopped,
        )
        stopped_early = stopped()
    display.preview_summary(previews, found, time.monotonic() - begun, restorer.request)
    if stopped_early:
        return STOPPED
    unread = sum(bool(preview.error) for preview in previews)
    return 2 if unread == len(previews) else int(unread > 0)


@with_options(Request, "request", leave_out=("chat",))
def examine(
    paths: PathsArgument,
    as_json: Annotated[
        bool, typer.Option("--json", help="Print a line of JSON for each photo, with every measure.")
    ] = False,
    jobs: Annotated[int, typer.Option("--jobs", "-j", min=1, help="Photos examined at the same time.")] = 1,
    *,
    request: Request,
) -> None:
    """Say what is wrong with photos and what would be done to them, without changing anything.

    One photo is told of in a table, several in a line each.
    """
    from conservator.apps.display import print_preview, print_preview_json
    from conservator.batch import find_tasks
    from conservator.batch.preview import preview
    from conservator.restorer import Restorer

    single = len(paths) == 1 and not paths[0].is_dir()
    with Restorer(request) as restorer:
        if as_json:
            tasks = find_tasks(paths, None).tasks
            seen = [print_preview_json(preview(restorer, task.source, lambda stage: None), request) for task in tasks]
            failed = seen.count(False)
            raise typer.Exit(2 if failed == len(seen) else int(failed > 0))
        if not single:
            raise typer.Exit(_previewed(paths, restorer, BatchOptions(jobs=jobs), False))
        if not paths[0].exists():
            raise ConservatorError(f"{paths[0]}: there is no such file or folder")
        found = preview(restorer, paths[0], lambda stage: None)
        if found.error:
            raise ConservatorError(found.error)
        print_preview(found, request)

"""The tools as an assistant sees them: names, arguments, descriptions; and the way from its calls to the workbench."""

from __future__ import annotations

import asyncio
import base64
import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, nullcontext
from typing import Annotated, Any, Literal

import anyio
import anyio.to_thread
from mcp.server.mcpserver import Context, MCPServer
from mcp.server.mcpserver.exceptions import ToolError, UnexpectedToolError
from mcp_types import (
    CallToolResult,
    ContentBlock,
    ImageContent,
    InputRequiredResult,
    ResourceLink,
    TextContent,
    ToolAnnotations,
)
from pydantic import Field, ValidationError

from conservator import __version__
from conservator.apps.mcp.jobs import in_tool_words
from conservator.apps.mcp.workbench import MOST_SECONDS, Choices, Told, Workbench
from conservator.errors import ConservatorError, name_not_found
from conservator.files import reason as reason_of
from conservator.kinds import Kind, Objective, Preference
from conservator.restorer import Progress

MOST_CALLS = 4
"""Calls in work at the same time; others wait. Each computes on all cores itself, and holds a photo."""

_MOST_THREADS = 64  # for calls that are in work, wait for their turn, or wait for a batch

PolicyName = Literal["greedy", "search", "rules", "beam", "reflect", "mllm"]
"""Who may decide for an assistant: what ships and runs here. Policies that load code or files, or send pictures away,
are the user's to choose, when the program is started."""

PhotoArgument = Annotated[
    str, Field(description="The handle of an open photo, or the path of a photo, which is then opened.")
]
HandleArgument = Annotated[str, Field(description="The handle of an open photo, as inspect gave it.")]
RegionArgument = Annotated[
    list[int] | None,
    Field(description="Show only this part, at full size: left, top, width, height in pixels. Without it, the whole."),
]
ReasonArgument = Annotated[str, Field(description="Why, in a sentence; it is kept with the step.")]
OutputArgument = Annotated[
    str | None,
    Field(description="The result, a file or a folder. Without it, it goes to a folder 'restored' beside the photo."),
]
PolicyArgument = Annotated[PolicyName | None, Field(description="Who decides; without it, what the user set.")]
ObjectiveArgument = Annotated[
    Objective | None, Field(description="What counts: closeness to the original, a balance, or a pleasing look.")
]
StrengthArgument = Annotated[float | None, Field(description="1: full treatment; 0.5: half-way; 0: none.", ge=0, le=1)]
OnlyArgument = Annotated[list[Kind] | None, Field(description="The kinds of damage to treat; without it, all.")]
NeverArgument = Annotated[list[Kind] | None, Field(description="Kinds of damage to leave alone.")]
PreferArgument = Annotated[
    Preference | None,
    Field(description="What counts more where both cannot be had; for policies that are told so: mllm, tir and chat."),
]
UpscaleArgument = Annotated[bool | None, Field(description="Whether photos of less than 300 pixels are enlarged.")]

INSTRUCTIONS = """Conservator restores damaged photographs. All files lie in: {roots}.
Either let it decide: plan (says what it would do), restore (does it, and writes the result and its record).
Or decide yourself, step by step: inspect a photo (you get a handle, what is wrong with it, the tools, a preview); apply
one tool; look at the preview, and at details with a region; rollback to an earlier step if it did harm; apply another;
save when it is good. A photo that needs nothing is best left alone. Estimates, in dB, can be wrong: look for yourself.
Nothing that exists is ever replaced. For many photos: batch_start, job_status, job_cancel."""

_LOOKS = ToolAnnotations(read_only_hint=True, open_world_hint=False)
_WRITES = ToolAnnotations(read_only_hint=False, destructive_hint=False, idempotent_hint=False, open_world_hint=False)


class OfferedTools(MCPServer[Any]):
    """The tools of a workbench. What goes wrong in a call is told in one sentence, as the result of the tool."""

    async def call_tool(
        self, name: str, arguments: dict[str, Any], context: Context[Any, Any] | None = None
    ) -> CallToolResult | InputRequiredResult:
        """Call a tool; raises ToolError, with a sentence that says what to do."""
        try:
            await self._check_arguments(name, arguments)
            return await super().call_tool(name, arguments, context)
        except UnexpectedToolError as error:  # its traceback goes to the log
            what = f"{type(error.__cause__).__name__}: {error.__cause__}"
            raise UnexpectedToolError(f"the program failed ({what}); please report that") from error.__cause__
        except ToolError as error:
            cause = error.__cause__
            if isinstance(cause, ValidationError):
                raise ToolError(_in_a_sentence(name, cause)) from cause
            raise ToolError(str(cause or error)) from cause

    async def _check_arguments(self, name: str, arguments: dict[str, Any]) -> None:
        """Raise ToolError for a tool or an argument that there is not: left out, it would be missed by nobody."""
        tools = {tool.name: tool for tool in await self.list_tools()}
        if name not in tools:
            raise ToolError(str(name_not_found("tool", name, tools)))
        known = tools[name].input_schema["properties"]
        for argument in arguments:
            if argument not in known:
                raise ToolError(str(name_not_found(f"argument of {name}", argument, known)))


def _in_a_sentence(name: str, error: ValidationError) -> str:
    wrong = [f"{'.'.join(map(str, part['loc'])) or 'the arguments'}: {part['msg']}" for part in error.errors()]
    return f"{name} was not called; {'; '.join(dict.fromkeys(wrong))}"


def offer(workbench: Workbench) -> OfferedTools:
    """All tools of a workbench, ready to be served."""
    offered = OfferedTools(
        "conservator",
        title="Conservator",
        version=__version__,
        instructions=INSTRUCTIONS.format(roots=workbench.roots),
        log_level="WARNING",
        subscriptions=False,
    )
    work = _Bridge(workbench)
    _add_steps(offered, workbench, work)
    _add_restoring(offered, workbench, work)
    _add_batches(offered, workbench, work)
    return offered


def _add_steps(offered: OfferedTools, bench: Workbench, work: _Bridge) -> None:
    """The tools of an assistant that decides itself."""

    @offered.tool(annotations=_LOOKS)
    async def inspect(photo: PhotoArgument, context: Context, region: RegionArgument = None) -> CallToolResult:
        """Open a photo: what is wrong with it, which tools there are, a preview. Of an open photo: its steps and how it
        looks now; with a region, a part at full size. Of a folder: the photos in it."""
        return await work(context, lambda progress: bench.inspect(photo, region, progress))

    @offered.tool(annotations=_LOOKS)
    async def apply(
        photo: PhotoArgument, tool: str, context: Context, reason: ReasonArgument = "", region: RegionArgument = None
    ) -> CallToolResult:
        """Treat an open photo with one tool of the toolbox; answers with a preview, what is seen now, and what that is
        estimated to have gained, in dB. Nothing is written yet."""
        return await work(context, lambda progress: bench.apply(photo, tool, reason, region, progress))

    @offered.tool(annotations=_LOOKS)
    async def rollback(
        photo: HandleArgument,
        step: Annotated[int, Field(description="The step to go back to; 0 is the photo as it came.")],
        context: Context,
        reason: ReasonArgument = "",
        region: RegionArgument = None,
    ) -> CallToolResult:
        """Go back to an earlier step of an open photo, since what followed did harm. All steps stay in its history."""
        return await work(context, lambda progress: bench.rollback(photo, step, reason, region, progress))

    @offered.tool(annotations=_LOOKS)
    async def compare(
        photo: PhotoArgument,
        context: Context,
        to: Annotated[
            int | str, Field(description="An earlier step (0: as it came), or the path of another photo, a reference.")
        ] = 0,
        region: RegionArgument = None,
    ) -> CallToolResult:
        """Two pictures: an earlier step of an open photo, or another photo, and then the photo as it is now; with PSNR
        and SSIM between them where they are of one size."""
        return await work(context, lambda progress: bench.compare(photo, to, region, progress))

    @offered.tool(annotations=_WRITES)
    async def save(photo: HandleArgument, context: Context, output: OutputArgument = None) -> CallToolResult:
        """Stop here: write the open photo as it is now, and beside it the record of what was done. No file is
        replaced. The photo takes no further steps."""
        return await work(context, lambda progress: bench.save(photo, output, progress))


def _add_restoring(offered: OfferedTools, bench: Workbench, work: _Bridge) -> None:
    """The tools of an assistant that lets the program decide."""

    @offered.tool(annotations=_LOOKS)
    async def plan(
        photo: PhotoArgument,
        context: Context,
        policy: PolicyArgument = None,
        objective: ObjectiveArgument = None,
        strength: StrengthArgument = None,
        only: OnlyArgument = None,
        never: NeverArgument = None,
        prefer: PreferArgument = None,
        upscale: UpscaleArgument = None,
    ) -> CallToolResult:
        """Say what the program would do to a photo as it came, and why; nothing is treated or written."""
        choices = _choices(policy, objective, strength, only, never, prefer, upscale)
        return await work(context, lambda progress: bench.plan(photo, choices, progress))

    @offered.tool(annotations=_WRITES)
    async def restore(
        photo: PhotoArgument,
        context: Context,
        output: OutputArgument = None,
        policy: PolicyArgument = None,
        objective: ObjectiveArgument = None,
        strength: StrengthArgument = None,
        only: OnlyArgument = None,
        never: NeverArgument = None,
        prefer: PreferArgument = None,
        upscale: UpscaleArgument = None,
    ) -> CallToolResult:
        """Let the program restore a photo as it came: it plans, treats, looks again and takes back what did harm. It
        writes the result and its record; a photo that needs nothing is copied. No file is replaced."""
        choices = _choices(policy, objective, strength, only, never, prefer, upscale)
        return await work(context, lambda progress: bench.restore(photo, output, choices, progress))


def _add_batches(offered: OfferedTools, bench: Workbench, work: _Bridge) -> None:
    """The tools for many photos."""

    @offered.tool(annotations=_WRITES)
    async def batch_start(
        photos: Annotated[list[str], Field(description="Paths of photos, and of folders with all photos in them.")],
        context: Context,
        output: Annotated[
            str | None, Field(description="Folder of the results. Without it: 'restored' in each folder.")
        ] = None,
        tools: Annotated[
            list[str] | None, Field(description="Treat every photo with these tools; without it the program decides.")
        ] = None,
        at_once: Annotated[int, Field(description="Photos treated at the same time.", ge=1, le=8)] = 1,
        policy: PolicyArgument = None,
        objective: ObjectiveArgument = None,
        strength: StrengthArgument = None,
        only: OnlyArgument = None,
        never: NeverArgument = None,
        prefer: PreferArgument = None,
        upscale: UpscaleArgument = None,
    ) -> CallToolResult:
        """Begin to restore many photos, and answer at once with the handle of the batch. What an earlier batch with the
        same settings finished is skipped, so the same call goes on after an interruption. No other file is replaced."""
        choices = _choices(policy, objective, strength, only, never, prefer, upscale)
        return await work(context, lambda _: bench.batch_start(photos, output, tools, at_once, choices))

    @offered.tool(annotations=_LOOKS)
    async def job_status(
        job: str,
        context: Context,
        wait_seconds: Annotated[
            float, Field(description="Wait so long for its end, and answer sooner if it comes.", ge=0, le=MOST_SECONDS)
        ] = 0.0,
    ) -> CallToolResult:
        """How far a batch is, what became of its photos, and which failed."""
        return await work(context, lambda progress: bench.job_status(job, wait_seconds, progress), waits=True)

    @offered.tool(annotations=_WRITES)
    async def job_cancel(job: str, context: Context) -> CallToolResult:
        """End a batch: photos in work are finished, no other is begun. The same batch_start goes on later."""
        return await work(context, lambda _: bench.job_cancel(job), waits=True)


def _choices(
    policy: str | None,
    objective: Objective | None,
    strength: float | None,
    only: list[Kind] | None,
    never: list[Kind] | None,
    prefer: Preference | None,
    upscale: bool | None,
) -> Choices:
    return Choices(
        policy,
        objective,
        strength,
        None if only is None else frozenset(only),
        frozenset(never or ()),
        prefer,
        upscale,
    )


class _Bridge:
    """Takes calls from the loop of events to threads that compute, and what these tell back to the assistant."""

    def __init__(self, workbench: Workbench) -> None:
        self._workbench = workbench
        self._threads = anyio.CapacityLimiter(_MOST_THREADS)
        self._turn = threading.BoundedSemaphore(MOST_CALLS)  # a call that was cancelled keeps its turn until it stops

    async def __call__(
        self, context: Context[Any, Any], do: Callable[[Progress], Told], waits: bool = False
    ) -> CallToolResult:
        """Do it in a thread; ``waits`` says that it computes nothing. A call that is cancelled stops at its next stage.

        Raises ToolError, with the sentence of what went wrong.
        """
        cancelled = threading.Event()
        reports = _Reports(context, asyncio.get_running_loop(), cancelled)

        def work() -> Told:
            with self._workbench.working(), nullcontext() if waits else self._its_turn(cancelled):
                return do(reports)

        try:
            answer = await anyio.to_thread.run_sync(work, abandon_on_cancel=True, limiter=self._threads)
        except ConservatorError as error:
            raise ToolError(_for_the_wire(in_tool_words(str(error)))) from None
        except OSError as error:
            raise ToolError(_for_the_wire(f"{error.filename or 'a file'}: {reason_of(error)}")) from None
        finally:
            cancelled.set()
        await reports.arrived()
        return _as_result(answer)

    @contextmanager
    def _its_turn(self, cancelled: threading.Event) -> Iterator[None]:
        while not self._turn.acquire(timeout=0.1):  # seconds
            if cancelled.is_set():
                raise ConservatorError("the call was cancelled")
        try:
            yield
        finally:
            self._turn.release()


class _Reports:
    """The progress of one call: the stages that begin, told to the assistant in their order."""

    def __init__(self, context: Context[Any, Any], loop: asyncio.AbstractEventLoop, cancelled: threading.Event) -> None:
        self._context, self._loop, self._cancelled = context, loop, cancelled
        self._sent: list[Future[None]] = []
        self._lock = threading.Lock()

    def __call__(self, stage: str) -> None:
        """Tell a stage, from any thread; raises ConservatorError, which ends the work, once the call was cancelled."""
        if self._cancelled.is_set():
            raise ConservatorError("the call was cancelled")
        with self._lock:  # numbers rise in the order in which they are sent
            report = self._context.report_progress(len(self._sent) + 1, None, stage)
            self._sent.append(asyncio.run_coroutine_threadsafe(report, self._loop))

    async def arrived(self) -> None:
        """Wait until all were sent, so that none comes after the answer; what could not be sent is no error."""
        with self._lock:
            sent = [asyncio.wrap_future(report) for report in self._sent]
        await asyncio.gather(*sent, return_exceptions=True)


def _as_result(answer: Told) -> CallToolResult:
    """What goes over the wire: a sentence and the data as text, the data, the pictures, links to the files."""
    text = _for_the_wire(f"{answer.sentence}\n{json.dumps(answer.data, ensure_ascii=False)}")
    content: list[ContentBlock] = [TextContent(type="text", text=text)]
    content += [
        ImageContent(type="image", data=base64.b64encode(picture).decode("ascii"), mime_type="image/jpeg")
        for picture in answer.pictures
    ]
    content += [
        ResourceLink(type="resource_link", uri=file.as_uri(), name=_for_the_wire(file.name)) for file in answer.files
    ]
    return CallToolResult(content=content, structured_content=dict(answer.data))


def _for_the_wire(text: str) -> str:
    """The text as UTF-8 can carry it: names of files may hold bytes that are none."""
    return text.encode("utf-8", "backslashreplace").decode()

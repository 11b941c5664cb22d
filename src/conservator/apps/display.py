"""Tables on the terminal: what was seen, how two photos compare, which tools there are."""

from __future__ import annotations

import json
import math
import textwrap
import time
from collections.abc import Iterable

import torch
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from conservator.batch import Preview
from conservator.batch.words import suggested
from conservator.errors import MissingExtraError, ToolFailedError
from conservator.files import printable
from conservator.image import Image
from conservator.metrics import DEFAULT_FULL_REFERENCE, DEFAULT_NO_REFERENCE, METRICS, FullReference, make_metric
from conservator.perception.perception import STRANGE
from conservator.request import Request
from conservator.suggesting import apply_command
from conservator.tools.tool import Toolbox

_COLOURS = ("green", "yellow", "yellow", "red", "red")


def print_suggestions(console: Console, told: Iterable[tuple[str, str]]) -> None:
    """Print what is suggested; commands are not broken into lines, so that they can be copied."""
    for sentence, command in told:
        console.print(wrapped(sentence))
        console.print(escape(command))


def wrapped(line: str) -> str:
    """A sentence in lines of a terminal, the further ones under its own beginning; escaped."""
    indent = len(line) - len(line.lstrip()) + 2
    lines = textwrap.wrap(line, 80, subsequent_indent=" " * indent, break_long_words=False, break_on_hyphens=False)
    return escape("\n".join(lines))


def print_preview(found: Preview, request: Request) -> None:
    """Print the severities with a small bar per kind, what would be done, and what is suggested instead."""
    assert found.photo is not None
    assert found.plan is not None
    path, photo, percept = found.path, found.photo, found.plan.before
    console = Console(soft_wrap=True, highlight=False)
    height, width = photo.image.shape[-2:]
    console.print(f"[bold]{escape(printable(path))}[/]  {width}×{height}, {photo.format}, {photo.bit_depth} bit")
    table = Table(box=None, pad_edge=False)
    for heading in ("damage", "severity", "", "confidence"):
        table.add_column(heading, header_style="dim")
    for kind, severity in percept.severities.items():
        bar = f"[{_COLOURS[severity]}]{'█' * severity}[/][dim]{'░' * (4 - severity)}[/]"
        table.add_row(kind.label, bar, severity.label, f"{percept.confidences.get(kind, 0):.0%}")
    console.print(table)
    console.print(f"estimated quality {percept.quality:.1f} dB (PSNR to the undamaged photo)")
    if percept.strange:
        console.print(STRANGE)
    console.print(escape(found.intention))
    print_suggestions(console, [suggested(one, apply_command(one, path, request)) for one in found.suggestions])
    for note in photo.notes:
        console.print(f"[dim]{escape(note)}[/]")


def print_preview_json(found: Preview, request: Request) -> bool:
    """Print everything that was seen, and what would be done, as one line of JSON; whether the photo could be read."""
    console = Console(soft_wrap=True, highlight=False)
    if found.photo is None or found.plan is None:
        console.print_json(json.dumps({"path": printable(found.path), "error": found.error}), indent=None)
        return False
    percept = found.plan.before
    height, width = found.photo.image.shape[-2:]
    seen = {
        "path": printable(found.path),
        "width": width,
        "height": height,
        "quality": percept.quality,
        "severities": {str(kind): severity.label for kind, severity in percept.severities.items()},
        "confidences": {str(kind): value for kind, value in percept.confidences.items()},
        "toolchain": list(found.plan.toolchain),
        "estimated_gain": found.gain,
        "suggestions": [
            suggestion.model_dump(mode="json") | {"command": apply_command(suggestion, found.path, request)}
            for suggestion in found.suggestions
        ],
        "strange": percept.strange,
        "measures": dict(percept.measures),
    }
    console.print_json(json.dumps(seen), indent=None)
    return True


def print_comparison(image: Image, reference: Image, names: str) -> None:
    """Print full-reference metrics of the pair and no-reference metrics of both."""
    wanted = (
        tuple(METRICS)
        if names == "all"
        else tuple(filter(None, names.split(",")))
        or (
            *DEFAULT_FULL_REFERENCE,
            *DEFAULT_NO_REFERENCE,
        )
    )
    table = Table("metric", "better", "image", "reference", box=None, pad_edge=False, header_style="dim")
    missing = []
    for name in wanted:
        chosen = make_metric(name)
        better = "higher" if chosen.higher_is_better else "lower"
        try:
            if isinstance(chosen, FullReference):
                table.add_row(name, better, _number(chosen.score(image, reference)), "")
            else:
                table.add_row(name, better, _number(chosen.score(image)), _number(chosen.score(reference)))
        except MissingExtraError as error:
            if names != "all":
                raise
            missing.append(str(error))
    console = Console(soft_wrap=True, highlight=False)
    console.print(table)
    for message in missing:
        console.print(f"[dim]{escape(message)}[/]")


def _number(value: float) -> str:
    if math.isinf(value):
        return "identical" if value > 0 else "-inf"
    return "not defined" if math.isnan(value) else f"{value:.4f}"


def print_tools(toolbox: Toolbox, device: str | None) -> None:
    """Print one row per tool; with a device, measure the speed on a small picture."""
    table = Table(box=None, pad_edge=False, header_style="dim", expand=True)
    for heading in ("tool", "removes", "s/MP", "licence"):
        table.add_column(heading, no_wrap=True)
    table.add_column("source", no_wrap=True, overflow="ellipsis", ratio=1)
    for name, tool in toolbox.items():
        speed = ""
        if tool.spec.cost > 1:
            speed = "adapts"  # its time is not that of its pixels
        elif device is not None:
            tool.setup(device)
            image = torch.rand(1, 3, 256, 256, generator=torch.Generator().manual_seed(0))
            try:
                tool(image)
                start = time.perf_counter()
                tool(image)
                speed = f"{(time.perf_counter() - start) / 0.065536 / tool.spec.scale**2:.2f}"
            except ToolFailedError:
                speed = "failed"
        kinds = sorted(kind.label for kind in tool.spec.removes)
        removes = ", ".join(kinds) if len(kinds) < 4 else f"{len(kinds)} kinds of damage"
        table.add_row(name, removes, speed, tool.spec.license, tool.spec.source)
    console = Console(highlight=False)
    if not console.is_terminal:
        console.width = 250  # a file has no width: nothing is cut off
    console.print(table)

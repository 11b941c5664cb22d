"""What each tool is worth alone: published protocols on validation photos, PSNR in and out, seconds, size."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import nn

from conservator.errors import ConservatorError, ToolFailedError
from conservator.evaluation.grid import Grid
from conservator.evaluation.intervals import interval
from conservator.evaluation.tool_protocols import PROTOCOLS, ToolProtocol
from conservator.image import Image, decibels
from conservator.metrics.fidelity import psnr, psnr_y, ssim
from conservator.resample import bicubic_to
from conservator.tools.tiling import pad_to_fit
from conservator.tools.tool import Tool, Toolbox

_LOWERED = 0.1
"""dB that an image may lose before it counts as lowered."""
_CAP = 60.0
"""dB; of a picture that is exactly right, or nearly: a quarter of a level of 8 bits. The tables of single tools
are means of few pictures, in which a clean one must not outweigh all others."""


@dataclass(frozen=True)
class ToolScore:
    """What one tool does on one protocol: means over its images."""

    protocol: str
    tool: str
    images: int
    psnr_in: float
    psnr_out: float
    ssim: float
    gains: tuple[float, ...]
    """Of each image, dB."""
    milliseconds: float
    """Per megapixel of the input."""
    failures: int = 0
    """Images that the tool could not restore."""
    make: str = "trained"
    """As its protocol has it."""

    @property
    def worst(self) -> float:
        """The least gain of any image, dB."""
        return min(self.gains, default=math.nan)


def score_tool(tool: Tool, protocol: ToolProtocol, data: Path) -> ToolScore:
    """Run one tool over one protocol. An image on which it fails is counted, and is in no mean.

    Where it fails on all, the means are NaN. Raises ConservatorError where the folder is missing or empty.
    """
    rows, seconds, pixels, failures = [], 0.0, 0, 0
    measure = psnr_y if protocol.channel == "Y" else psnr
    for damaged, clean in protocol.pairs(data):
        start = time.perf_counter()
        try:
            restored = tool(damaged) if protocol.clipped else _unchecked(tool, damaged)
        except ToolFailedError:
            failures += 1
            continue
        seconds += time.perf_counter() - start
        pixels += damaged.shape[-2] * damaged.shape[-1]
        before = damaged
        if protocol.scale > 1:
            before = bicubic_to(damaged, *clean.shape[-2:]).clamp(0, 1)
        before, after, target = (_cut(x, protocol.border) for x in (before, restored, clean))
        untreated = measure(before, target, _CAP) if protocol.clipped else _any_psnr(before, target)
        rows.append((untreated, measure(after, target, _CAP), ssim(after, target)))
    if not rows and not failures:
        raise ConservatorError(f"{protocol.name}: there are no images in {data}")
    values = np.array(rows) if rows else np.full((1, 3), math.nan)
    before_all, after_all, likeness = map(float, values.mean(0))
    return ToolScore(
        protocol.name,
        tool.spec.name,
        len(rows),
        before_all,
        after_all,
        likeness,
        tuple(float(after - before) for before, after, _ in rows),
        1000 * seconds / pixels * 1e6 if rows else math.nan,
        failures,
        protocol.make,
    )


def _any_psnr(image: Image, target: Image) -> float:
    return float(decibels((image - target).square().mean(), _CAP))


def _unchecked(tool: Tool, image: Image) -> Image:
    """What a tool makes of an image that no file could hold: beyond black and white, as papers add noise."""
    height, width = image.shape[-2:]
    with torch.inference_mode():
        fitting_sides = pad_to_fit(image, tool.spec.multiple_of)
        return tool.fitted(fitting_sides).restore(fitting_sides)[..., :height, :width].clamp(0, 1)


def _cut(image: Image, border: int) -> Image:
    return image[..., border:-border, border:-border] if border else image


def fitting(protocol: ToolProtocol, toolbox: Toolbox) -> list[str]:
    """The tools of a toolbox that are for the damage of a protocol."""
    return [
        name
        for name, tool in toolbox.items()
        if tool.spec.removes & protocol.removes and tool.spec.scale in (1, protocol.scale)
    ]


def size(tool: Tool) -> tuple[float, float]:
    """Parameters in millions and kMAC per pixel of a tool's network, NaN for a tool without one; after ``setup``."""
    model = next((value for value in vars(tool).values() if isinstance(value, nn.Module)), None)
    if model is None:
        return math.nan, math.nan
    parameters = sum(value.numel() for value in model.parameters()) / 1e6
    total = 0

    def count(module: nn.Module, inputs: tuple[Image, ...], output: Image) -> None:
        nonlocal total
        if isinstance(module, nn.Conv2d):
            taps = module.weight.shape[1] * module.weight.shape[2] * module.weight.shape[3]
            total += taps * output.shape[1] * output.shape[2] * output.shape[3]

    hooks = [module.register_forward_hook(count) for module in model.modules()]
    images = getattr(model, "images", 1)  # a network that sees more than the photo is asked by itself
    with torch.inference_mode():
        (tool.restore if images == 1 else model)(torch.full((1, 3 * images, 256, 256), 0.5))
    for hook in hooks:
        hook.remove()
    return parameters, total / 256**2 / 1000


def tool_report(scores: list[ToolScore], sizes: Mapping[str, tuple[float, float]]) -> list[str]:
    """The scores as one table per protocol, and the sizes of the networks."""
    lines = []
    for name in dict.fromkeys(s.protocol for s in scores):
        rows = [s for s in scores if s.protocol == name]
        most = max(rows, key=lambda s: s.images)  # a tool may have failed on some
        body = [_told(s) for s in sorted(rows, key=lambda s: (math.isnan(s.psnr_out), -s.psnr_out))]
        title = f"{name} ({most.make}): {most.images} images, input {most.psnr_in:.2f} dB"
        lines += Grid(title, tuple(body[0]), tuple(tuple(row.values()) for row in body)).markdown()
    measured = {name: numbers for name, numbers in sizes.items() if not math.isnan(numbers[0])}
    body_of_sizes = tuple((name, f"{p:.2f}", f"{m:.1f}") for name, (p, m) in measured.items())
    return [*lines, *Grid("Size", ("tool", "million parameters", "kMAC/pixel"), body_of_sizes).markdown()]


def _told(s: ToolScore) -> dict[str, str]:
    """A line of the table, by its headings."""
    gains = np.array(s.gains)
    low, high = interval(gains) if s.gains else (math.nan, math.nan)
    return {
        "tool": f"{s.tool} ({s.failures} failed)" if s.failures else s.tool,
        "PSNR out": f"{s.psnr_out:.2f}",
        "gain [95 %]": f"{s.psnr_out - s.psnr_in:+.2f} [{low:+.2f}, {high:+.2f}]",
        "worst image": f"{s.worst:+.2f}",
        f"lowered by {_LOWERED} dB": f"{int((gains < -_LOWERED).sum())}",
        "SSIM": f"{s.ssim:.4f}",
        "ms/MP": f"{s.milliseconds:.0f}",
    }


def bench_tools(
    toolbox: Toolbox, data: Path, only: str | None, report: Callable[[str], None], device: str = "cpu"
) -> list[str]:
    """Run every fitting tool on every protocol whose name contains ``only``; the lines of a Markdown report."""
    for tool in toolbox.values():
        tool.setup(device)
    scores = []
    for protocol in PROTOCOLS:
        if only and only.lower() not in protocol.name.lower():
            continue
        for name in fitting(protocol, toolbox):
            scores.append(score_tool(toolbox[name], protocol, data))
            s = scores[-1]
            report(
                f"{s.protocol:28} {s.tool:24} {s.psnr_in:6.2f} -> {s.psnr_out:6.2f} dB ({s.psnr_out - s.psnr_in:+.2f}, "
                f"worst {s.worst:+.2f})  SSIM {s.ssim:.4f}  {s.milliseconds:.0f} ms/MP"
            )
    return tool_report(scores, {name: size(tool) for name, tool in toolbox.items()})

"""What each tool is worth alone: published protocols on validation photos, PSNR in and out, seconds, size."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeAlias

import numpy as np
import torch
from torch import nn

from conservator.degradations import (
    GaussianNoise,
    JpegCompression,
    Kind,
    LowResolution,
    Recipe,
    degrade,
    mio_recipe,
)
from conservator.errors import ConservatorError, ToolFailedError
from conservator.image import Image
from conservator.metrics.fidelity import psnr, psnr_y, ssim
from conservator.photo import find_photos, load_photo
from conservator.resample import bicubic_to
from conservator.tools.tool import Tool, Toolbox

Pairs: TypeAlias = Callable[[Path], Iterator[tuple[Image, Image]]]
"""(folder of validation data) -> damaged and clean images."""


_CAP = 60.0
"""dB; of a picture that is exactly right, or nearly: a quarter of a level of 8 bits. The tables of single tools
are means of few pictures, in which a clean one must not outweigh all others."""


@dataclass(frozen=True)
class ToolProtocol:
    """One row of damage, and the tools it is for."""

    name: str
    pairs: Pairs = field(repr=False)
    removes: frozenset[Kind]
    """Tools that remove one of these are tried."""
    channel: str = "RGB"
    """What PSNR is measured on: RGB, or Y of YCbCr."""
    scale: int = 1
    border: int = 0
    """Pixels cut off before measuring, as super-resolution papers do."""


@dataclass(frozen=True)
class ToolScore:
    """What one tool does on one protocol: means over its images."""

    protocol: str
    tool: str
    images: int
    psnr_in: float
    psnr_out: float
    ssim: float
    worst: float
    """The least gain of any image, dB."""
    milliseconds: float
    """Per megapixel of the input."""
    failures: int = 0
    """Images that the tool could not restore."""


def _folder(name: str, recipe: Callable[[np.random.Generator], Recipe]) -> Pairs:
    def pairs(data: Path) -> Iterator[tuple[Image, Image]]:
        for i, path in enumerate(_photos(data, name)):
            clean = load_photo(path).image
            yield degrade(clean, recipe(np.random.default_rng([0, i]))), clean

    return pairs


def _reduced(name: str, factor: int) -> Pairs:
    def pairs(data: Path) -> Iterator[tuple[Image, Image]]:
        for path in _photos(data, name):
            clean = load_photo(path).image
            height, width = (side // factor * factor for side in clean.shape[-2:])
            clean = clean[..., :height, :width]
            yield degrade(clean, (LowResolution(factor),)), clean

    return pairs


def _pairs(name: str, damaged: str, clean: str) -> Pairs:
    def pairs(data: Path) -> Iterator[tuple[Image, Image]]:
        targets, inputs = _photos(data, f"{name}/{clean}"), _photos(data, f"{name}/{damaged}")
        for target, image in zip(targets, inputs, strict=True):
            clean_image = load_photo(target).image
            spoilt = load_photo(image).image
            if spoilt.shape != clean_image.shape:  # SOTS keeps a frame around the clean photo
                top, left = ((a - b) // 2 for a, b in zip(clean_image.shape[-2:], spoilt.shape[-2:], strict=True))
                clean_image = clean_image[..., top : top + spoilt.shape[-2], left : left + spoilt.shape[-1]]
            yield spoilt, clean_image

    return pairs


def _photos(data: Path, name: str) -> list[Path]:
    if not (data / name).is_dir():
        raise ConservatorError(
            f"{data / name} is not there; give the folder that holds CBSD68, CID22_val and the others"
        )
    return find_photos(data / name, recursive=False)


def _noise(sigma: float) -> Callable[[np.random.Generator], Recipe]:
    return lambda rng: (GaussianNoise(sigma / 255, int(rng.integers(2**32))),)


def _jpeg(quality: int) -> Callable[[np.random.Generator], Recipe]:
    return lambda rng: (JpegCompression(quality),)


def _mio(kind: Kind, *more: Callable[[np.random.Generator], Recipe]) -> Callable[[np.random.Generator], Recipe]:
    return lambda rng: (*mio_recipe((kind,), rng), *(d for recipe in more for d in recipe(rng)))


PROTOCOLS: tuple[ToolProtocol, ...] = (
    *(ToolProtocol(f"CBSD68 noise {s}", _folder("CBSD68", _noise(s)), frozenset({Kind.NOISE})) for s in (15, 25, 50)),
    *(
        ToolProtocol(f"LIVE1_10 JPEG {q}", _folder("LIVE1_10", _jpeg(q)), frozenset({Kind.JPEG}))
        for q in (10, 20, 30, 40)
    ),
    *(
        ToolProtocol(f"CID22 {kind.label}{name}", _folder("CID22_val", _mio(kind, *more)), frozenset({kind}))
        for kind in (Kind.MOTION_BLUR, Kind.DEFOCUS_BLUR)
        for name, more in (("", ()), (" + JPEG 20", (_jpeg(20),)), (" + noise 10", (_noise(10),)))
    ),
    ToolProtocol("CID22 rain", _folder("CID22_val", _mio(Kind.RAIN)), frozenset({Kind.RAIN})),
    ToolProtocol("RainFu_sub", _pairs("RainFu_sub", "input", "target"), frozenset({Kind.RAIN})),
    ToolProtocol("Rain100H_sub", _pairs("Rain100H_sub", "input", "target"), frozenset({Kind.RAIN})),
    ToolProtocol("CID22 haze", _folder("CID22_val", _mio(Kind.HAZE)), frozenset({Kind.HAZE})),
    ToolProtocol("SOTS_indoor_sub", _pairs("SOTS_indoor_sub", "hazy", "GT"), frozenset({Kind.HAZE})),
    ToolProtocol("CID22 low light", _folder("CID22_val", _mio(Kind.LOW_LIGHT)), frozenset({Kind.LOW_LIGHT})),
    ToolProtocol("Nam_sub", _pairs("Nam_sub", "noisy", "GT"), frozenset({Kind.NOISE})),
    ToolProtocol("FiveK9", _pairs("FiveK9", "input", "label"), frozenset({Kind.LOW_LIGHT})),
    *(
        ToolProtocol(f"{name} x4", _reduced(name, 4), frozenset({Kind.LOW_RESOLUTION}), "Y", 4, 4)
        for name in ("Set5", "Set14")
    ),
    ToolProtocol("CID22 clean", _folder("CID22_val", lambda rng: ()), frozenset(Kind) - {Kind.LOW_RESOLUTION}),
)
"""Fixed seeds; noise is clipped to [0, 1], for a photo holds nothing beyond, so sigma 50 is not quite the papers'."""


def score_tool(tool: Tool, protocol: ToolProtocol, data: Path) -> ToolScore:
    """Run one tool over one protocol. An image on which it fails is counted, and is in no mean.

    Where it fails on all, the means are NaN. Raises ConservatorError where the folder is missing or empty.
    """
    rows, seconds, pixels, failures = [], 0.0, 0, 0
    measure = psnr_y if protocol.channel == "Y" else psnr
    for damaged, clean in protocol.pairs(data):
        start = time.perf_counter()
        try:
            restored = tool(damaged)
        except ToolFailedError:
            failures += 1
            continue
        seconds += time.perf_counter() - start
        pixels += damaged.shape[-2] * damaged.shape[-1]
        before = damaged
        if protocol.scale > 1:
            before = bicubic_to(damaged, *clean.shape[-2:]).clamp(0, 1)
        before, after, target = (_cut(x, protocol.border) for x in (before, restored, clean))
        rows.append((*(measure(x, target, _CAP) for x in (before, after)), ssim(after, target)))
    if not rows and not failures:
        raise ConservatorError(f"{protocol.name}: there are no images in {data}")
    if not rows:
        return ToolScore(protocol.name, tool.spec.name, 0, *(math.nan,) * 5, failures=failures)
    values = np.array(rows)
    least = float((values[:, 1] - values[:, 0]).min())
    means = values.mean(0)
    per_megapixel = 1000 * seconds / pixels * 1e6
    before_all, after_all, likeness = map(float, means)
    return ToolScore(protocol.name, tool.spec.name, len(rows), before_all, after_all, likeness, least, per_megapixel)


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
    with torch.inference_mode():
        tool.restore(torch.full((1, 3, 256, 256), 0.5))
    for hook in hooks:
        hook.remove()
    return parameters, total / 256**2 / 1000


def tool_report(scores: list[ToolScore], sizes: Mapping[str, tuple[float, float]]) -> list[str]:
    """The scores as one table per protocol, and the sizes of the networks."""
    lines = []
    for name in dict.fromkeys(s.protocol for s in scores):
        rows = [s for s in scores if s.protocol == name]
        most = max(rows, key=lambda s: s.images)  # a tool may have failed on some
        lines += [
            f"### {name}: {most.images} images, input {most.psnr_in:.2f} dB",
            "",
            "| tool | PSNR out | gain | worst image | SSIM | ms/MP |",
            "|---|---|---|---|---|---|",
        ]
        for s in sorted(rows, key=lambda s: (math.isnan(s.psnr_out), -s.psnr_out)):
            gain = s.psnr_out - s.psnr_in
            tool = f"{s.tool} ({s.failures} failed)" if s.failures else s.tool
            lines.append(
                f"| {tool} | {s.psnr_out:.2f} | {gain:+.2f} | {s.worst:+.2f} | {s.ssim:.4f} | {s.milliseconds:.0f} |"
            )
        lines.append("")
    lines += ["### Size", "", "| tool | million parameters | kMAC/pixel |", "|---|---|---|"]
    lines += [f"| {name} | {p:.2f} | {m:.1f} |" for name, (p, m) in sizes.items() if not math.isnan(p)]
    return lines


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

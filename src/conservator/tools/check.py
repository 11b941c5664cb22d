"""``check_tool``: what every tool must hold, shipped so that tools written elsewhere run the same checks."""

from __future__ import annotations

import pickle
import re

import torch

from conservator.errors import ToolFailedError
from conservator.image import Image
from conservator.tools.tiling import pad_to_fit, run_tiled
from conservator.tools.tool import Tool


def check_tool(tool: Tool, image: Image | None = None, device: str = "cpu") -> None:
    """Raise AssertionError with a sentence when ``tool`` breaks the contract of Tool.

    Checked: a complete spec, a hash of its weights, cheap pickling before set-up, output shape and range for odd and
    tiny sizes and for a batch, determinism, an input that stays as it was, a tool that stays as it was when it fits and
    restores (threads share it), and (for tools that tile) tiled = whole to 1/255, both with what was measured on the
    whole. ``image`` is a photo (1, 3, H, W), at least 160 pixels a side, to check with; a synthetic scene without it.
    """
    _check_spec(tool)
    _check_identity(tool)
    scene = _scene() if image is None else image
    tool = pickle.loads(pickle.dumps(tool))
    tool.setup(device)
    name = tool.spec.name
    for height, width in ((64, 64), (33, 47), (9, 7), (1, 1)):
        part = scene[..., :height, :width].clone()
        before = part.clone()
        result = tool(part)
        expected = (1, 3, height * tool.spec.scale, width * tool.spec.scale)
        assert tuple(result.shape) == expected, f"{name}: {height}x{width} gave {tuple(result.shape)}, not {expected}"
        assert result.dtype == torch.float32, f"{name}: gave {result.dtype}, not float32"
        assert 0 <= float(result.min()) <= float(result.max()) <= 1, f"{name}: values leave [0, 1]"
        assert torch.equal(part, before), f"{name}: changed its input in place"
        assert torch.equal(result, tool(part)), f"{name}: two calls gave different pixels"
    _check_batch(tool, scene)
    _check_fitting(tool, scene)
    if tool.spec.tile is not None:
        _check_tiling(tool, scene)


def _check_spec(tool: Tool) -> None:
    spec = tool.spec
    assert re.fullmatch(r"[a-z][a-z0-9_]*", spec.name), f"{spec.name!r}: a tool's name must match [a-z][a-z0-9_]*"
    assert spec.removes, f"{spec.name}: removes must name at least one kind of damage"
    assert spec.description.endswith("."), f"{spec.name}: the description must be a sentence that ends with a full stop"
    assert spec.source, f"{spec.name}: source is empty; name the paper or repository"
    assert spec.license, f"{spec.name}: license is empty; give an SPDX id or 'unknown'"
    assert spec.multiple_of >= 1, f"{spec.name}: multiple_of must be at least 1"
    assert spec.scale >= 1, f"{spec.name}: scale must be at least 1"


def _check_identity(tool: Tool) -> None:
    sha256 = tool.weights_sha256
    assert re.fullmatch(r"([0-9a-f]{64})?", sha256), (
        f'{tool.spec.name}: weights_sha256 is {sha256!r}; expected 64 hex digits, "" for a tool without weights'
    )


def _check_fitting(tool: Tool, scene: Image) -> None:
    """A tool is shared by threads: what it measures on one photo must not be seen by a call with another."""
    name = tool.spec.name
    one, two = scene[..., :64, :64], 0.5 * scene[..., 32:96, 32:96].flip(-1)
    before = dict(vars(tool))
    with torch.no_grad():
        fit = tool.fitted(one)
    changed = _changed(before, tool)
    assert not changed, f"{name}: fitted changed the tool ({', '.join(changed)}); return a changed copy of it"
    assert isinstance(fit, Tool), f"{name}: fitted gave a {type(fit).__name__}, not a Tool"
    assert (fit.spec.name, fit.spec.scale) == (name, tool.spec.scale), f"{name}: fitted changed the name or the scale"
    with torch.inference_mode():
        first = fit.restore(one)
        tool(two)
        assert torch.equal(first, fit.restore(one)), f"{name}: what was fitted to a photo changed with the next photo"
    changed = _changed(before, tool)
    assert not changed, f"{name}: restoring changed the tool ({', '.join(changed)}), which threads share"


def _changed(before: dict[str, object], tool: Tool) -> list[str]:
    """The attributes of a tool that are other objects now."""
    after = vars(tool)
    return sorted(k for k in {*before, *after} if before.get(k, before) is not after.get(k, after))


def _check_batch(tool: Tool, scene: Image) -> None:
    batch = torch.cat([scene[..., :64, :64], scene[..., 40:104, 40:104]])
    together = tool(batch)
    alone = torch.cat([tool(item[None]) for item in batch])
    worst = float((together - alone).abs().max())
    assert worst < 1 / 255, f"{tool.spec.name}: a batch differs from its items by {worst * 255:.1f}/255"


def _check_tiling(tool: Tool, scene: Image) -> None:
    tile = max(96, 2 * tool.spec.overlap)
    side = max(160, tile + tool.spec.overlap)  # more than one tile, or nothing would be cut
    while min(scene.shape[-2:]) < side:
        scene = torch.cat([scene, scene.flip(-1)], -1)
        scene = torch.cat([scene, scene.flip(-2)], -2)
    area = scene[..., :side, :side]
    settings = {"multiple_of": tool.spec.multiple_of, "scale": tool.spec.scale, "overlap": tool.spec.overlap}
    with torch.no_grad():
        fit = tool.fitted(pad_to_fit(area, tool.spec.multiple_of))
    with torch.inference_mode():
        try:
            whole = run_tiled(fit.restore, area, tile=None, **settings)
        except ToolFailedError as error:
            raise AssertionError(f"{tool.spec.name}: failed on a {area.shape[-1]} pixel image: {error}") from error
        tiled = run_tiled(fit.restore, area, tile=tile, **settings)
    worst = float((whole - tiled).abs().max())
    assert worst <= 1 / 255, (
        f"{tool.spec.name}: tiled and whole differ by {worst * 255:.1f}/255; raise spec.overlap, measure the whole in "
        "fitted, or set spec.tile=None for a tool that must see the whole image at once"
    )


def _scene() -> Image:
    """A synthetic photo, 192x192: a shaded background, discs, stripes and a little texture."""
    side = 192
    y, x = torch.meshgrid(torch.linspace(0, 1, side), torch.linspace(0, 1, side), indexing="ij")
    image = torch.stack([0.2 + 0.6 * x, 0.3 + 0.4 * y, 0.7 - 0.5 * x * y])
    for cx, cy, radius, colour in ((0.3, 0.4, 0.15, 0.9), (0.7, 0.6, 0.2, 0.15), (0.2, 0.8, 0.1, 0.6)):
        image = torch.where(((x - cx) ** 2 + (y - cy) ** 2 < radius**2)[None], torch.full_like(image, colour), image)
    image = image + 0.1 * torch.sin(60 * x) * (y > 0.8)
    texture = torch.randn(3, side, side, generator=torch.Generator().manual_seed(0))
    return (image + 0.01 * texture).clamp(0, 1)[None]

"""Photos, steps and tools as data that an assistant reads."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from conservator.apps.mcp.opened import OpenPhoto
from conservator.apps.roots import Roots
from conservator.files import printable
from conservator.kinds import Severity
from conservator.perception.perception import STRANGE, Percept
from conservator.photo import look_through
from conservator.session import Apply, Rollback, Step, Stop, Trajectory
from conservator.tools.tool import ToolSpec

MOST_LISTED = 200
"""Photos of a folder in one answer: about 10 KB."""


def in_db(value: float | None) -> float | None:
    """A number as JSON has it, on three places; None for what is none, not finite or not known."""
    return round(value, 3) if value is not None and math.isfinite(value) else None


def described_percept(percept: Percept) -> dict[str, Any]:
    """What is seen in a picture: its damages, worst first, and its quality."""
    damages = [
        {
            "kind": str(kind),
            "severity": percept.severities[kind].label,
            "confidence": in_db(percept.confidences.get(kind)),
        }
        for kind in percept.damages
    ]
    found = {"damages": damages, "quality_db": in_db(percept.quality)}
    return found | ({"note": STRANGE} if percept.strange else {})


def described_steps(trajectory: Trajectory) -> list[dict[str, Any]]:
    """All steps so far, each with what was done, why, and what was seen afterwards."""
    return [_step(step) for step in trajectory.steps]


def _step(step: Step) -> dict[str, Any]:
    told: dict[str, Any] = {"step": step.id, "parent": step.parent, "did": "opened"}
    if step.decision is not None:
        match step.decision.action:
            case Apply(tool):
                told["did"] = f"apply {tool}"
            case Rollback(to):
                told["did"] = f"rollback to {to}"
            case Stop():
                told["did"] = "stop"
            case None:
                told["did"] = "no usable decision"
        if step.decision.thought:
            told["reason"] = step.decision.thought
    if step.error is not None:
        told["error"] = step.error
    return told | {"seen": described_percept(step.percept)}


def described_photo(opened: OpenPhoto) -> dict[str, Any]:
    """An open photo as it is now."""
    photo, now = opened.photo, opened.step()
    height, width = photo.image.shape[-2:]
    return {
        "photo": opened.handle,
        "path": printable(opened.path),
        "width": width,
        "height": height,
        "format": photo.format,
        "bits": photo.bit_depth,
        "notes": list(photo.notes),
        "step": now.id,
        "toolchain": list(opened.toolchain()),
        "seen": described_percept(now.percept),
        "estimated_gain_db": in_db(opened.gain(opened.step(0), now)),
        "steps": described_steps(opened.session.trajectory),
        "steps_left": opened.session.steps_left,
    }


def described_tools(tools: Sequence[ToolSpec], percept: Percept) -> list[dict[str, Any]]:
    """The toolbox: first the tools that are for a damage that is seen."""
    seen = set(percept.damages)
    return [
        {
            "tool": tool.name,
            "removes": sorted(tool.removes),
            "what": tool.description,
            **({"for": [severity.label for severity in sorted(tool.severities)]} if _is_for_some(tool) else {}),
            **({"enlarges": tool.scale} if tool.scale > 1 else {}),
        }
        for tool in sorted(tools, key=lambda tool: not tool.removes & seen)
    ]


def _is_for_some(tool: ToolSpec) -> bool:
    return tool.severities != frozenset(Severity)


def listed_folder(folder: Path, roots: Roots) -> Mapping[str, Any]:
    """The photos of a folder and of those in it; links that lead out of the open folders are left out."""
    found = [photo for photo in look_through(folder).photos if roots.contain(photo)]
    listed = [printable(photo.relative_to(folder)) for photo in found[:MOST_LISTED]]
    return {"folder": printable(folder), "count": len(found), "photos": listed}

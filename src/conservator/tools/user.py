"""The user's own tools: imported toolboxes, added checkpoints, and what other installed packages offer."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from pydantic import BaseModel, ValidationError
from torch import Tensor

from conservator.errors import ConservatorError, name_not_found
from conservator.extensions import Offer, offered
from conservator.tools.experts import Expert, ExpertRecord
from conservator.tools.lway import AdaptedTool
from conservator.tools.records import read_bytes
from conservator.tools.rl_restore import RlRestoreTool, rl_restore_agent, rl_restore_tools
from conservator.tools.shipped import shipped_names
from conservator.tools.spandrel import SpandrelRecord, SpandrelTool
from conservator.tools.tool import Tool

ENTRY_POINT_GROUP = "conservator.tools"


class _AnyRecord(BaseModel):
    """Only what tells the records apart."""

    type: str


def user_tool_dir() -> Path:
    """The folder of the user's own tools; it need not exist.

    ``$CONSERVATOR_HOME/tools`` where that is set, else ``conservator/tools`` in the platform's folder for user data.
    """
    if home := os.environ.get("CONSERVATOR_HOME"):
        return Path(home) / "tools"
    if sys.platform == "win32":
        base = Path(os.environ.get("APPDATA") or Path.home() / "AppData" / "Roaming")
    elif sys.platform == "darwin":
        base = Path.home() / "Library" / "Application Support"
    else:
        base = Path(os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share")
    return base / "conservator" / "tools"


def added_as(name: str) -> str | None:
    """How the user came to a tool of this name, "expert" or "spandrel"; None where there is none."""
    path = user_tool_dir() / f"{name}.json"
    return next((kind for kind in ("expert", "spandrel") if path in dict(_records(kind))), None)


def user_tools() -> tuple[Tool, ...]:
    """The checkpoints that the user added, the experts they trained, and those that enlarge also adapted by LWay.

    Raises ConservatorError that names a record it cannot read.
    """
    tools: list[Tool] = []
    for path, data in _records("spandrel"):
        try:
            tools.append(SpandrelTool(SpandrelRecord.model_validate_json(data), path.parent))
        except ValidationError as error:
            raise _unreadable(path, error) from error
    for path, data in _records("expert"):
        try:
            tools.append(ExpertRecord.model_validate_json(data).tool(path.parent))
        except ValidationError as error:
            raise _unreadable(path, error) from error
    adapted = (AdaptedTool(tool) for tool in tools if isinstance(tool, SpandrelTool | Expert) and tool.spec.scale > 1)
    return (*tools, *adapted)


def remove_tool(name: str) -> tuple[Path, ...]:
    """Delete what ``tools add``, ``tools import`` or a training put into the user's folder; return the files.

    ``name`` is that of a tool, or of its record where that is damaged: "rl_restore" for the import. Raises
    NameNotFoundError with the nearest names, ConservatorError for a tool that ships or that a package offers.
    """
    folder = user_tool_dir()
    added = {path.stem: path for path in sorted(folder.glob("*.json"))}
    if name not in added:
        if name in shipped_names():
            raise ConservatorError(f"the tool {name} ships with Conservator and stays; choose others with --toolbox")
        if name in {tool.spec.name for tool in entry_point_tools()}:
            raise ConservatorError(f"the tool {name} is offered by an installed package; uninstall that")
        raise (
            name_not_found("tool of yours", name, added)
            if added
            else ConservatorError(f"no tool of yours {name!r}; {folder} holds none")
        )
    weights = [path for path in sorted(folder.iterdir()) if path.stem == name and path != added[name]]
    files = (added[name], *weights)  # the record first: without it the rest is no tool
    for path in files:
        path.unlink()
    return files


def imported_rl_restore_tools() -> tuple[RlRestoreTool, ...]:
    """The twelve tools of RL-Restore; raises ConservatorError that says how to import them when they are not there."""
    return rl_restore_tools(_rl_restore_record())


def imported_rl_restore_agent() -> dict[str, Tensor]:
    """The tensors of RL-Restore's agent; raises ConservatorError that says how to import it when it is not there."""
    return rl_restore_agent(_rl_restore_record())


def _rl_restore_record() -> Path:
    for path, _ in _records("rl-restore"):
        return path
    raise ConservatorError(
        "RL-Restore is not imported yet; run: conservator tools import rl-restore path/to/rl_restore.npz"
    )


def entry_point_tools() -> tuple[Tool, ...]:
    """The tools of installed packages that have an entry point in the group ``conservator.tools``.

    It names a Tool, an iterable of Tools, or something callable without arguments (a Tool class too) that returns one
    of these. Raises ConservatorError that names the package when it fails.
    """
    return tuple(tool for offer in offered(ENTRY_POINT_GROUP) for tool in _tools_of(offer))


def _records(kind: str) -> list[tuple[Path, bytes]]:
    """The records of one type in the user's folder, each with its bytes, sorted by name."""
    found = []
    for path in sorted(user_tool_dir().glob("*.json")):
        data = read_bytes(path)
        try:
            if _AnyRecord.model_validate_json(data).type == kind:
                found.append((path, data))
        except ValidationError as error:
            raise _unreadable(path, error) from error
    return found


def _unreadable(path: Path, error: ValidationError) -> ConservatorError:
    first = error.errors()[0]
    where = ".".join(map(str, first["loc"])) or "the file"
    return ConservatorError(
        f"{path} is not a record of a tool ({where}: {first['msg']}); delete it and add the tool again"
    )


def _tools_of(offer: Offer) -> tuple[Tool, ...]:
    value = offer.value
    try:
        if callable(value) and not isinstance(value, Tool):  # a tool is callable too
            value = value()
        tools = (value,) if isinstance(value, Tool) else tuple(value)
    except Exception as error:  # somebody else's code: whatever it raises, say whose it is
        raise offer.refused(f"that failed: {type(error).__name__}: {error}") from error
    for tool in tools:
        if not isinstance(tool, Tool):
            raise offer.refused(f"that gave a {type(tool).__name__}, expected a Tool or an iterable of them")
    return tools

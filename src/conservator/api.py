"""The short way from a file to a restored photo, with the defaults of the command line."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from conservator.perception.perception import Percept, Perception
from conservator.request import Request
from conservator.restoration import Restored
from conservator.restorer import Restorer
from conservator.session.session import Policy
from conservator.tools.tool import Toolbox


def restore_file(
    path: str | Path,
    *,
    policy: str | Policy | None = None,
    toolbox: str | Toolbox | None = None,
    perception: str | Perception | None = None,
    **wanted: Any,
) -> Restored:
    """Restore the photo in a file; write the result with ``restored.save(path)``.

    ``policy``, ``toolbox`` and ``perception`` are names or objects of your own; ``wanted`` are further fields of a
    ``Request``, say ``objective="fidelity"`` or ``strength=0.5``. For many photos make one ``Restorer``: it loads its
    models once. Raises PhotoError when the file cannot be read as a photo, NameNotFoundError for an unknown policy or
    toolbox, ConservatorError for a value out of its range.
    """
    named = {"policy": policy, "toolbox": toolbox, "perception": perception}
    wanted |= {name: value for name, value in named.items() if isinstance(value, str)}
    request = Request(**wanted)
    with Restorer(
        request,
        policy=None if isinstance(policy, str) else policy,
        toolbox=None if isinstance(toolbox, str) else toolbox,
        perception=None if isinstance(perception, str) else perception,
    ) as restorer:
        return restorer.restore(restorer.load(path))


def examine_file(path: str | Path, *, perception: str | Perception = "perception") -> Percept:
    """Look at the photo in a file and say what is wrong with it; raises PhotoError when it cannot be read."""
    own = None if isinstance(perception, str) else perception
    named = perception if isinstance(perception, str) else Request.perception
    with Restorer(Request(perception=named), perception=own) as restorer:
        return restorer.examine(restorer.load(path))

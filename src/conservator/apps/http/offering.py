"""What this installation has to offer to clients: policies, toolboxes and their tools, formats."""

from __future__ import annotations

from typing import Any

from conservator.apps.http.wanted import Offers
from conservator.errors import ConservatorError
from conservator.extensions import offered
from conservator.photo import PHOTO_SUFFIXES
from conservator.photo.optional import EXTRA_OF
from conservator.photo.write import WRITABLE
from conservator.policies.catalog import POLICIES, POLICY_GROUP
from conservator.tools.catalog import TOOLBOXES, make_toolbox
from conservator.tools.tool import Tool

_NOT_FOR_CLIENTS = frozenset({"oracle", "chat"})
"""The oracle needs the undamaged photo. Chat sends pictures to an address: no client may make this machine do that."""


def find_offers() -> Offers:
    """Look up what there is; toolboxes that were never imported are left out."""
    installed = [offer.name for offer in offered(POLICY_GROUP)]
    toolboxes: dict[str, list[str]] = {}
    tools: dict[str, dict[str, Any]] = {}
    for name in TOOLBOXES:
        try:
            toolbox = make_toolbox(name)
        except ConservatorError:  # imported by a command that nobody gave here
            continue
        toolboxes[name] = list(toolbox)
        tools |= {tool: _told(toolbox[tool]) for tool in toolbox}
    return Offers(
        policies=[name for name in (*POLICIES, *installed) if name not in _NOT_FOR_CLIENTS],
        toolboxes=toolboxes,
        tools=tools,
        suffixes=sorted(PHOTO_SUFFIXES | set(EXTRA_OF)),
        formats=sorted({suffix.lstrip(".") for suffix in WRITABLE if suffix in PHOTO_SUFFIXES}),
    )


def _told(tool: Tool) -> dict[str, Any]:
    spec = tool.spec
    return {
        "name": spec.name,
        "removes": sorted(map(str, spec.removes)),
        "description": spec.description,
        "source": spec.source,
        "license": spec.license,
        "scale": spec.scale,
    }

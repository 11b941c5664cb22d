"""The plan as a list that its reader edits: tick, move, add, take out."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from html import escape

from conservator.errors import ConservatorError
from conservator.kinds import purpose_in_words
from conservator.restoration import Plan
from conservator.session.trajectory import Apply
from conservator.tools.tool import Toolbox, ToolSpec

MOST_ROWS = 12
"""Treatments in a plan at most: as many as a policy may decide on by default."""


@dataclass(frozen=True)
class Row:
    """One treatment of a plan."""

    tool: str
    ticked: bool = True


def rows_of(tools: Iterable[str]) -> list[Row]:
    """A plan of these tools, all ticked."""
    return [Row(tool) for tool in tools]


def edited(rows: Sequence[Row], action: str, place: int) -> list[Row]:
    """The rows after "tick", "up", "down" or "remove" at a place; as they are where that cannot be."""
    found = list(rows)
    if not 0 <= place < len(found):
        return found
    other = {"up": place - 1, "down": place + 1}.get(action)
    if action == "tick":
        found[place] = replace(found[place], ticked=not found[place].ticked)
    elif action == "remove":
        del found[place]
    elif other is not None and 0 <= other < len(found):
        found[place], found[other] = found[other], found[place]
    return found


def added(rows: Sequence[Row], tool: str, toolbox: Toolbox) -> list[Row]:
    """The rows with a tool at their end; raises NameNotFoundError for one that there is not, and for too many rows."""
    _ = toolbox[tool]
    if len(rows) >= MOST_ROWS:
        raise ConservatorError(f"a plan has {MOST_ROWS} treatments at most; take one out first")
    return [*rows, Row(tool)]


def tool_in_words(spec: ToolSpec) -> str:
    """A tool for a list to choose from: what it is for, what enlarges, its licence."""
    purpose = purpose_in_words(spec.removes) or "unknown purpose"
    larger = f", enlarges {spec.scale} times" if spec.scale > 1 else ""
    return f"{spec.name}: {purpose}{larger} ({spec.license})"


def reasons(plan: Plan) -> dict[str, str]:
    """Why each tool of a plan was chosen, in the policy's own words."""
    found: dict[str, str] = {}
    for step in plan.trajectory.steps:
        if step.decision is not None and isinstance(step.decision.action, Apply):
            found[step.decision.action.tool] = step.decision.thought
    return found


def plan_in_html(rows: Sequence[Row], why: Mapping[str, str], toolbox: Toolbox) -> str:
    """The list with its buttons, for the script that listens to them."""
    items = "".join(_row(number, len(rows), row, why, toolbox) for number, row in enumerate(rows))
    return f'<ol class="plan" aria-label="Treatments, in order">{items}</ol>'


def _row(number: int, count: int, row: Row, why: Mapping[str, str], toolbox: Toolbox) -> str:
    spec = toolbox[row.tool].spec
    name, purpose = escape(row.tool), escape(purpose_in_words(spec.removes))
    reason = f'<span class="why">{escape(why[row.tool])}</span>' if why.get(row.tool) else ""
    ends = {"up": number == 0, "down": number == count - 1}
    buttons = "".join(
        f'<button type="button" data-action="{action}" data-place="{number}" aria-label="{words} {name}"'
        f"{' disabled' if ends.get(action) else ''}>{sign}</button>"
        for action, words, sign in (("up", "Move up", "↑"), ("down", "Move down", "↓"), ("remove", "Take out", "✕"))
    )
    return (
        f'<li{"" if row.ticked else " class=off"}><label><input type="checkbox" data-action="tick" '
        f'data-place="{number}"{" checked" if row.ticked else ""}><span><b>{name}</b> '
        f"{f'for {purpose}' if purpose else ''}{reason}"
        f"<small>{escape(spec.description)} Licence: {escape(spec.license)}</small></span></label>"
        f'<span class="moves">{buttons}</span></li>'
    )

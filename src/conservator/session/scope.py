"""What a policy may choose from: the tools of the toolbox that the user, and the photo as it came, leave open."""

from __future__ import annotations

from dataclasses import dataclass

from conservator.kinds import Kind
from conservator.perception.perception import Percept
from conservator.request import TONAL_CONFIDENCE, Request
from conservator.tools.tool import ToolSpec, is_specialist

TONAL = frozenset({Kind.HAZE, Kind.LOW_LIGHT})
"""Damage whose treatment changes what the scene looks like. A veil or darkness may be the scene's own."""


@dataclass(frozen=True)
class Scope:
    """What the user lets a policy do. A session offers its policy the tools for which this is true."""

    upscale: bool = False
    """Whether a photo may be enlarged: a small photo is not a damaged photo."""
    only: frozenset[Kind] = frozenset(Kind)
    """The damages to treat."""
    never: frozenset[Kind] = frozenset()
    """Damages to leave alone, even where they are in ``only``."""
    tonal_confidence: float = TONAL_CONFIDENCE
    """How sure perception must be of haze or low light in the photo as it came, 0 to 1, for it to be treated."""
    adapting: bool = False
    """Whether a tool may be chosen that adapts itself to the photo, which takes seconds to a minute."""

    @classmethod
    def of(cls, request: Request) -> Scope:
        """What a request allows."""
        only = frozenset(Kind) if request.only is None else request.only
        return cls(request.upscale, only, request.never, request.tonal_confidence, bool(request.adapt_steps))

    def offers(self, tool: ToolSpec, seen: Percept) -> bool:
        """Whether a policy may choose a tool, where perception said ``seen`` of the photo as it came.

        A tool for many damages cannot treat one and leave the others: all of them must be allowed, and perception sure
        of each tonal one. Of a tool for two that look alike (defocus and Gaussian blur) one in ``only`` is enough. A
        perception that grades nothing (``Blind``) knows of no veil and no darkness, and rules out no tool.
        """
        if (tool.scale > 1 and not self.upscale) or (tool.cost > 1 and not self.adapting):
            return False
        allowed = tool.removes & self.only if is_specialist(tool) else tool.removes <= self.only
        if not allowed or tool.removes & self.never:
            return False
        if not seen.confidences and not seen.severities:
            return True
        sure = (seen.confidences.get(kind, 0.0) >= self.tonal_confidence for kind in tool.removes & TONAL)
        return all(sure)


ANYTHING = Scope(upscale=True, tonal_confidence=0.0, adapting=True)
"""Every tool, whatever was seen: for toolchains that were chosen elsewhere, and for policies that know the truth."""

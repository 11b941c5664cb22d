"""What a policy may choose from: the tools of the toolbox that the user leaves open."""

from __future__ import annotations

from dataclasses import dataclass

from conservator.kinds import Kind
from conservator.request import Request
from conservator.tools.tool import ToolSpec, is_specialist


@dataclass(frozen=True)
class Scope:
    """What the user lets a policy do. A session offers its policy the tools for which this is true."""

    upscale: bool = False
    """Whether a photo may be enlarged: a small photo is not a damaged photo."""
    only: frozenset[Kind] = frozenset(Kind)
    """The damages to treat."""
    never: frozenset[Kind] = frozenset()
    """Damages to leave alone, even where they are in ``only``."""
    adapting: bool = False
    """Whether a tool may be chosen that adapts itself to the photo, which takes seconds to a minute."""

    @classmethod
    def of(cls, request: Request) -> Scope:
        """What a request allows."""
        only = frozenset(Kind) if request.only is None else request.only
        return cls(request.upscale, only, request.never, bool(request.adapt_steps))

    def offers(self, tool: ToolSpec) -> bool:
        """Whether a policy may choose a tool.

        A tool for many damages cannot treat one and leave the others: all of them must be allowed. Of a tool for two
        that look alike (defocus and Gaussian blur) one in ``only`` is enough.
        """
        if (tool.scale > 1 and not self.upscale) or (tool.cost > 1 and not self.adapting):
            return False
        allowed = tool.removes & self.only if is_specialist(tool) else tool.removes <= self.only
        return bool(allowed) and not tool.removes & self.never


ANYTHING = Scope(upscale=True, adapting=True)
"""Every tool: for toolchains that were chosen elsewhere, and for policies that know the truth."""

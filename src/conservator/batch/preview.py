"""What would be done to a photo, in one line: what is seen in it, the toolchain, and what that is estimated to gain."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from conservator.errors import ConservatorError
from conservator.kinds import Severity
from conservator.perception.perception import Percept
from conservator.photo import Photo
from conservator.restoration import Plan
from conservator.restorer import Progress, Restorer


@dataclass(frozen=True)
class Preview:
    """A photo that was examined and planned, and left as it is."""

    path: Path
    photo: Photo | None = None
    plan: Plan | None = None
    gain: float = 0.0
    """What the toolchain is estimated to gain on the study, dB, with caution."""
    error: str = ""
    """Why the photo cannot be read, or not be planned for."""

    @property
    def treated(self) -> bool:
        """Whether it would be treated."""
        return self.plan is not None and bool(self.plan.toolchain)

    def __str__(self) -> str:
        """One line; the error names the photo itself."""
        if self.plan is None:
            return self.error
        return f"{self.path}: {seen_in_words(self.plan.before)}; {self.intention}"

    @property
    def intention(self) -> str:
        """What would be done, in words."""
        if self.plan is None:
            return self.error
        if self.plan.gave_up:
            return f"the policy gave up: {self.plan.gave_up}"
        if not self.treated:
            last = self.plan.trajectory.last.decision
            why = last.thought if last is not None else ""
            return "would be left untouched" + (f" ({why})" if why and self.plan.before.present else "")
        return f"would be treated with {', then '.join(self.plan.toolchain)}; estimated gain {self.gain:+.1f} dB"


def seen_in_words(percept: Percept) -> str:
    """The damage that is seen, worst first: "noise high, JPEG artefacts low"; "no damage seen" where there is none."""
    seen = {kind: severity for kind, severity in percept.severities.items() if severity > Severity.NONE}
    worst = sorted(seen, key=lambda kind: (-seen[kind], -percept.confidences.get(kind, 0.0)))
    return ", ".join(f"{kind.label} {seen[kind].label}" for kind in worst) or "no damage seen"


def preview(restorer: Restorer, path: Path, progress: Progress) -> Preview:
    """Examine a photo and decide; nothing is treated or written. What is wrong with the photo stands in the preview."""
    try:
        progress("reading")
        photo = restorer.load(path)
        plan = restorer.plan(photo, progress)
        return Preview(path, photo, plan, plan.gain.cautious(restorer.request.objective))
    except ConservatorError as error:
        return Preview(path, error=str(error))

"""How good a decision was among all that could have been made: every case enumerated once, every policy placed."""

from __future__ import annotations

import hashlib
import math
import re
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conservator.errors import ConservatorError, ToolFailedError
from conservator.evaluation.cases import Case
from conservator.evaluation.enumerate import EachKindOnce, Enumeration, enumerate_toolchains, mean_scores, share_below
from conservator.evaluation.spaces import Toolchain, toolchains_of
from conservator.image import Image
from conservator.metrics import FullReference
from conservator.perception.study import study
from conservator.pool import Pool
from conservator.resample import bicubic_to
from conservator.tools.tool import Toolbox, is_specialist


def study_of_reference(damaged: Image, clean: Image) -> Image:
    """The undamaged photo at the places and in the size of the damaged one's study."""
    return study(bicubic_to(clean, *damaged.shape[-2:]), like=damaged)


def study_and_reference(damaged: Image, clean: Image) -> tuple[Image, Image]:
    """The study, and its reference; a small photo is its own study, and keeps a reference of the full size.

    So what enlarging it gains can be seen. In the study of a larger photo an enlargement cannot be judged.
    """
    picture = study(damaged)
    return picture, clean if picture.shape == damaged.shape else study_of_reference(damaged, clean)


@dataclass(frozen=True)
class Ranking:
    """Ranks toolchains on the study of a case, so that the cost does not grow with the photo."""

    toolbox: Toolbox
    pool: Pool
    objective: str
    """What decides: a name in OBJECTIVE_WEIGHTS."""
    metrics: tuple[str | FullReference, ...]
    """The full-reference metrics at hand; the objective uses those that it weighs."""
    folder: Path
    """Keeps one journal per case, so that each is enumerated once, and goes on after an interruption."""
    tell: Callable[[str, int, int, float], None] = lambda case, done, total, left: None
    """Told the case, how many of how many toolchains are scored, and about how many seconds are left."""

    def enumerate(self, case: Case, damaged: Image, clean: Image) -> Enumeration:
        """All toolchains of the specialists for the damages that the case is known to have, each kind once.

        Raises ConservatorError for a case whose damages nobody knows.
        """
        space = self._space(case)
        picture, reference = study_and_reference(damaged, clean)
        total, start, first = len(toolchains_of(space)), time.perf_counter(), [0]

        def tell(done: int) -> None:
            first[0] = first[0] or done  # what a journal held took no time
            pace = (time.perf_counter() - start) / max(1, done - first[0])
            self.tell(case.name, done, total, pace * (total - done))

        journal = self.folder / f"{file_name(case.name)}.jsonl"
        return enumerate_toolchains(
            picture, reference, space, self.pool, metrics=self.metrics, journal=journal, progress=tell
        )

    def best(self, found: Enumeration) -> Toolchain:
        """The toolchain of the highest value; the shortest, then the first, of those that tie."""
        values, _ = found.objective(self.objective)
        return found.toolchains[int(np.nanargmax(values))]

    def place(self, found: Enumeration, toolchain: Toolchain, damaged: Image, clean: Image) -> tuple[float, float]:
        """The share, 0 to 1, of the enumerated toolchains that this one beats or equals, and its value.

        Both are NaN where a tool failed. One that is not among them (it repeats a tool, or has one for a damage that is
        not there) is run on the study and placed by its scores.
        """
        values, _ = found.objective(self.objective)
        if toolchain in found.toolchains:
            return found.percentile(toolchain, values), float(values[found.toolchains.index(toolchain)])
        picture, reference = study_and_reference(damaged, clean)
        try:
            for tool in toolchain:
                picture = self.pool.submit(tool, picture).result()
        except ToolFailedError:
            return math.nan, math.nan
        scores = np.array([mean_scores(picture, reference, self.metrics)])
        value = float(found.objective(self.objective, scores)[0][0])
        return share_below(value, values), value

    def _space(self, case: Case) -> EachKindOnce:
        if case.kinds is None:
            raise ConservatorError(f"{case.name} cannot be ranked: nobody knows which damages it has")
        specs = [spec for spec in self.toolbox.specs if is_specialist(spec)]
        return EachKindOnce.of(specs, case.kinds)


def file_name(case: str) -> str:
    """A name for a file of a case: legal on every system, and different for different cases."""
    return re.sub(r"[^A-Za-z0-9.+-]+", "_", case)[:80] + "-" + hashlib.sha256(case.encode()).hexdigest()[:8]

"""Cases of a benchmark to look at, made again: the best, the median and the worst of every policy."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from conservator.errors import ConservatorError
from conservator.evaluation.cases import make_cases
from conservator.evaluation.rows import Row, Settings
from conservator.evaluation.tables import policies_of
from conservator.image import Image
from conservator.photo import Photo
from conservator.pool.pool import LocalPool, MemoPool
from conservator.restoration import treat
from conservator.tools import make_toolbox

_LONG_SIDE = 480  # pixels of an example


@dataclass(frozen=True)
class Example:
    """One result to look at."""

    which: str
    """Best, median or worst."""
    row: Row
    damaged: Image
    restored: Image
    clean: Image | None

    @property
    def size(self) -> tuple[int, int]:
        """Height and width to show it at, those of the largest of its pictures within a limit."""
        sides = max(image.shape[-2:] for image in (self.damaged, self.restored, self.clean) if image is not None)
        scale = min(1.0, _LONG_SIDE / max(sides))
        return max(1, round(sides[0] * scale)), max(1, round(sides[1] * scale))


def find_examples(rows: Sequence[Row], settings: Settings, photos: Path) -> list[Example]:
    """The best, median and worst gain of every policy that did something; where there is no reference, three cases.

    Toolchains are replayed, so the pictures are those that were measured. Raises ConservatorError where the folder
    lacks a case of the results.
    """
    cases = {case.name: case for case in make_cases(settings.benchmark, photos, settings.seed, settings.limit)}
    examples = []
    with MemoPool(LocalPool(make_toolbox(settings.toolbox), max_batch=1)) as pool:
        for policy in policies_of(rows):
            part = [row for row in rows if row.policy == policy]
            for which, row in _telling(part):
                if row.case not in cases:
                    raise ConservatorError(f"{photos} does not make {row.case}; give the folder that was measured on")
                damaged, clean = cases[row.case].make()
                restored = treat(Photo(damaged), tuple(filter(None, row.toolchain.split(">"))), pool)
                examples.append(Example(which, row, damaged, restored.image, clean))
    return examples


def _telling(rows: Sequence[Row]) -> list[tuple[str, Row]]:
    """The best, the median and the worst of one policy's rows, each once; none where it touched nothing."""
    if not any(row.toolchain for row in rows):
        return []
    order = sorted(rows, key=lambda row: (-np.nan_to_num(row.gain), row.case))
    places = {"best": 0, "median": len(order) // 2, "worst": len(order) - 1}
    seen: dict[str, tuple[str, Row]] = {}
    for which, place in places.items():
        seen.setdefault(order[place].case, (which, order[place]))
    return list(seen.values())

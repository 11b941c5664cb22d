"""Cases of a benchmark to look at, made again: the best, the median and the worst of every policy.

Where there is no reference nobody but a person can judge: every photo, with what each policy made of it, in an order
that does not tell whose it is.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from string import ascii_uppercase

import numpy as np

from conservator.errors import ConservatorError
from conservator.evaluation.cases import Case, make_cases
from conservator.evaluation.grid import policies_of
from conservator.evaluation.rows import BenchmarkRow, BenchmarkSettings
from conservator.image import Image
from conservator.photo import Photo
from conservator.request import Request
from conservator.restorer import Restorer

_LONG_SIDE = 480  # pixels of an example
_LONG_SIDE_TO_JUDGE = 720


@dataclass(frozen=True)
class Example:
    """One case to look at."""

    title: str
    told: str
    """What was done, in words."""
    pictures: tuple[tuple[str, Image], ...]
    """Captions and pictures."""
    hidden: str = ""
    """Whose the pictures are, for those who have judged them."""
    to_judge: bool = False
    """Whether a person is to judge it, who wants larger pictures."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width to show it at, those of the largest of its pictures within a limit."""
        sides = max(image.shape[-2:] for _, image in self.pictures)
        scale = min(1.0, (_LONG_SIDE_TO_JUDGE if self.to_judge else _LONG_SIDE) / max(sides))
        return max(1, round(sides[0] * scale)), max(1, round(sides[1] * scale))


def find_examples(rows: Sequence[BenchmarkRow], settings: BenchmarkSettings, photos: Path) -> list[Example]:
    """The best, median and worst gain of every policy that did something; all cases where there is no reference.

    Toolchains are replayed, so the pictures are those that were measured. Raises ConservatorError where the folder
    lacks a case of the results.
    """
    made = make_cases(settings.benchmark, photos, settings.seed, settings.limit, settings.part)
    cases = {case.name: case for case in made}
    for row in rows:
        if row.case not in cases:
            raise ConservatorError(f"{photos} does not make {row.case}; give the folder that was measured on")
    with Restorer(Request(toolbox=settings.toolbox)) as restorer:
        if np.isnan([row.gain for row in rows]).all():
            return [_to_judge(cases[name], rows, restorer) for name in dict.fromkeys(row.case for row in rows)]
        parts = [[row for row in rows if row.policy == policy] for policy in policies_of(rows)]
        return [_compared(cases[row.case], which, row, restorer) for part in parts for which, row in _telling(part)]


def _compared(case: Case, which: str, row: BenchmarkRow, restorer: Restorer) -> Example:
    """The damaged photo, a policy's result, the undamaged photo."""
    damaged, clean = case.make()
    pictures = [("damaged", damaged), (row.policy, _replayed(damaged, row.toolchain, restorer))]
    pictures += [("undamaged", clean)] if clean is not None else []
    said = f"{row.gain:+.2f} dB" + ("" if np.isnan(row.rank) else f", rank {row.rank:.0%}")
    return Example(f"{row.policy}: {which} gain, {said}", f"{row.case}: {_words(row.toolchain)}", tuple(pictures))


def _to_judge(case: Case, rows: Sequence[BenchmarkRow], restorer: Restorer) -> Example:
    """The photo, and every other picture that policies made of it, in an order of chance."""
    damaged, _ = case.make()
    makers: dict[str, list[str]] = {}
    for row in rows:
        if row.case == case.name and row.toolchain:
            makers.setdefault(row.toolchain, []).append(row.policy)
    order = np.random.default_rng(zlib.crc32(case.name.encode())).permutation(sorted(makers))
    pictures = [("as it came", damaged)]
    pictures += [(ascii_uppercase[i], _replayed(damaged, chain, restorer)) for i, chain in enumerate(order)]
    whose = [f"{ascii_uppercase[i]}: {', '.join(makers[chain])} ({_words(chain)})" for i, chain in enumerate(order)]
    idle = [row.policy for row in rows if row.case == case.name and not row.toolchain]
    whose += [f"left as it came: {', '.join(idle)}"] if idle and makers else []
    told = "Which of these would you keep?" if makers else "Every policy left it as it came."
    return Example(case.name, told, tuple(pictures), "; ".join(whose), to_judge=True)


def _replayed(damaged: Image, toolchain: str, restorer: Restorer) -> Image:
    return restorer.replay(Photo(damaged), tuple(filter(None, toolchain.split(">")))).image


def _words(toolchain: str) -> str:
    return toolchain.replace(">", " → ") or "untouched"


def _telling(rows: Sequence[BenchmarkRow]) -> list[tuple[str, BenchmarkRow]]:
    """The best, the median and the worst of one policy's rows, each once; none where it touched nothing."""
    if not any(row.toolchain for row in rows):
        return []
    order = sorted(rows, key=lambda row: (-np.nan_to_num(row.gain), row.case))
    places = {"best": 0, "median": len(order) // 2, "worst": len(order) - 1}
    seen: dict[str, tuple[str, BenchmarkRow]] = {}
    for which, place in places.items():
        seen.setdefault(order[place].case, (which, order[place]))
    return list(seen.values())

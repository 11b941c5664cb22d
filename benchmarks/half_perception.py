"""Whether perception may look in half precision: the same decisions, and what they gain, with and without it.

python benchmarks/half_perception.py PHOTOS [cases]

On combinations of MiO's protocol that keep a photo's size, drawn from all of them; greedy decides, at risk 1 and at the
default. Printed are the share of the cases with the same toolchain, the paired difference of the gain with its interval
by photo, and the time of deciding with half precision as a share of that without, on one thread in the same run.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from conservator.evaluation.cases import mio_cases
from conservator.evaluation.intervals import interval
from conservator.image import Image
from conservator.metrics.fidelity import psnr
from conservator.networks import encoder, precision
from conservator.perception import experts
from conservator.photo import Photo
from conservator.request import Request
from conservator.restorer import Restorer


def use(half: bool) -> None:
    """Let perception look in half precision from now on, or not."""
    for module in (encoder, experts):
        vars(module)["half_precision"] = precision.half_precision if half else lambda device: nullcontext()


class Decided(NamedTuple):
    """What was decided on one picture."""

    toolchain: tuple[str, ...]
    gain: float
    """dB of PSNR (RGB)."""
    seconds: float
    """Of deciding."""


class Both(NamedTuple):
    """The same picture without and with half precision."""

    photo: str
    exact: Decided
    half: Decided


def decided(restorer: Restorer, damaged: Image, clean: Image) -> Decided:
    """Decide, and treat."""
    photo = Photo(damaged)
    start = time.perf_counter()
    restorer.plan(photo)
    seconds = time.perf_counter() - start
    restored = restorer.restore(photo)
    return Decided(restored.toolchain, psnr(restored.photo.image, clean) - psnr(damaged, clean), seconds)


def main() -> None:
    """Measure and print."""
    torch.set_num_threads(1)
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 200
    cases = list(mio_cases(Path(sys.argv[1]), 0))
    cases = [cases[i] for i in np.random.default_rng(0).permutation(len(cases))[:count]]
    for risk in (1.0, Request().risk):
        rows = []
        with Restorer(Request(risk=risk)) as exact, Restorer(Request(risk=risk)) as quick:
            for case in cases:
                damaged, clean = case.make()
                if clean is None or damaged.shape != clean.shape:
                    continue
                use(False)
                was = decided(exact, damaged, clean)
                use(True)
                rows.append(Both(case.photo, was, decided(quick, damaged, clean)))
                if len(rows) % 20 == 0:
                    tell(risk, rows)
        tell(risk, rows)


def tell(risk: float, rows: Sequence[Both]) -> None:
    """Print what was found so far."""
    same = np.mean([row.exact.toolchain == row.half.toolchain for row in rows])
    gains = np.array([row.half.gain - row.exact.gain for row in rows])
    low, high = interval(gains, origins=[row.photo for row in rows])
    share = np.median([row.half.seconds / row.exact.seconds for row in rows])
    print(
        f"risk {risk:g}, {len(rows)} cases: same toolchain {same:.1%}, gain {gains.mean():+.4f} dB "
        f"[{low:+.4f}, {high:+.4f}], deciding takes {share:.2f} of the time",
        flush=True,
    )


if __name__ == "__main__":
    main()

"""What perception costs, part by part: statistics by group, encoder, experts that are asked, scene, and weighing.

python benchmarks/perception_speed.py [runs]

On one thread, for a study of five pictures of 256 pixels a side, damaged in another way at each run. A run times every
part, so that what else the machine does weighs on all alike. Printed are the medians in milliseconds, and the median of
a part's share of grading in the same run, which says more on a busy machine. What is indented is a part of what stands
above it.
"""

from __future__ import annotations

import functools
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from skimage import data

from conservator.degradations import Kind, degrade, parse_recipe
from conservator.image import to_image
from conservator.networks.encoder import ReducedEncoder
from conservator.perception import Look, NetworkPerception, measuring, statistics, study
from conservator.perception.experts import AskedExperts

RECIPES = ("noise:high", "jpeg:high", "defocus:high", "motion:high", "rain:high", "haze:high", "dark:high")
GROUPS = ("_local", "_noise", "_blocks", "_blur", "_spectrum", "streak_statistics", "_kernels", "_light", "_summed_up")
PARTS: tuple[tuple[str, Any, str], ...] = (
    ("grade", NetworkPerception, "grade"),
    ("  statistics", measuring, "statistics"),
    *((f"    {'  ' * (name in GROUPS[1:6])}{name.strip('_')}", statistics, name) for name in GROUPS),
    ("  encoder", ReducedEncoder, "forward"),
    ("  asked experts", AskedExperts, "__call__"),
    ("  scene", AskedExperts, "summary"),
    ("weigh", NetworkPerception, "weigh"),
)
"""The names to print, and where the functions are found that are timed."""


def timed(part: str, function: Callable[..., Any], spent: dict[str, float]) -> Callable[..., Any]:
    """The function, which adds the seconds of every call to what was spent on the part."""

    @functools.wraps(function)
    def call(*args: Any, **options: Any) -> Any:
        start = time.perf_counter()
        try:
            return function(*args, **options)
        finally:
            spent[part] += time.perf_counter() - start

    return call


def measure(runs: int) -> dict[str, list[float]]:
    """Seconds of each part at every run."""
    spent: dict[str, float] = defaultdict(float)
    for part, owner, name in PARTS:
        setattr(owner, name, timed(part, getattr(owner, name), spent))
    perception, photo = NetworkPerception.load(), to_image(data.astronaut())
    clean = Look(study(photo), perception.grade(study(photo)))  # the first call loads the weights
    seconds: dict[str, list[float]] = defaultdict(list)
    for number in range(runs):
        damaged = study(degrade(photo, parse_recipe(RECIPES[number % len(RECIPES)], seed=number)))
        spent.clear()
        look = Look(damaged, perception.grade(damaged))
        perception.weigh(look, clean, frozenset({Kind.NOISE}))
        for part, _, _ in PARTS:
            seconds[part].append(spent[part])
    return seconds


def main() -> None:
    torch.set_num_threads(1)
    seconds = measure(int(sys.argv[1]) if len(sys.argv) > 1 else 30)
    print(f"{'':24} {'ms':>8} {'of grade':>9}")
    for part, times in seconds.items():
        share = median(one / whole for one, whole in zip(times, seconds["grade"], strict=True))
        print(f"{part:24} {1000 * median(times):8.2f} {share:9.1%}")


if __name__ == "__main__":
    main()

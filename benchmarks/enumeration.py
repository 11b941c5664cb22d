"""What the tree saves: all toolchains of one picture with four damages, as a tree and each from scratch, in one run.

python benchmarks/enumeration.py

Run it on an idle machine. Sharing prefixes saves as many calls as a toolchain is long on average (3.4 here); two
workers, and scores that are computed while the tools run, do the rest. Processor seconds tell the sharing alone.
"""

from __future__ import annotations

import time

import torch
from skimage import data

from conservator.degradations import Kind, degrade, parse_recipe
from conservator.evaluation.enumerate import EachKindOnce, enumerate_toolchains
from conservator.image import to_image
from conservator.metrics import make_metric
from conservator.pool import LocalPool
from conservator.tools import make_toolbox

PRESENT = frozenset({Kind.NOISE, Kind.JPEG, Kind.RAIN, Kind.LOW_LIGHT})
TOOLS = ("denoise_medium", "wavelet_denoise", "dejpeg_severe", "deblock", "derain", "gamma_brighten", "shift_brighten")
METRICS = ("psnr", "ssim")


class Watch:
    """Seconds since it was made, on the wall and of the processors."""

    def __init__(self) -> None:
        self._start = time.perf_counter(), time.process_time()

    def read(self) -> tuple[float, float]:
        return time.perf_counter() - self._start[0], time.process_time() - self._start[1]


def main() -> None:
    torch.set_num_threads(1)  # the pool's two workers use the cores
    clean = to_image(data.coffee()[40:232, 140:332])
    damaged = degrade(clean, parse_recipe("dark,rain,noise,jpeg", 1))
    toolbox = make_toolbox("experts+classical").only(*TOOLS)
    space = EachKindOnce.of(toolbox.specs, PRESENT)
    for tool in toolbox.values():
        tool.setup("cpu")
        tool(damaged)
    with LocalPool(toolbox) as pool:
        for name in toolbox:
            pool.submit(name, damaged).result()
        watch = Watch()
        found = enumerate_toolchains(damaged, clean, space, pool, metrics=METRICS)
        tree = watch.read()
    torch.set_num_threads(2)
    watch = Watch()
    worst = 0.0
    for toolchain, scores in zip(found.toolchains, found.scores, strict=True):
        image = damaged
        for name in toolchain:
            image = toolbox[name](image)
        alone = [make_metric(metric).score(image, clean) for metric in METRICS]
        worst = max(worst, *(abs(a - b) for a, b in zip(alone, scores, strict=True)))
    scratch = watch.read()
    saved = [b / a for a, b in zip(tree, scratch, strict=True)]
    calls = sum(map(len, found.toolchains))
    print(
        f"{len(found.toolchains)} toolchains ({space.count()} by the formula), "
        f"{found.calls} tool calls as a tree, {calls} alone"
    )
    print(f"tree {tree[0]:.1f} s, each from scratch {scratch[0]:.1f} s: {saved[0]:.1f} times as fast")
    print(f"processor seconds: {tree[1]:.1f} and {scratch[1]:.1f}, {saved[1]:.1f} times as few")
    print(f"largest difference of a score: {worst:g}")


if __name__ == "__main__":
    main()

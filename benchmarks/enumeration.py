"""What the tree saves: all toolchains of one picture with four damages, as a tree and each from scratch, in one run.

python benchmarks/enumeration.py
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
        start = time.perf_counter()
        found = enumerate_toolchains(damaged, clean, space, pool, metrics=METRICS)
        tree = time.perf_counter() - start
    torch.set_num_threads(2)
    start = time.perf_counter()
    worst = 0.0
    for toolchain, scores in zip(found.toolchains, found.scores, strict=True):
        image = damaged
        for name in toolchain:
            image = toolbox[name](image)
        alone = [make_metric(metric).score(image, clean) for metric in METRICS]
        worst = max(worst, *(abs(a - b) for a, b in zip(alone, scores, strict=True)))
    scratch = time.perf_counter() - start
    print(f"{len(found.toolchains)} toolchains ({space.count()} by the formula), {found.calls} tool calls as a tree")
    print(f"tree {tree:.1f} s, each from scratch {scratch:.1f} s: {scratch / tree:.1f} times as fast")
    print(f"largest difference of a score: {worst:g}")


if __name__ == "__main__":
    main()

"""Gain, restraint and speed of each classical tool on its damage.

Prints, for each tool and each damage of its kinds, the mean PSNR gain in dB and the worst (of tools that enlarge,
PSNR itself); then PSNR of its result to the input on the undamaged photos, which should be high, and seconds per
megapixel on one thread.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from conservator.degradations.blur import DefocusBlur, GaussianBlur, MotionBlur
from conservator.degradations.codec import JpegCompression, LowResolution
from conservator.degradations.degradation import Recipe, degrade
from conservator.degradations.light import LowLight
from conservator.degradations.noise import GaussianNoise
from conservator.degradations.weather import Haze, Rain
from conservator.image import Image, in_8_bits
from conservator.kinds import Kind
from conservator.metrics.fidelity import TABLE_CAP, psnr
from conservator.photo import find_photos, load_photo
from conservator.tools.classical import CLASSICAL
from conservator.tools.tool import Tool


def damages(rng: np.random.Generator) -> Mapping[Kind, Mapping[str, Recipe]]:
    """Recipes by kind and by a short name; directions and seeds are drawn."""

    def seed() -> int:
        return int(rng.integers(2**31))

    def motion(radius: int, sigma: float) -> Recipe:
        return (MotionBlur(radius, sigma, float(rng.uniform(-180, 180))),)

    def rain(value: float) -> Recipe:
        return (Rain(value, int(rng.integers(20, 41)), float(rng.uniform(-30, 30)), 3, seed()),)

    return {
        Kind.NOISE: {f"{sigma}": (GaussianNoise(sigma / 255, seed()),) for sigma in (5, 15, 25, 50)},
        Kind.JPEG: {
            **{f"q{q}": (JpegCompression(q),) for q in (10, 20, 40, 70)},
            "noise 25, q20": (GaussianNoise(25 / 255, seed()), JpegCompression(20)),
        },
        Kind.MOTION_BLUR: {
            **{f"{r},{s:g}": motion(r, s) for r, s in ((10, 3.0), (15, 5.0), (15, 8.0))},
            "15,5, noise 10": (*motion(15, 5.0), GaussianNoise(10 / 255, seed())),
        },
        Kind.DEFOCUS_BLUR: {
            **{f"r{r:g}": (DefocusBlur(r, 0.5),) for r in (3.0, 4.0, 6.0)},
            "r4, noise 10": (DefocusBlur(4.0, 0.5), GaussianNoise(10 / 255, seed())),
            "r4, q30": (DefocusBlur(4.0, 0.5), JpegCompression(30)),
        },
        Kind.GAUSSIAN_BLUR: {f"{s:g}": (GaussianBlur(s),) for s in (1.0, 2.0, 4.0)},
        Kind.RAIN: {f"{v:g}": rain(v) for v in (20.0, 50.0, 100.0)},
        Kind.HAZE: {f"{b:g}": (Haze(float(rng.uniform(0.7, 1)), b, seed()),) for b in (0.6, 1.2, 1.8)},
        Kind.LOW_LIGHT: {
            "shift": (LowLight("shift", 40 / 255),),
            "gamma": (LowLight("gamma", 0.6),),
            "linear": (LowLight("linear", 125 / 255),),
        },
        Kind.LOW_RESOLUTION: {"x4": (LowResolution(4),), "x2": (LowResolution(2),)},
    }


def photos(folder: Path, count: int, side: int) -> list[Image]:
    """Crops from the middle of the first photos of a folder that are large enough."""
    crops: list[Image] = []
    for path in find_photos(folder):
        image = load_photo(path).image
        top, left = ((length - side) // 2 for length in image.shape[-2:])
        if min(top, left) >= 0:
            crops.append(image[..., top : top + side, left : left + side])
        if len(crops) == count:
            break
    return crops


def measure(tool: Tool, cleans: Sequence[Image], seed: int) -> str:
    """One line of the table."""
    gains: dict[str, list[float]] = {}
    seconds = megapixels = 0.0
    for i, clean in enumerate(cleans):
        table = damages(np.random.default_rng([seed, i]))
        for kind in sorted(tool.spec.removes):
            for name, recipe in table[kind].items():
                if kind is Kind.LOW_RESOLUTION and name != f"x{tool.spec.scale}":
                    continue
                damaged = in_8_bits(degrade(clean, recipe))
                start = time.perf_counter()
                result = tool(damaged)
                seconds += time.perf_counter() - start
                megapixels += damaged.shape[-1] * damaged.shape[-2] / 1e6
                before = 0.0 if tool.spec.scale > 1 else psnr(damaged, clean)
                gains.setdefault(name, []).append(psnr(result, clean) - before)
    cells = "  ".join(f"{name}: {np.mean(values):+.2f} ({min(values):+.2f})" for name, values in gains.items())
    untouched = [psnr(tool(clean), clean, TABLE_CAP) for clean in cleans] if tool.spec.scale == 1 else [float("nan")]
    clean_cell = f"clean: {np.mean(untouched):.0f} ({min(untouched):.0f})"
    return f"{tool.spec.name:26s} {cells}  {clean_cell}  {seconds / megapixels:.2f} s/MP"


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--photos", type=int, default=8)
    parser.add_argument("--side", type=int, default=384, help="side of the crops in pixels, a multiple of 4")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    torch.set_num_threads(1)
    cleans = photos(options.folder, options.photos, options.side)
    if not cleans:
        parser.error(f"no photo of at least {options.side} pixels a side in {options.folder}; give another folder")
    for tool in CLASSICAL:
        print(measure(tool, cleans, options.seed), flush=True)


if __name__ == "__main__":
    main()

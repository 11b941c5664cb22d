"""Gain, harm and cost of policies on damaged photos, and what they do to clean ones.

python benchmarks/policies.py ../shared/data/val/CID22_val --groups A --policies greedy,rules,none -o docs/results/x.md

The photos are damaged by the MiO protocol (AgenticIR's combinations and test ranges), seed and photo fixing the recipe.
PSNR is RGB; an output of a quarter of the size is enlarged by MATLAB's bicubic first, as the protocol has it.
"""

from __future__ import annotations

import argparse
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from conservator.degradations import degrade
from conservator.degradations.protocols import MIO_GROUPS, mio_recipe
from conservator.image import Image
from conservator.metrics.fidelity import psnr
from conservator.perception import NetworkPerception, Perception, StatisticalPerception, study
from conservator.photo import Photo, load_photo
from conservator.policies import PolicyContext, make_policy
from conservator.pool import LocalPool, MemoPool
from conservator.resample import bicubic_to
from conservator.restoration import Restored, restore
from conservator.tools import Toolbox, make_toolbox

ORDER = tuple(MIO_GROUPS)
"""Part of each case's seed, so that a group is damaged the same way whichever others run beside it."""


@dataclass(frozen=True)
class Row:
    policy: str
    group: str
    combination: str
    photo: str
    before: float
    after: float
    toolchain: tuple[str, ...]
    seconds: float


def score(image: Image, clean: Image) -> float:
    if image.shape != clean.shape:
        image = bicubic_to(image, *clean.shape[-2:])
    return psnr(image, clean)


EYES: dict[str, Callable[[], Perception]] = {"network": NetworkPerception, "statistics": StatisticalPerception}


@dataclass(frozen=True)
class Setting:
    toolbox: Toolbox
    perception: Perception
    seed: int


def treat(name: str, damaged: Image, clean: Image, setting: Setting) -> tuple[Restored, float]:
    toolbox, perception, seed = setting.toolbox, setting.perception, setting.seed
    with MemoPool(LocalPool(toolbox, max_batch=1)) as pool:
        upscale = damaged.shape != clean.shape
        reference = None
        if name == "oracle":
            reference = study(bicubic_to(clean, *damaged.shape[-2:]), like=damaged)
        context = PolicyContext(pool, perception, seed=seed, upscale=upscale, reference=reference)
        start = time.perf_counter()
        restored = restore(Photo(damaged), make_policy(name, context), toolbox, pool, perception)
        return restored, time.perf_counter() - start


def damaged_rows(photos: list[Path], groups: list[str], policies: list[str], setting: Setting) -> list[Row]:
    rows = []
    for group in groups:
        for c, combination in enumerate(MIO_GROUPS[group]):
            for p, path in enumerate(photos):
                clean = load_photo(path).image
                damaged = degrade(
                    clean, mio_recipe(combination, np.random.default_rng([setting.seed, ORDER.index(group), c, p]))
                )
                before = score(damaged, clean)
                for name in policies:
                    restored, seconds = treat(name, damaged, clean, setting)
                    after = score(restored.photo.image, clean)
                    label = "+".join(kind.label for kind in combination)
                    rows.append(Row(name, group, label, path.stem, before, after, restored.toolchain, seconds))
            print(group, "+".join(combination), "done", flush=True)
    return rows


def interval(values: np.ndarray, rng: np.random.Generator) -> tuple[float, float]:
    """95 % bootstrap confidence interval of the mean."""
    means = values[rng.integers(len(values), size=(2000, len(values)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def table(rows: list[Row]) -> list[str]:
    rng = np.random.default_rng(0)
    lines = [
        "| policy | group | photos | PSNR in | PSNR out | gain (95 % CI) | 0.1 dB worse | 0.3 dB worse | tools | s |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    cells: dict[tuple[str, str], list[Row]] = defaultdict(list)
    for row in rows:
        cells[row.policy, row.group].append(row)
        cells[row.policy, f"{row.group}: {row.combination}"].append(row)
    for (policy, group), part in sorted(cells.items(), key=lambda item: (":" in item[0][1], item[0][1], item[0][0])):
        gain = np.array([r.after - r.before for r in part])
        low, high = interval(gain, rng)
        before, after = np.mean([r.before for r in part]), np.mean([r.after for r in part])
        lines.append(
            f"| {policy} | {group} | {len(part)} | {before:.2f} | {after:.2f} "
            f"| {gain.mean():+.2f} ({low:+.2f}, {high:+.2f}) "
            f"| {(gain < -0.1).mean():.0%} | {(gain < -0.3).mean():.0%} "
            f"| {np.mean([len(r.toolchain) for r in part]):.1f} | {np.mean([r.seconds for r in part]):.1f} |"
        )
    return lines


def clean_lines(photos: list[Path], policies: list[str], setting: Setting) -> list[str]:
    lines = ["| policy | clean photos | left untouched | tools applied to the others |", "|---|---|---|---|"]
    for name in policies:
        touched = {}
        for path in photos:
            clean = load_photo(path).image
            restored, _ = treat(name, clean, clean, setting)
            if not restored.untouched:
                touched[path.stem] = "+".join(restored.toolchain)
        left = len(photos) - len(touched)
        others = ", ".join(f"{k}: {v}" for k, v in touched.items())
        lines.append(f"| {name} | {len(photos)} | {left} | {others} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photos", type=Path)
    parser.add_argument("--groups", default="A")
    parser.add_argument("--policies", default="greedy,rules,none")
    parser.add_argument("--toolbox", default="conservator")
    parser.add_argument("--eye", choices=EYES, default="network")
    parser.add_argument("--limit", type=int, default=None, help="use the first photos only")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--details", action="store_true", help="one line per photo, too")
    parser.add_argument("-o", "--output", type=Path, help="write the tables as Markdown")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    photos = sorted(args.photos.glob("*.*"))[: args.limit]
    policies = args.policies.split(",")
    setting = Setting(make_toolbox(args.toolbox), EYES[args.eye](), args.seed)
    clean = clean_lines(photos, [p for p in policies if p not in {"oracle", "none"}], setting)
    print("\n".join(clean), flush=True)
    rows = damaged_rows(photos, args.groups.split(","), policies, setting)
    lines = table(rows)
    print("\n".join(lines))
    if args.details:
        for r in rows:
            print(
                f"{r.policy:8} {r.combination:28} {r.photo:10} {r.before:.2f} {r.after - r.before:+.2f} {r.toolchain}"
            )
    if args.output:
        command = (
            f"python benchmarks/policies.py PHOTOS --groups {args.groups} --policies {args.policies} --seed {args.seed}"
            f" --toolbox {args.toolbox} --eye {args.eye}" + (f" --limit {args.limit}" if args.limit else "")
        )
        text = "\n".join(["# Policies on MiO damage, and on clean photos", "", f"`{command}`", ""])
        args.output.parent.mkdir(parents=True, exist_ok=True)
        args.output.write_text(text + "\n" + "\n".join([*clean, "", *lines]) + "\n")


if __name__ == "__main__":
    main()

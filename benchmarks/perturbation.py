"""How much perturbed trajectories differ, and what they lose: on enumerated toolchains of damaged crops.

    python benchmarks/perturbation.py PHOTOS [CROPS]

For each crop, 8 trajectories are drawn by each way of perturbation, with the defaults of ``data build``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
import numpy as np
import torch

from conservator.degradations import degrade
from conservator.evaluation.enumerate import EachKindOnce, Enumeration, Toolchain, enumerate_toolchains
from conservator.evaluation.intervals import mean_cell
from conservator.evaluation.spaces import toolchains_of
from conservator.image import in_8_bits
from conservator.kinds import Kind
from conservator.photo import find_photos, load_photo
from conservator.policies.planning import plannable
from conservator.pool import LocalPool
from conservator.tools import make_toolbox
from conservator.training.data.parts import random_part
from conservator.training.data.recipes import random_recipe, severities, without_resizing
from conservator.training.planner.orders import CROP_SIDE
from conservator.training.planner.situations import Outlook
from conservator.training.planner.trajectories import CALL_COST, Perturbation, perturbed

WAYS = {
    "plain": Perturbation(0, 0),
    "order": Perturbation(0.3, 0),
    "tools": Perturbation(0, 0.3),
    "both": Perturbation(),
}
DRAWS = 8
MOST = 500
"""Toolchains of a crop; one with more is left out."""


def main(folder: Path, count: int) -> None:
    toolbox = make_toolbox("conservator")
    usable = plannable(toolbox.specs)
    removes = {spec.name: spec.removes for spec in usable}
    photos = find_photos(folder)
    photos = photos[:: max(1, len(photos) // count)][:count]
    rows: dict[str, list[tuple[float, float, float]]] = {way: [] for way in WAYS}
    with LocalPool(toolbox) as pool:
        for number, photo in enumerate(photos):
            rng = np.random.default_rng([5, number])
            recipe = without_resizing(random_recipe(rng))
            clean = random_part(load_photo(photo).image, rng)[..., :CROP_SIDE, :CROP_SIDE].contiguous()
            space = EachKindOnce.of(usable, frozenset(severities(recipe)))
            if not space.treats or len(toolchains_of(space)) > MOST:
                continue
            found = enumerate_toolchains(in_8_bits(degrade(clean, recipe)), clean, space, pool)
            lengths = np.array([len(chain) for chain in found.toolchains])
            outlook = Outlook(found, found.objective("balanced")[0] - CALL_COST * lengths)
            print(f"crop {number}: {len(found.toolchains)} toolchains", file=sys.stderr)
            if best := outlook.completions(())[0]:
                for way, perturbation in WAYS.items():
                    rows[way].append(drawn(best, outlook, found, removes, perturbation, number))
    treated = len(rows["plain"])
    print(f"{treated} of {count} crops; of {DRAWS} draws, means over crops with 95 % intervals")
    for way, values in rows.items():
        cells = [
            mean_cell(np.array(column), list(map(str, range(treated))), "+.3f") for column in zip(*values, strict=True)
        ]
        print(f"{way}: distinct {cells[0]}, share of the range of scores lost {cells[1]}, PSNR {cells[2]} dB")


def drawn(
    best: Toolchain,
    outlook: Outlook,
    found: Enumeration,
    removes: Mapping[str, frozenset[Kind]],
    perturbation: Perturbation,
    number: int,
) -> tuple[float, float, float]:
    """Of draws of one crop: how many are distinct, the score that they lose on average, and the PSNR that they gain."""
    chains = [perturbed(best, outlook, removes, perturbation, np.random.default_rng([number, i])) for i in range(DRAWS)]
    span = max(outlook.scores.values()) - min(outlook.scores.values())
    psnr = dict(zip(found.toolchains, found.column("psnr"), strict=True))
    lost = np.mean([outlook.scores[best] - outlook.scores[chain] for chain in chains]) / span
    return len(set(chains)), float(lost), float(np.mean([psnr[chain] - psnr[best] for chain in chains]))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 40)

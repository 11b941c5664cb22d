"""Whether a planner uses a tool that it was taught later: photos under snow, before and after a short fine-tuning.

python benchmarks/new_kind.py PHOTOS POLICY [POLICY ...]     say mllm mllm:out/train/snow/model

Needs the expert desnow in the toolbox "user"; docs/mllm.md has the commands that make it and tune the planner.
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import torch

from conservator.degradations import degrade, parse_recipe
from conservator.degradations.patches import UNDAMAGED_PSNR
from conservator.evaluation.intervals import mean_cell
from conservator.image import in_8_bits
from conservator.metrics.fidelity import psnr_of_each
from conservator.perception import NetworkPerception, study
from conservator.photo import find_photos, load_photo
from conservator.policies import PolicyContext, make_policy
from conservator.pool import LocalPool
from conservator.session import Session, run
from conservator.tools import make_toolbox

RECIPES = ("snow:high", "snow:high,noise:low")
COUNT = 10


def main() -> None:
    torch.set_num_threads(1)
    photos, names = find_photos(Path(sys.argv[1]))[:COUNT], sys.argv[2:]
    eye, toolbox = NetworkPerception.load(), make_toolbox("conservator+user")
    gains: dict[str, list[float]] = {name: [] for name in names}
    with LocalPool(toolbox) as pool:
        policies = {name: make_policy(name, PolicyContext(pool, eye)) for name in names}
        for seed, path in enumerate(photos):
            clean = load_photo(path).image
            damaged = in_8_bits(degrade(clean, parse_recipe(RECIPES[seed % len(RECIPES)], seed)))
            seen, wanted = study(damaged), study(clean, like=damaged)
            for name, policy in policies.items():
                done = run(policy, Session(seen, toolbox, pool, eye))
                before, after = (
                    float(psnr_of_each(image, wanted, UNDAMAGED_PSNR).mean()) for image in (seen, done.last.image)
                )
                gains[name].append(after - before)
                print(f"{path.stem:10} {name}: {after - before:+.2f} dB, {', '.join(done.toolchain()) or 'nothing'}")
    measured = {name: np.array(found) for name, found in gains.items()}
    stems = [path.stem for path in photos]
    first = measured[names[0]]
    for name, found in measured.items():
        told = f"{name}: {mean_cell(found, stems)} dB, {(found < -0.1).sum()} of {len(found)} lowered by 0.1 dB"
        print(told if found is first else f"{told}; minus {names[0]}: {mean_cell(found - first, stems)}")


if __name__ == "__main__":
    main()

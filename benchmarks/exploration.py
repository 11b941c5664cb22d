"""How much models that call tools explore: of 8 rollouts of each crop, what is distinct, and what the rollouts gain.

    python benchmarks/exploration.py PHOTOS CROPS MODEL [MODEL ...]

TIR-Agent's Figure 3, for models before and after perturbation and reinforcement learning: on the same damaged crops,
with the same seeds and temperature. Also its Figure 4: how often each tool is called.
"""

from __future__ import annotations

import os
import sys
from collections import Counter
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"
import numpy as np
import torch

from conservator.evaluation.intervals import mean_cell
from conservator.perception.remembering import RememberingPerception
from conservator.photo import find_photos
from conservator.policies import ToolCallingPolicy
from conservator.policies.vision_language import load_model
from conservator.pool import MemoPool
from conservator.restorer import Restorer
from conservator.session import Apply, Session
from conservator.training.planner.exploring import DamagedCrops, Diversity, DrawnCalls, roll_out
from conservator.training.rl.rollouts import RolloutReward

ROLLOUTS, LONGEST, TEMPERATURE = 8, 6, 1.0
METRICS = ("psnr", "ssim", "quality")


def main(photos: Path, count: int, models: list[str]) -> None:
    crops = DamagedCrops(find_photos(photos), 0, 53)
    with Restorer() as restorer:
        perception, pool = RememberingPerception(restorer.perception), MemoPool(restorer.models)
        removes = {spec.name: spec.removes for spec in restorer.toolbox.specs}
        reward = RolloutReward(METRICS, "ssim", restorer.toolbox)
        for model in models:
            policy = ToolCallingPolicy(load_model(model), perception)
            rows: dict[str, list[float]] = {}
            called = Counter[str]()
            for number in range(count):
                damaged, clean = crops(number)
                start = Session(damaged, restorer.toolbox, pool, perception, LONGEST)
                drawing = DrawnCalls(policy, np.random.default_rng(number), TEMPERATURE)
                played = roll_out(drawing, [start.fork() for _ in range(ROLLOUTS)])
                kept = [one for one in played if one is not None]
                varied = Diversity.of([kept], removes)
                paid = [components for one in kept if (components := reward(one, clean)) is not None]
                found = {"trajectories": varied.trajectories, "orders": varied.orders, "tools": varied.tools}
                found |= {name: float(np.mean([one[name] for one in paid])) for name in (*METRICS, "cost")}
                for name, value in found.items():
                    rows.setdefault(name, []).append(value)
                steps = [step.decision.action for one in kept for step in one.steps[1:] if step.decision is not None]
                called.update(action.tool for action in steps if isinstance(action, Apply))
            print(f"\n{model}: of {ROLLOUTS} rollouts of each of {count} crops, means with 95 % intervals by crop")
            for name, values in rows.items():
                print(f"  {name}: {mean_cell(np.array(values), [str(i) for i in range(count)])}")
            print("  calls:", ", ".join(f"{tool} {number}" for tool, number in called.most_common()))


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3:])

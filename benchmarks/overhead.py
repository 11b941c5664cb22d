"""What the house costs beyond the tools: the session loop per step, and planning on 1 and on 12 megapixels.

python benchmarks/overhead.py
"""

from __future__ import annotations

import time
from collections.abc import Callable
from statistics import median

import torch
import torch.nn.functional as F
from skimage import data

from conservator.degradations import Kind, degrade, parse_recipe
from conservator.image import Image, to_image
from conservator.perception import StatisticalPerception, study
from conservator.perception.perception import Blind
from conservator.policies import FixedOrder, PolicyContext, make_policy
from conservator.pool import LocalPool, MemoPool
from conservator.session import Session, run
from conservator.tools import Tool, Toolbox, ToolSpec, make_toolbox


class Nothing(Tool):
    """Costs nothing."""

    spec = ToolSpec("nothing", frozenset({Kind.NOISE}), "Does nothing.", "none", "Apache-2.0")

    def restore(self, image: Image) -> Image:
        return image


def seconds(work: Callable[[], object], runs: int) -> float:
    times = []
    for _ in range(runs):
        start = time.perf_counter()
        work()
        times.append(time.perf_counter() - start)
    return median(times)


def loop_overhead() -> None:
    toolbox, steps = Toolbox(Nothing()), 200
    image = torch.rand(1, 3, 63, 63)
    with LocalPool(toolbox) as pool:

        def episode() -> None:
            run(FixedOrder(*["nothing"] * steps), Session(image, toolbox, pool, Blind(), max_steps=steps + 1))

        tool = seconds(lambda: toolbox["nothing"](image), 200)
        print(f"session loop: {1000 * (seconds(episode, 5) / steps - tool):.3f} ms a step beyond tool and perception")


def planning_cost() -> None:
    toolbox, perception = make_toolbox("classical"), StatisticalPerception.load()
    photo = F.interpolate(to_image(data.astronaut()), (3000, 4000), mode="bicubic").clamp(0, 1)
    costs = {}
    for name, (height, width) in {"1 MP": (866, 1155), "12 MP": (3000, 4000)}.items():
        damaged = degrade(photo[..., :height, :width].clone(), parse_recipe("noise,jpeg", seed=1))

        def plan(damaged: Image = damaged) -> None:
            with MemoPool(LocalPool(toolbox, max_batch=1)) as pool:
                policy = make_policy("greedy", PolicyContext(pool, perception))
                run(policy, Session(study(damaged), toolbox, pool, perception))

        small = study(damaged)
        costs[name] = (
            seconds(lambda damaged=damaged: study(damaged), 3),
            seconds(plan, 3),
            seconds(lambda small=small: perception.grade(small), 5),
        )
        print(
            f"{name}: study {costs[name][0]:.2f} s, perceiving {costs[name][2]:.2f} s, planning {costs[name][1]:.2f} s"
        )
    print(f"planning on 12 MP costs {costs['12 MP'][1] / costs['1 MP'][1]:.2f} times planning on 1 MP")


if __name__ == "__main__":
    loop_overhead()
    planning_cost()

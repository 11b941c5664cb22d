"""Rollouts a second with tools called one after the other, in the pool of the process, and in a shared pool on Ray.

    python benchmarks/shared_pool.py [ROLLOUTS]

Rollouts of four random calls each on damaged crops of 224 pixels, the default toolbox without the tools that adapt
themselves, nothing looked at between, one thread a worker, batches of one, nothing remembered; each way is first run
once so that models are loaded. Then what a call costs on the way to a shared pool and back, by a model that does
nothing on such a crop. Then the shared pool again while two of its workers are killed: how many rollouts are lost.
"""

from __future__ import annotations

import os
import signal
import sys
import threading
import time
from collections.abc import Sequence

os.environ["OMP_NUM_THREADS"] = "1"
import numpy as np
import torch
from skimage import data

from conservator.degradations import degrade, parse_recipe
from conservator.hosting import PoolSettings
from conservator.image import Image, to_image
from conservator.perception.perception import Blind
from conservator.policies.planning import plannable
from conservator.pool import FunctionModel, LocalPool, Pool, RayPool, host, start_pool
from conservator.session import Apply, Decision, Observation, Policy, Session, Stop, run, run_together
from conservator.tools import Toolbox, make_toolbox

LONGEST, WORKERS, CALLS = 4, 2, 50


class RandomCalls:
    """Draws each call by the rollout's place and step alone, so that every way plays the same."""

    name = "random"

    def act(self, observation: Observation) -> Decision:
        step = len(observation.trajectory.steps)
        if step > LONGEST:
            return Decision(Stop())
        seed = int(1e6 * float(observation.trajectory.steps[0].image.mean()))
        return Decision(
            Apply(observation.tools[int(np.random.default_rng([seed, step]).integers(len(observation.tools)))].name)
        )


def sessions(count: int, toolbox: Toolbox, pool: Pool) -> list[Session]:
    return [Session(crop(number), toolbox, pool, Blind(), LONGEST + 1) for number in range(count)]


def crop(number: int) -> Image:
    clean = to_image(data.astronaut()[:224, number % 200 : number % 200 + 224])
    return degrade(clean, parse_recipe("noise:medium, jpeg:medium", number))


def failed(played: Sequence[Session]) -> int:
    return sum(not session.over for session in played)


def timed(way: str, count: int, toolbox: Toolbox, pool: Pool, together: bool) -> None:
    policy: Policy = RandomCalls()
    for turn in ("loading", "measured"):
        started = sessions(count, toolbox, pool)
        begun = time.monotonic()
        if together:
            run_together(policy, started)
        else:
            for session in started:
                run(policy, session)
        seconds = time.monotonic() - begun
        if turn == "measured":
            print(f"{way}: {count / seconds:.2f} rollouts a second, {failed(started)} lost")


def main(count: int) -> None:
    every = make_toolbox("conservator")
    toolbox = every.only(*(spec.name for spec in plannable(every.specs) if spec.cost == 1 and spec.scale == 1))
    with LocalPool(toolbox, workers=1, max_batch=1) as pool:
        timed("one after the other", count, toolbox, pool, together=False)
    with LocalPool(toolbox, workers=WORKERS, max_batch=1, at_once=WORKERS) as pool:
        timed(f"in process, {WORKERS} threads", count, toolbox, pool, together=True)
    with start_pool("benchmark", PoolSettings(workers=WORKERS, max_batch=1)):
        same = FunctionModel(lambda image: image[0], identity="same")
        with RayPool(host(toolbox, other={"same": same}), "benchmark") as pool:
            timed(f"shared, {WORKERS} workers", count, toolbox, pool, together=True)
            image = crop(0)
            for _ in range(CALLS):
                pool.submit("other:same", image).result()
            begun = time.monotonic()
            for _ in range(CALLS):
                pool.submit("other:same", image).result()
            print(f"the way there and back: {1000 * (time.monotonic() - begun) / CALLS:.1f} ms a call")
            killing = threading.Thread(target=kill_two, args=(pool,))
            killing.start()
            played, lost = 0, 0
            while killing.is_alive():
                started = sessions(count, toolbox, pool)
                run_together(RandomCalls(), started)
                played, lost = played + count, lost + failed(started)
            killing.join()
            print(f"shared, two workers killed meanwhile: {lost} of {played} rollouts lost")
            print({name: n for name, n in pool.state().counts.items() if name in ("killed", "lost", "retried")})


def kill_two(pool: RayPool) -> None:
    """Kill a busy worker, and, once another one has taken its place, a second one."""
    gone = set[int]()
    while len(gone) < 2:
        workers = pool.state().workers
        busy = [worker.pid for worker in workers if worker.busy and worker.pid not in gone]
        if busy and len(workers) == WORKERS:
            os.kill(busy[0], signal.SIGKILL)
            gone.add(busy[0])
        time.sleep(0.05)


if __name__ == "__main__":
    torch.set_num_threads(1)
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 32)

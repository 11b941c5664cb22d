"""What a cluster's worker does in an hour, what a second one adds, and what the way there and back costs a photo.

Prints photos an hour of batches of the same photos, with the default request on one thread that computes: threads of
one process with one photo at a time, one worker of Ray, two workers; the last two in turns, since machines are seldom
quiet. Then milliseconds for each photo where nothing is to be done (policy none), small and of 12 megapixels. Times run
from when half of the photos has ended, when all workers have loaded their models, to the end; what it takes to begin is
told beside them.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from PIL import Image as PillowImage
from skimage import data

from conservator.batch import JOURNAL, FileRestorer, Journal, Task, Threads, find_tasks, run_batch
from conservator.batch.executor import Executor
from conservator.batch.ray import Cluster
from conservator.extras import import_ray
from conservator.request import Request
from conservator.restorer import Progress, Restorer


def timed(photos: Path, executor: Executor, request: Request) -> tuple[float, float]:
    """Seconds until the first photo is begun, and seconds a photo in the second half."""
    output, begun, ended = Path(tempfile.mkdtemp()), list[float](), list[float]()

    def start(task: Task) -> Progress:
        begun.append(time.monotonic())
        return lambda stage: None

    tasks, asked = find_tasks([photos], output).tasks, time.monotonic()
    with Restorer(request, workers=1) as restorer:
        summary = run_batch(
            tasks,
            FileRestorer(restorer),
            Journal(output / JOURNAL),
            executor=executor,
            on_start=start,
            on_end=lambda task, outcome: ended.append(time.monotonic()),
        )
    assert summary.exit_code == 0, [outcome.message for outcome in summary.outcomes]
    shutil.rmtree(output)
    first = len(tasks) // 2
    return begun[0] - asked, (ended[-1] - ended[first]) / (len(tasks) - 1 - first)


def throughput(photos: Path, request: Request, rounds: int) -> None:
    """Photos an hour of each way."""
    ways: Sequence[tuple[str, Executor]] = (
        ("threads, 1 photo at a time", Threads(1)),
        *[("1 worker", Cluster(jobs=1)), ("2 workers", Cluster(jobs=2))] * rounds,
    )
    for name, executor in ways:
        before, seconds = timed(photos, executor, request)
        print(f"{name:28} {3600 / seconds:7.0f} photos an hour, begun after {before:.1f} s", flush=True)


def overhead() -> None:
    """Milliseconds a photo where nothing is done."""
    folder = Path(tempfile.mkdtemp())
    big = np.random.default_rng(0).integers(0, 40, (3000, 4000, 3), np.uint8) + np.uint8(60)
    for name, image, count in (("64x80 pixels", data.astronaut()[:64, :80], 60), ("4000x3000 pixels", big, 8)):
        place = folder / name
        place.mkdir()
        for number in range(count):
            PillowImage.fromarray(image).save(place / f"{number}.jpg", quality=90)
        size = (place / "0.jpg").stat().st_size / 2**20
        for way, executor in (
            ("threads", Threads(1)),
            ("1 worker", Cluster(jobs=1)),
            ("1 worker, shipped", Cluster(jobs=1, ship=True)),
        ):
            _, seconds = timed(place, executor, Request("none", "classical", perception="statistics"))
            print(f"{name}, {size:.2f} MiB: {way:20} {1000 * seconds:7.1f} ms a photo", flush=True)
    shutil.rmtree(folder)


def main() -> None:
    """Measure."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("photos", type=Path, help="folder of photos")
    parser.add_argument("--rounds", type=int, default=2, help="how often one worker and two are measured in turns")
    parser.add_argument("--policy", default=Request.policy)
    parser.add_argument("--toolbox", default=Request.toolbox)
    parser.add_argument("--no-overhead", action="store_true", help="measure only how many photos an hour")
    order = parser.parse_args()
    torch.set_num_threads(1)
    ray = import_ray()
    ray.init(address="local", num_cpus=2, include_dashboard=False, log_to_driver=False, object_store_memory=200 * 2**20)
    if not order.no_overhead:
        overhead()
    throughput(order.photos, Request(order.policy, order.toolbox), order.rounds)
    ray.shutdown()


if __name__ == "__main__":
    main()

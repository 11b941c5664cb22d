"""The HTTP API under load: many jobs from many clients while it is killed, and its overhead beside the command line.

python benchmarks/serve_load.py [--jobs 200] [--clients 16] [--kills 2] [--pairs 40] [--size 128] [--policy rules ...]

Part 1: clients send photos, follow each job to its end, and compare each result with what the command line makes of the
same photo. Meanwhile the process of the API is ended by ``kill -9`` and started again on the same folder. Part 2: one
client sends photos one after the other, each beside the same restoration by this process (as the command line does it:
read, restored, written, documented, with its page), in turns, so that what else the machine does weighs on both alike.
"""

from __future__ import annotations

import argparse
import io
import itertools
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import httpx
import numpy as np
import torch
from PIL import Image as PillowImage
from skimage import data

from conservator.batch import FileRestorer, Job, Task
from conservator.request import Request
from conservator.restorer import Restorer

DISTINCT = 20
"""Photos that differ; the jobs take them in turns."""


def made_photos(size: int) -> list[bytes]:
    """Noisy crops of scikit-image's coffee and astronaut, PNG."""
    photos = []
    for seed in range(DISTINCT):
        rng = np.random.default_rng(seed)
        whole = data.coffee() if seed % 2 else data.astronaut()
        top, left = (int(rng.integers(side - size)) for side in whole.shape[:2])
        noisy = whole[top : top + size, left : left + size] + rng.normal(0, 5 + 2 * seed, (size, size, 3))
        file = io.BytesIO()
        PillowImage.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(file, "PNG")
        photos.append(file.getvalue())
    return photos


@dataclass
class Running:
    """The API in a process that can be killed, always on the same port and folder."""

    folder: Path
    workers: int
    port: int = 0
    most_megabytes: Counter[str] = field(default_factory=Counter)
    process: subprocess.Popen[str] | None = None

    def start(self) -> None:
        program = "from conservator.apps.cli import main; main()"
        options = ["--data", str(self.folder), "--port", str(self.port), "--jobs", str(self.workers)]
        command = [sys.executable, "-c", program, "serve", *options, "--max-queue", "1000"]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        said = self.process.stderr.readline()
        found = re.search(r"127\.0\.0\.1:(\d+)", said)
        assert found, said
        self.port = int(found[1])

    def kill(self) -> None:
        assert self.process is not None
        self.process.kill()
        self.process.wait()

    def measure(self) -> None:
        """Note the most memory that its processes had (VmHWM)."""
        assert self.process is not None
        pid = self.process.pid
        try:
            children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
            for what, number in [("API", pid), *(("worker", int(child)) for child in children)]:
                status = Path(f"/proc/{number}/status").read_text()
                found = re.search(r"VmHWM:\s+(\d+)", status)
                self.most_megabytes[what] = max(self.most_megabytes[what], int(found[1]) // 1024 if found else 0)
        except FileNotFoundError:  # it was killed just now
            return


@dataclass
class Load:
    """Clients with a common list of jobs."""

    running: Running
    photos: list[bytes]
    request: str
    expected: list[bytes]
    numbers: itertools.count[int]
    total: int
    seconds: list[float] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)
    refused: int = 0
    lost: int = 0

    def client(self) -> None:
        with httpx.Client(timeout=60, trust_env=False) as http:
            while (number := next(self.numbers)) < self.total:
                begun = time.perf_counter()
                which = number % len(self.photos)
                answer = self.send(http, "POST", "/v1/restorations", which)
                job = answer.json()
                while job["state"] in ("queued", "working"):
                    time.sleep(0.1)
                    job = self.send(http, "GET", job["links"]["self"]).json()
                result = self.send(http, "GET", job["links"]["result"]).content if job["state"] == "done" else b""
                self.seconds.append(time.perf_counter() - begun)
                if result != self.expected[which]:
                    self.wrong.append(f"job {number}: {job['state']} {job['error']}")

    def send(self, http: httpx.Client, method: str, path: str, which: int | None = None) -> httpx.Response:
        """Send until there is an answer: the API may be down, or its queue full."""
        form: dict[str, object] = {}
        if which is not None:
            form = {"files": {"photo": ("a.png", self.photos[which])}, "data": {"request": self.request}}
        while True:
            try:
                answer = http.request(method, f"http://127.0.0.1:{self.running.port}{path}", **form)  # type: ignore[arg-type]
            except httpx.TransportError:
                self.lost += 1
                time.sleep(0.2)
                continue
            if answer.status_code != 429:
                return answer.raise_for_status()
            self.refused += 1
            time.sleep(float(answer.headers["retry-after"]))


def by_command(files: FileRestorer, folder: Path, photo: bytes, name: str) -> tuple[bytes, float]:
    """A photo restored as the command line does it, and the seconds that took."""
    source = folder / f"{name}.png"
    source.write_bytes(photo)
    task = Task(source, folder / f"{name}_restored.png")
    begun = time.perf_counter()
    done = files(Job(task, overwrite=True), lambda stage: None)
    seconds = time.perf_counter() - begun
    assert done.status in ("restored", "untouched"), done
    return task.target.read_bytes(), seconds


def under_load(load: Load, clients: int, kills: int) -> None:
    threads = [threading.Thread(target=load.client) for _ in range(clients)]
    begun = time.perf_counter()
    for thread in threads:
        thread.start()
    left = [load.total * (kill + 1) // (kills + 1) for kill in range(kills)]
    while any(thread.is_alive() for thread in threads):
        load.running.measure()
        if left and len(load.seconds) >= left[0]:
            left.pop(0)
            load.running.kill()
            load.running.start()
        time.sleep(0.2)
    wall = time.perf_counter() - begun
    print(f"{len(load.seconds)} of {load.total} jobs ended in {wall:.0f} s, {clients} clients, killed {kills} times")
    print(f"results that differ from the command line's, or failed: {len(load.wrong)} {load.wrong[:3]}")
    print(f"requests without an answer (sent again): {load.lost}; refused by a full queue: {load.refused}")
    print(f"from sending to having the result: p50 {quantile(load.seconds, 50)}, p95 {quantile(load.seconds, 95)} s")


def side_by_side(
    running: Running, files: FileRestorer, folder: Path, photos: list[bytes], request: str, pairs: int
) -> None:
    """The API's seconds, from sending a photo to the event that it is done, and the command line's own."""
    ours, theirs, stages = [], [], []
    with httpx.Client(base_url=f"http://127.0.0.1:{running.port}", timeout=60, trust_env=False) as http:
        for number in range(-3, pairs):  # the first warm up
            photo = photos[number % len(photos)]
            _, command = by_command(files, folder, photo, "pair")
            begun = time.perf_counter()
            form = {"files": {"photo": ("a.png", photo)}, "data": {"request": request}}
            job = http.post("/v1/restorations", **form).raise_for_status().json()  # type: ignore[arg-type]
            with http.stream("GET", job["links"]["events"]) as events:
                text = "".join(events.iter_text())
            took = time.perf_counter() - begun
            assert "event: done" in text, text
            if number >= 0:
                times = dict(re.findall(r'event: (working|done)\ndata: {"at": ([\d.]+)', text))
                theirs.append(command)
                ours.append(took)
                stages.append(took - (float(times["done"]) - float(times["working"])))
    more = [api - command for api, command in zip(ours, theirs, strict=True)]
    for what, values in {
        "command line": theirs,
        "API": ours,
        "API less command line": more,
        "not in a worker": stages,
    }.items():
        print(f"{what:>22}: p50 {quantile(values, 50)}, p95 {quantile(values, 95)} s")


def quantile(values: list[float], percent: int) -> str:
    return f"{np.percentile(values, percent):.3f}"


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in {"jobs": 200, "clients": 16, "kills": 2, "pairs": 40, "size": 128, "workers": 1}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    parser.add_argument("--policy", default="rules")
    parser.add_argument("--toolbox", default="classical")
    parser.add_argument("--perception", default="statistics")
    wanted = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    fields = {name: getattr(wanted, name) for name in ("policy", "toolbox", "perception")} | {"risk": 1.0}
    photos = made_photos(wanted.size)
    with tempfile.TemporaryDirectory() as name, Restorer(Request(**fields)) as restorer:
        folder = Path(name)
        files, request = FileRestorer(restorer, report=True), json.dumps(fields)
        expected = [by_command(files, folder, photo, f"photo{number}")[0] for number, photo in enumerate(photos)]
        running = Running(folder / "jobs", wanted.workers)
        running.start()
        try:
            load = Load(running, photos, request, expected, itertools.count(), wanted.jobs)
            under_load(load, wanted.clients, wanted.kills)
            side_by_side(running, files, folder, photos, request, wanted.pairs)
            running.measure()
            print(f"the most memory: {dict(running.most_megabytes)} MB")
        finally:
            running.kill()


if __name__ == "__main__":
    main()

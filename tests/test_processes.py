"""As a library: threads, forked children and spawned ones restore a photo to the same bytes as the parent."""

from __future__ import annotations

import json
import multiprocessing
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from skimage import data

PROGRAM = """
import hashlib, json, multiprocessing, sys, threading, warnings
from concurrent.futures import ThreadPoolExecutor

warnings.simplefilter("ignore")  # Python's own, that forking beside threads is a risk
import torch
torch.set_num_threads(2)  # more than one is what hangs in a child

import conservator

def digest(restored):
    return hashlib.sha256(restored.photo.image.numpy().tobytes()).hexdigest() + " " + ",".join(restored.toolchain)

def by_name(path):
    return digest(conservator.restore_file(path))

def kept(path):
    return digest(RESTORER.restore(RESTORER.load(path)))

if __name__ == "__main__":
    path = sys.argv[1]
    RESTORER = conservator.Restorer()
    found = {"parent": by_name(path), "parent, kept": kept(path)}
    with ThreadPoolExecutor(2) as threads:
        found["threads"], found["threads, too"] = threads.map(kept, [path] * 2)
    busy = threading.Event()
    held = threading.Thread(target=lambda: [kept(path) for _ in range(4)])  # forks happen in the middle of its work
    held.start()
    fork = multiprocessing.get_context("fork")
    with fork.Pool(2) as pool:
        found["fork"] = pool.apply_async(by_name, (path,)).get(timeout=900)
        found["fork, kept"] = pool.apply_async(kept, (path,)).get(timeout=900)
    held.join()
    RESTORER.close()
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        found["spawn"] = pool.apply_async(by_name, (path,)).get(timeout=900)
    torch.set_num_threads(1)
    with conservator.Restorer() as RESTORER:
        found["one thread"] = kept(path)
    print(json.dumps(found))
"""


@pytest.mark.slow
@pytest.mark.skipif("fork" not in multiprocessing.get_all_start_methods(), reason="this system has no fork")
def test_threads_forks_and_spawned_processes_give_the_bytes_of_the_parent(tmp_path: Path) -> None:
    photo = PillowImage.fromarray(data.coffee()).resize((160, 120))
    noise = np.random.default_rng(0).normal(0, 28, (120, 160, 3))
    spoilt = np.clip(np.asarray(photo) + noise, 0, 255).astype(np.uint8)
    PillowImage.fromarray(spoilt).save(tmp_path / "noisy.png")
    (tmp_path / "program.py").write_text(PROGRAM)
    environment = {name: value for name, value in os.environ.items() if not name.endswith("_NUM_THREADS")}
    done = subprocess.run(
        [sys.executable, "program.py", "noisy.png"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        timeout=1500,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-1000:]
    found = json.loads(done.stdout)
    alone = found.pop("one thread")  # on some processors the last bits of a sum depend on how many share it
    assert found["fork"] in (alone, found["parent"]), found  # a child that forks computes on one
    del found["fork"]
    assert found.pop("fork, kept") in (alone, found["parent"]), found
    assert len(set(found.values())) == 1, found
    assert found["parent"].split(" ")[1], "nothing was done to it"

"""What a change costs those who use the program: this checkout beside another one, in turns, as ratios.

python benchmarks/side_by_side.py PATH_TO_ANOTHER_CHECKOUT [--rounds 3] [--photos 40]

Times whole commands: importing the package, ``conservator --help``, restoring one photo, and a folder of photos with
two jobs. Both checkouts run with this environment's packages, in turns, on the same files; the median of the rounds
counts.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from PIL import Image
from skimage import data

MAIN = "from conservator.apps.cli import main; main()"


def write_photos(folder: Path, count: int) -> None:
    """Parts of real photos, 512 pixels a side, a third of them noisy, a third compressed, a third as they are."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    for i in range(count):
        source = (data.astronaut(), data.coffee(), data.chelsea())[i % 3]
        photo = np.asarray(Image.fromarray(source).resize((900, 700)))
        top, left = int(rng.integers(0, 188)), int(rng.integers(0, 388))
        part = photo[top : top + 512, left : left + 512].astype(float)
        if i % 3 == 0:
            part += rng.normal(0, 20, part.shape)
        image = Image.fromarray(part.clip(0, 255).astype(np.uint8))
        image.save(folder / f"{i:02d}.jpg", quality=(95, 25, 97)[i // 3 % 3])


def seconds(checkout: Path, code: str, *arguments: str) -> float:
    """Wall-clock seconds of a fresh process; raises CalledProcessError with its output where it fails."""
    environment = os.environ | {"PYTHONPATH": str(checkout / "src")}
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", code, *arguments], env=environment, check=True, capture_output=True)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("other", type=Path)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--photos", type=int, default=40)
    options = parser.parse_args()
    here = Path(__file__).resolve().parents[1]
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_photos(folder / "in", options.photos)
        tasks = {
            "import conservator": ("import conservator",),
            "conservator --help": (MAIN, "--help"),
            "first photo": (
                MAIN,
                "restore",
                str(folder / "in" / "00.jpg"),
                "--overwrite",
                "-o",
                str(folder / "one.jpg"),
            ),
            f"{options.photos} photos, 2 jobs": (
                *(MAIN, "restore", str(folder / "in"), "--overwrite", "--jobs", "2", "-o", str(folder / "out")),
            ),
        }
        for task, command in tasks.items():
            taken: dict[Path, list[float]] = {here: [], options.other: []}
            for _ in range(options.rounds):
                for checkout, times in taken.items():
                    times.append(seconds(checkout, *command))
            now, before = (median(times) for times in taken.values())
            print(f"{task:24} {now:7.2f} s, before {before:7.2f} s: {now / before:.2f} times", flush=True)


if __name__ == "__main__":
    main()

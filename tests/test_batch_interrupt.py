"""Ctrl-C in a batch, pressed for real: the first is an end in peace, the second an end at once."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from skimage import data
from test_cli import conservator, process

from conservator.batch import JOURNAL, Journal, find_tasks
from conservator.files import sha256
from conservator.record import load_record

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="no process gets a Ctrl-C of its own there"),
]


# Enough that a busy machine, which comes late to the signal, still finds photos not begun.
_PHOTOS = 12


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Photos, of which each takes a second or so."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(_PHOTOS):
        noisy = data.astronaut()[:400, :400] + np.random.default_rng(number).normal(0, 25, (400, 400, 3))
        PillowImage.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg")
    return folder


def arguments(scans: Path, output: Path) -> tuple[object, ...]:
    return "restore", scans, "-o", output, "--policy", "rules", "--toolbox", "classical"


def begin(scans: Path, output: Path, jobs: int) -> subprocess.Popen[str]:
    """A batch in a process of its own, of which the first photo has ended, and ``jobs`` more are in work."""
    journal, command = Journal(output / JOURNAL), process(*arguments(scans, output), "--jobs", jobs)
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert running.stdout is not None
    assert running.stdout.readline()[0] in "✓="
    while sum(event.status == "started" for event in journal.events()) < 1 + jobs:
        time.sleep(0.01)
    return running


def check_tree(scans: Path, output: Path) -> int:
    """Count the results: each whole and with its record, and nothing beside them."""
    tasks = find_tasks([scans], output).tasks
    done = [task for task in tasks if task.target.exists()]
    for task in done:
        assert load_record(task.record).output.sha256 == sha256(task.target)
    expected = {JOURNAL, *(path.name for task in done for path in (task.target, task.record))}
    assert {path.name for path in output.iterdir()} == expected
    return len(done)


def test_the_first_finishes_what_is_in_work_and_resuming_goes_on(scans: Path, tmp_path: Path) -> None:
    output, jobs = tmp_path / "out", 2
    running = begin(scans, output, jobs)
    running.send_signal(signal.SIGINT)
    told, _ = running.communicate(timeout=120)
    assert running.returncode == 130
    assert "finishing 2 photos in work; Ctrl-C again stops at once" in told
    assert "not begun; the same command with --resume goes on" in told
    assert f"results in {output}" in " ".join(told.split())
    assert "Traceback" not in told
    done = check_tree(scans, output)
    assert 1 + jobs <= done < _PHOTOS
    assert {outcome.status for outcome in Journal(output / JOURNAL).read().values()} <= {"restored", "untouched"}
    again = conservator(*arguments(scans, output), "--resume")
    assert again.returncode == 0, again.stdout
    assert f"{done} skipped" in again.stdout
    assert check_tree(scans, output) == _PHOTOS


def test_the_second_stops_at_once_and_leaves_nothing_half_written(scans: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    running = begin(scans, output, 2)
    running.send_signal(signal.SIGINT)
    assert running.stdout is not None
    while "finishing" not in (line := running.stdout.readline()):
        assert line, "the batch ended before it said that it would"
    running.send_signal(signal.SIGINT)
    told, _ = running.communicate(timeout=60)
    assert running.returncode == 130
    assert "photos in" not in told  # no summary: nobody waited for one
    assert "Traceback" not in told
    assert 1 <= check_tree(scans, output) < _PHOTOS

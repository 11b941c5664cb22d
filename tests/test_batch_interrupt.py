"""Ctrl-C in a batch, pressed for real: the first is an end in peace, the second an end at once."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from gated_policy import FIRST, GATE
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


_PHOTOS = 6


@pytest.fixture
def gate(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder at which the policy waits, in processes that a test begins; one photo is let through."""
    folder = tmp_path / "gate"
    folder.mkdir()
    (folder / FIRST).touch()
    monkeypatch.setenv(GATE, str(folder))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(Path(__file__).parent), *sys.path]))
    return folder


@pytest.fixture
def scans(tmp_path: Path) -> Path:
    """Small noisy photos."""
    folder = tmp_path / "scans"
    folder.mkdir()
    for number in range(_PHOTOS):
        noisy = data.astronaut()[:96, :96] + np.random.default_rng(number).normal(0, 25, (96, 96, 3))
        PillowImage.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / f"{number}.jpg")
    return folder


def arguments(scans: Path, output: Path) -> tuple[object, ...]:
    quick = ("--toolbox", "classical", "--perception", "statistics", "--risk", 1)
    return "restore", scans, "-o", output, "--policy", "gated_policy:Gated", *quick


def begin(scans: Path, output: Path, jobs: int) -> subprocess.Popen[str]:
    """A batch in a process of its own, of which the first photo has ended, and ``jobs`` more wait in work."""
    journal, command = Journal(output / JOURNAL), process(*arguments(scans, output), "--jobs", jobs)
    running = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    assert running.stdout is not None
    assert running.stdout.readline()[0] in "✓="
    while sum(event.status == "started" for event in journal.events()) < 1 + jobs:
        time.sleep(0.01)
    return running


def interrupt(running: subprocess.Popen[str]) -> str:
    """Press Ctrl-C; all lines up to the one that says what will be finished."""
    running.send_signal(signal.SIGINT)
    assert running.stdout is not None
    told = ""
    while "finishing" not in told:
        line = running.stdout.readline()
        assert line, f"the batch ended before it said that it would: {told}"
        told += line
    return told


def check_tree(scans: Path, output: Path) -> int:
    """Count the results: each whole and with its record, and nothing beside them."""
    tasks = find_tasks([scans], output).tasks
    done = [task for task in tasks if task.target.exists()]
    for task in done:
        assert load_record(task.record).output.sha256 == sha256(task.target)
    expected = {JOURNAL, *(path.name for task in done for path in (task.target, task.record))}
    assert {path.name for path in output.iterdir()} == expected
    return len(done)


def test_the_first_finishes_what_is_in_work_and_resuming_goes_on(scans: Path, gate: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    running = begin(scans, output, 2)
    told = interrupt(running)
    assert "finishing 2 photos in work; Ctrl-C again stops at once" in told
    (gate / "go").touch()
    told += running.communicate(timeout=600)[0]
    assert running.returncode == 130
    assert "not begun; the same command with --resume goes on" in told
    assert f"results in {output}" in " ".join(told.split())
    assert "Traceback" not in told
    assert check_tree(scans, output) == 3
    assert {outcome.status for outcome in Journal(output / JOURNAL).read().values()} == {"restored"}
    again = conservator(*arguments(scans, output), "--resume")
    assert again.returncode == 0, again.stdout
    assert "3 skipped" in again.stdout
    assert check_tree(scans, output) == _PHOTOS


def test_the_second_stops_at_once_and_leaves_nothing_half_written(scans: Path, gate: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    running = begin(scans, output, 2)
    told = interrupt(running)
    running.send_signal(signal.SIGINT)
    rest, _ = running.communicate(timeout=300)
    assert running.returncode == 130
    assert "photos in" not in rest  # no summary: nobody waited for one
    assert "Traceback" not in told + rest
    assert check_tree(scans, output) == 1

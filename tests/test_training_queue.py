"""The queue of trainings for real, in small: in order, shared by processes, paused, resumed, its courses changed."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from skimage import data
from test_cli import conservator

from conservator.degradations import GaussianNoise
from conservator.errors import ConservatorError
from conservator.training.data.crops import Lesson
from conservator.training.experts import queue
from conservator.training.experts.courses import COURSES, Course


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("clean")
    for name in ("astronaut", "coffee", "chelsea"):
        PillowImage.fromarray(getattr(data, name)()).save(path / f"{name}.png")
    return path


def noisy(rng: np.random.Generator) -> Lesson:
    return Lesson((GaussianNoise(0.1, int(rng.integers(2**32))),))


def noisier(rng: np.random.Generator) -> Lesson:
    return Lesson((GaussianNoise(0.2, int(rng.integers(2**32))),))


@pytest.fixture
def small_courses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base and a second network that starts from it, of four steps each."""
    for name in list(COURSES):
        monkeypatch.delitem(COURSES, name)
    monkeypatch.setitem(COURSES, "base", Course(noisy, steps=4, side=32, batch=2))
    monkeypatch.setitem(COURSES, "second", Course(noisier, "base", 4, side=32, batch=2))


def work(
    photos: Path, into: Path, asked: threading.Event | None = None, report: Callable[[str], None] = lambda line: None
) -> None:
    queue.work(photos, into, changed=False, report=report, asked=asked or threading.Event())


def weights(into: Path, name: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(into / name / "checkpoint.pt", weights_only=True)["mean"]
    return found


@pytest.mark.usefixtures("small_courses")
def test_the_queue_trains_all_in_order_and_then_nothing(folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    work(folder, tmp_path, report=lines.append)
    assert [line.split(":")[0] for line in lines if "dB" in line] == ["base", "second"]
    assert all(queue.finished(tmp_path, name) for name in COURSES)
    written = (tmp_path / "base" / "checkpoint.pt").stat().st_mtime_ns
    work(folder, tmp_path, report=lines.append)
    assert (tmp_path / "base" / "checkpoint.pt").stat().st_mtime_ns == written


@pytest.mark.usefixtures("small_courses")
def test_a_paused_queue_goes_on_to_the_same_weights(folder: Path, tmp_path: Path) -> None:
    class AfterTwo(threading.Event):
        """Asked to end at the third step that asks."""

        calls = 0

        def is_set(self) -> bool:
            self.calls += 1
            return self.calls > 3  # once before the queue begins, twice before a step

    work(folder, tmp_path / "whole")
    work(folder, tmp_path / "paused", AfterTwo())
    assert queue.done(tmp_path / "paused", "base") == 2
    assert not (tmp_path / "paused" / "second").exists()
    work(folder, tmp_path / "paused")
    for name in COURSES:
        whole, paused = (weights(tmp_path / run, name) for run in ("whole", "paused"))
        assert all(torch.allclose(whole[key], paused[key], atol=1e-6) for key in whole)


@pytest.mark.usefixtures("small_courses")
def test_a_course_that_draws_other_damage_goes_on_only_when_told_and_says_so(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    work(folder, tmp_path)
    monkeypatch.setitem(COURSES, "base", Course(noisier, steps=6, side=32, batch=2))
    with pytest.raises(ConservatorError, match="a run with draws"):
        work(folder, tmp_path)
    queue.work(folder, tmp_path, changed=True, report=lambda line: None, asked=threading.Event())
    state = torch.load(tmp_path / "base" / "checkpoint.pt", weights_only=True)
    assert state["progress"]["step"] == 6
    (change,) = state["changes"]
    assert change["step"] == "4"
    assert change["draws"] != state["identity"]["draws"]


@pytest.mark.usefixtures("small_courses")
def test_a_course_that_another_process_trains_is_left_to_it(folder: Path, tmp_path: Path) -> None:
    asked = threading.Event()
    with queue._held(tmp_path / "base" / "lock") as free:
        assert free
        other = threading.Thread(target=work, args=(folder, tmp_path, asked))
        other.start()
        time.sleep(1)
        assert other.is_alive()  # it waits: nothing else can begin before the base is finished
        asked.set()
        other.join()
    assert queue.done(tmp_path, "base") == 0


@pytest.mark.slow
def test_processes_of_the_queue_start_pause_and_tell(folder: Path, tmp_path: Path) -> None:
    asked = ("train", "queue", "start", "--photos", folder, "--output", tmp_path, "--processes", 1)
    started = conservator(*asked)
    assert started.returncode == 0, started.stderr
    until = time.monotonic() + 120
    while "base:" not in (tmp_path / "queue.log").read_text() and time.monotonic() < until:
        time.sleep(0.2)
    (process,) = queue.working(tmp_path)
    group = Path(f"/proc/{process}/autogroup")
    assert not group.exists() or group.read_text().endswith("nice 19\n")
    assert "all run already" in conservator(*asked).stdout
    assert "work" in conservator("train", "queue", "status", "--output", tmp_path).stdout
    assert "paused" in conservator("train", "queue", "pause", "--output", tmp_path).stdout
    assert queue.working(tmp_path) == []
    assert (tmp_path / "base" / "checkpoint.pt").exists()
    assert "nothing runs" in conservator("train", "queue", "pause", "--output", tmp_path).stdout

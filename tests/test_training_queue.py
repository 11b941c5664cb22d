"""The queue of trainings for real, in small: in order, shared by processes, paused, resumed, its courses changed."""

from __future__ import annotations

import inspect
import os
import shutil
import threading
import time
import tomllib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image as PillowImage
from skimage import data
from test_cli import conservator
from typer.testing import CliRunner

from conservator.apps.cli import app as cli
from conservator.apps.cli.train_queue import start_queue
from conservator.degradations import GaussianNoise
from conservator.errors import ConservatorError
from conservator.networks import NETWORKS
from conservator.networks.unet import ResidualUNet
from conservator.tools.rl_restore_own import Architecture
from conservator.training.data.crops import Damage, Lesson, Photos
from conservator.training.experts import queue
from conservator.training.experts.courses import COURSES, Course
from conservator.training.experts.order import Order
from conservator.training.experts.orders import hashes_beside, ship, train
from conservator.training.experts.rl_restore import TOOLBOX_NAMES, RestoreToolsOrder, networks_of, train_tools
from conservator.weights.chain import links


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


def small_course(damage: Damage, start: str | None = None) -> Course:
    return Course(damage, start, 4, side=32, batch=2, network="small")


@pytest.fixture
def small_courses(monkeypatch: pytest.MonkeyPatch) -> None:
    """A base and a second network that starts from it, of four steps each."""
    monkeypatch.setitem(NETWORKS, "small", lambda: ResidualUNet(widths=(8, 8, 8, 8), middle=1))
    for name in list(COURSES):
        monkeypatch.delitem(COURSES, name)
    monkeypatch.setitem(COURSES, "base", small_course(noisy))
    monkeypatch.setitem(COURSES, "second", small_course(noisier, "base"))
    monkeypatch.setattr(queue, "QUEUED_TOOLBOXES", ())


def work(
    photos: Path, into: Path, asked: threading.Event | None = None, report: Callable[[str], None] = lambda line: None
) -> list[str]:
    return queue.work(photos, into, changed=False, report=report, asked=asked or threading.Event())


def weights(into: Path, name: str) -> dict[str, torch.Tensor]:
    found: dict[str, torch.Tensor] = torch.load(into / name / "checkpoint.pt", weights_only=True)["mean"]
    return found


@pytest.mark.usefixtures("small_courses")
def test_the_queue_trains_all_in_order_and_then_nothing(folder: Path, tmp_path: Path) -> None:
    lines: list[str] = []
    work(folder, tmp_path, report=lines.append)
    assert [line.split(":")[0] for line in lines if "dB" in line] == ["base", "second"]
    digest = Photos(folder).digest
    assert all(queue.finished(Order(name, folder, tmp_path), digest) for name in COURSES)
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
    monkeypatch.setitem(COURSES, "base", replace(small_course(noisier), steps=6))
    lines: list[str] = []
    assert work(folder, tmp_path, report=lines.append) == ["base"]
    assert "belongs to a run with draws" in lines[-1]
    failed = queue.work(folder, tmp_path, changed=True, report=lines.append, asked=threading.Event())
    assert failed == ["second"]  # it started from what the base was before
    assert "belongs to a run with weights start" in lines[-1]
    state = torch.load(tmp_path / "base" / "checkpoint.pt", weights_only=True)
    assert state["progress"]["step"] == 6
    (change,) = state["changes"]
    assert change["step"] == "4"
    assert change["draws"] != state["identity"]["draws"]


@pytest.mark.slow
@pytest.mark.usefixtures("small_courses")
def test_toolboxes_are_trained_after_the_courses_and_can_be_paused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def small(architecture: Architecture, photos: Path, into: Path) -> RestoreToolsOrder:
        return RestoreToolsOrder(photos, into / TOOLBOX_NAMES[architecture], architecture, base=3, steps=1, workers=0)

    class InTheBase(threading.Event):
        """Asked to end when the first step of the toolbox is done."""

        def is_set(self) -> bool:
            return (tmp_path / "rl_restore_plain").exists() and next(calls) > 0

    calls = iter(range(1000))
    monkeypatch.setattr(queue, "QUEUED_TOOLBOXES", ("plain",))
    monkeypatch.setattr(queue, "toolbox_order", small)
    work(folder, tmp_path, InTheBase())
    assert queue.done(tmp_path, "second") == 4
    assert not (tmp_path / "rl_restore_plain" / "rl_plain").exists()
    work(folder, tmp_path)
    order = small("plain", folder, tmp_path)
    assert len(networks_of(queue.toolbox_order("paper", folder, tmp_path))) == 14
    wanted = networks_of(order)
    assert {name: queue.done(order.output, name) for name in wanted} == wanted
    lines: list[str] = []
    trained = train_tools(order, lines.append)
    assert trained is not None
    tensors, _ = trained
    assert {key.split(".")[0] for key in tensors} == {"rl_plain"}
    assert not [line for line in lines if line.startswith("step")], "the command finds all trained"


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


@pytest.mark.usefixtures("small_courses")
def test_what_was_trained_on_other_photos_is_not_taken_for_this(folder: Path, tmp_path: Path) -> None:
    work(folder, tmp_path / "out")
    others = shutil.copytree(folder, tmp_path / "others")
    PillowImage.fromarray(data.rocket()).save(others / "rocket.png")
    lines: list[str] = []
    assert work(others, tmp_path / "out", report=lines.append) == ["base", "second"]
    assert "base: " in lines[-2]
    assert "belongs to a run with photos" in lines[-2]
    (tmp_path / "curve" / "base").mkdir(parents=True)
    shutil.copy(tmp_path / "out" / "base" / "curve.csv", tmp_path / "curve" / "base")
    assert not queue.finished(Order("base", folder, tmp_path / "curve"), Photos(folder).digest)


@pytest.mark.usefixtures("small_courses")
def test_a_course_that_fails_stops_no_other(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuses(rng: np.random.Generator) -> Lesson:
        raise ConservatorError("there is no such damage")

    monkeypatch.setitem(COURSES, "base", small_course(refuses))
    monkeypatch.setitem(COURSES, "third", small_course(noisier))
    lines: list[str] = []
    assert work(folder, tmp_path, report=lines.append) == ["base", "second"]
    assert "base: there is no such damage" in lines
    assert queue.finished(Order("third", folder, tmp_path), Photos(folder).digest)
    session = Path("/proc/self/autogroup")  # this process is not the queue's: its session must not stand back
    before = session.read_text() if session.exists() else ""
    own = str(max(0, os.getpriority(os.PRIO_PROCESS, 0)))
    app = CliRunner().invoke(
        cli, ["train", "queue", "work", "--photos", str(folder), "--output", str(tmp_path), "--nice", own]
    )
    assert before == (session.read_text() if session.exists() else "")
    assert isinstance(app.exception, ConservatorError)  # main makes one sentence and exit code 2 of it
    assert "not trained: base, second" in str(app.exception)


@pytest.mark.usefixtures("small_courses")
def test_a_checkpoint_knows_what_it_started_from_by_content(folder: Path, tmp_path: Path) -> None:
    work(folder, tmp_path)
    second, digest = Order("second", folder, tmp_path, device="cpu"), Photos(folder).digest
    state = torch.load(tmp_path / "second" / "checkpoint.pt", weights_only=True)
    assert len(state["identity"]["weights start"]) == 64
    assert "start" not in state["identity"]
    base = torch.load(tmp_path / "base" / "checkpoint.pt", weights_only=True)
    key = next(iter(base["mean"]))
    base["mean"][key] += 0.01
    torch.save(base, tmp_path / "base" / "checkpoint.pt")
    assert not queue.finished(second, digest)
    with pytest.raises(ConservatorError, match="weights start"):
        train(second)
    aside = queue.set_aside(second)
    assert aside is not None
    assert (aside / "checkpoint.pt").exists()
    assert queue.set_aside(second) is None
    assert train(second).steps == 4


@pytest.mark.usefixtures("small_courses")
def test_a_checkpoint_that_tells_its_start_by_name_goes_on_once(folder: Path, tmp_path: Path) -> None:
    work(folder, tmp_path)
    second, path = Order("second", folder, tmp_path, device="cpu"), tmp_path / "second" / "checkpoint.pt"
    state = torch.load(path, weights_only=True)
    sha = state["identity"].pop("weights start")
    older = {**state, "identity": {**state["identity"], "start": "base"}, "changes": []}
    torch.save({**older, "identity": {**older["identity"], "start": "denoise_medium"}}, path)
    with pytest.raises(ConservatorError, match="start denoise_medium, now base"):
        train(second)
    torch.save(older, path)
    assert queue.finished(second, Photos(folder).digest)
    trained = train(replace(second, steps=5))
    state = torch.load(path, weights_only=True)
    assert state["identity"]["weights start"] == sha
    assert state["changes"] == [{"step": "4", "weights start": "not said"}]
    ship(trained, second, tmp_path / "weights")
    listed = tomllib.loads((tmp_path / "weights" / "manifest.toml").read_text())
    assert listed["second"]["made_with"] == {"base.safetensors": f"perhaps {sha}"}
    assert listed["second"]["command"].startswith("conservator train expert second --photos ")
    base = torch.load(tmp_path / "base" / "checkpoint.pt", weights_only=True)
    base["mean"][next(iter(base["mean"]))] += 0.01
    torch.save(base, tmp_path / "base" / "checkpoint.pt")
    with pytest.raises(ConservatorError, match="weights start"):
        train(replace(second, steps=6))


@pytest.mark.usefixtures("small_courses")
def test_an_expert_ships_with_what_it_started_from(folder: Path, tmp_path: Path) -> None:
    into = tmp_path / "weights"
    for name in ("base", "second"):
        order = Order(name, folder, tmp_path, device="cpu")
        ship(train(order), order, into)
    listed = tomllib.loads((into / "manifest.toml").read_text())
    assert "made_with" not in listed["base"]
    assert listed["second"]["made_with"] == {"base.safetensors": listed["base"]["sha256"]}
    facts = hashes_beside(tmp_path, ["base"])
    assert facts == {"base.safetensors": listed["base"]["sha256"]}
    entries = {"second": listed["second"]}
    assert [link.state for link in links(entries, facts)] == ["current"]
    assert [link.state for link in links(entries, {"base.safetensors": "0123"})] == ["stale"]


@pytest.mark.slow
def test_processes_of_the_queue_start_pause_and_tell(folder: Path, tmp_path: Path) -> None:
    # at the default, 19, a machine that is busy with other tests gives it no time to begin
    asked = ("train", "queue", "start", "--photos", folder, "--output", tmp_path, "--processes", 1, "--nice", 2)
    started = conservator(*asked)
    assert started.returncode == 0, started.stderr
    until = time.monotonic() + 600
    while not (said := (tmp_path / "queue.log").read_text()).startswith(tuple(f"{name}:" for name in COURSES)):
        assert time.monotonic() < until, said
        time.sleep(0.2)
    (process,) = queue.working(tmp_path)
    group = Path(f"/proc/{process}/autogroup")
    assert not group.exists() or group.read_text().endswith("nice 2\n")
    assert inspect.signature(start_queue).parameters["nice"].default == 19
    assert "all run already" in conservator(*asked).stdout
    assert "work" in conservator("train", "queue", "status", "--output", tmp_path).stdout
    assert "paused" in conservator("train", "queue", "pause", "--output", tmp_path).stdout
    assert queue.working(tmp_path) == []
    assert (tmp_path / said.partition(":")[0] / "checkpoint.pt").exists()
    assert "nothing runs" in conservator("train", "queue", "pause", "--output", tmp_path).stdout

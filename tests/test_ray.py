"""Batches on a real Ray cluster: the bytes of threads, whoever is killed; what a cluster lacks is no photo's fault."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from gated_policy import FIRST, GATE
from PIL import Image as PillowImage
from ray_policies import Bomb, Denoises, KillsItsMachineOnce, KillsItsWorkerOnce
from skimage import data
from test_cli import conservator, process

from conservator.batch import JOURNAL, FileRestorer, Journal, Outcome, Summary, Task, Threads, find_tasks, run_batch
from conservator.batch.executor import Executor
from conservator.batch.index import save_index
from conservator.batch.ray import Cluster
from conservator.batch.ray_calls import Remote
from conservator.batch.ray_worker import Site, weights_of
from conservator.errors import MissingExtraError, PoolError
from conservator.record import versions
from conservator.request import Request
from conservator.restorer import Progress, Restorer
from conservator.tools import Toolbox

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Ray is not tested there, and nothing can be killed so"),
]

_ONE_CORE = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_log_monitor": False}  # bytes


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster of two machines with one core each, which this process has joined."""
    from conservator.extras import import_ray

    ray = import_ray()
    from ray.cluster_utils import Cluster as Machines

    # a machine that is lost is noticed in three seconds, not in fifteen
    quick = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 0}
    head = {**_ONE_CORE, "include_dashboard": False, "_system_config": quick}
    found = Machines(initialize_head=True, head_node_args=head)
    found.add_node(**_ONE_CORE)
    ray.init(address=found.address, log_to_driver=False)
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Photos of 64x80 pixels in two folders, one with a name that is no ASCII; one cut off, one that is no photo."""
    folder = tmp_path / "album"
    (folder / "sub").mkdir(parents=True)
    for number, name in enumerate(("a.png", "b.jpg", "sub/c.tif", "sub/d é.png", "e.png")):
        noisy = data.astronaut()[:64, :80] + np.random.default_rng(number).normal(0, 25, (64, 80, 3))
        PillowImage.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / name)
    (folder / "cut.jpg").write_bytes((folder / "b.jpg").read_bytes()[:500])
    (folder / "words.png").write_text("no photo")
    return folder


def files(policy: Any = None, **more: Any) -> FileRestorer:
    """What restores: quickly, by a policy that workers find by its name or are sent."""
    request = Request("ray_policies:Denoises", "classical", perception="statistics", risk=1)
    return FileRestorer(Restorer(request, policy=policy), **more)


class Told:
    """What a batch tells of its photos while it runs."""

    def __init__(self) -> None:
        self.stages: dict[Task, list[str]] = {}
        self.most = self.now = 0
        self._lock = threading.Lock()

    def start(self, task: Task) -> Progress:
        """A photo is begun."""
        with self._lock:
            self.now += 1
            self.most = max(self.most, self.now)
            assert task not in self.stages, "begun twice"
            return self.stages.setdefault(task, []).append

    def end(self, task: Task, outcome: Outcome) -> None:
        """A photo has ended."""
        with self._lock:
            self.now -= 1

    def again(self) -> int:
        """How often a photo had to be given to another worker."""
        return sum(stages.count("waiting for another worker") for stages in self.stages.values())


def batch(
    album: Path, output: Path, executor: Executor, restorer: FileRestorer, **more: Any
) -> tuple[Summary, Told, dict[str, object]]:
    """Restore an album; how that ended, what was told, and what lies there."""
    told, journal = Told(), Journal(output / JOURNAL)
    tasks = find_tasks([album], output).tasks
    summary = run_batch(tasks, restorer, journal, executor=executor, on_start=told.start, on_end=told.end, **more)
    if restorer.report:
        save_index(output, journal, summary)
    return summary, told, tree(output)


def tree(folder: Path) -> dict[str, object]:
    """All files by their names: bytes of pictures and pages, records and journal without what they say of time."""
    found: dict[str, object] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        name = path.relative_to(folder).as_posix()
        if path.suffix == ".json":
            found[name] = _timeless(json.loads(path.read_text()), folder)
        elif path.name == JOURNAL:
            lines = [_timeless(json.loads(line), folder) for line in path.read_text().splitlines()]
            found[name] = sorted(lines, key=json.dumps)
        elif not name.endswith(".conservator.html"):  # it shows the record, with its times
            found[name] = path.read_bytes()
        else:
            found[name] = "a page"
    return found


def _timeless(value: Any, folder: Path) -> Any:
    if isinstance(value, dict):
        return {k: _timeless(v, folder) for k, v in value.items() if k not in ("made", "seconds", "stages")}
    if isinstance(value, list):
        return [_timeless(item, folder) for item in value]
    return value.replace(str(folder), "OUT") if isinstance(value, str) else value


def counted(summary: Summary) -> dict[str, int]:
    """How many photos ended how."""
    statuses = [outcome.status for outcome in summary.outcomes]
    return {status: statuses.count(status) for status in statuses}


@pytest.mark.parametrize("ship", [False, True])
def test_the_tree_is_that_of_threads(machines: Any, album: Path, tmp_path: Path, ship: bool) -> None:
    restorer = files(report=True)
    there, told, made = batch(album, tmp_path / "ray" / "out", Cluster(ship=ship), restorer)
    here, _, expected = batch(album, tmp_path / "threads" / "out", Threads(2), restorer)
    assert counted(there) == counted(here) == {"restored": 5, "failed": 2}
    assert made == expected
    assert "index.html" in made
    assert there.exit_code == 1
    assert told.most <= 2  # a photo waits here, not in the cluster
    assert [o.target for o in there.outcomes] == [
        str(t.target) for t in find_tasks([album], tmp_path / "ray/out").tasks
    ]
    times = [
        (path.stat().st_mtime_ns, (album / path.name).stat().st_mtime_ns)
        for path in (tmp_path / "ray/out").glob("?.png")
    ]
    assert len(times) == 2
    assert all(result == photo for result, photo in times)


def test_a_stopped_batch_goes_on(machines: Any, album: Path, tmp_path: Path) -> None:
    restorer, output, ended = files(), tmp_path / "ray" / "out", threading.Event()
    tasks = find_tasks([album], output).tasks
    first = run_batch(
        tasks,
        restorer,
        Journal(output / JOURNAL),
        executor=Cluster(),
        on_end=lambda task, outcome: ended.set(),
        stopped=ended.is_set,
    )
    assert 1 <= len(first.outcomes) <= 2  # one for each worker
    assert first.left == len(tasks) - len(first.outcomes)
    done = sum(outcome.status == "restored" for outcome in first.outcomes)
    second, _, made = batch(album, output, Cluster(), restorer, resume=True)
    assert second.count("skipped") == done
    assert second.count("restored") == 5 - done
    _, _, expected = batch(album, tmp_path / "threads" / "out", Threads(2), restorer)
    del made[JOURNAL], expected[JOURNAL]
    assert made == expected
    third, _, _ = batch(album, output, Cluster(jobs=1), restorer, resume=True)
    assert third.count("skipped") == 5


def test_a_worker_that_is_killed_costs_nothing(machines: Any, album: Path, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    restorer = files(KillsItsWorkerOnce(marker))
    marker.touch()
    there, told, made = batch(album, tmp_path / "ray" / "out", Cluster(), restorer)
    assert not marker.exists()
    assert told.again() == 1
    assert counted(there) == {"restored": 5, "failed": 2}
    _, _, expected = batch(album, tmp_path / "threads" / "out", Threads(2), restorer)
    assert made == expected


def test_a_photo_that_kills_its_worker_twice_is_a_failed_line(machines: Any, album: Path, tmp_path: Path) -> None:
    red = np.zeros((64, 80, 3), np.uint8)
    red[..., 0] = 255
    PillowImage.fromarray(red).save(album / "poison.png")
    log, output = tmp_path / "log", tmp_path / "out"
    restorer = FileRestorer(
        Restorer(Request("none", perception="statistics"), toolbox=Toolbox(Bomb(log))), tools=("bomb",)
    )
    summary, told, made = batch(album, output, Cluster(jobs=1), restorer)
    assert counted(summary) == {"restored": 5, "failed": 3}
    (failed,) = (outcome for outcome in summary.outcomes if outcome.source.endswith("poison.png"))
    assert "its worker was killed twice" in failed.message
    assert len(set(log.read_text().split())) == 2
    assert told.again() == 1
    assert "poison.png" not in made
    assert Journal(output / JOURNAL).read()[failed.source, failed.target] == failed
    assert not list(output.rglob(".*"))


def test_a_machine_that_is_lost_costs_nothing(machines: Any, album: Path, tmp_path: Path) -> None:
    lost = machines.add_node(**_ONE_CORE)
    marker = tmp_path / "marker"
    restorer = files(KillsItsMachineOnce(marker, lost.node_id))
    marker.touch()
    there, told, made = batch(album, tmp_path / "ray" / "out", Cluster(), restorer)
    machines.remove_node(lost, allow_graceful=False)
    assert not marker.exists()
    assert told.again() == 1
    assert counted(there) == {"restored": 5, "failed": 2}
    _, _, expected = batch(
        album, tmp_path / "threads" / "out", Threads(2), files(replace(restorer.restorer.policy, node=""))
    )
    assert made == expected


def test_a_disk_that_is_not_shared_is_no_photos_fault(machines: Any, album: Path, tmp_path: Path) -> None:
    if not Path("/proc/self/fd").is_dir():
        pytest.skip("needs paths that mean something in one process alone, as Linux has them")
    handle, output = os.open(album, os.O_RDONLY), tmp_path / "out"
    try:
        own = Path(f"/proc/self/fd/{handle}")  # other processes see something else there, or nothing
        tasks = [Task(own / name, output / name) for name in ("a.png", "e.png")]
        journal = Journal(output / JOURNAL)
        with pytest.raises(PoolError, match="give --ship"):
            run_batch(tasks, files(), journal, executor=Cluster(jobs=1))
        assert {outcome.status for outcome in journal.read().values()} == {"started"}
        assert (
            run_batch(tasks, files(), journal, executor=Cluster(ship=True, jobs=1), resume=True).count("restored") == 2
        )
    finally:
        os.close(handle)


def test_machines_that_would_make_other_results_are_refused(machines: Any) -> None:
    import ray

    mine = files()
    alike = Site("n", "mill", versions(), weights_of(mine.restorer.toolbox))
    for site, why in (
        (replace(alike, versions={**alike.versions, "torch": "1.0"}), "versions on mill are others.*torch 1.0 there"),
        (replace(alike, tools={}), "tools or weights on mill are others"),
    ):
        with pytest.raises(PoolError, match=why):
            Remote(ray, None, ray.put(site)).check(mine)
    Remote(ray, None, ray.put(alike)).check(mine)


def test_a_cluster_without_room_is_told_at_once(machines: Any, album: Path, tmp_path: Path) -> None:
    restorer = FileRestorer(Restorer(Request(device="cuda"), here=False))
    begun = time.monotonic()
    with pytest.raises(PoolError, match="no room for a worker: its machines have 2 cores and 0 GPUs"):
        run_batch(
            find_tasks([album], tmp_path / "out").tasks,
            restorer,
            Journal(tmp_path / "out" / JOURNAL),
            executor=Cluster(),
        )
    assert time.monotonic() - begun < Cluster().patience / 2


def test_a_cluster_that_is_joined_is_left_running(machines: Any, album: Path, tmp_path: Path) -> None:
    with _command(album, tmp_path / "out", f"ray:{machines.address}", "--jobs", 1) as running:
        told = running.communicate(timeout=600)[0]
    assert "7 photos in" in told
    assert "5 restored, 2 failed" in told
    assert all(line[:1] in "✗✓ 7fr/" for line in told.splitlines()), told  # and nothing that Ray would say
    assert _answers(machines)


def _answers(machines: Any) -> bool:
    import ray

    return bool(ray.cluster_resources().get("CPU"))


@contextmanager
def _command(
    album: Path, output: Path, engine: str, *more: object, policy: str = "ray_policies:Denoises", **env: str
) -> Iterator[subprocess.Popen[str]]:
    """The command in a process of its own, as a terminal starts it: with a group of processes that get its Ctrl-C."""
    arguments = (
        "--policy",
        policy,
        "--toolbox",
        "classical",
        "--perception",
        "statistics",
        "--risk",
        "1",
        *more,
    )
    running = subprocess.Popen(
        process("restore", album, "-o", output, "--engine", engine, *arguments),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | env,
        process_group=0,
    )
    try:
        yield running
    finally:
        running.kill()


def test_ctrl_c_ends_a_cluster_that_was_started_here(tmp_path: Path) -> None:
    album, output = tmp_path / "album", tmp_path / "out"
    album.mkdir()
    gate = tmp_path / "gate"
    gate.mkdir()
    (gate / FIRST).touch()
    for number in range(6):
        noisy = data.astronaut()[:64, :80] + np.random.default_rng(number).normal(0, 25, (64, 80, 3))
        PillowImage.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(album / f"{number}.png")
    here = {"RAY_ADDRESS": "local", GATE: str(gate)}  # whatever else runs
    with _command(album, output, "ray", "--jobs", 2, policy="gated_policy:Gated", **here) as running:
        assert running.stdout is not None
        first = running.stdout.readline()
        assert first[0] in "✓=", first
        begun = _children(running.pid)
        assert any("raylet" in name for name in begun.values())
        os.killpg(running.pid, signal.SIGINT)
        told = ""
        while "in work; Ctrl-C again stops at once" not in told:
            line = running.stdout.readline()
            assert line, f"it ended before it said that it would: {told}"
            told += line
        (gate / "go").touch()
        told += running.communicate(timeout=600)[0]
    assert running.returncode == 130
    in_work = int(told.partition("finishing ")[2].split()[0])
    assert len(list(output.glob("*.png"))) == 1 + in_work
    assert "not begun; the same command with --resume goes on" in told
    assert "failed" not in told
    assert "Traceback" not in told
    assert not list(output.glob(".*"))
    _gone(begun)


def _children(pid: int) -> dict[int, str]:
    """All processes below one, and what they run."""
    import psutil

    return {child.pid: " ".join(child.cmdline()) for child in psutil.Process(pid).children(recursive=True)}


def _gone(begun: dict[int, str]) -> None:
    limit = time.monotonic() + 300
    while left := [name for pid, name in begun.items() if _name(pid) == name]:
        assert time.monotonic() < limit, f"still running: {left}"
        time.sleep(0.1)


def _name(pid: int) -> str:
    import psutil

    try:
        return " ".join(psutil.Process(pid).cmdline())
    except psutil.NoSuchProcess:
        return ""


@pytest.mark.parametrize(
    ("options", "why"),
    [
        (["--engine", "rays"], "expected threads, ray, or ray:HOST:PORT"),
        (["--engine", "ray:"], "expected threads, ray, or ray:HOST:PORT"),
        (["--ship"], "give --engine ray"),
        (["--engine", "ray", "--dry-run"], "leave out --engine"),
        (["--engine", "ray", "--gpu-share", "2"], "expected more than 0 and 1 at most"),
    ],
)
def test_what_makes_no_sense_is_refused(album: Path, options: Sequence[str], why: str) -> None:
    result = conservator("restore", album, "-o", album.parent / "out", "--policy", "none", *options)
    assert result.returncode == 2
    assert why in result.stderr


def test_without_ray_one_is_told_how_to_get_it(album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)  # Python's own way to make an import fail
    tasks, journal = find_tasks([album], tmp_path / "out").tasks, Journal(tmp_path / "out" / JOURNAL)
    with pytest.raises(MissingExtraError, match=r"conservator\[ray\]"):
        run_batch(tasks, files(Denoises()), journal, executor=Cluster())


def test_ray_is_imported_only_when_a_batch_asks_for_it() -> None:
    code = "import sys, conservator.batch.ray, conservator.batch.ray_worker; sys.exit('ray' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0

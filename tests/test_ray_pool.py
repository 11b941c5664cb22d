"""A pool on a real Ray cluster of two machines, started by the command: its contract, and whatever dies in its work."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from pool_models import Doubles, Gated, KillsItsMachine, KillsItsWorker, Large
from skimage import data
from test_cli import process
from test_environment import Noticing
from torch import Tensor
from typer.testing import CliRunner

from conservator.apps.cli import app
from conservator.degradations import degrade, parse_recipe
from conservator.errors import ConservatorError, PoolError, ToolFailedError
from conservator.image import to_image
from conservator.pool import FunctionModel, Model, RayPool, check_pool, tell
from conservator.pool.ray_worker import held_bytes
from conservator.pool.telling import numbers_of
from conservator.pool.wire import from_wire, to_wire
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.session import Apply, Decision, Session
from conservator.tools import make_toolbox
from conservator.training.planner.exploring import rollout_pool
from conservator.training.rl.rollouts import RolloutReward

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform == "win32", reason="Ray is not tested there, and nothing can be killed so"),
]

_SMALL = {"num_cpus": 1, "object_store_memory": 100 * 2**20, "include_log_monitor": False}  # a machine of one core
_OPEN = 12  # calls that a process may have open
X = torch.full((1, 2), 7.0)


@pytest.fixture(scope="module")
def machines() -> Iterator[Any]:
    """A cluster of two machines with one core each, which this process has joined."""
    from conservator.extras import import_ray

    ray = import_ray()
    from ray.cluster_utils import Cluster as Machines

    # a machine that is lost is noticed in three seconds, not in fifteen
    quick = {"health_check_period_ms": 1000, "health_check_failure_threshold": 3, "health_check_initial_delay_ms": 0}
    head = {"include_dashboard": False, "_system_config": quick}
    found = Machines(initialize_head=True, head_node_args={**_SMALL, **head})
    found.other = found.add_node(**_SMALL)
    ray.init(address=found.address, log_to_driver=False)
    yield found
    ray.shutdown()
    found.shutdown()


@pytest.fixture(scope="module")
def started(machines: Any) -> Iterator[subprocess.Popen[str]]:
    """The command that started the pool "lab": a worker on each machine, which hold 20 MiB of models."""
    options = ("--workers", 2, "--memory", 20 / 1024, "--max-batch", 4, "--queue-size", _OPEN)
    running = subprocess.Popen(
        process("pool", "start", f"lab@{machines.address}", *options),
        stdout=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
    )
    assert running.stdout is not None
    assert "the pool lab is ready" in running.stdout.readline()
    yield running
    running.kill()
    running.wait()


@pytest.fixture
def joined(started: object) -> Iterator[Any]:
    """Joins the pool with models, and leaves it in the end."""
    pools: list[RayPool] = []

    def join(deadline: float = 600, **models: Model) -> RayPool:
        pools.append(RayPool(models, "lab", deadline))
        return pools[-1]

    yield join
    for pool in pools:
        pool.close()


def counted(pool: RayPool, before: Mapping[str, int] | None = None) -> dict[str, int]:
    """What the pool has counted, since ``before``."""
    return {name: count - (before or {}).get(name, 0) for name, count in pool.state().counts.items()}


def await_calls(pool: RayPool, running: int, waiting: int) -> None:
    """Wait until so many calls run and wait; a busy machine takes its time to pass them on."""
    limit = time.monotonic() + 300  # a worker that takes a killed one's place begins when a call waits for it
    state = pool.state()
    while (state.running, state.waiting) != (running, waiting) and time.monotonic() < limit:
        time.sleep(0.1)
        state = pool.state()
    assert (state.running, state.waiting) == (running, waiting)


def hold_workers(pool: RayPool) -> list[Any]:
    """Calls that keep both workers until their gate opens; what is submitted later cannot overtake them."""
    calls = [pool.submit("gated", torch.zeros(1, n)) for n in (1, 2)]  # of other shapes, so they are two batches
    await_calls(pool, running=2, waiting=0)
    return calls


def have_both_workers(pool: RayPool, gate: Path) -> None:
    """Wait until both workers live; the pool is ready with the first."""
    try:
        calls = hold_workers(pool)
    finally:
        gate.touch()
    assert [call.exception() for call in calls] == [None, None]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.bool, torch.int64, torch.complex64])
def test_tensors_travel_as_they_are(dtype: torch.dtype) -> None:
    for shape in ((2, 3, 4), (0, 3), ()):
        tensor = torch.randn(shape).to(dtype)
        sent = from_wire(to_wire(tensor.T if tensor.ndim == 2 else tensor))
        assert sent.dtype == dtype
        assert torch.equal(sent, tensor.T if tensor.ndim == 2 else tensor)


def test_the_bytes_of_a_model_are_counted_once_and_however_deep() -> None:
    weights = torch.zeros(1000)

    class Deep:
        def __init__(self) -> None:
            self.net = torch.nn.Sequential(torch.nn.Linear(10, 20), torch.nn.BatchNorm1d(20))
            self.parts = {"a": [weights, weights[10:]], "f": lambda: weights}

    deep = Deep()
    net = sum(t.nbytes for t in deep.net.state_dict().values())
    assert held_bytes(deep) == 4000 + net
    assert held_bytes(deep.parts["f"]) == 4000


def test_the_contract_of_pools_is_kept(joined: Any) -> None:
    check_pool(lambda models: RayPool(models, "lab"))
    assert not counted(joined()).keys() & {"lost", "killed"}  # calls that are cancelled cost no worker


def test_a_call_that_is_cancelled_waits_no_more(joined: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pool = joined(gated=Gated(gate), doubles=Doubles())
    before = counted(pool)
    try:
        gates = hold_workers(pool)
        call = pool.submit("doubles", X)
        await_calls(pool, running=2, waiting=1)
        assert call.cancel()
        await_calls(pool, running=2, waiting=0)
    finally:
        gate.touch()
    assert [one.exception() for one in gates] == [None, None]
    found = counted(pool, before)
    assert (found["cancelled"], found["results"]) == (1, 2)


def test_waiting_calls_run_as_batches_and_a_full_queue_lets_wait(joined: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pool = joined(gated=Gated(gate), doubles=Doubles())
    before = counted(pool)
    late: list[Any] = []
    asking = threading.Thread(target=lambda: late.append(pool.submit("doubles", X)))
    try:
        hold_workers(pool)
        calls = [pool.submit("doubles", X + n) for n in range(_OPEN - 2)]
        asking.start()
        await_calls(pool, running=2, waiting=_OPEN - 2)
        assert asking.is_alive()
        assert not late
    finally:
        gate.touch()  # or the workers would wait in all tests that follow
    asking.join()
    assert [float(call.result()[0, 0]) for call in calls] == [2 * (7 + n) for n in range(_OPEN - 2)]
    assert torch.equal(late[0].result(), 2 * X)
    found = counted(pool, before)
    assert found["calls"] == found["results"] == _OPEN + 1
    assert found["batches"] <= 2 + 4  # ten calls in batches of four, and the one that came late


def test_models_that_were_used_least_recently_go(joined: Any, tmp_path: Path) -> None:
    gate = tmp_path / "gate"
    pool = joined(gated=Gated(gate), **{f"m{n}": Large(n) for n in (7, 8, 9, 13)})
    have_both_workers(pool, gate)
    before = counted(pool)
    for name in ("m7", "m8", "m9", "m13", "m7", "m9", "m13"):
        assert torch.equal(pool.submit(name, X).result(), 2 * X)
    held = [{key.split(" ")[0]: size for key, size in worker.held.items() if size} for worker in pool.state().workers]
    assert sorted(held, key=len) == [{"m13": 13 * 2**20}, {"m7": 7 * 2**20, "m9": 9 * 2**20}]
    found = counted(pool, before)
    # each went to the worker with most memory left, m13 in the place of m8; after that calls go where their model is
    assert found["loads"] == 4
    assert found["evictions"] >= 1  # what earlier tests called goes first


def test_what_a_model_tells_is_heard(joined: Any) -> None:
    def telling(x: Tensor) -> Tensor:
        tell(steps=3.0)
        return x[0]

    call = joined(telling=FunctionModel(telling)).submit("telling", X)
    call.result()
    assert numbers_of(call) == {"steps": 3.0}


def test_a_worker_that_is_killed_costs_nothing(joined: Any, tmp_path: Path) -> None:
    marker = tmp_path / "marker"
    pool = joined(kills=KillsItsWorker(tmp_path / "log", marker))
    marker.touch()
    before = counted(pool)
    assert torch.equal(pool.submit("kills", torch.ones(1, 2)).result(), torch.full((1, 2), 2.0))
    assert not marker.exists()
    found = counted(pool, before)
    assert (found["killed"], found["retried"], found["results"]) == (1, 1, 1)


def test_an_input_that_kills_two_workers_is_the_models_failure_and_no_neighbours(joined: Any, tmp_path: Path) -> None:
    log, gate = tmp_path / "log", tmp_path / "gate"
    pool = joined(kills=KillsItsWorker(log), gated=Gated(gate))
    try:
        gates = hold_workers(pool)
        calls = [pool.submit("kills", torch.full((1, 2), float(n))) for n in (0, 1, 2)]
        await_calls(pool, running=2, waiting=3)  # so that they are one batch
    finally:
        gate.touch()
    assert [call.exception() for call in gates] == [None, None]
    with pytest.raises(ToolFailedError, match="kills killed its worker twice"):
        calls[1].result()
    assert torch.equal(calls[0].result(), torch.zeros(1, 2))
    assert torch.equal(calls[2].result(), torch.full((1, 2), 4.0))
    killed = [line.split() for line in log.read_text().splitlines()]
    assert len({pid for pid, _ in killed}) == 3
    assert [size for _, size in killed] == ["3", "1", "1"]  # in company first, then alone


def test_a_deadline_ends_a_call_wherever_it_is_and_a_worker_that_hangs(joined: Any, tmp_path: Path) -> None:
    gate, never = tmp_path / "gate", tmp_path / "never"
    have_both_workers(joined(gated=Gated(gate)), gate)
    pool = joined(deadline=5, gated=Gated(never))
    calls = [pool.submit("gated", torch.zeros(1, n)) for n in (1, 2, 3)]
    words = [str(call.exception()) for call in calls]
    assert [one.partition(":")[0] for one in words] == ["gated gave no answer within 5 s"] * 3
    assert all(isinstance(call.exception(), PoolError) for call in calls)
    assert sorted("it still waited" in one for one in words) == [False, False, True]
    patient = joined(doubles=Doubles())
    assert torch.equal(patient.submit("doubles", X).result(), 2 * X)


def test_a_second_process_uses_the_same_models(joined: Any, machines: Any) -> None:
    pool = joined(doubles=Doubles())
    assert torch.equal(pool.submit("doubles", X).result(), 2 * X)
    before = counted(pool)
    script = (
        "import sys, torch\n"
        "from pool_models import Doubles\n"
        "from conservator.pool import RayPool\n"
        "with RayPool({'doubles': Doubles()}, sys.argv[1]) as pool:\n"
        "    print(pool.submit('doubles', torch.tensor([[21.0]])).result().item())\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", script, f"lab@{machines.address}"],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parent,
        env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        timeout=300,
    )
    assert done.stdout == "42.0\n", done.stderr
    found = counted(pool, before)
    assert (found["results"], found["loads"]) == (1, 0)


def test_rollouts_and_what_they_are_paid_share_the_pool(started: object) -> None:
    clean = to_image(data.coffee()[100:164, 200:264])
    toolbox = make_toolbox("classical").only("tv_denoise", "gamma_brighten")
    restorer = Restorer(Request("none", "classical"), toolbox=toolbox, perception=Noticing())
    metrics, found = ("psnr", "ssim"), []
    for name in (None, "lab"):
        with rollout_pool(name, restorer, metrics) as (pool, computing):
            session = Session(degrade(clean, parse_recipe("noise:high", 1)), toolbox, pool, Noticing())
            for tool in toolbox:
                session.step(Decision(Apply(tool)))
            reward = RolloutReward(metrics, "ssim", toolbox, computing)
            found.append((session.trajectory.last.image, reward(session.trajectory, clean)))
    (here, paid), (there, paid_there) = found
    assert torch.equal(here, there)
    assert paid is not None
    assert paid == paid_there


def test_mistakes_are_told(started: object) -> None:
    with pytest.raises(PoolError, match=r"there is no pool labb.*conservator pool start labb"):
        RayPool({}, "labb")
    lock = threading.Lock()
    with pytest.raises(ConservatorError, match="locked cannot be sent to another process"):
        RayPool({"locked": FunctionModel(lambda x: float(lock.locked()))}, "lab")


def test_a_machine_that_is_lost_costs_nothing(joined: Any, machines: Any, tmp_path: Path) -> None:
    marker, gate = tmp_path / "marker", tmp_path / "gate"
    marker.touch()
    pool = joined(kills=KillsItsMachine(marker, machines.other.node_id), gated=Gated(gate))
    have_both_workers(pool, gate)
    machines.add_node(**_SMALL)  # for the worker that takes the place of the lost one
    before = counted(pool)
    calls = [pool.submit("kills", torch.zeros(1, n)) for n in (1, 2, 3, 4)]
    assert [call.result().shape[1] for call in calls] == [1, 2, 3, 4]
    machines.remove_node(machines.other, allow_graceful=False)
    assert not marker.exists()
    found = counted(pool, before)
    assert (found["lost"], found.get("killed", 0), found["results"]) == (1, 0, 4)


def test_a_pool_that_is_stopped_finishes_its_calls(
    joined: Any, started: subprocess.Popen[str], machines: Any, tmp_path: Path
) -> None:
    gate, runner, lab = tmp_path / "gate", CliRunner(), f"lab@{machines.address}"
    pool = joined(gated=Gated(gate))
    calls = [pool.submit("gated", torch.ones(1, n)) for n in (1, 2, 3)]
    while (state := pool.state()).running + state.waiting < len(calls):
        time.sleep(0.1)
    told = runner.invoke(app, ["pool", "status", lab]).output
    assert "busy: models" in told
    assert "calls run" in told
    ends: list[Any] = []
    stopping = threading.Thread(target=lambda: ends.append(runner.invoke(app, ["pool", "stop", lab])))
    stopping.start()
    gate.touch()
    stopping.join()
    assert ends[0].output == f"the pool {lab} was stopped\n"
    assert [float(call.result().sum()) for call in calls] == [2, 4, 6]
    assert started.wait(300) == 0
    with pytest.raises(PoolError, match="gated got no answer from the pool"):
        pool.submit("gated", X).result()

"""Batches in processes of their own that are killed, for real, at a chosen moment of what they do to the disk."""

from __future__ import annotations

import multiprocessing
import os
import signal
import sys
from collections.abc import Sequence
from functools import cache
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest
import torch

from conservator import Apply, Decision, Observation, Stop
from conservator.batch import JOURNAL, FileRestorer, Journal, find_tasks, run_batch
from conservator.perception import StatisticalPerception
from conservator.request import Request
from conservator.restorer import Restorer

_CHANGES = ("open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.link")
"""Events that Python tells before it does what may change a disk."""
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT

StatisticalPerception.load().grade(torch.rand(1, 3, 64, 64))  # what children inherit, they need not load


class Denoises:
    """A policy that is quick: one tool, whatever is seen."""

    name = "denoises"

    def act(self, observation: Observation) -> Decision:
        """Apply it once."""
        return Decision(Stop() if observation.trajectory.toolchain() else Apply("tv_denoise"))


@cache
def files(policy: str, **wanted: Any) -> FileRestorer:
    """One for each request: it keeps its models."""
    request = Request(policy, "classical", risk=1, **wanted)
    return FileRestorer(Restorer(request, perception=StatisticalPerception.load()))


def _batch(at: int, paths: Sequence[Path], output: Path, policy: str, wanted: dict[str, Any], flags: Any) -> None:
    seen = 0

    def kill(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        reading = event == "open" and not int(str(arguments[2])) & _WRITING
        if event in _CHANGES and not reading and str(output) in str(arguments[0]):
            seen += 1
            if seen == at:
                os.kill(os.getpid(), signal.SIGKILL)

    restorer = files(policy, **wanted)
    found = find_tasks(paths, output)
    sys.addaudithook(kill)
    run_batch(found.tasks, restorer, Journal(found.folder / JOURNAL), **flags)


@cache
def _server() -> multiprocessing.context.ForkServerContext:
    """A server that has loaded this module, and no threads, which do not live through a fork."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["killing"])
    with pytest.MonkeyPatch.context() as patched:
        patched.setenv("PYTHONPATH", str(Path(__file__).parent), prepend=os.pathsep)  # 3.11 tells it no other way
        forkserver.ensure_running()
    return context


def killed(at: int, paths: Sequence[Path], output: Path, policy: str, wanted: dict[str, Any], **flags: bool) -> bool:
    """Run a batch that dies before its ``at``-th change below ``output``; False where it ended before that."""
    context = _server()
    process = context.Process(target=_batch, args=(at, paths, output, policy, wanted, flags))
    process.start()
    process.join(timeout=200)
    assert process.exitcode in (0, -signal.SIGKILL), process.exitcode
    return process.exitcode != 0

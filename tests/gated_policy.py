"""A policy that waits for a test: it says when it has begun to decide, and goes on when it is told to."""

from __future__ import annotations

import os
import time
from pathlib import Path

from conservator import Apply, Decision, Observation, Stop

GATE = "GATE_OF_A_TEST"
"""The environment variable of the folder where it writes ``deciding``, and waits for ``go``."""
FIRST = "first"
"""A file in that folder that lets one photo through, which takes it away."""


class Gated:
    """One tool, whatever is seen, and not before the gate is open."""

    name = "gated"

    def act(self, observation: Observation) -> Decision:
        """Wait, apply the tool, stop."""
        gate = Path(os.environ[GATE])
        if observation.trajectory.toolchain():
            return Decision(Stop())
        (gate / "deciding").touch()
        deadline = time.monotonic() + 600  # seconds; a test that forgot to open the gate
        while not (gate / "go").exists() and not taken(gate / FIRST) and time.monotonic() < deadline:
            time.sleep(0.01)
        return Decision(Apply("tv_denoise"))


def wait_for(happened: Path, seconds: float = 300) -> None:
    """Wait until a file is there."""
    deadline = time.monotonic() + seconds
    while not happened.exists():
        assert time.monotonic() < deadline, f"{happened} never came"
        time.sleep(0.01)


def taken(marker: Path) -> bool:
    """Whether this process is the one that takes the file away."""
    try:
        marker.unlink()
    except FileNotFoundError:
        return False
    return True

"""What decides and treats in the workers of a cluster while tests kill them: they import it by name."""

from __future__ import annotations

import os
import signal
import time
from dataclasses import dataclass
from pathlib import Path

from gated_policy import taken

from conservator import Apply, Decision, Observation, Stop
from conservator.image import Image
from conservator.kinds import Kind
from conservator.tools import Tool, ToolSpec


class Denoises:
    """One tool, whatever is seen: quick."""

    name = "denoises"

    def act(self, observation: Observation) -> Decision:
        """Apply it once."""
        return Decision(Stop() if observation.trajectory.toolchain() else Apply("tv_denoise"))


def kill_machine_once(marker: Path, node: str, patience: float) -> None:
    """On the machine ``node`` of a Ray cluster kill the raylet, if the marker is there; elsewhere wait for that.

    Who waits goes on after ``patience`` seconds.
    """
    import psutil
    import ray

    if ray.get_runtime_context().get_node_id() == node and taken(marker):
        parent = psutil.Process().parent()
        assert parent is not None
        assert "raylet" in parent.name()
        parent.kill()
        time.sleep(60)  # it dies before that
    limit = time.monotonic() + patience
    while marker.exists() and time.monotonic() < limit:
        time.sleep(0.05)


@dataclass(frozen=True)
class KillsItsWorkerOnce(Denoises):
    """Denoises; but who finds the file ``marker`` takes it away, and its process dies in the midst of the photo."""

    marker: Path

    def act(self, observation: Observation) -> Decision:
        """Die, or denoise."""
        if taken(self.marker):
            os.kill(os.getpid(), signal.SIGKILL)
        return super().act(observation)


@dataclass(frozen=True)
class KillsItsMachineOnce(Denoises):
    """Denoises; but on the machine ``node`` it kills Ray's process of that machine, which takes all workers along.

    Elsewhere it waits until that has happened, so that there is a photo in work there.
    """

    marker: Path
    node: str

    def act(self, observation: Observation) -> Decision:
        """Kill, or wait and denoise."""
        kill_machine_once(self.marker, self.node, patience=300)
        return super().act(observation)


@dataclass
class Bomb(Tool):
    """Does nothing, but kills its process where the first pixel is red, and notes in ``log`` that it will."""

    log: Path
    spec = ToolSpec("bomb", frozenset({Kind.RAIN}), "Kills its process on red photos.", "a test", "Apache-2.0")

    def restore(self, image: Image) -> Image:
        """Give the image back, or die."""
        red, green, _ = image[0, :, 0, 0].tolist()
        if red > 0.9 and green < 0.1:
            with self.log.open("a") as file:
                file.write(f"{os.getpid()}\n")
            os.kill(os.getpid(), signal.SIGKILL)
        return image * 0.5

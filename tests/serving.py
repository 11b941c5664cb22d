"""``conservator serve`` in a process of its own on a free port, which a test can stop, kill and start again."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import httpx

TOKEN = "a token of no consequence".replace(" ", "-")
QUICK = '{"policy": "rules", "toolbox": "classical", "perception": "statistics", "risk": 1}'
"""A request that needs no large models."""
PATIENCE = 120  # seconds, on a machine that is busy with other things


class Served:
    """The API, as long as the context lasts. ``options`` are those of the command."""

    def __init__(self, data: Path, *options: str, token: str | None = TOKEN) -> None:
        environment = {name: value for name, value in os.environ.items() if name != "CONSERVATOR_TOKEN"}
        environment |= {} if token is None else {"CONSERVATOR_TOKEN": token}
        self.data = data
        program = "from conservator.apps.cli import main; main()"
        command = [sys.executable, "-c", program, "serve", "--data", str(data), "--port", "0", *options]
        self._process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=environment)
        assert self._process.stderr is not None
        self.said: list[str] = []
        for line in self._process.stderr:
            self.said.append(line)
            if line.startswith("listening on "):
                break
        assert self.said, "it said nothing"
        assert self.said[-1].startswith("listening on "), "".join(self.said)
        threading.Thread(target=lambda: self.said.extend(self._process.stderr or []), daemon=True).start()
        self.address = self.said[-1].split()[2]
        headers = {} if token is None else {"Authorization": f"Bearer {token}"}
        self.client = httpx.Client(base_url=self.address, headers=headers, timeout=PATIENCE, trust_env=False)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.client.close()
        self.kill()

    @property
    def workers(self) -> list[int]:
        """The process ids of its workers."""
        pid = self._process.pid
        return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]

    def stop(self) -> int:
        """Ask it to end, as ``docker stop`` does; returns its exit code."""
        self._process.send_signal(signal.SIGTERM)
        return self._process.wait(PATIENCE)

    def kill(self) -> None:
        """End it in mid-work."""
        self._process.kill()
        self._process.wait(PATIENCE)

    def post(self, photo: bytes, request: str = QUICK, *, to: str = "restorations", **more: Any) -> httpx.Response:
        """Send a photo."""
        name = more.pop("name", "noisy.png")
        return self.client.post(f"/v1/{to}", files={"photo": (name, photo)}, data={"request": request, **more})

    def job(self, photo: bytes, request: str = QUICK, **more: Any) -> str:
        """Queue a photo; returns its path in the API."""
        answer = self.post(photo, request, **more)
        assert answer.status_code == 202, answer.text
        return str(answer.headers["location"])

    def get(self, path: str) -> Any:
        """The JSON at a path."""
        return self.client.get(path).raise_for_status().json()

    def until(self, path: str, *states: str) -> Any:
        """Wait until a job has one of these states; returns it."""
        end = time.monotonic() + PATIENCE
        while (job := self.get(path))["state"] not in states:
            assert time.monotonic() < end, job
            time.sleep(0.05)
        return job

    def freeze(self) -> int:
        """Stop the one worker where it is, so that what it is given stays in work; returns its process id."""
        (worker,) = self.workers
        os.kill(worker, signal.SIGSTOP)
        return worker


def events_of(text: str) -> list[tuple[int, str, str]]:
    """The id, the name and the data of each event in a stream."""
    blocks = [block for block in text.split("\n\n") if block.startswith("id: ")]
    return [(int(i[4:]), name[7:], data[6:]) for i, name, data in (block.split("\n") for block in blocks)]

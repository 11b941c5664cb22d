"""An OpenAI-compatible endpoint for tests: a real HTTP server that does what its script says, and how to ask it."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass, field, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image as PillowImage

from conservator.batch import JOURNAL, FileRestorer, Journal, Outcome, Task, run_batch
from conservator.files import sha256
from conservator.perception import StatisticalPerception
from conservator.perception.remembering import RememberingPerception
from conservator.photo import copy_photo, save_photo
from conservator.policies import NoPolicy
from conservator.record import Record, load_record
from conservator.request import ChatOptions, Request
from conservator.restorer import Restorer
from conservator.tools import make_toolbox

SEEING = RememberingPerception(StatisticalPerception.load())
TOOLBOX = make_toolbox("classical").only("wavelet_denoise", "tv_denoise", "gamma_brighten", "lanczos_x2")


@dataclass
class Reply:
    """What the endpoint does with one request."""

    body: str | bytes = ""
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay: float = 0
    """Seconds before the first byte."""
    drip: float = 0
    """Seconds between two bytes."""
    drip_head: int = 0
    """Bytes of nonsense before the status, a tenth of a second apart."""


def says(text: str, **usage: int) -> Reply:
    """A chat completion with these words."""
    counts = {"prompt_tokens": 1200, "completion_tokens": 30, **usage}
    choice = {"message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    return Reply(json.dumps({"choices": [choice], "usage": counts}))


def plans(*tools: str, thought: str = "It is noisy.") -> Reply:
    return says(json.dumps({"thought": thought, "action": "plan", "tools": tools, "step": None}))


def rolls_back(step: int) -> Reply:
    return says(json.dumps({"thought": "That did harm.", "action": "rollback", "tools": [], "step": step}))


STOP = says('{"thought": "It is clean.", "action": "stop", "tools": [], "step": null}')


class Endpoint(ThreadingHTTPServer):
    """Answers the requests by its script, in order, and keeps them; the last answer is given ever after."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.script: list[Reply] = []
        self.bodies: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.paths: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that hangs up is no news."""


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        self.server.paths.append(self.path)
        self.server.headers.append(dict(self.headers))
        self.server.bodies.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
        script = self.server.script
        reply = script.pop(0) if len(script) > 1 else script[0]
        time.sleep(reply.delay)
        body = reply.body if isinstance(reply.body, bytes) else reply.body.encode()
        for _ in range(reply.drip_head):
            self.wfile.write(b"H")
            time.sleep(0.1)
        self.send_response(reply.status)
        for name, value in {"Content-Length": str(len(body)), **reply.headers}.items():
            self.send_header(name, value)
        self.end_headers()
        for start in range(0, len(body), 1 if reply.drip else max(1, len(body))):
            self.wfile.write(body[start : start + 1] if reply.drip else body)
            time.sleep(reply.drip)

    def log_message(self, *arguments: object) -> None:
        """Quiet."""


def options(server: Endpoint, **changed: Any) -> ChatOptions:
    return replace(ChatOptions(server.url, "a-model", allow_upload=True, timeout=60, backoff=0.01), **changed)


def restored(photo: Path, chosen: ChatOptions, **settings: Any) -> tuple[Outcome, Record]:
    """Restore the photo as the command line does; the result must be what the recorded toolchain gives, to the byte."""
    target = photo.parents[1] / "out" / "noisy.png"
    wanted = Request("chat", "classical", chat=chosen, risk=1, **settings)  # what it says is done
    restorer = FileRestorer(Restorer(wanted, toolbox=TOOLBOX, perception=SEEING), report=True)
    outcome = run_batch([Task(photo, target)], restorer, Journal(target.parent / JOURNAL)).outcomes[0]
    record_path = target.with_name("noisy.conservator.json")
    record = load_record(record_path)
    with Restorer(Request(risk=1), toolbox=TOOLBOX, perception=SEEING, policy=NoPolicy()) as again:
        replayed = again.replay(again.load(photo), record.toolchain)
    write = save_photo if record.toolchain else copy_photo
    write(replayed, photo.parents[1] / "again.png", overwrite=True)
    assert sha256(photo.parents[1] / "again.png") == record.output.sha256
    pixels = [np.asarray(PillowImage.open(path)) for path in (photo, target)]
    assert np.array_equal(*pixels) == (not record.toolchain)
    assert record.toolchain == [step.tool for step in record.treatments if step.kept]
    return outcome, record


def done(record: Record) -> list[tuple[str, str | int | None]]:
    return [(step.action, step.argument) for step in record.steps[1:]]

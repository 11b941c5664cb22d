"""The tools for assistants in processes of their own, over both transports: broken streams, killed clients, secrets."""

from __future__ import annotations

import asyncio
import json
import os
import signal
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path

import httpx2
import numpy as np
import pytest
from gated_policy import GATE, wait_for
from mcp import Client, StdioServerParameters
from mcp.client.streamable_http import streamable_http_client
from PIL import Image as PillowImage
from skimage import data
from test_cli import conservator, process
from test_mcp import call, refused, without_times

from conservator.apps.mcp.serving import TOKEN_VARIABLE, parsed_address
from conservator.errors import ConservatorError
from conservator.files import sha256

TOKEN = "a secret of the tests, long enough"
OPTIONS = ("--toolbox", "classical", "--perception", "statistics", "--risk", "1", "--policy", "gated_policy:Gated")
Conversation = Callable[[Client, Path], Awaitable[None]]


def environment(gate: Path) -> dict[str, str]:
    """For a process that knows the policy that waits."""
    source = Path(__file__).parents[1] / "src"
    paths = os.pathsep.join([str(source), str(Path(__file__).parent)])
    return {**os.environ, "PYTHONPATH": paths, GATE: str(gate), TOKEN_VARIABLE: TOKEN}


@pytest.fixture(scope="module")
def gate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("gate")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with two noisy photos."""
    folder = tmp_path_factory.mktemp("photos")
    noisy = data.coffee()[:120, :160] + np.random.default_rng(0).normal(0, 30, (120, 160, 3))
    for name in ("a.png", "b.png"):
        PillowImage.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(folder / name)
    return folder


@pytest.fixture(scope="module")
def address(photos: Path, gate: Path) -> Iterator[str]:
    """Where a process serves the photos over HTTP."""
    line = process("mcp", photos, "--http", "0", *OPTIONS)
    with subprocess.Popen(line, stderr=subprocess.PIPE, text=True, env=environment(gate)) as running:
        assert running.stderr is not None
        said = running.stderr.readline()
        yield said.split()[1]
        running.terminate()
        assert running.wait(300) == 128 + signal.SIGTERM
        assert "Traceback" not in running.stderr.read()


def over_http(address: str, conversation: Callable[[Client], Awaitable[None]], mode: str = "auto") -> None:
    """Let a client talk to the process at an address."""

    async def run() -> None:
        async with (
            httpx2.AsyncClient(headers={"Authorization": f"Bearer {TOKEN}"}, timeout=200) as web,
            Client(streamable_http_client(address, http_client=web), mode=mode) as client,
        ):
            await conversation(client)

    asyncio.run(asyncio.wait_for(run(), 300))


async def assistant(client: Client, output: str) -> None:
    """Restore a photo step by step, with one step that is taken back."""
    tools = {tool.name for tool in (await client.list_tools()).tools}
    assert tools == {
        *("inspect", "plan", "apply", "rollback", "compare", "save", "restore"),
        *("batch_start", "job_status", "job_cancel"),
    }
    told: list[str | None] = []

    async def heard(number: float, total: float | None, message: str | None) -> None:
        assert number == len(told) + 1
        told.append(message)

    photo = (await call(client, "inspect", photo="a.png"))["photo"]
    await client.call_tool("apply", {"photo": photo, "tool": "gamma_brighten"}, progress_callback=heard)
    assert told[0] == "gamma_brighten"
    await call(client, "rollback", photo=photo, step=0, reason="it was not dark")
    await call(client, "apply", photo=photo, tool="tv_denoise")
    await call(client, "save", photo=photo, output=output)
    assert "leads out" in await refused(client, "inspect", photo="/etc/passwd")


def expected(photos: Path, output: Path) -> None:
    """What the command line makes of the same tools lies at ``output``, too."""
    its = output.with_name(f"its_{output.name}")
    line = ("apply", photos / "a.png", "--tools", "tv_denoise", "--toolbox", "classical", "--perception", "statistics")
    assert conservator(*line, "-o", its).returncode == 0
    assert output.read_bytes() == its.read_bytes()
    records = [without_times(path.with_name(f"{path.stem}.conservator.json")) for path in (output, its)]
    for record in records:
        del record["request"]["risk"]  # it is of no account where tools are asked for by name
    assert records[0] == records[1]


@pytest.mark.parametrize("mode", ["auto", "legacy"])
def test_an_assistant_over_http(address: str, photos: Path, mode: str) -> None:
    over_http(address, lambda client: assistant(client, f"http/{mode}.png"), mode)
    expected(photos, photos / "http" / f"{mode}.png")


def test_callers_without_the_secret_are_refused(address: str) -> None:
    for headers in ({}, {"Authorization": "Bearer wrong"}):
        request = urllib.request.Request(address, b"{}", {"Content-Type": "application/json", **headers})
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(request, timeout=60)
        assert refusal.value.code == 401


def test_a_foreign_page_is_refused(address: str) -> None:
    """A browser that was led here by another name, or by another site's page, sends that in these headers."""
    for headers in ({"Host": "evil.example"}, {"Origin": "http://evil.example"}):
        told = {"Authorization": f"Bearer {TOKEN}", "Content-Type": "application/json", **headers}
        with pytest.raises(urllib.error.HTTPError) as refusal:
            urllib.request.urlopen(urllib.request.Request(address, b"{}", told), timeout=60)
        assert refusal.value.code in (403, 421)


def test_a_broken_stream_ends_its_call_and_loses_nothing_that_was_written(
    address: str, photos: Path, gate: Path
) -> None:
    over_http(address, lambda client: call(client, "restore", photo="a.png", output="first/a.png", policy="rules"))
    before = sha256(photos / "first" / "a.png")
    host, _, port = address.removeprefix("http://").removesuffix("/mcp").rpartition(":")
    meta = {
        "io.modelcontextprotocol/protocolVersion": "2026-07-28",
        "io.modelcontextprotocol/clientCapabilities": {},
        "progressToken": 1,
    }
    asked = {"name": "restore", "arguments": {"photo": "b.png", "output": "first/b.png"}, "_meta": meta}
    body = json.dumps({"jsonrpc": "2.0", "id": 1, "method": "tools/call", "params": asked})
    headers = {
        "Host": f"{host}:{port}",
        "Authorization": f"Bearer {TOKEN}",
        "Accept": "application/json, text/event-stream",
        "Content-Type": "application/json",
        "MCP-Protocol-Version": "2026-07-28",
        "Mcp-Method": "tools/call",
        "Mcp-Name": "restore",
        "Content-Length": str(len(body)),
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    with socket.create_connection((host, int(port))) as wire:
        wire.sendall(f"POST /mcp HTTP/1.1\r\n{lines}\r\n{body}".encode())
        wait_for(gate / "deciding")
    for _ in range(20):  # by the time that these are answered, the other side has heard of it
        assert httpx2.get(address, trust_env=False, timeout=300).status_code == 401
    (gate / "go").touch()
    journal, deadline = photos / "first" / "conservator.manifest.jsonl", time.monotonic() + 300
    while "the call was cancelled" not in journal.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.01)
    assert sorted(path.name for path in journal.parent.iterdir()) == [
        *("a.conservator.json", "a.png", "conservator.manifest.jsonl")
    ]
    assert sha256(photos / "first" / "a.png") == before
    over_http(address, lambda client: call(client, "restore", photo="b.png", output="first/b.png"))


def test_an_assistant_over_standard_input_and_one_that_is_killed(
    photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate = tmp_path / "gate"
    gate.mkdir()
    line = process("mcp", photos, *OPTIONS)
    served = StdioServerParameters(command=line[0], args=line[1:], env=environment(gate))

    async def dies(client: Client) -> None:
        await assistant(client, "stdio/a.png")
        await call(client, "batch_start", photos=["a.png", "b.png"], output="batch")
        await asyncio.to_thread(wait_for, gate / "deciding")

    async def run() -> None:
        async with Client(served) as client:
            await dies(client)

    asyncio.run(asyncio.wait_for(run(), 300))  # the client closes the pipes in mid-batch, and then ends the process
    expected(photos, photos / "stdio" / "a.png")
    batch = photos / "batch"
    assert [path.name for path in batch.iterdir()] == ["conservator.manifest.jsonl"]
    (gate / "go").touch()
    with monkeypatch.context() as patched:
        patched.setenv(GATE, str(gate))
        goes_on = conservator("restore", photos / "a.png", photos / "b.png", "-o", batch, "--resume", *OPTIONS)
    assert goes_on.returncode == 0, goes_on.stderr
    assert {path.name for path in batch.glob("*.png")} == {"a.png", "b.png"}


def test_a_client_that_is_gone_before_it_is_answered(photos: Path, tmp_path: Path) -> None:
    """Both of its pipes are closed, as the system does for a killed process: the answer finds nobody."""
    line = process("mcp", photos, *OPTIONS)
    ping = b'{"jsonrpc": "2.0", "id": 1, "method": "ping"}\n'
    pipe = subprocess.PIPE
    with subprocess.Popen(line, stdin=pipe, stdout=pipe, stderr=pipe, env=environment(tmp_path)) as served:
        assert served.stdin is not None
        assert served.stdout is not None
        assert served.stderr is not None
        served.stdout.close()
        served.stdin.write(ping)
        served.stdin.close()
        assert served.wait(200) == 0
        assert b"Traceback" not in served.stderr.read()


def test_addresses() -> None:
    assert parsed_address("8000") == ("127.0.0.1", 8000)
    assert parsed_address("0.0.0.0:80") == ("0.0.0.0", 80)
    assert parsed_address("[::1]:80") == ("::1", 80)
    for wrong in ("", "host", "1.2.3.4:", "70000", "a:-1"):
        with pytest.raises(ConservatorError, match="is no address"):
            parsed_address(wrong)


def test_nobody_else_is_let_in_without_a_secret(photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for token, said in (("", "set a secret in CONSERVATOR_MCP_TOKEN"), ("short", "has 5 characters")):
        monkeypatch.setenv(TOKEN_VARIABLE, token)
        result = conservator("mcp", photos, "--http", "0.0.0.0:0", "--toolbox", "classical")
        assert result.returncode == 2
        assert said in result.stderr
    result = conservator("mcp", photos / "a.png")
    assert result.returncode == 2
    assert "is no folder" in result.stderr

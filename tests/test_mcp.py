"""The tools for assistants, called by the SDK's client in this process: what they do, refuse and show."""

from __future__ import annotations

import asyncio
import base64
import io
import json
import os
import re
import time
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import anyio
import numpy as np
import pytest
from gated_policy import GATE, wait_for
from mcp import Client
from PIL import Image as PillowImage
from skimage import data
from test_cli import conservator

from conservator.apps.mcp.offering import offer
from conservator.apps.mcp.opened import MOST_OPEN
from conservator.apps.mcp.pictures import LONGEST_SIDE, PREVIEW_BYTES
from conservator.apps.mcp.workbench import Choices, Workbench
from conservator.apps.roots import Roots
from conservator.errors import ConservatorError
from conservator.kinds import Kind
from conservator.request import Request

REQUEST = Request(toolbox="classical", perception="statistics", risk=1)


@pytest.fixture
def root(noisy_file: Path) -> Path:
    """A folder with one noisy photo."""
    return noisy_file.parent


@pytest.fixture
def bench(root: Path) -> Iterator[Workbench]:
    made = Workbench([root], REQUEST)
    yield made
    assert made.close(60)


def talk(bench: Workbench, conversation: Callable[[Client], Awaitable[None]]) -> None:
    """Let a client talk to the tools."""

    async def run() -> None:
        async with Client(offer(bench)) as client:
            await conversation(client)

    asyncio.run(asyncio.wait_for(run(), 900))


async def ended_job(client: Client, job: str) -> Any:
    """The status of a job once it has ended, however busy the machine is."""
    status = await call(client, "job_status", job=job, wait_seconds=50)
    while status["state"] in ("running", "stopping"):
        status = await call(client, "job_status", job=job, wait_seconds=50)
    return status


async def call(client: Client, name: str, /, **arguments: Any) -> Any:
    """The data of an answer that is no error."""
    result = await client.call_tool(name, arguments)
    assert not result.is_error, result.content[0].text
    return result.structured_content


async def refused(client: Client, name: str, /, **arguments: Any) -> str:
    """The sentence with which a call is refused."""
    result = await client.call_tool(name, arguments)
    assert result.is_error
    assert len(result.content) == 1
    sentence: str = result.content[0].text
    assert "\n" not in sentence
    assert "Traceback" not in sentence
    return sentence


def pictures(result: Any) -> list[PillowImage.Image]:
    """The previews of an answer, each within its limits."""
    shown = [part for part in result.content if part.type == "image"]
    assert all(part.mime_type == "image/jpeg" for part in shown)
    found = [base64.b64decode(part.data) for part in shown]
    assert all(len(picture) <= PREVIEW_BYTES for picture in found)
    assert len(result.model_dump_json()) < 800_000
    return [PillowImage.open(io.BytesIO(picture)) for picture in found]


def without_times(record: Path) -> dict[str, Any]:
    """A record without what differs from run to run: when it was made and how long it took, and where it lies."""
    told = json.loads(record.read_text())
    for part in (told, *told["steps"], *told["treatments"]):
        del part["seconds"]
    del told["made"], told["output"]["path"]
    return dict(told)


def test_an_assistant_restores_step_by_step_as_the_command_does(bench: Workbench, root: Path) -> None:
    told: list[str] = []

    async def heard(number: float, total: float | None, message: str | None) -> None:
        told.append(message or "")

    async def conversation(client: Client) -> None:
        opened = await call(client, "inspect", photo="noisy.png")
        photo = opened["photo"]
        assert opened["seen"]["damages"][0]["kind"] == "noise"
        assert opened["tools"][0]["removes"] == ["noise"]
        result = await client.call_tool(
            "apply", {"photo": photo, "tool": "dct_denoise", "reason": "noise"}, progress_callback=heard
        )
        assert "dct_denoise" in told
        assert pictures(result)[0].size == (200, 160)
        back = await call(client, "rollback", photo=photo, step=0, reason="it is soft")
        assert (back["step"], back["toolchain"]) == (2, [])
        treated = await call(client, "apply", photo=photo, tool="tv_denoise")
        assert treated["step_gain_db"] > 0
        both = await call(client, "apply", photo=photo, tool="gamma_brighten")
        assert both["toolchain"] == ["tv_denoise", "gamma_brighten"]
        assert [step["did"] for step in both["steps"]] == [
            *("opened", "apply dct_denoise", "rollback to 0", "apply tv_denoise", "apply gamma_brighten")
        ]
        saved = await call(client, "save", photo=photo, output="mine/noisy.png")
        assert saved["steps"][-1]["did"] == "stop"
        assert "inspect" in await refused(client, "apply", photo=photo, tool="tv_denoise")

    talk(bench, conversation)
    line = ("apply", root / "noisy.png", "--tools", "tv_denoise,gamma_brighten", "--toolbox", "classical")
    result = conservator(*line, "--perception", "statistics", "-o", root / "its" / "noisy.png")
    assert result.returncode == 0, result.stderr
    assert (root / "mine" / "noisy.png").read_bytes() == (root / "its" / "noisy.png").read_bytes()
    records = [without_times(root / folder / "noisy.conservator.json") for folder in ("mine", "its")]
    for record in records:
        del record["request"]["risk"]  # it is of no account where tools are asked for by name
    assert records[0] == records[1]


def test_the_program_decides_as_the_command_does(bench: Workbench, root: Path) -> None:
    async def conversation(client: Client) -> None:
        planned = await call(client, "plan", photo="noisy.png", policy="rules")
        assert not (root / "restored").exists()
        result = await client.call_tool("restore", {"photo": planned["photo"], "policy": "rules"})
        restored = result.structured_content
        assert restored["toolchain"] == planned["toolchain"] != []
        assert pictures(result)[0].size == (200, 160)
        assert next(part.name for part in result.content if part.type == "resource_link") == "noisy.png"
        assert "choose another output" in await refused(client, "restore", photo="noisy.png")
        measured = await call(client, "compare", photo="noisy.png", to="restored/noisy.png")
        assert measured["psnr"] < 40
        assert not measured["identical"]

    talk(bench, conversation)
    line = ("restore", root / "noisy.png", "--policy", "rules", "--toolbox", "classical", "--risk", "1")
    conservator(*line, "--perception", "statistics", "-o", root / "its" / "noisy.png")
    assert (root / "restored" / "noisy.png").read_bytes() == (root / "its" / "noisy.png").read_bytes()
    mine, its = (without_times(root / folder / "noisy.conservator.json") for folder in ("restored", "its"))
    assert mine == its


@pytest.fixture
def hostile(root: Path, tmp_path: Path) -> Path:
    """The folder, with links out of it to a secret folder beside it."""
    secret = tmp_path / "secret"
    secret.mkdir()
    (secret / "photo.png").write_bytes((root / "noisy.png").read_bytes())
    (root / "photo.png").symlink_to(secret / "photo.png")
    (root / "folder").symlink_to(secret)
    (root / "nowhere.png").symlink_to(secret / "new.png")
    (root / "round").symlink_to(root / "round")
    return secret


OUTSIDE = (
    *("../secret/photo.png", "photo.png", "folder/photo.png", "folder", "nowhere.png", "/etc/passwd", "..", "/"),
    *("missing/../../secret/photo.png", "folder/../../secret", "../IN/noisy.png", "./../in/../secret/photo.png"),
)


@pytest.mark.parametrize("given", OUTSIDE)
def test_paths_that_lead_out_are_refused(hostile: Path, root: Path, given: str) -> None:
    with pytest.raises(ConservatorError, match=r"leads out of the folders that are open here; give a path in /"):
        Roots([root]).real(given)
    with pytest.raises(ConservatorError, match="leads out"):
        Roots([root]).real(str(root / given))


def test_paths_inside_are_real_ones(hostile: Path, root: Path, tmp_path: Path) -> None:
    roots = Roots([root])
    assert roots.real("noisy.png") == root / "noisy.png"
    assert roots.real(str(root / "new" / "folder" / "a.png")) == root / "new" / "folder" / "a.png"
    assert roots.real("new/../noisy.png") == root / "noisy.png"
    (tmp_path / "alias").symlink_to(root)
    assert Roots([tmp_path / "alias"]).real(str(root / "noisy.png")) == root / "noisy.png"
    assert roots.real(str(tmp_path / "alias" / "noisy.png")) == root / "noisy.png"
    (root / "same.png").symlink_to("noisy.png")
    assert roots.real("same.png") == root / "noisy.png"
    assert Roots([root, hostile]).real("photo.png") == hostile / "photo.png"
    for wrong in ("", "a\0b"):
        with pytest.raises(ConservatorError, match="is no path"):
            roots.real(wrong)
    with pytest.raises(ConservatorError, match="no folder"):
        Roots([root / "noisy.png"])


def test_hostile_calls_are_refused_in_a_sentence_and_reach_nothing(bench: Workbench, root: Path, hostile: Path) -> None:
    before = sorted(hostile.iterdir())

    async def conversation(client: Client) -> None:
        for given in OUTSIDE:
            assert "leads out" in await refused(client, "inspect", photo=given)
            assert "leads out" in await refused(client, "restore", photo="noisy.png", output=given)
        for tool, more in (("plan", {}), ("compare", {}), ("apply", {"tool": "tv_denoise"}), ("restore", {})):
            assert "leads out" in await refused(client, tool, photo="photo.png", **more)
        assert "leads out" in await refused(client, "compare", photo="noisy.png", to="photo.png")
        assert "leads out" in await refused(client, "batch_start", photos=["folder"])
        for given in ("round", "no.png", "a" * 300 + ".png", "noisy.png/inside.png"):
            assert given.split("/")[0] in await refused(client, "inspect", photo=given)
        assert "itself" in await refused(client, "restore", photo="noisy.png", output="noisy.png")
        (root / "restored").symlink_to(hostile)  # where results go when nothing is said
        assert "leads out" in await refused(client, "restore", photo="noisy.png")
        listed = await call(client, "inspect", photo=".")
        assert listed["photos"] == ["noisy.png"]
        job = (await call(client, "batch_start", photos=["."], output="batch"))["job"]
        ended = await ended_job(client, job)
        assert (ended["photos"], ended["outcomes"]) == (1, {"restored": 1})
        assert "2 photos left out" in " ".join(ended["passed_over"])

    talk(bench, conversation)
    assert sorted(hostile.iterdir()) == before
    assert sorted(path.name for path in (root / "batch").glob("*.png")) == ["noisy.png"]


def test_wrong_calls_are_answered_in_a_sentence(bench: Workbench) -> None:
    async def conversation(client: Client) -> None:
        photo = (await call(client, "inspect", photo="noisy.png"))["photo"]
        wrong = {
            "did you mean strength?": ("restore", {"photo": photo, "strenght": 0.5}),
            "strength: Input should be less than or equal to 1": ("restore", {"photo": photo, "strength": 2}),
            "photo: Field required": ("inspect", {}),
            "no tool 'tv_denoize'; did you mean tv_denoise": ("apply", {"photo": photo, "tool": "tv_denoize"}),
            "no step 7; ": ("compare", {"photo": photo, "to": 7}),
            "no step 9 to roll back to": ("rollback", {"photo": photo, "step": 9}),
            "does not lie in the photo of 200 x 160 pixels": ("inspect", {"photo": photo, "region": [190, 0, 20, 20]}),
            "no tool is applied": ("save", {"photo": photo}),
            "inspect the photo by its path": ("save", {"photo": "noisy.png"}),
            "is not open here": ("rollback", {"photo": "photo_0123456789ab", "step": 0}),
            "goes on where": ("job_status", {"job": "job_0123456789ab"}),
            "'greedy', 'search'": ("restore", {"photo": photo, "policy": "os:system"}),
            "no kind of damage is left": ("plan", {"photo": photo, "only": ["noise"], "never": ["noise"]}),
            "did you mean tv_denoise,": ("batch_start", {"photos": ["."], "tools": ["tv_denois"]}),
            "photos cannot be written as .psd": ("restore", {"photo": photo, "output": "a.psd"}),
            "use batch_start": ("restore", {"photo": "."}),
        }
        for said, (tool, arguments) in wrong.items():
            assert said in await refused(client, tool, **arguments)
        now = await call(client, "inspect", photo=photo)
        assert [step.get("error", "")[:7] for step in now["steps"]] == ["", "no tool", "no step"]  # it tells the truth
        assert now["toolchain"] == []

    talk(bench, conversation)


def test_pictures_stay_small_and_details_are_shown_at_full_size(bench: Workbench, root: Path) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (700, 1100, 3), np.uint8)
    PillowImage.fromarray(noise).save(root / "large.png")

    async def conversation(client: Client) -> None:
        result = await client.call_tool("inspect", {"photo": "large.png"})
        photo = result.structured_content["photo"]
        assert max(pictures(result)[0].size) <= LONGEST_SIDE
        detail = await client.call_tool("inspect", {"photo": photo, "region": [1000, 300, 100, 300]})
        (shown,) = pictures(detail)
        assert shown.size == (100, 300)
        assert np.abs(np.asarray(shown, float) - noise[300:600, 1000:]).mean() < 25  # of that place; elsewhere 85
        pair = await client.call_tool("compare", {"photo": photo})
        assert len(pictures(pair)) == 2
        assert pair.structured_content["identical"]

    talk(bench, conversation)


def test_pictures_beyond_the_limit_are_refused(root: Path) -> None:
    PillowImage.new("RGB", (300, 300)).save(root / "huge.png")
    bench = Workbench([root], Request(toolbox="classical", perception="statistics", risk=1, max_pixels=80_000))

    async def conversation(client: Client) -> None:
        assert "80000" in (await refused(client, "inspect", photo="huge.png")).replace(",", "").replace(" ", "")
        photo = (await call(client, "inspect", photo="noisy.png"))["photo"]
        scale = [tool for tool in (await call(client, "inspect", photo="noisy.png"))["tools"] if "enlarges" in tool]
        assert "more than the limit" in await refused(client, "apply", photo=photo, tool=scale[0]["tool"])
        await call(client, "apply", photo=photo, tool="tv_denoise")

    talk(bench, conversation)
    assert bench.close(300)


def test_the_photo_that_was_not_used_for_longest_is_closed(bench: Workbench, root: Path) -> None:
    async def conversation(client: Client) -> None:
        first, second = [(await call(client, "inspect", photo="noisy.png"))["photo"] for _ in range(2)]
        for _ in range(MOST_OPEN - 2):
            await call(client, "inspect", photo="noisy.png")
        await call(client, "inspect", photo=first)
        await call(client, "inspect", photo="noisy.png")
        await call(client, "inspect", photo=first)
        sentence = await refused(client, "apply", photo=second, tool="tv_denoise")
        assert sentence == f"{second} was closed, because others were opened since; inspect {root}/noisy.png again"

    talk(bench, conversation)


def test_a_photo_that_changed_since_is_not_saved(bench: Workbench, root: Path) -> None:
    async def conversation(client: Client) -> None:
        photo = (await call(client, "inspect", photo="noisy.png"))["photo"]
        await call(client, "apply", photo=photo, tool="tv_denoise")
        PillowImage.fromarray(data.coffee()[:160, :200]).save(root / "noisy.png")
        assert "was changed" in await refused(client, "save", photo=photo)

    talk(bench, conversation)
    assert not (root / "restored").exists()


GUIDE = (Path(__file__).parents[1] / "docs" / "mcp.md").read_text("utf-8")


def test_the_guides_program_restores_a_photo(bench: Workbench, root: Path, tmp_path: Path) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", GUIDE, re.DOTALL)
    program: dict[str, Any] = {"__name__": "guide"}
    exec(compile(block, "docs/mcp.md", "exec"), program)

    async def conversation(client: Client) -> None:
        assert await program["restore_by_hand"](client, "noisy.png") == str(root / "restored" / "noisy.png")

    talk(bench, conversation)
    before, after = (
        np.asarray(PillowImage.open(path), float) for path in (root / "noisy.png", root / "restored" / "noisy.png")
    )
    clean = np.asarray(data.coffee()[:160, :200], float)
    assert ((after - clean) ** 2).mean() < 0.5 * ((before - clean) ** 2).mean()


def test_the_guide_lists_all_tools_with_their_arguments(bench: Workbench) -> None:
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*?) \|", GUIDE, re.MULTILINE))

    async def conversation(client: Client) -> None:
        offered = {tool.name: list(tool.input_schema["properties"]) for tool in (await client.list_tools()).tools}
        assert {name: re.findall(r"`(\w+)`", arguments) for name, arguments in rows.items()} == offered

    talk(bench, conversation)


def test_what_the_user_excluded_stays_excluded() -> None:
    user = Request(only=frozenset({Kind.NOISE, Kind.HAZE}), never=frozenset({Kind.RAIN}))
    assert Choices().on(user) == user
    assert Choices(only=frozenset({Kind.NOISE, Kind.JPEG})).on(user).only == {Kind.NOISE}
    assert Choices(never=frozenset({Kind.HAZE})).on(user).only == {Kind.NOISE}
    with pytest.raises(ConservatorError, match="no kind of damage is left"):
        Choices(only=frozenset({Kind.RAIN})).on(user)
    assert Choices(prefer="sharp").on(user).prefer == "sharp"
    assert Choices().on(replace(user, prefer="smooth")).prefer == "smooth"
    assert Choices(strength=0.0, upscale=False).on(Request(upscale=True)).upscale is False


@pytest.fixture
def gated(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Workbench, Path]]:
    """A workbench whose own policy waits, and the folder of its gate."""
    gate = tmp_path / "gate"
    gate.mkdir()
    monkeypatch.setenv(GATE, str(gate))
    bench = Workbench([root], Request("gated_policy:Gated", "classical", "statistics", risk=1))
    yield bench, gate
    (gate / "go").touch()
    assert bench.close(300)


def test_a_cancelled_call_stops_at_its_next_step_and_writes_nothing(gated: tuple[Workbench, Path], root: Path) -> None:
    bench, gate = gated

    async def conversation(client: Client) -> None:
        async with anyio.create_task_group() as calls:
            calls.start_soon(client.call_tool, "restore", {"photo": "noisy.png"})
            await anyio.to_thread.run_sync(wait_for, gate / "deciding")
            calls.cancel_scope.cancel()
        for _ in range(3):  # by the time that these are answered, the other side has heard of it
            await client.list_tools()
        (gate / "go").touch()
        journal, deadline = root / "restored" / "conservator.manifest.jsonl", time.monotonic() + 300
        while "the call was cancelled" not in journal.read_text():
            assert time.monotonic() < deadline
            await anyio.sleep(0.01)
        assert list(journal.parent.iterdir()) == [journal]
        await call(client, "restore", photo="noisy.png")  # the program goes on, and the place is free

    talk(bench, conversation)


def test_a_batch_is_cancelled_and_goes_on(gated: tuple[Workbench, Path], root: Path) -> None:
    bench, gate = gated
    for name in ("a.png", "b.png"):
        os.link(root / "noisy.png", root / name)

    async def conversation(client: Client) -> None:
        job = (await call(client, "batch_start", photos=["."], output="out"))["job"]
        await anyio.to_thread.run_sync(wait_for, gate / "deciding")
        assert (await call(client, "job_status", job=job, wait_seconds=0.1))["state"] == "running"
        assert (await call(client, "job_cancel", job=job))["state"] == "stopping"
        (gate / "go").touch()
        ended = await ended_job(client, job)
        assert (ended["state"], ended["outcomes"]) == ("cancelled", {"restored": 1})
        again = (await call(client, "batch_start", photos=["."], output="out"))["job"]
        ended = await ended_job(client, again)
        assert (ended["state"], ended["outcomes"]) == ("ended", {"skipped": 1, "restored": 2})

    talk(bench, conversation)

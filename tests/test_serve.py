"""The HTTP API in processes of its own: a job's whole life, the command line's bytes, hostile clients, sudden ends."""

from __future__ import annotations

import http.client
import io
import json
import os
import re
import signal
import socket
import struct
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from PIL import Image as PillowImage
from serving import PATIENCE, QUICK, TOKEN, Served, events_of
from skimage import data
from typer.testing import CliRunner

from conservator.apps.cli import app as commands
from conservator.apps.http.answers import (
    JOB_ANSWER,
    ExaminationAnswer,
    PlanAnswer,
    ToolsAnswer,
)
from conservator.record import load_record

ROOT = Path(__file__).resolve().parents[1]
LONG = '{"policy": "search:9999", "toolbox": "classical", "perception": "statistics", "risk": 1}'
"""A request that is not done before the test has ended it."""


def noisy(seed: int, height: int = 96, width: int = 128) -> bytes:
    picture = data.coffee()[:height, :width] + np.random.default_rng(seed).normal(0, 30, (height, width, 3))
    file = io.BytesIO()
    PillowImage.fromarray(picture.clip(0, 255).astype(np.uint8)).save(file, "PNG")
    return file.getvalue()


def by_command(folder: Path, photo: bytes, *arguments: str) -> tuple[bytes, Any]:
    """What the command line makes of a photo: the bytes of the result, and its record."""
    folder.mkdir()
    (folder / "photo.png").write_bytes(photo)
    command, *rest = arguments or ("restore", "--policy", "rules")
    quick = ["--toolbox", "classical", "--perception", "statistics", *(["--risk", "1"] if command == "restore" else [])]
    done = CliRunner().invoke(commands, [command, str(folder / "photo.png"), "-o", str(folder / "out"), *quick, *rest])
    assert done.exit_code == 0, done.output
    (result,) = [
        path for path in (folder / "out").iterdir() if path.name.startswith("photo.") and "cons" not in path.name
    ]
    return result.read_bytes(), load_record(folder / "out" / "photo.conservator.json")


@pytest.fixture(scope="module")
def api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    options = ("--max-upload", "0.5", "--max-pixels", "2000000")
    with Served(tmp_path_factory.mktemp("data") / "of" / "jobs", *options) as served:
        yield served


# --- a job's whole life -----------------------------------------------------------------------------------------------


def test_a_job_lives_from_upload_to_removal_and_gives_the_bytes_of_the_command_line(
    api: Served, tmp_path: Path
) -> None:
    answer = api.post(noisy(1), name="C:\\photos\\..\\My cat.PNG")
    assert answer.status_code == 202
    assert answer.json()["state"] in ("queued", "working")
    JOB_ANSWER.model_validate_json(answer.text)
    here = answer.headers["location"]
    job = api.until(here, "done", "failed")
    JOB_ANSWER.model_validate_json(json.dumps(job))
    result, record = by_command(tmp_path / "command", noisy(1))
    assert record.toolchain, "the test's photo must be one that is treated"
    assert api.client.get(f"{here}/result").content == result
    assert job["outcome"]["toolchain"] == job["plan"]["toolchain"] == record.toolchain
    own = load_record_of(api, here, tmp_path)
    same = ("verdict", "toolchain", "before", "after", "gain", "notes")
    assert {name: getattr(own, name) for name in same} == {name: getattr(record, name) for name in same}
    assert own.output.sha256 == record.output.sha256 == job["outcome"]["sha256"]
    assert (own.input.path, own.output.path) == ("photo.png", "restored.png")
    page = api.client.get(f"{here}/report")
    assert "sandbox" in page.headers["content-security-policy"]
    assert "data:image" in page.text
    assert str(ROOT) not in page.text
    named = api.client.get(f"{here}/result").headers["content-disposition"]
    assert re.fullmatch(r'attachment; filename="[0-9a-f]{8}-restored\.png"', named)
    assert api.client.delete(here).status_code == 204
    assert {api.client.get(f"{here}{what}").status_code for what in ("", "/result", "/record", "/events")} == {404}


def load_record_of(api: Served, job: str, folder: Path) -> Any:
    (folder / "record.json").write_bytes(api.client.get(f"{job}/record").content)
    return load_record(folder / "record.json")


def test_tools_by_name_and_a_format_are_those_of_conservator_apply(api: Served, tmp_path: Path) -> None:
    job = api.job(noisy(2), tools="tv_denoise, clahe_brighten", format="JPG", report="false")
    assert api.until(job, "done", "failed")["error"] == ""
    asked = ("apply", "--tools", "tv_denoise,clahe_brighten", "--format", "jpg")
    result, record = by_command(tmp_path / "a", noisy(2), *asked)
    assert api.client.get(f"{job}/result").content == result
    assert api.client.get(f"{job}/result").headers["content-type"] == "image/jpeg"
    own = load_record_of(api, job, tmp_path)
    assert (
        (own.request.policy, own.toolchain) == (record.request.policy, record.toolchain) == ("none", record.toolchain)
    )
    assert api.client.get(f"{job}/report").status_code == 404


def test_what_needs_nothing_comes_back_byte_for_byte(api: Served) -> None:
    photo = noisy(3)
    job = api.job(photo, '{"policy": "none", "perception": "statistics", "risk": 1}')
    assert api.until(job, "done", "failed")["outcome"]["outcome"] == "untouched"
    assert api.client.get(f"{job}/result").content == photo


def test_events_tell_each_step_in_order_and_go_on_after_any_of_them(api: Served) -> None:
    job = api.job(noisy(4))
    with api.client.stream("GET", f"{job}/events") as stream:  # from before its end to its end
        assert stream.headers["content-type"].startswith("text/event-stream")
        events = events_of("".join(stream.iter_text()))
    names = [name for _, name, _ in events]
    assert names[:2] == ["queued", "working"]
    assert names[-1] == "done"
    told = [json.loads(text) for _, name, text in events if name in ("plan", "treatment")]
    toolchain = told[0]["toolchain"]
    assert toolchain == [treatment["tool"] for treatment in told[1:]] != []
    stages = [json.loads(text)["stage"] for _, name, text in events if name == "stage"]
    assert [stage for stage in stages if stage not in ("reading", "loading")] == [
        *("examining", "deciding"), *toolchain, "writing"
    ]  # fmt: skip
    assert names.index("plan") < names.index("treatment")
    ids = [number for number, _, _ in events]
    assert ids == sorted(set(ids))
    for last in (3, len(events) - 1):
        again = api.client.get(f"{job}/events", headers={"Last-Event-ID": str(ids[last - 1])})
        assert events_of(again.text) == events[last:]
    assert api.client.get(f"{job}/events", headers={"Last-Event-ID": str(ids[-1])}).status_code == 204
    assert api.client.get(f"{job}/events", headers={"Last-Event-ID": "x"}).status_code == 422


def test_looking_at_a_photo_leaves_nothing_behind(api: Served, tmp_path: Path) -> None:
    before = set((api.data / "jobs").iterdir())
    seen = api.post(noisy(5), to="examinations")
    ExaminationAnswer.model_validate_json(seen.text)
    assert (seen.json()["width"], seen.json()["height"]) == (128, 96)
    assert seen.json()["seen"]["severities"]["noise"] in ("high", "very high")
    plan = api.post(noisy(5), to="plans").json()
    PlanAnswer.model_validate_json(json.dumps(plan))
    assert tuple(plan["toolchain"]) == tuple(by_command(tmp_path / "c", noisy(5))[1].toolchain)
    assert plan["toolchain"][0] in plan["intention"]
    assert set((api.data / "jobs").iterdir()) == before


def test_what_there_is_to_ask_for(api: Served) -> None:
    told = ToolsAnswer.model_validate_json(api.client.get("/v1/tools?toolbox=classical").text)
    assert "tv_denoise" in {tool.name for tool in told.tools}
    assert "greedy" in told.policies
    assert not {"chat", "oracle"} & set(told.policies)
    assert api.client.get("/v1/tools?toolbox=clasical").json()["detail"].endswith("did you mean classical?")
    assert "denoise_heavy" in {tool["name"] for tool in api.get("/v1/tools")["tools"]}


def test_the_client_of_the_docs_runs(api: Served, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (block,) = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "serve.md").read_text("utf-8"), re.DOTALL)
    assert len([line for line in block.splitlines() if line.strip() and not line.startswith("import")]) <= 10
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("CONSERVATOR_TOKEN", TOKEN)
    Path("old.jpg").write_bytes(noisy(6))
    exec(block.replace("http://127.0.0.1:8000", api.address).replace('{"objective": "fidelity"}', QUICK), {})
    assert PillowImage.open("new.jpg").size == (128, 96)
    assert Path("new.jpg").read_bytes() != noisy(6)


# --- hostile clients --------------------------------------------------------------------------------------------------


def bomb() -> bytes:
    """400 megapixels in 50 kilobytes."""
    file = io.BytesIO()
    PillowImage.new("1", (20000, 20000)).save(file, "PNG")
    return file.getvalue()


def lying() -> bytes:
    """A PNG that says it has 10^10 pixels."""
    photo = bytearray(noisy(0))
    photo[16:24] = struct.pack(">II", 100_000, 100_000)
    photo[29:33] = struct.pack(">I", zlib.crc32(photo[12:29]))
    return bytes(photo)


@pytest.mark.parametrize(
    ("photo", "why"),
    [
        (b"", "the file is empty"),
        (b"<svg onload='alert(1)'/>", "cannot read photo.png"),
        (noisy(7)[:2000], "damaged or cut off"),
        (bomb(), "400000000 pixels|20000 x 20000"),
        (lying(), "100000 x 100000|10000000000"),
    ],
    ids=["empty", "no photo", "cut off", "bomb", "lie"],
)
def test_what_is_no_photo_is_answered_in_a_sentence(api: Served, photo: bytes, why: str) -> None:
    answer = api.post(photo, to="examinations")
    assert answer.status_code == 422, answer.text
    assert re.search(why, answer.json()["detail"])
    assert str(Path.cwd().anchor + "tmp") not in answer.text
    job = api.until(api.job(photo), "done", "failed")
    assert job["state"] == "failed"
    assert job["error"] == answer.json()["detail"]
    assert api.client.get(job["links"]["result"]).status_code == 409


@pytest.mark.parametrize(
    "name",
    [
        *("../../../../etc/passwd", "/etc/passwd", "..\\..\\x.png", 'x"; filename="y.png', "a\r\nX-Evil: 1.png"),
        *("é" * 200, "x.sh", ".png", "CON.png", "http://127.0.0.1/x.png", "\u202egnp.exe"),
    ],
)
def test_no_name_of_a_client_reaches_the_disk(api: Served, tmp_path: Path, name: str) -> None:
    job = api.job(noisy(8), '{"policy": "none", "perception": "statistics", "risk": 1}', name=name)
    told = api.until(job, "done", "failed")
    assert told["state"] == "done", told
    assert re.fullmatch(r"photo(\.png)?", load_record_of(api, job, tmp_path).input.path)
    assert re.fullmatch(r"[ -~]*", str(api.client.get(f"{job}/result").headers))


@pytest.mark.parametrize(
    ("form", "why"),
    [
        ({"request": "{"}, "no JSON"),
        ({"request": "[]"}, "object"),
        ({"request": '{"polcy": "greedy"}'}, "did you mean policy"),
        ({"request": '{"strength": 7}'}, "from 0 to 1"),
        ({"request": '{"policy": "os:system"}'}, "no policy"),
        ({"request": "[" * 100_000}, "."),
        ({"tools": "denoise_heavvy"}, "did you mean denoise_heavy"),
        ({"format": "../x"}, "no format"),
    ],
)
def test_what_cannot_be_asked_for_is_refused_at_once(api: Served, form: dict[str, str], why: str) -> None:
    answer = api.client.post("/v1/restorations", files={"photo": ("a.png", noisy(0))}, data=form)
    assert answer.status_code == 422
    assert re.search(why, answer.json()["detail"])


def test_bodies_that_are_no_form_are_refused(api: Served) -> None:
    assert api.client.post("/v1/restorations", content=b"\0" * 99).status_code == 422
    assert api.client.post("/v1/restorations", data={"photo": "a"}).status_code == 422
    assert api.post(noisy(0), name="é" * 3000).status_code == 400
    broken = {"Content-Type": "multipart/form-data; boundary=x"}
    assert api.client.post("/v1/restorations", content=b"--x\r\nnonsense", headers=broken).status_code in (400, 422)
    assert api.client.post("/v1/restorations", content=b"", headers={"Content-Type": "multipart/form-data"}).is_error


def test_a_body_that_is_too_large_or_never_ends_is_answered(api: Served) -> None:
    large = api.post(os.urandom(700_000))
    assert large.status_code == 413
    assert "0.5 MB" in large.json()["detail"]

    def endless() -> Iterator[bytes]:
        yield b'--x\r\nContent-Disposition: form-data; name="photo"; filename="a.png"\r\n\r\n'
        while True:
            yield os.urandom(65536)

    form = {"Content-Type": "multipart/form-data; boundary=x"}
    ended = api.client.post("/v1/plans", content=endless(), headers=form)
    assert ended.status_code == 413


def test_a_body_that_never_comes_is_answered(tmp_path: Path) -> None:
    with Served(tmp_path, "--max-upload-seconds", "2") as api:
        host, port = api.address.removeprefix("http://").split(":")
        head = f"POST /v1/plans HTTP/1.1\r\nHost: {host}\r\nAuthorization: Bearer {TOKEN}\r\nContent-Length: 1000\r\n"
        with socket.create_connection((host, int(port)), timeout=PATIENCE) as line:
            line.sendall(f"{head}Content-Type: multipart/form-data; boundary=x\r\n\r\n--x\r\n".encode())
            answer = http.client.HTTPResponse(line)
            answer.begin()
            assert answer.status == 408


def test_only_who_has_the_token_is_let_in(api: Served) -> None:
    for header in (
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": f"Basic {TOKEN}"},
        {"Authorization": TOKEN},
    ):
        for path in ("/v1/tools", "/openapi.json", "/v1/restorations/" + "0" * 32, "/nowhere"):
            answer = httpx.get(api.address + path, headers=header, trust_env=False, timeout=PATIENCE)
            assert answer.status_code == 401, path
            assert answer.headers["www-authenticate"] == "Bearer"
        much = {"content": b"x" * 100_000, "trust_env": False, "timeout": PATIENCE}
        answer = httpx.post(api.address + "/v1/restorations", headers=header, **much)
        assert answer.status_code == 401
    assert httpx.get(api.address + "/healthz", trust_env=False, timeout=PATIENCE).json() == {"status": "ok"}
    for path in ("0" * 32, "..%2f..%2fetc", "%00"):
        assert api.client.get(f"/v1/restorations/{path}").status_code in (404, 422)


def test_a_job_that_ends_its_process_twice_has_failed_and_the_others_go_on(api: Served) -> None:
    job = api.job(noisy(9, 300, 400), LONG)
    api.until(job, "working")
    other = api.job(noisy(10))
    for _ in range(2):
        api.until(job, "working")
        (worker,) = api.workers
        os.kill(worker, signal.SIGKILL)
        # another one begins only once the job was given back, which may last no time; after the second there is none
        end = time.monotonic() + PATIENCE
        while worker in api.workers or (not api.workers and api.get(job)["state"] != "failed"):
            assert time.monotonic() < end
            time.sleep(0.05)
    failed = api.until(job, "done", "failed")
    assert failed["error"] == "the process that worked on it was ended by signal 9, for the second time"
    assert api.until(other, "done", "failed")["state"] == "done"
    assert httpx.get(api.address + "/healthz", trust_env=False, timeout=PATIENCE).status_code == 200


# --- limits and sudden ends -------------------------------------------------------------------------------------------


def test_a_full_queue_and_cancelled_jobs(tmp_path: Path) -> None:
    with Served(tmp_path, "--max-queue", "2") as api:
        api.freeze()
        first = api.job(noisy(1))
        api.until(first, "working")
        second, third = api.job(noisy(2), LONG), api.job(noisy(3))
        for to in ("restorations", "plans"):
            full = api.post(noisy(4), to=to)
            assert full.status_code == 429
            assert 1 <= int(full.headers["retry-after"]) <= 60
        assert [api.get(job)["estimate"]["ahead"] for job in (first, second, third)] == [0, 0, 1]
        soon = api.client.get(f"{third}/result")
        assert (soon.status_code, soon.headers["retry-after"]) == (409, "1")
        waiting = api.client.delete(third)
        assert (waiting.status_code, waiting.json()["state"]) == (200, "cancelled")
        assert not (api.data / "jobs" / third.rpartition("/")[2]).exists()
        assert api.client.delete(first).status_code == 202  # its worker is frozen: it is ended by force
        assert api.until(first, "cancelled", "done", "failed")["state"] == "cancelled"
        assert api.client.get(f"{first}/result").json()["detail"].endswith("was cancelled")
        api.until(second, "working", "done")
        assert api.stop() == 0


def test_a_late_job_has_failed_and_strangers_pages_are_refused_where_no_token_is_needed(tmp_path: Path) -> None:
    with Served(tmp_path, "--max-seconds", "0.5", token=None) as api:
        late = api.until(api.job(noisy(2, 300, 400), LONG), "done", "failed")
        assert late["error"] == "it was at work for longer than the limit of 0.5 s"
        for headers, code in (
            ({"Host": "evil.example"}, 403),
            ({"Origin": "http://evil.example"}, 403),
            ({"Origin": "null"}, 403),
            ({"Origin": api.address}, 200),
            ({}, 200),
        ):
            assert api.client.get("/v1/tools", headers=headers).status_code == code, headers


def test_killed_in_mid_work_it_goes_on_where_it_was(tmp_path: Path) -> None:
    photos = [noisy(seed) for seed in (1, 2, 3)]
    with Served(tmp_path / "data") as api:
        ended = api.job(photos[0])
        api.until(ended, "done")
        api.freeze()
        jobs = [ended, *(api.job(photo) for photo in photos[1:])]
        api.until(jobs[1], "working")
        frozen = api.workers
        api.kill()
        for worker in frozen:
            os.kill(worker, signal.SIGKILL)
    (api.data / "jobs" / "half-made").mkdir()
    with Served(tmp_path / "data") as api:
        assert not (api.data / "jobs" / "half-made").exists()
        for number, (job, photo) in enumerate(zip(jobs, photos, strict=True)):
            assert api.until(job, "done", "failed")["error"] == ""
            expected, _ = by_command(tmp_path / str(number), photo)
            assert api.client.get(f"{job}/result").content == expected
        names = [name for _, name, _ in events_of(api.client.get(f"{jobs[1]}/events").text)]
        assert names[:4] == ["queued", "working", "queued", "working"]
        assert names[-1] == "done"
        assert names.count("done") == 1
        with pytest.raises(AssertionError, match="in use by another"):
            Served(tmp_path / "data")

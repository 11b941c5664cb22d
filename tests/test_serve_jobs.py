"""The list of jobs without a server: what lasts, what is forgotten, and when a job has been tried often enough."""

from __future__ import annotations

import sqlite3
import time
from pathlib import Path

import pytest
from typer.testing import CliRunner

from conservator.apps.cli import app as commands
from conservator.apps.http.jobs import JobOrder, JobStore
from conservator.apps.http.settings import ServeOptions, check_token
from conservator.errors import ConservatorError

ORDER = JobOrder("restoration", "photo.png", {"strength": 0.5})


def add(store: JobStore, order: JobOrder = ORDER) -> str:
    job = store.new_folder()
    (store.folder(job) / "photo.png").write_bytes(b"a photo")
    store.add(job, order)
    return job


def test_jobs_are_begun_in_order_but_who_waits_for_an_answer_comes_first(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    first, second = add(store), add(store)
    asked = add(store, JobOrder("plan", "photo.png", {}))
    assert store.waiting() == 3
    assert [store.ahead(store.get(job)) for job in (asked, first, second)] == [0, 1, 2]
    begun = [store.begin() for _ in range(4)]
    assert [job and job.id for job in begun] == [asked, first, second, None]
    assert begun[1] is not None
    assert begun[1].order == ORDER


def test_a_job_that_takes_down_everything_is_not_begun_for_ever(tmp_path: Path) -> None:
    job = ""
    for start in range(1, 7):
        store = JobStore(tmp_path)  # as after kill -9
        job = job or add(store)
        if start == 6:
            assert store.get(job).error == "the API was ended while it was in work, for the 5th time"
            assert store.begin() is None
        else:
            begun = store.begin()
            assert begun is not None
            assert begun.starts == start
        store.close()


def test_an_end_in_good_order_does_not_count(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    job = add(store)
    for _ in range(9):
        assert store.begin() is not None
        store.again(job, "the API was stopped", counts=False)
    assert store.get(job).state == "queued"
    store.begin()
    store.again(job, "it died", crashed=True)
    assert store.get(job).state == "queued"
    store.begin()
    store.again(job, "it died", crashed=True)
    assert (store.get(job).state, store.get(job).error) == ("failed", "it died, for the second time")


def test_what_ended_long_ago_is_forgotten_with_its_files(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    old, young = add(store), add(store)
    for job in (old, young):
        store.begin()
        store.tell(job, "plan", {"toolchain": ["a"]})
        store.end(job, "done", {"file": "restored.png"})
    with sqlite3.connect(tmp_path / "jobs.sqlite") as other:
        other.execute("UPDATE jobs SET ended = ended - 100 WHERE id = ?", (old,))
    store.remove_older(50)
    with pytest.raises(KeyError):
        store.get(old)
    assert not store.folder(old).exists()
    assert store.events(old, 0) == []
    assert store.folder(young).exists()
    assert [event.name for event in store.events(young, 0)] == ["queued", "working", "plan", "done"]
    assert store.get(young).plan == {"toolchain": ["a"]}
    waiting = add(store)
    time.sleep(0.01)
    store.remove_older(0)
    assert store.get(waiting).state == "queued"


def test_a_restart_forgets_whom_nobody_waits_for(tmp_path: Path) -> None:
    store = JobStore(tmp_path)
    kept, asked = add(store), add(store, JobOrder("examination", "photo.png", {}))
    store.close()
    store = JobStore(tmp_path)
    assert store.get(kept).state == "queued"
    with pytest.raises(KeyError):
        store.get(asked)
    assert not store.folder(asked).exists()


def test_lists_of_other_versions_and_other_files_are_refused(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "jobs.sqlite") as other:
        other.execute("PRAGMA user_version = 7")
    with pytest.raises(ConservatorError, match=r"version 7, expected 1"):
        JobStore(tmp_path)
    (tmp_path / "jobs.sqlite").write_bytes(b"no database at all, and long enough to be read as one" * 20)
    with pytest.raises(ConservatorError, match=r"cannot hold the jobs"):
        JobStore(tmp_path)


def test_beyond_this_machine_it_serves_with_a_token_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for host in ("127.0.0.1", "127.1.2.3", "::1", "localhost"):
        check_token(ServeOptions(tmp_path, host=host), None)
    for host in ("0.0.0.0", "::", "192.168.0.7", "example.org", "127.0.0.1.example.org"):
        with pytest.raises(ConservatorError, match="CONSERVATOR_TOKEN"):
            check_token(ServeOptions(tmp_path, host=host), None)
        check_token(ServeOptions(tmp_path, host=host), "0123456789abcdef")
    for weak in ("", "short", "sixteen letters ", "ä" * 16):
        with pytest.raises(ConservatorError, match="16 or more"):
            check_token(ServeOptions(tmp_path), weak)
    monkeypatch.delenv("CONSERVATOR_TOKEN", raising=False)
    refused = CliRunner().invoke(commands, ["serve", "--data", str(tmp_path / "x"), "--host", "0.0.0.0"])
    assert "put a token into CONSERVATOR_TOKEN" in str(refused.exception)
    assert not (tmp_path / "x").exists()


def test_options_are_checked(tmp_path: Path) -> None:
    for wrong in ({"keep": 0.0}, {"max_seconds": float("nan")}, {"jobs": 0}, {"max_upload": -1.0}):
        with pytest.raises(ConservatorError, match=next(iter(wrong))):
            ServeOptions(tmp_path, **wrong)  # type: ignore[arg-type]

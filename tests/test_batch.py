"""Folders: every file ends as a result or a sentence, nothing is lost, a killed run resumes to the same tree."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from skimage import data

from conservator.apps.batch import MANIFEST, Manifest, Outcome, Restorer, find_tasks, run_batch
from conservator.apps.replay import replay_record
from conservator.errors import ConservatorError
from conservator.files import sha256
from conservator.perception import StatisticalPerception
from conservator.record import Settings, load_record
from conservator.tools import make_toolbox


@pytest.fixture
def album(tmp_path: Path) -> Path:
    """Six photos in two folders, one that is no photo, one truncated."""
    folder = tmp_path / "album"
    (folder / "sub").mkdir(parents=True)
    noisy = data.astronaut()[:200, :240] + np.random.default_rng(0).normal(0, 25, (200, 240, 3))
    noisy = noisy.clip(0, 255).astype(np.uint8)
    PillowImage.fromarray(noisy).save(folder / "noisy.png")
    PillowImage.fromarray(noisy[:, ::-1]).save(folder / "noisy.jpg", quality=90)
    PillowImage.fromarray(data.coffee()[100:300, 100:340]).save(folder / "clean.png")
    PillowImage.fromarray(noisy[::-1]).save(folder / "sub" / "turned.tif")
    (folder / "sub" / "broken.jpg").write_bytes((folder / "noisy.jpg").read_bytes()[:3000])
    (folder / "words.png").write_text("no photo")
    (folder / "readme.txt").write_text("not looked at")
    return folder


def restorer(**settings: object) -> Restorer:
    chosen = Settings(policy="rules", toolbox="classical", **settings)  # type: ignore[arg-type]
    return Restorer(chosen, make_toolbox(chosen.toolbox), StatisticalPerception())


def test_one_bad_file_never_stops_a_batch(album: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    tasks = find_tasks([album], output)
    summary = run_batch(tasks, restorer(), Manifest(output / MANIFEST), jobs=2)
    status = {Path(o.source).name: o.status for o in summary.outcomes}
    assert {n for n, s in status.items() if s == "failed"} == {"broken.jpg", "words.png"}
    assert status["clean.png"] in ("untouched", "restored")
    assert summary.exit_code == 1
    messages = {Path(o.source).name: o.message for o in summary.outcomes}
    assert "broken.jpg" in messages["broken.jpg"]
    assert "words.png" in messages["words.png"]
    made = {str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()}
    assert {"noisy_png.png", "noisy_jpg.jpg", "sub/turned.tif", "sub/turned.conservator.json", MANIFEST} <= made
    assert not [name for name in made if "-part" in name]


def test_existing_results_are_replaced_only_when_told(album: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "clean.png").write_bytes(b"mine")
    tasks = find_tasks([album / "clean.png"], output)
    manifest = Manifest(output / MANIFEST)
    first = run_batch(tasks, restorer(), manifest)
    assert first.exit_code == 2
    assert "exists already" in first.outcomes[0].message
    assert run_batch(tasks, restorer(), manifest, resume=True).exit_code == 2
    assert (output / "clean.png").read_bytes() == b"mine"
    assert run_batch(tasks, restorer(), manifest, overwrite=True).exit_code == 0
    assert PillowImage.open(output / "clean.png").size == (240, 200)


def test_resume_skips_what_stands_and_redoes_what_changed(album: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    tasks = find_tasks([album], output)
    manifest = Manifest(output / MANIFEST)
    run_batch(tasks, restorer(), manifest)
    hashes = {p: sha256(p) for p in output.rglob("*.*") if p.suffix in {".png", ".jpg", ".tif"}}
    (output / "clean.png").write_bytes(b"damaged since")
    (output / ".left.conservator-part").write_bytes(b"left by a killed run")
    with manifest.path.open("a") as file:
        file.write('{"source": "torn')
    summary = run_batch(tasks, restorer(), manifest, resume=True)
    status = {Path(o.source).name: o.status for o in summary.outcomes}
    assert status["noisy.png"] == status["turned.tif"] == "skipped"
    assert status["clean.png"] != "skipped"
    assert {p: sha256(p) for p in hashes} == hashes
    assert not list(output.glob(".*-part"))
    assert isinstance(manifest.read()[str(album / "clean.png"), str(output / "clean.png")], Outcome)


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_tree(album: Path, tmp_path: Path) -> None:
    def command(output: Path, *more: str) -> list[str]:
        return [
            *(sys.executable, "-c", "from conservator.apps.cli import main; main()", "restore", str(album)),
            *("-o", str(output), "--policy", "rules", "--toolbox", "classical", *more),
        ]

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert subprocess.run(command(whole), capture_output=True, check=False).returncode == 1
    process = subprocess.Popen(command(killed), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(killed.rglob("*.conservator.json")) and time.monotonic() < deadline:
        time.sleep(0.02)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert subprocess.run(command(killed, "--resume"), capture_output=True, check=False).returncode == 1

    def tree(root: Path) -> dict[str, str]:
        files = (p for p in root.rglob("*") if p.is_file() and not p.name.endswith((".json", ".jsonl")))
        return {str(p.relative_to(root)): sha256(p) for p in files}

    assert tree(whole) == tree(killed)
    names = {str(p.relative_to(whole)) for p in whole.rglob("*")}
    assert names == {str(p.relative_to(killed)) for p in killed.rglob("*")}


def test_the_record_replays_to_the_same_bytes(album: Path, tmp_path: Path) -> None:
    tasks = find_tasks([album / "noisy.png"], tmp_path / "out.png")
    assert run_batch(tasks, restorer(strength=0.8), Manifest(tmp_path / MANIFEST)).exit_code == 0
    record = load_record(tmp_path / "out.conservator.json")
    assert record.toolchain, "the noisy photo should have been treated"
    assert record.input.sha256 == sha256(album / "noisy.png")
    assert record.output.sha256 == sha256(tmp_path / "out.png")
    assert record.steps[0].action == "start"
    assert record.steps[-1].action == "stop"
    same, message = replay_record(tmp_path / "out.conservator.json", None, tmp_path / "again.png", False)
    assert same, message
    assert sha256(tmp_path / "again.png") == sha256(tmp_path / "out.png")
    (album / "noisy.png").write_bytes((album / "clean.png").read_bytes())
    with pytest.raises(ConservatorError, match="not the photo of this record"):
        replay_record(tmp_path / "out.conservator.json", None, None, False)


def test_records_that_are_none_are_refused_in_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "x.conservator.json"
    with pytest.raises(ConservatorError, match="cannot be read"):
        load_record(path)
    path.write_text("{}")
    with pytest.raises(ConservatorError, match=r"not a record of conservator \(made"):
        load_record(path)


def test_inputs_that_are_missing_or_empty_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConservatorError, match="no such file or folder"):
        find_tasks([tmp_path / "nothing"], None)
    with pytest.raises(ConservatorError, match="no photos found"):
        find_tasks([tmp_path], None)


def test_the_manifest_is_one_json_line_per_event(album: Path, tmp_path: Path) -> None:
    manifest = Manifest(tmp_path / "out" / MANIFEST)
    run_batch(find_tasks([album / "words.png"], tmp_path / "out"), restorer(), manifest)
    lines = [json.loads(line) for line in manifest.path.read_text().splitlines()]
    assert [line["status"] for line in lines] == ["started", "failed"]

"""Folders: every file ends as a result or a sentence, nothing is lost, a killed run resumes to the same tree."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image as PillowImage
from skimage import data
from test_cli import conservator, process

from conservator.apps.replay import replay_record
from conservator.batch import (
    JOURNAL,
    FileRestorer,
    Job,
    Journal,
    Outcome,
    Task,
    Threads,
    find_tasks,
    run_batch,
)
from conservator.errors import ConservatorError
from conservator.files import sha256
from conservator.image import Image
from conservator.kinds import Kind
from conservator.perception import Percept, StatisticalPerception
from conservator.perception.remembering import RememberingPerception
from conservator.record import load_record
from conservator.request import Request
from conservator.restorer import Restorer
from conservator.tools import Tool, Toolbox, make_toolbox
from conservator.weights import manifest

SEEING = RememberingPerception(StatisticalPerception.load())


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


def restorer(policy: str = "rules", **wanted: object) -> FileRestorer:
    request = Request(policy, "classical", risk=1, **wanted)  # type: ignore[arg-type]
    return FileRestorer(Restorer(request, perception=SEEING))


def tasks_of(*paths: Path, output: Path) -> list[Task]:
    return find_tasks(paths, output).tasks


def test_one_bad_file_never_stops_a_batch(album: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    tasks = tasks_of(album, output=output)
    summary = run_batch(tasks, restorer(), Journal(output / JOURNAL), executor=Threads(2))
    status = {Path(o.source).name: o.status for o in summary.outcomes}
    assert {n for n, s in status.items() if s == "failed"} == {"broken.jpg", "words.png"}
    assert status["clean.png"] in ("untouched", "restored")
    assert summary.exit_code == 1
    messages = {Path(o.source).name: o.message for o in summary.outcomes}
    assert "broken.jpg" in messages["broken.jpg"]
    assert "words.png" in messages["words.png"]
    made = {str(p.relative_to(output)) for p in output.rglob("*") if p.is_file()}
    assert {"noisy_png.png", "noisy_jpg.jpg", "sub/turned.tif", "sub/turned.conservator.json", JOURNAL} <= made
    assert not [name for name in made if "-part" in name]


def test_existing_results_are_replaced_only_when_told(album: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    output.mkdir()
    (output / "clean.png").write_bytes(b"mine")
    tasks = tasks_of(album / "clean.png", output=output)
    journal = Journal(output / JOURNAL)
    first = run_batch(tasks, restorer(), journal)
    assert first.exit_code == 2
    assert "exists already" in first.outcomes[0].message
    assert run_batch(tasks, restorer(), journal, resume=True).exit_code == 2
    assert (output / "clean.png").read_bytes() == b"mine"
    assert run_batch(tasks, restorer(), journal, overwrite=True).exit_code == 0
    assert PillowImage.open(output / "clean.png").size == (240, 200)


def test_a_refusal_does_not_hide_what_was_done(album: Path, tmp_path: Path) -> None:
    tasks, journal = tasks_of(album / "clean.png", output=tmp_path / "out"), Journal(tmp_path / "out" / JOURNAL)
    assert run_batch(tasks, restorer(), journal).exit_code == 0
    assert "exists already" in run_batch(tasks, restorer(), journal).outcomes[0].message
    assert run_batch(tasks, restorer(), journal, resume=True).count("skipped") == 1
    with_report = replace(restorer(), report=True)
    assert run_batch(tasks, with_report, journal, resume=True).count("skipped") == 0
    assert tasks[0].report.is_file()
    assert run_batch(tasks, with_report, journal, resume=True).count("skipped") == 1


def test_what_other_settings_made_is_replaced_only_when_told(album: Path, tmp_path: Path) -> None:
    tasks, journal = tasks_of(album / "noisy.png", output=tmp_path / "out"), Journal(tmp_path / "out" / JOURNAL)
    assert run_batch(tasks, restorer(), journal).exit_code == 0
    made = {path: path.read_bytes() for path in (tasks[0].target, tasks[0].record)}
    asked = restorer(strength=0.5)
    summary = run_batch(tasks, asked, journal, resume=True)
    assert (summary.count("kept"), summary.exit_code) == (1, 2)
    assert (
        "made with other settings; give --overwrite to replace it, or another --output" in summary.outcomes[0].message
    )
    assert made == {path: path.read_bytes() for path in made}
    assert run_batch(tasks, asked, journal, resume=True, overwrite=True).count("restored") == 1
    assert tasks[0].target.read_bytes() != made[tasks[0].target]
    assert run_batch(tasks, asked, journal, resume=True, overwrite=True).count("skipped") == 1


def test_limits_are_no_reason_to_treat_again(album: Path, tmp_path: Path) -> None:
    tasks, journal = (
        tasks_of(album / "sub", album / "noisy.jpg", output=tmp_path / "out"),
        Journal(tmp_path / JOURNAL),
    )
    first = restorer()
    assert run_batch(tasks, first, journal).count("failed") == 1
    lenient = restorer(allow_truncated=True, max_pixels=10**8)
    summary = run_batch(tasks, lenient, journal, resume=True)
    assert (summary.count("skipped"), summary.count("failed")) == (2, 0)
    (broken,) = (task for task in tasks if task.source.name == "broken.jpg")
    with PillowImage.open(broken.target) as whole:  # never a copy of what is cut off
        whole.load()


def test_a_result_stays_ones_own_when_its_input_was_away(album: Path, tmp_path: Path) -> None:
    tasks, journal = tasks_of(album / "clean.png", output=tmp_path / "out"), Journal(tmp_path / JOURNAL)
    assert run_batch(tasks, restorer(), journal).exit_code == 0
    photo = (album / "clean.png").read_bytes()
    (album / "clean.png").write_bytes(photo[:500])
    assert run_batch(tasks, restorer(), journal, resume=True).exit_code == 2
    (album / "clean.png").write_bytes(photo)
    assert run_batch(tasks, restorer(), journal, resume=True).exit_code == 0


def test_a_result_without_its_record_is_made_again_and_one_of_somebody_else_stays(album: Path, tmp_path: Path) -> None:
    tasks, journal = tasks_of(album / "noisy.png", output=tmp_path / "out"), Journal(tmp_path / "out" / JOURNAL)
    assert run_batch(tasks, restorer(), journal).exit_code == 0
    tasks[0].record.unlink()
    assert run_batch(tasks, restorer(), journal, resume=True).count("restored") == 1
    assert tasks[0].record.exists()
    tasks[0].target.write_bytes(b"somebody else's")
    summary = run_batch(tasks, restorer(), journal, resume=True)
    assert "was changed after it was written" in summary.outcomes[0].message
    assert tasks[0].target.read_bytes() == b"somebody else's"


def test_the_record_of_another_result_is_not_replaced(album: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    for name, code in (("noisy.jpg", 0), ("noisy.png", 2)):
        summary = run_batch(tasks_of(album / name, output=output), restorer(), Journal(output / JOURNAL))
        assert summary.exit_code == code
    assert "noisy.conservator.json exists already" in summary.outcomes[0].message
    assert load_record(output / "noisy.conservator.json").input.path.endswith("noisy.jpg")
    assert not (output / "noisy.png").exists()
    (output / "noisy.jpg").unlink()  # a record of what is gone stands in nobody's way
    assert run_batch(tasks_of(album / "noisy.png", output=output), restorer(), Journal(output / JOURNAL)).exit_code == 0
    assert load_record(output / "noisy.conservator.json").input.path.endswith("noisy.png")
    (output / "noisy.png").unlink()
    (output / "noisy.conservator.json").write_text("notes of mine")
    assert run_batch(tasks_of(album / "noisy.png", output=output), restorer(), Journal(output / JOURNAL)).exit_code == 2
    assert (output / "noisy.conservator.json").read_text() == "notes of mine"


def test_what_is_left_untouched_keeps_every_byte(album: Path, tmp_path: Path) -> None:
    pages = [PillowImage.fromarray(np.full((64, 64, 3), 40 * i, np.uint8)) for i in range(1, 4)]
    pages[0].save(album / "pages.tif", save_all=True, append_images=pages[1:])
    pages[0].convert("CMYK").save(album / "cmyk.jpg")
    nothing = restorer("none")
    for name in ("noisy.jpg", "pages.tif", "cmyk.jpg"):
        task = Task(album / name, tmp_path / "out" / name)
        outcome = nothing(Job(task), print)
        assert outcome.status == "untouched"
        assert task.target.read_bytes() == task.source.read_bytes()
        assert outcome.notes == ("the file was copied, byte for byte",)  # nothing had to change
        assert replay_record(task.record, None, None, False)[0]
    as_png = Task(album / "noisy.jpg", tmp_path / "out" / "other.png")
    assert nothing(Job(as_png), print).status == "untouched"
    assert np.array_equal(PillowImage.open(as_png.source), PillowImage.open(as_png.target))


def test_in_place_no_page_is_lost_and_the_input_is_told_from_the_result(album: Path) -> None:
    noisy = PillowImage.open(album / "noisy.png")
    noisy.save(album / "pages.tif", save_all=True, append_images=[noisy])
    before = (album / "pages.tif").read_bytes()
    outcome = restorer()(Job(Task(album / "pages.tif", album / "pages.tif"), overwrite=True), print)
    assert outcome.status == "failed"
    assert "would lose a further page" in outcome.message
    assert (album / "pages.tif").read_bytes() == before
    taken = sha256(album / "noisy.png")
    task = Task(album / "noisy.png", album / "noisy.png")
    assert restorer()(Job(task, overwrite=True), print).status == "restored"
    record = load_record(task.record)
    assert (record.input.sha256, record.output.sha256) == (taken, sha256(album / "noisy.png"))


@pytest.mark.skipif(sys.platform != "linux", reason="other systems hold no such names")
def test_a_name_that_is_no_utf8_is_a_photo_like_others(album: Path, tmp_path: Path) -> None:
    name = os.fsdecode(b"caf\xe9.png")
    (album / "noisy.png").rename(album / name)
    output = tmp_path / "out"
    tasks = tasks_of(album, output=output)
    made = replace(restorer(), report=True)
    for resume in (False, True):
        summary = run_batch(tasks, made, Journal(output / JOURNAL), resume=resume)
        assert summary.count("failed") == 2  # the two that are no photos
    assert summary.count("skipped") == 4
    task = next(task for task in tasks if task.source.name == name)
    assert load_record(task.record).input.path.endswith(r"caf\xe9.png")
    assert r"caf\xe9.png" in task.report.read_text("utf-8")


def test_a_tool_that_fails_is_not_called_a_choice(album: Path, tmp_path: Path) -> None:
    denoiser = make_toolbox("classical")["wavelet_denoise"]

    class Hungry(Tool):
        spec = replace(denoiser.spec, name="hungry", tile=None)

        def restore(self, image: Image) -> Image:
            if image.shape[-1] == 720:  # the whole photo; the pictures of its study are smaller
                raise MemoryError
            return denoiser.restore(image)

    large = data.astronaut()[:500].repeat(2, 1)[:, :720] + np.random.default_rng(1).normal(0, 30, (500, 720, 3))
    PillowImage.fromarray(large.clip(0, 255).astype(np.uint8)).save(album / "large.png")
    task = Task(album / "large.png", tmp_path / "out.png")
    hungry = Restorer(Request("rules", risk=1), toolbox=Toolbox(Hungry()), perception=StatisticalPerception.load())
    outcome = FileRestorer(hungry)(Job(task), print)
    assert outcome.status == "incomplete"
    assert "left untouched; hungry failed: not enough memory" in outcome.message


def test_formats_that_cannot_be_written_become_png_or_are_refused(album: Path, tmp_path: Path) -> None:
    (album / "noisy.jpg").rename(album / "noisy.jfif")
    assert tasks_of(album / "noisy.jfif", output=tmp_path)[0].target == tmp_path / "noisy.png"
    for suffix, output in ((".heic", tmp_path), (None, tmp_path / "x.heic")):
        with pytest.raises(ConservatorError, match=r"cannot be written as \.heic; take one of"):
            find_tasks([album], output, suffix)
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ConservatorError, match=r"notes\.txt is a file"):
        find_tasks([album], tmp_path / "notes.txt")


def test_results_are_no_inputs_whatever_the_output_is_called(
    album: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs = {task.source.name for task in tasks_of(album, output=tmp_path / "out")}
    (album / "out").mkdir()
    (album / "out" / "result.png").write_bytes(b"")
    monkeypatch.chdir(album.parent)
    for given, output in ((Path("album"), (album / "out").resolve()), (album, Path("album/out"))):
        assert {task.source.name for task in tasks_of(given, output=output)} == inputs
    for output in (Path(), album, tmp_path):  # above, or the folder itself: every photo is an input
        assert {task.source.name for task in tasks_of(album, output=output)} == {*inputs, "result.png"}


def test_resume_skips_what_stands_and_redoes_what_changed(album: Path, tmp_path: Path) -> None:
    output = tmp_path / "out"
    tasks = tasks_of(album, output=output)
    journal = Journal(output / JOURNAL)
    run_batch(tasks, restorer(), journal)
    hashes = {p: sha256(p) for p in output.rglob("*.*") if p.suffix in {".png", ".jpg", ".tif"}}
    (output / "clean.png").write_bytes(b"damaged since")
    (output / ".left.conservator-part").write_bytes(b"left by a killed run")
    with journal.path.open("a") as file:
        file.write('{"source": "torn')
    summary = run_batch(tasks, restorer(), journal, resume=True)
    status = {Path(o.source).name: o.status for o in summary.outcomes}
    assert status["noisy.png"] == status["turned.tif"] == "skipped"
    assert status["clean.png"] == "kept"  # whoever changed it had a reason, and only --overwrite replaces it
    assert {p: sha256(p) for p in hashes if p.name != "clean.png"} == {
        p: digest for p, digest in hashes.items() if p.name != "clean.png"
    }
    assert (output / "clean.png").read_bytes() == b"damaged since"
    assert not list(output.glob(".*-part"))
    assert journal.read()[str(album / "clean.png"), str(output / "clean.png")].status in ("restored", "untouched")


@pytest.mark.slow
def test_a_killed_run_resumes_to_the_same_tree(album: Path, tmp_path: Path) -> None:
    def command(output: Path) -> tuple[object, ...]:
        chosen = "--policy", "rules", "--toolbox", "classical", "--perception", "statistics", "--risk", 1
        return "restore", album, "-o", output, *chosen

    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert conservator(*command(whole)).returncode == 1
    with subprocess.Popen(process(*command(killed)), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as running:
        while not list(killed.rglob("*.conservator.json")) and running.poll() is None:
            time.sleep(0.02)
        running.kill()
    assert list(killed.rglob("*.conservator.json"))
    assert conservator(*command(killed), "--resume").returncode == 1

    def tree(root: Path) -> dict[str, str]:
        files = (p for p in root.rglob("*") if p.is_file() and not p.name.endswith((".json", ".jsonl")))
        return {str(p.relative_to(root)): sha256(p) for p in files}

    assert tree(whole) == tree(killed)
    names = {str(p.relative_to(whole)) for p in whole.rglob("*")}
    assert names == {str(p.relative_to(killed)) for p in killed.rglob("*")}


def test_the_record_replays_to_the_same_bytes(album: Path, tmp_path: Path) -> None:
    tasks = tasks_of(album / "noisy.png", output=tmp_path / "out.png")
    assert run_batch(tasks, restorer(strength=0.8), Journal(tmp_path / JOURNAL)).exit_code == 0
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
    with pytest.raises(ConservatorError, match=r"not a record of conservator \(format_version"):
        load_record(path)


def test_inputs_that_are_missing_or_empty_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ConservatorError, match="no such file or folder"):
        find_tasks([tmp_path / "nothing"], None)
    with pytest.raises(ConservatorError, match="no photos found"):
        find_tasks([tmp_path], None)


def test_the_manifest_is_one_json_line_per_event(album: Path, tmp_path: Path) -> None:
    journal = Journal(tmp_path / "out" / JOURNAL)
    run_batch(tasks_of(album / "words.png", output=tmp_path / "out"), restorer(), journal)
    lines = [json.loads(line) for line in journal.path.read_text().splitlines()]
    assert [line["status"] for line in lines] == ["started", "failed"]


def test_a_record_knows_the_weights_of_its_tools_and_a_replay_tells_when_they_are_others(
    album: Path, tmp_path: Path
) -> None:
    target = tmp_path / "out.png"
    wanted = Restorer(
        Request("rules", "experts", only=frozenset({Kind.NOISE}), risk=1), perception=StatisticalPerception.load()
    )
    with wanted:
        assert FileRestorer(wanted)(Job(Task(album / "noisy.png", target)), print).status == "restored"
    path = target.with_name("out.conservator.json")
    record = load_record(path)
    (tool,) = record.toolchain
    assert record.treatments[-1].weights == manifest()[tool]["sha256"]
    assert replay_record(path, None, None, False)[0]
    record_of_others = json.loads(path.read_text())
    record_of_others["treatments"][-1]["weights"] = "0" * 64
    record_of_others["output"]["sha256"] = "0" * 64
    path.write_text(json.dumps(record_of_others))
    same, message = replay_record(path, None, None, False)
    assert not same
    assert f"other weights now: {tool}" in message


@pytest.mark.parametrize("version", [1, 2])
def test_records_of_earlier_versions_are_read(version: int, album: Path, tmp_path: Path) -> None:
    assert run_batch(
        tasks_of(album / "noisy.png", output=tmp_path / "out.png"), restorer(), Journal(tmp_path / JOURNAL)
    )
    path = tmp_path / "out.conservator.json"
    old = json.loads(path.read_text())
    assert old["format_version"] == 3
    old["format_version"], request = version, old.pop("request")
    del request["risk"], request["thresholds"]
    if version == 1:
        old["settings"] = {name: value for name, value in request.items() if name not in ("only", "never")}
        for treatment in old["treatments"]:
            del treatment["weights"]
    else:
        old["request"] = {**request, "tonal_confidence": 0.9}
    path.write_text(json.dumps(old))
    assert load_record(path).request.policy == "rules"
    assert load_record(path).request.risk == 1  # nothing was held to it then; such a result does not fit now
    assert replay_record(path, None, None, False)[0]
    resumed = run_batch(
        tasks_of(album / "noisy.png", output=tmp_path / "out.png"),
        restorer(),
        Journal(tmp_path / JOURNAL),
        resume=True,
    )
    assert resumed.count("skipped") == 0


def test_what_was_wanted_is_written_in_one_way(album: Path, tmp_path: Path) -> None:
    kinds = frozenset({Kind.NOISE, Kind.RAIN, Kind.HAZE, Kind.JPEG})
    made = restorer(only=kinds)
    run_batch(tasks_of(album / "noisy.png", output=tmp_path / "out.png"), made, Journal(tmp_path / JOURNAL))
    path = tmp_path / "out.conservator.json"
    assert json.loads(path.read_text())["request"]["only"] == sorted(kinds)
    assert load_record(path).request == made.restorer.request


class Fickle(StatisticalPerception):
    """Fails on pictures that are brighter above than below."""

    def grade(self, image: Image) -> Percept:
        middle = image.shape[-2] // 2
        if float(image[..., :middle, :].mean()) > float(image[..., middle:, :].mean()):
            raise ZeroDivisionError("a fault of the program")
        return super().grade(image)


def test_a_fault_of_the_program_costs_one_photo(album: Path, tmp_path: Path) -> None:
    faulty = Restorer(Request("rules", "classical", risk=1), perception=Fickle("statistics", "cpu"))
    tasks = tasks_of(album, output=tmp_path / "out")
    summary = run_batch(tasks, FileRestorer(faulty), Journal(tmp_path / JOURNAL), executor=Threads(2))
    told = {Path(o.source).name: o.message for o in summary.outcomes if o.status == "failed"}
    assert any("ZeroDivisionError: a fault of the program" in message for message in told.values())
    assert summary.count("failed") < len(tasks)


def test_what_was_finished_before_a_batch_was_stopped_is_in_the_journal(album: Path, tmp_path: Path) -> None:
    tasks, journal = tasks_of(album, output=tmp_path / "out"), Journal(tmp_path / "out" / JOURNAL)
    written: list[Task] = []

    def stop(task: Task, outcome: Outcome) -> None:
        written.append(task)
        if len(written) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_batch(tasks, restorer(), journal, on_end=stop, executor=Threads(2))
    lines = {Path(source).name: outcome.status for (source, _), outcome in journal.read().items()}
    assert set(lines.values()) <= {"restored", "untouched", "failed"}  # nothing is only begun
    assert len(lines) >= 2
    assert run_batch(tasks, restorer(), journal, resume=True).count("skipped") >= 1

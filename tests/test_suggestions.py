"""What was not done for its risk: in records, on the terminal, and by the command that does it after all."""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from doubting import doubting
from page_reader import read_page
from PIL import Image as PillowImage
from skimage import data
from test_cli import conservator
from typer.main import get_command

from conservator.apps.cli import app
from conservator.apps.display import print_preview, print_preview_json
from conservator.apps.progress import BatchDisplay
from conservator.batch import JOURNAL, FileRestorer, Journal, Outcome, Task, find_tasks, preview_batch, run_batch
from conservator.batch.preview import preview
from conservator.batch.words import suggested
from conservator.degradations import degrade, parse_recipe
from conservator.errors import ConservatorError
from conservator.image import to_array, to_image
from conservator.kinds import Kind
from conservator.perception import StatisticalPerception
from conservator.perception.remembering import RememberingPerception
from conservator.record import Record, load_record
from conservator.request import OWN, Request
from conservator.restorer import Restorer
from conservator.suggesting import TREATING, SuggestionRecord, apply_command, not_done, percent

SEEING = RememberingPerception(StatisticalPerception.load())
BRIGHTEN = SuggestionRecord(
    tool="brighten_mild",
    treats=[Kind.LOW_LIGHT],
    toolchain=["denoise_light", "brighten_mild"],
    chance=0.41,
    gain=1.3,
)
REQUEST = Request("rules", "classical", "statistics")
HOSTILE = "-rf $(touch owned) 'x' \u202e.png"


@pytest.fixture
def noisy(tmp_path: Path) -> Path:
    """A noisy photo of rain, of a name that means harm: ``held_back`` derains it, and suggests to denoise it."""
    damaged = degrade(to_image(data.coffee()[:160, :200]), parse_recipe("rain:high,noise:high", 3))
    picture = to_array(damaged, np.uint8)
    path = tmp_path / "in" / HOSTILE
    path.parent.mkdir()
    PillowImage.fromarray(picture).save(path)
    return path


def held_back(request: Request = REQUEST) -> Restorer:
    """A restorer whose risk control lets no treatment of noise pass."""
    return Restorer(request, perception=SEEING, admission=doubting(0.41, Kind.NOISE))


def restored(restorer: Restorer, task: Task) -> tuple[Outcome, Record]:
    journal = Journal(task.target.parent / JOURNAL)
    (outcome,) = run_batch([task], FileRestorer(restorer, report=True), journal, overwrite=task.in_place).outcomes
    assert outcome.status in ("restored", "untouched"), outcome.message
    return outcome, load_record(task.record)


@pytest.mark.parametrize(
    ("chance", "words"),
    [(0.41, "41 %"), (1.0, "100 %"), (0.034, "3.4 %"), (0.0996, "10 %"), (0.0994, "9.9 %"), (0.004, "0.4 %")],
)
def test_chances_are_said_as_a_person_reads_them(chance: float, words: str) -> None:
    assert percent(chance) == words


def test_a_suggestion_in_words() -> None:
    assert BRIGHTEN.words == "brighten_mild was not done (the chance that it harms is put at 41 %)"
    assert BRIGHTEN.named == "brighten_mild, for low light"
    many = BRIGHTEN.model_copy(update={"treats": sorted(Kind)[:4]})
    assert many.named == "brighten_mild, for several kinds of damage"
    assert not_done([]) == ""
    assert not_done([BRIGHTEN]) == "not done for its risk: brighten_mild"
    assert not_done([BRIGHTEN, BRIGHTEN.model_copy(update={"tool": "dehaze"})]) == (
        "not done for their risk: brighten_mild, dehaze"
    )
    assert suggested(BRIGHTEN, "") == (
        "suggestion: brighten_mild was not done (the chance that it harms is put at 41 %)",
        "  the tools would be denoise_light, then brighten_mild",
    )


def test_the_command_names_the_whole_toolchain_and_a_result_of_its_own() -> None:
    assert apply_command(BRIGHTEN, Path("old photo.jpg"), Request()) == (
        "conservator apply 'old photo.jpg' --tools denoise_light,brighten_mild"
    )
    assert apply_command(BRIGHTEN, Path("a.heic"), Request(), Path("restored/a.jpg")) == (
        "conservator apply a.heic --tools denoise_light,brighten_mild --output restored/a_brighten_mild.jpg"
    )


def test_in_place_the_tools_that_were_kept_are_not_used_again() -> None:
    command = apply_command(BRIGHTEN, Path("a.jpg"), Request(), Path("a.jpg"), in_place=True)
    assert command == "conservator apply a.jpg --tools brighten_mild --output a_brighten_mild.jpg"


def test_the_command_has_the_settings_that_the_result_depends_on_and_no_other() -> None:
    chosen = Request(
        "beam", "classical", "my weights.safetensors", strength=0.5, never=frozenset({Kind.RAIN}), risk=0.1, seed=3
    )
    command = shlex.split(apply_command(BRIGHTEN, Path("a.jpg"), replace(chosen, allow_truncated=True, upscale=True)))
    assert command[5:] == ["--toolbox", "classical", "--strength", "0.5", "--allow-truncated"]
    adapting = replace(chosen, adapt_steps=40)
    assert "--adapt-steps" not in apply_command(BRIGHTEN, Path("a.jpg"), adapting)
    enlarged = BRIGHTEN.model_copy(update={"toolchain": ["brighten_mild", "upscale_x2_adapted"]})
    assert "--adapt-steps 40" in apply_command(enlarged, Path("a.jpg"), adapting)


def test_no_command_is_made_of_objects_and_none_names_them() -> None:
    assert apply_command(BRIGHTEN, Path("a.jpg"), Request(toolbox=f"{OWN}mine")) == ""
    assert OWN not in apply_command(BRIGHTEN, Path("a.jpg"), Request(perception=f"{OWN}Mine"))


def test_the_command_knows_every_setting_that_apply_takes() -> None:
    taken = {parameter.name for parameter in get_command(app).commands["apply"].params}  # type: ignore[attr-defined]
    assert {*TREATING, "perception"} == taken & {field.name for field in fields(Request)}


def test_a_record_says_what_was_not_done_and_for_what_risk(noisy: Path, tmp_path: Path) -> None:
    with held_back() as restorer:
        outcome, record = restored(restorer, Task(noisy, tmp_path / "out" / noisy.name))
    (suggestion,) = record.suggestions
    assert suggestion.treats == [Kind.NOISE]
    assert (suggestion.chance, suggestion.toolchain[-1]) == (0.41, suggestion.tool)
    assert record.toolchain
    assert [*record.toolchain, suggestion.tool] == suggestion.toolchain
    assert outcome.suggestions == (suggestion.tool,)
    assert f"not done for its risk: {suggestion.tool}" in record.verdict == outcome.message
    values = json.loads(record.model_dump_json())
    old = {k: v for k, v in values.items() if k != "suggestions"} | {"format_version": 2}
    del old["request"]["risk"], old["request"]["thresholds"]
    (tmp_path / "old.json").write_text(json.dumps(old))
    assert load_record(tmp_path / "old.json").suggestions == []
    for wrong in ({"chance": 1.5}, {"treats": ["dirt"]}, {"tool": None}):
        (tmp_path / "wrong.json").write_text(json.dumps(values | {"suggestions": [values["suggestions"][0] | wrong]}))
        with pytest.raises(ConservatorError, match=f"not a record of conservator .*{next(iter(wrong))}"):
            load_record(tmp_path / "wrong.json")


@pytest.mark.skipif(sys.platform == "win32", reason="there is no bash")
@pytest.mark.parametrize("in_place", [False, True])
def test_the_command_on_the_terminal_does_what_is_suggested(
    noisy: Path, tmp_path: Path, in_place: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(noisy.parent)
    task = Task(Path(noisy.name), Path(noisy.name) if in_place else tmp_path / "out" / noisy.name)
    with held_back() as restorer:
        journal = Journal(tmp_path / "out" / JOURNAL)
        with BatchDisplay(1) as display:
            found = find_tasks([task.source], task.target)
            summary = run_batch([task], FileRestorer(restorer, report=True), journal, overwrite=in_place)
            display.summary(summary, replace(found, tasks=[task]), report=False)
        record = load_record(task.record)
        (suggestion,) = record.suggestions
        assert record.toolchain, "nothing was done in place that must not be done again"
        tools = suggestion.toolchain[-1:] if in_place else suggestion.toolchain
        expected = restorer.apply(restorer.load(task.source), tools)
    told = capsys.readouterr().out.splitlines()
    start = next(i for i, line in enumerate(told) if line.startswith("suggestion: "))
    end = next(i for i, line in enumerate(told) if line.startswith("  conservator apply "))
    assert " ".join(" ".join(told[start:end]).split()) == f"suggestion: {suggestion.words}; this does it:"
    command = told[end]
    assert f" --tools {','.join(tools)} --toolbox classical --output " in read_page(task.report).open_text
    words = subprocess.run(["bash", "-c", f"printf '%s\\0' {command}"], capture_output=True, check=True).stdout
    done = conservator(*words.decode().split("\0")[1:-1])
    assert done.returncode == 0, done.stdout + done.stderr
    made = task.target.with_name(f"{task.target.stem}_{suggestion.tool}.png")
    assert load_record(made.with_suffix(".conservator.json")).toolchain == list(tools)
    expected.save(tmp_path / "expected.png")
    assert np.array_equal(PillowImage.open(made), PillowImage.open(tmp_path / "expected.png"))
    assert not (noisy.parent / "owned").exists()


def test_what_would_not_be_done_is_said_beforehand(noisy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    clean = noisy.with_name("clean.png")
    PillowImage.fromarray(data.chelsea()[:160, :200]).save(clean)
    with held_back() as restorer:
        seen = preview(restorer, noisy, lambda stage: None)
        (suggestion,) = seen.suggestions
        assert str(seen).endswith(f"; suggested: {suggestion.tool} (harm 41 %)")
        assert preview(restorer, clean, lambda stage: None).suggestions == ()
        print_preview(seen, restorer.request)
        table = capsys.readouterr().out
        assert print_preview_json(seen, restorer.request)
        row = json.loads(capsys.readouterr().out)
        found = find_tasks([noisy.parent], None)
        for tasks in (found.tasks, found.tasks[:1]):
            with BatchDisplay(len(tasks)) as display:
                previews = preview_batch(tasks, FileRestorer(restorer), on_end=display.preview)
                display.preview_summary(previews, replace(found, tasks=tasks), 1.0, restorer.request)
    many, one = capsys.readouterr().out.split("2 photos examined in 1.0 s")
    command = apply_command(suggestion, noisy, restorer.request)
    assert table.splitlines()[-1] == f"  {command}"
    assert row["suggestions"] == [suggestion.model_dump(mode="json") | {"command": command}]
    assert f"suggested: {suggestion.tool} (harm 41 %)" in many
    assert "1 photo has suggestions, treatments that were not done for their risk: named above" in " ".join(one.split())
    assert one.splitlines()[-1] == f"  {command}"
    assert one.count(command) == 1

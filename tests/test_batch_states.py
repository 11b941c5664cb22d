"""Whatever happens to a batch, and in which order: no original is lost, and nothing that somebody else made."""

from __future__ import annotations

import shutil
import sys
import tempfile
from pathlib import Path

import hypothesis.strategies as st
import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from killing import files, killed
from PIL import Image as PillowImage
from skimage import data

from conservator.batch import JOURNAL, Journal, Task, find_tasks, run_batch
from conservator.files import sha256
from conservator.record import load_record

pytestmark = [pytest.mark.slow, pytest.mark.skipif(sys.platform != "linux", reason="processes are killed otherwise")]

_OUTPUTS = st.sampled_from(["out", "second", "."])
_STRENGTHS = st.sampled_from([1.0, 0.5])


class Album(RuleBasedStateMachine):
    """An album of three photos, its results in folders within it, and a hand that edits and deletes."""

    @initialize()
    def begin(self) -> None:
        self.root = Path(tempfile.mkdtemp())
        self.album = self.root / "album"
        (self.album / "sub").mkdir(parents=True)
        for number, name in enumerate(("a.png", "b.jpg", "sub/c.png")):
            PillowImage.fromarray(data.coffee()[number : number + 16, :16]).save(self.album / name)
        self.originals = {path: path.read_bytes() for path in self.album.rglob("*.*") if path.is_file()}
        self.edited: dict[Path, bytes] = {}
        self.strengths: dict[Path, float] = {}

    def teardown(self) -> None:
        shutil.rmtree(self.root)

    def tasks(self, output: str) -> list[Task]:
        return find_tasks([self.album], self.album / output).tasks

    @rule(output=_OUTPUTS, strength=_STRENGTHS, resume=st.booleans(), overwrite=st.booleans())
    def run(self, output: str, strength: float, resume: bool, overwrite: bool) -> None:
        """Every photo is accounted for, and results are none."""
        tasks = self.tasks(output)
        assert {task.source for task in tasks} == set(self.originals)
        journal = Journal(self.album / output / JOURNAL)
        asked = files("none", strength=strength)
        summary = run_batch(tasks, asked, journal, resume=resume, overwrite=overwrite)
        assert [outcome.source for outcome in summary.outcomes] == [str(task.source) for task in tasks]
        assert summary.count("failed") == 0
        for task, outcome in zip(tasks, summary.outcomes, strict=True):
            if overwrite and outcome.status == "untouched":
                self.edited.pop(task.target, None)
            if outcome.status in ("untouched", "skipped"):
                assert load_record(task.record).request.strength == strength
                self.strengths[task.record] = strength
            if overwrite:
                assert outcome.status in ("untouched", "skipped")
        assert not [part for task in tasks for part in task.target.parent.glob("*-part")]

    @rule(output=_OUTPUTS, strength=_STRENGTHS, overwrite=st.booleans(), at=st.integers(1, 50))
    def die(self, output: str, strength: float, overwrite: bool, at: int) -> None:
        """A run is killed; with --overwrite it may have replaced what was edited."""
        tasks = self.tasks(output)
        wanted = {"strength": strength}
        killed(at, [self.album], self.album / output, "none", wanted, resume=not overwrite, overwrite=overwrite)
        for task in tasks:
            if overwrite and task.target in self.edited and task.target.read_bytes() != self.edited[task.target]:
                del self.edited[task.target]
            if task.record.exists() and (overwrite or task.record not in self.strengths):
                self.strengths[task.record] = load_record(task.record).request.strength

    @precondition(lambda self: self.results())
    @rule(chosen=st.integers(0, 5), word=st.binary(min_size=1, max_size=3))
    def edit(self, chosen: int, word: bytes) -> None:
        result = self.results()[chosen % len(self.results())]
        with result.open("ab") as file:
            file.write(word)
        self.edited[result] = result.read_bytes()

    @precondition(lambda self: self.results())
    @rule(chosen=st.integers(0, 5))
    def forget(self, chosen: int) -> None:
        """A record is deleted; what it documented is known by the journal, unless it was edited."""
        result = self.results()[chosen % len(self.results())]
        record = result.with_name(f"{result.stem}.conservator.json")
        if result not in self.edited:
            record.unlink(missing_ok=True)
            self.strengths.pop(record, None)

    def results(self) -> list[Path]:
        found = [*(self.album / "out").rglob("*.png"), *(self.album / "second").rglob("*.*g")]
        return sorted(path for path in found if not path.name.startswith("."))

    @invariant()
    def originals_stay(self) -> None:
        assert {path: path.read_bytes() for path in getattr(self, "originals", ())} == getattr(self, "originals", {})

    @invariant()
    def edited_results_stay(self) -> None:
        assert all(path.read_bytes() == content for path, content in getattr(self, "edited", {}).items())

    @invariant()
    def settings_stay_with_their_results(self) -> None:
        for record, strength in getattr(self, "strengths", {}).items():
            if record.exists():
                assert load_record(record).request.strength == strength


def test_any_order_of_events_loses_nothing() -> None:
    from hypothesis.stateful import run_state_machine_as_test

    run_state_machine_as_test(  # type: ignore[no-untyped-call]
        Album,
        settings=settings(
            max_examples=8,
            stateful_step_count=7,
            deadline=None,
            database=None,
            derandomize=True,
            suppress_health_check=list(HealthCheck),
        ),
    )


def test_a_run_in_place_that_dies_anywhere_loses_no_photo_and_treats_none_twice(noisy_file: Path) -> None:
    with PillowImage.open(noisy_file) as noisy:
        noisy.crop((0, 0, 64, 64)).save(noisy_file)
    original, album = noisy_file.read_bytes(), noisy_file.parent
    task = Task(noisy_file, noisy_file)

    def run() -> None:
        found = find_tasks([album], album)
        run_batch(found.tasks, files("killing:Denoises"), Journal(album / JOURNAL), overwrite=True)

    run()
    treated = noisy_file.read_bytes()
    assert treated != original
    at, states = 0, set()
    while True:
        for path in album.iterdir():
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink()
        noisy_file.write_bytes(original)
        at += 1
        if not killed(at, [album], album, "killing:Denoises", {}, overwrite=True):
            break
        now = noisy_file.read_bytes()
        states.add((now == original, task.record.exists()))
        assert now in (original, treated)
        if now == treated:
            assert load_record(task.record).output.sha256 == sha256(noisy_file)
        if find_tasks_or_none(album):
            run()
        assert noisy_file.read_bytes() == treated
        assert load_record(task.record).output.sha256 == sha256(noisy_file)
        assert {path.name for path in album.iterdir()} >= {noisy_file.name, task.record.name, JOURNAL}
    assert states == {(True, False), (True, True), (False, True)}  # never treated, and without its record


def find_tasks_or_none(album: Path) -> list[Task]:
    from conservator.errors import ConservatorError

    try:
        return find_tasks([album], album).tasks
    except ConservatorError:  # all are results
        return []
